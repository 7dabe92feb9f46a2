//! One queue: bound, read in batches, answered in batches.

use std::io;
use std::time::{Duration, Instant};

use crate::attribute::{FLAG_ACK, HEADER, Head, close, open, put};
use crate::message::Message;
use crate::socket::Socket;
use crate::verdict::{Outbox, SUBSYSTEM, VerdictMessage};

/// Messages that are taken by one system call, at most.
pub const BATCH: usize = 64;

/// How a queue is bound.
#[derive(Clone, Debug)]
pub struct Options {
    /// Packets that the kernel keeps for us, at most; more are dropped and counted there.
    pub max_length: u32,
    /// Whether super-packets arrive whole, with their checksums yet to be computed.
    pub gso: bool,
    /// Whether packets go on untranslated when the queue is full. A virtual IP is nobody's, so they
    /// are lost then all the same.
    pub fail_open: bool,
    /// Bytes of messages that wait at the socket; forced beyond the system's limit where the
    /// privilege is there.
    pub socket_buffer: i32,
    /// How long a wait spins before it sleeps, at most.
    pub spin: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            max_length: 16_384,
            gso: true,
            fail_open: false,
            socket_buffer: 64 << 20,
            spin: Duration::from_micros(100),
        }
    }
}

/// Why a queue does not work.
#[derive(Debug, thiserror::Error)]
pub enum QueueError {
    /// The caller lacks CAP_NET_ADMIN in the namespace's user namespace.
    #[error("queue {0} cannot be bound without CAP_NET_ADMIN")]
    Privilege(u16),
    /// Somebody else has bound it.
    #[error("queue {0} is taken by another process")]
    Taken(u16),
    /// nfnetlink_queue is not in this kernel.
    #[error("this kernel has no netfilter queues (module nfnetlink_queue)")]
    Support,
    /// The system failed.
    #[error("queue {0}: {1}")]
    System(u16, io::Error),
}

/// A queue that we have bound; unbound when dropped.
#[derive(Debug)]
pub struct Queue {
    socket: Socket,
    number: u16,
    /// Each large enough for the longest message.
    buffers: Vec<Vec<u8>>,
    lengths: Vec<usize>,
    messages: Vec<Message>,
    max_spin: Duration,
    spin: Duration,
}

impl Queue {
    /// Binds queue `number` of this thread's network namespace.
    ///
    /// # Errors
    /// [`QueueError`].
    pub fn bind(number: u16, options: &Options) -> Result<Self, QueueError> {
        let system = |error| QueueError::System(number, error);
        let socket = Socket::open().map_err(|error| match error.raw_os_error() {
            Some(libc::EPROTONOSUPPORT | libc::EAFNOSUPPORT) => QueueError::Support,
            _ => system(error),
        })?;
        let forced = |force: i32, plain: i32| {
            socket.set(libc::SOL_SOCKET, force, options.socket_buffer).or_else(|_| {
                // Without the privilege as much as the system allows.
                socket.set(libc::SOL_SOCKET, plain, options.socket_buffer)
            })
        };
        forced(libc::SO_RCVBUFFORCE, libc::SO_RCVBUF).map_err(system)?;
        forced(libc::SO_SNDBUFFORCE, libc::SO_SNDBUF).map_err(system)?;
        // An overrun is counted by the kernel; an error here would only slow us down.
        socket.set(libc::SOL_NETLINK, libc::NETLINK_NO_ENOBUFS, 1).map_err(system)?;
        let mut buffer = vec![0; MAX_MESSAGE];
        let mut configure = |kind: u16, value: &[u8], more: &[(u16, u32)]| {
            let mut bytes = Vec::new();
            let head = Head {
                subsystem: SUBSYSTEM,
                kind: CONFIG,
                flags: FLAG_ACK,
                resource: number,
                ..Head::default()
            };
            let start = open(&mut bytes, head);
            put(&mut bytes, kind, value);
            for (kind, value) in more {
                put(&mut bytes, *kind, &value.to_be_bytes());
            }
            close(&mut bytes, start, 0);
            socket.send(&[io::IoSlice::new(&bytes)])?;
            acknowledged(&socket, &mut buffer)
        };
        configure(NFQA_CFG_CMD, &[BIND, 0, 0, 0], &[]).map_err(|error| {
            match error.raw_os_error() {
                Some(libc::EPERM) if is_privileged() => QueueError::Taken(number),
                Some(libc::EBUSY) => QueueError::Taken(number),
                Some(libc::EPERM) => QueueError::Privilege(number),
                Some(libc::EINVAL) => QueueError::Support,
                _ => system(error),
            }
        })?;
        let flags = if options.gso { FLAG_GSO } else { 0 }
            | if options.fail_open { FLAG_FAIL_OPEN } else { 0 };
        let [a, b, c, d] = COPY_RANGE.to_be_bytes();
        let more = [
            (NFQA_CFG_QUEUE_MAXLEN, options.max_length),
            (NFQA_CFG_MASK, MASK),
            (NFQA_CFG_FLAGS, flags),
        ];
        configure(NFQA_CFG_PARAMS, &[a, b, c, d, COPY_PACKET], &more).map_err(system)?;
        let mut buffers = vec![vec![0; MAX_MESSAGE]; BATCH - 1];
        buffers.push(buffer);
        Ok(Self {
            socket,
            number,
            buffers,
            lengths: Vec::with_capacity(BATCH),
            messages: Vec::with_capacity(BATCH),
            max_spin: options.spin,
            spin: Duration::ZERO,
        })
    }

    /// Takes the packets that wait, at most [`BATCH`]; waits for the first one, at most `timeout`.
    /// None after that is no error.
    ///
    /// # Errors
    /// [`QueueError::System`].
    pub fn receive(&mut self, timeout: Duration) -> Result<(), QueueError> {
        if self.is_trickle() {
            pause(COALESCE);
        }
        self.messages.clear();
        let received = match self.take() {
            Ok(received) => received,
            Err(error) if is_temporary(&error) => self
                .spin_and_sleep(timeout)
                .map_err(|error| QueueError::System(self.number, error))?,
            Err(error) => return Err(QueueError::System(self.number, error)),
        };
        for (position, &length) in self.lengths.iter().enumerate().take(received) {
            let place = self.messages.len();
            // What is no packet says that a verdict came too late, such as for a packet that was
            // flushed meanwhile.
            if let Some(message) = self.buffers[position].get(..length).and_then(Message::parse) {
                self.messages.push(message);
                self.buffers.swap(place, position);
            }
        }
        Ok(())
    }

    /// The packets that were received last, each with its bytes, which may be changed.
    pub fn packets(&mut self) -> impl Iterator<Item = (&Message, &mut [u8])> {
        self.messages.iter().zip(&mut self.buffers).map(|(message, buffer)| {
            let payload = buffer.get_mut(message.payload.clone()).unwrap_or_default();
            (message, payload)
        })
    }

    /// Gives verdicts, in few system calls. The kernel sends packets on while they run. `decide`
    /// says for each packet that was received last what its verdict is, or none for one that has to
    /// wait; `late` are verdicts on packets that waited.
    ///
    /// # Errors
    /// [`QueueError::System`].
    pub fn set_verdicts<'a>(
        &'a self,
        mut decide: impl FnMut(&Message, &'a [u8]) -> Option<VerdictMessage<'a>>,
        late: &[VerdictMessage<'a>],
    ) -> Result<(), QueueError> {
        let mut outbox = Outbox::default();
        let flush = |outbox: &mut Outbox<'_>| {
            let sent =
                if outbox.pieces() == 0 { Ok(()) } else { self.socket.send(&outbox.slices()) };
            outbox.clear();
            sent.map_err(|error| QueueError::System(self.number, error))
        };
        let packets = self.messages.iter().zip(&self.buffers);
        let own = packets.filter_map(|(message, buffer)| {
            decide(message, buffer.get(message.payload.clone()).unwrap_or_default())
        });
        for verdict in own.chain(late.iter().copied()) {
            if outbox.size() + verdict.payload.map_or(0, <[u8]>::len) > MAX_SEND
                || outbox.pieces() > MAX_PIECES
            {
                flush(&mut outbox)?;
            }
            outbox.push(self.number, &verdict);
        }
        flush(&mut outbox)
    }

    /// From now on the kernel keeps at most so many packets for us. Those that are there stay; with
    /// 0 the queue is full, and what comes goes by if [`Options::fail_open`] says so.
    ///
    /// # Errors
    /// [`QueueError::System`].
    pub fn limit(&mut self, max_length: u32) -> Result<(), QueueError> {
        let mut bytes = Vec::new();
        let head =
            Head { subsystem: SUBSYSTEM, kind: CONFIG, resource: self.number, ..Head::default() };
        let start = open(&mut bytes, head);
        put(&mut bytes, NFQA_CFG_QUEUE_MAXLEN, &max_length.to_be_bytes());
        close(&mut bytes, start, 0);
        self.socket
            .send(&[io::IoSlice::new(&bytes)])
            .map_err(|error| QueueError::System(self.number, error))
    }

    fn take(&mut self) -> io::Result<usize> {
        self.socket.receive(&mut self.buffers, &mut self.lengths)
    }

    /// Small packets that come a few at a time: a moment later there are more of them, and each
    /// system call is shared by more.
    fn is_trickle(&self) -> bool {
        let bytes: usize = self.messages.iter().map(|message| message.payload.len()).sum();
        (2..BATCH / 2).contains(&self.messages.len()) && bytes < TRICKLE_BYTES
    }

    /// Most packets come soon after the last ones: looking again for a moment saves the wake-up.
    /// How long, follows what it brought.
    fn spin_and_sleep(&mut self, timeout: Duration) -> io::Result<usize> {
        let start = Instant::now();
        while start.elapsed() < self.spin {
            pause(COALESCE);
            match self.take() {
                Err(error) if is_temporary(&error) => {}
                taken => {
                    self.spin = (self.spin * 2).min(self.max_spin);
                    return taken;
                }
            }
        }
        self.socket.wait(timeout)?;
        let is_soon = start.elapsed() < self.max_spin;
        self.spin = if is_soon { self.max_spin } else { self.spin / 2 };
        match self.take() {
            Err(error) if is_temporary(&error) => Ok(0),
            taken => taken,
        }
    }
}

/// Lets time pass without giving up the processor.
fn pause(span: Duration) {
    let start = Instant::now();
    while start.elapsed() < span {
        std::hint::spin_loop();
    }
}

/// The kernel's answer to a configuration message.
fn acknowledged(socket: &Socket, buffer: &mut Vec<u8>) -> io::Result<()> {
    let mut lengths = Vec::new();
    socket.wait(Duration::from_secs(1))?;
    socket.receive(std::slice::from_mut(buffer), &mut lengths)?;
    let code = buffer
        .get(16..HEADER)
        .and_then(|bytes| bytes.try_into().ok())
        .map_or(0, i32::from_ne_bytes);
    if code == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(-code)) }
}

/// Whether this thread has CAP_NET_ADMIN.
fn is_privileged() -> bool {
    const NET_ADMIN: u32 = 12;
    let status = std::fs::read_to_string("/proc/thread-self/status").unwrap_or_default();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    effective
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .is_some_and(|mask| mask >> NET_ADMIN & 1 == 1)
}

/// Nothing there yet, or disturbed by a signal.
fn is_temporary(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}

/// Between two looks into the queue.
const COALESCE: Duration = Duration::from_micros(6);
/// Packets of fewer bytes in all are small.
const TRICKLE_BYTES: usize = 16 << 10;
/// The longest payload that fits into an attribute.
const COPY_RANGE: u32 = 0xffff - 4;
/// Payload, and all attributes that come with it.
const MAX_MESSAGE: usize = COPY_RANGE as usize + 1024;
/// Bytes of one send: beyond, the kernel's own allocation becomes slow.
const MAX_SEND: usize = 256 << 10;
/// Pieces of one send; the system's limit is 1,024.
const MAX_PIECES: usize = 1000;
const CONFIG: u8 = 2;
const BIND: u8 = 1;
const COPY_PACKET: u8 = 2;
const NFQA_CFG_CMD: u16 = 1;
const NFQA_CFG_PARAMS: u16 = 2;
const NFQA_CFG_QUEUE_MAXLEN: u16 = 3;
const NFQA_CFG_MASK: u16 = 4;
const NFQA_CFG_FLAGS: u16 = 5;
const FLAG_FAIL_OPEN: u32 = 1;
const FLAG_GSO: u32 = 4;
const MASK: u32 = FLAG_FAIL_OPEN | FLAG_GSO;

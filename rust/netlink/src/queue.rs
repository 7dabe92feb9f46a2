//! One queue of netfilter's: bound, read in batches, answered in batches.
//!
//! The kernel keeps each packet under a number until a verdict names that number, and sends us one
//! message with the packet's bytes. One `recvmmsg` takes up to [`BATCH`] messages, and one
//! `sendmsg` returns their verdicts: system calls are the larger part of a packet's cost.
//!
//! - Buffers and messages go together by position: `messages[i]` describes the packet that lies in
//!   `buffers[i]`. A message that is no packet (an error about a late verdict) has no place among
//!   the messages, so buffers are swapped until the positions agree.
//! - A payload stays in its buffer from `receive` to `set_verdicts`. The engine rewrites it there,
//!   and `sendmsg` reads it there.
//! - A packet without a verdict waits: the caller names it in a later call, by its number. Nothing
//!   here remembers it.
//! - A full queue drops packets in the kernel, or lets them pass ([`Options::fail_open`]). A full
//!   socket does the same. The kernel counts both in `/proc/net/netfilter/nfnetlink_queue`, so the
//!   socket option `NO_ENOBUFS` hides nothing.
//! - Waking up costs more than a packet, so `receive` spins for a moment before it sleeps. The
//!   moment doubles while it finds packets, and halves while it does not.

use std::io;
use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use crate::attribute::{FLAG_ACK, Head, close, open, put};
use crate::exchange::Exchange;
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
    /// Whether packets go on untranslated when the queue is full. No host has a virtual IP, so they
    /// are lost unless the kernel translates them.
    pub fail_open: bool,
    /// Bytes of a packet that the kernel hands out, at most; 0 for none of them.
    pub copy_range: u32,
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
            copy_range: COPY_RANGE,
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
    /// Another process has bound it.
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
    /// How long the socket waits; at first, as every socket does, for ever.
    patience: Duration,
}

impl Queue {
    /// Binds queue `number` of this thread's network namespace.
    ///
    /// # Errors
    /// [`QueueError`].
    pub fn bind(number: u16, options: &Options) -> Result<Self, QueueError> {
        let system = |error| QueueError::System(number, error);
        let mut exchange = Exchange::open(libc::NETLINK_NETFILTER).map_err(|error| match error
            .raw_os_error()
        {
            Some(libc::EPROTONOSUPPORT | libc::EAFNOSUPPORT) => QueueError::Support,
            _ => system(error),
        })?;
        let command = [libc::NFQNL_CFG_CMD_BIND as u8, 0, 0, 0];
        let bind = configuration(number, FLAG_ACK, &[(NFQA_CFG_CMD, &command)]);
        exchange.ask(&bind, |_, _| {}).map_err(|error| match error.raw_os_error() {
            // The kernel says EPERM for a queue of another socket, too, once that has bound it.
            Some(libc::EPERM) if is_privileged() => QueueError::Taken(number),
            Some(libc::EBUSY) => QueueError::Taken(number),
            Some(libc::EPERM) => QueueError::Privilege(number),
            // nfnetlink says EINVAL for a subsystem that is not loaded.
            Some(libc::EINVAL) => QueueError::Support,
            _ => system(error),
        })?;
        let mut flags = 0;
        for (is_set, flag) in [(options.gso, FLAG_GSO), (options.fail_open, FLAG_FAIL_OPEN)] {
            flags |= if is_set { flag } else { 0 };
        }
        let settings = configuration(
            number,
            FLAG_ACK,
            &[
                (NFQA_CFG_QUEUE_MAXLEN, &options.max_length.to_be_bytes()),
                // Only flags under the mask are set or cleared.
                (NFQA_CFG_MASK, &(FLAG_GSO | FLAG_FAIL_OPEN).to_be_bytes()),
                (NFQA_CFG_FLAGS, &flags.to_be_bytes()),
            ],
        );
        exchange.ask(&settings, |_, _| {}).map_err(system)?;
        let socket = exchange.into_socket();
        let bytes = options.socket_buffer;
        socket.set_buffer(libc::SO_RCVBUFFORCE, libc::SO_RCVBUF, bytes).map_err(system)?;
        socket.set_buffer(libc::SO_SNDBUFFORCE, libc::SO_SNDBUF, bytes).map_err(system)?;
        // An error would only make us slower: the kernel counts packets that the socket lost.
        socket.set(libc::SOL_NETLINK, libc::NETLINK_NO_ENOBUFS, 1).map_err(system)?;
        // Last, and without an acknowledgement: from now on packets come, and the kernel's answer
        // would stand behind them.
        let [a, b, c, d] = options.copy_range.min(COPY_RANGE).to_be_bytes();
        // To the kernel a range of 0 is the whole packet.
        let mode =
            if options.copy_range == 0 { libc::NFQNL_COPY_META } else { libc::NFQNL_COPY_PACKET };
        let parameters = [a, b, c, d, mode as u8];
        let copy = configuration(number, 0, &[(NFQA_CFG_PARAMS, &parameters)]);
        socket.send(&[io::IoSlice::new(&copy)]).map_err(system)?;
        Ok(Self {
            socket,
            number,
            buffers: buffers(),
            lengths: Vec::with_capacity(BATCH),
            messages: Vec::with_capacity(BATCH),
            max_spin: options.spin,
            spin: Duration::ZERO,
            patience: Duration::MAX,
        })
    }

    /// Takes the packets that wait, at most [`BATCH`]. Waits for the first one, at most `timeout`;
    /// that none has come by then is no error.
    ///
    /// # Errors
    /// [`QueueError::System`].
    pub fn receive(&mut self, timeout: Duration) -> Result<(), QueueError> {
        if self.is_trickle() {
            pause(COALESCE);
        }
        self.messages.clear();
        let received = if self.max_spin.is_zero() {
            self.sleep_and_take(timeout)
        } else {
            match self.take() {
                Err(error) if is_temporary(&error) => self.spin_and_sleep(timeout),
                taken => taken,
            }
        };
        let received = received.map_err(|error| QueueError::System(self.number, error))?;
        for (position, &length) in self.lengths.iter().enumerate().take(received) {
            let place = self.messages.len();
            // Another message says that a verdict came too late, as for a packet that was flushed.
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

    /// The messages about the packets that were received last, for [`crate::Details::parse`].
    pub fn messages(&self) -> impl Iterator<Item = (&Message, &[u8])> {
        self.messages.iter().zip(self.buffers.iter().map(Vec::as_slice))
    }

    /// The descriptor of the socket, which is readable while packets wait.
    #[must_use]
    pub fn descriptor(&self) -> BorrowedFd<'_> {
        self.socket.descriptor()
    }

    /// Sends verdicts, in few system calls, in which the kernel passes the packets on. `decide`
    /// returns the verdict on a packet that was received last, or none for one that has to wait;
    /// `late` are verdicts on packets that waited.
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
        let decided = packets.filter_map(|(message, buffer)| {
            decide(message, buffer.get(message.payload.clone()).unwrap_or_default())
        });
        for verdict in decided.chain(late.iter().copied()) {
            if outbox.size() + verdict.payload.map_or(0, <[u8]>::len) > MAX_SEND
                || outbox.pieces() > MAX_PIECES
            {
                flush(&mut outbox)?;
            }
            outbox.push(self.number, &verdict);
        }
        flush(&mut outbox)
    }

    /// Sets how many packets the kernel keeps for us, at most. Packets that are in the queue stay.
    /// A queue of length 0 is full, so new packets pass if [`Options::fail_open`] says so.
    ///
    /// # Errors
    /// [`QueueError::System`].
    pub fn limit(&mut self, max_length: u32) -> Result<(), QueueError> {
        let value = max_length.to_be_bytes();
        // Not acknowledged: the answer would stand among the packets.
        let limit = configuration(self.number, 0, &[(NFQA_CFG_QUEUE_MAXLEN, &value)]);
        self.socket
            .send(&[io::IoSlice::new(&limit)])
            .map_err(|error| QueueError::System(self.number, error))
    }

    fn take(&mut self) -> io::Result<usize> {
        self.socket.receive(&mut self.buffers, &mut self.lengths)
    }

    /// Whether small packets come a few at a time. A moment later there are more of them, which
    /// share a system call.
    fn is_trickle(&self) -> bool {
        let bytes: usize = self.messages.iter().map(|message| message.payload.len()).sum();
        (2..BATCH / 2).contains(&self.messages.len()) && bytes < TRICKLE_BYTES
    }

    /// Most packets come soon after the last ones, so spinning for a moment saves a wake-up.
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
        // Nothing came while spinning: the processor is better given to the senders.
        let received = self.sleep_and_take(timeout);
        // A short sleep means that packets come often, so the next wait spins for longer.
        let is_soon = start.elapsed() < self.max_spin;
        self.spin = if is_soon { self.max_spin } else { self.spin / 2 };
        received
    }

    fn sleep_and_take(&mut self, timeout: Duration) -> io::Result<usize> {
        if self.patience != timeout {
            self.socket.set_patience(timeout)?;
            self.patience = timeout;
        }
        match self.socket.wait_and_receive(&mut self.buffers, &mut self.lengths) {
            Err(error) if is_temporary(&error) => Ok(0),
            taken => taken,
        }
    }
}

/// Buffers for a batch. Each is made anew: a copy of zeros would take the memory that a queue of
/// first packets never uses.
fn buffers() -> Vec<Vec<u8>> {
    (0..BATCH).map(|_| vec![0; MAX_MESSAGE]).collect()
}

/// Lets time pass without giving up the processor.
fn pause(span: Duration) {
    let start = Instant::now();
    while start.elapsed() < span {
        std::hint::spin_loop();
    }
}

/// A message that configures queue `number`.
fn configuration(number: u16, flags: u16, attributes: &[(u16, &[u8])]) -> Vec<u8> {
    let head = Head {
        subsystem: SUBSYSTEM,
        kind: libc::NFQNL_MSG_CONFIG as u8,
        flags,
        resource: number,
        ..Head::default()
    };
    let mut bytes = Vec::new();
    let start = open(&mut bytes, head);
    for (kind, value) in attributes {
        put(&mut bytes, *kind, value);
    }
    close(&mut bytes, start, 0);
    bytes
}

/// Whether this thread has CAP_NET_ADMIN.
fn is_privileged() -> bool {
    const NET_ADMIN: u32 = 12;
    // Capabilities belong to threads: another one of this process may have kept them.
    let status = std::fs::read_to_string("/proc/thread-self/status").unwrap_or_default();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    effective
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .is_some_and(|mask| mask >> NET_ADMIN & 1 == 1)
}

/// Whether nothing is there yet, or a signal interrupted the call.
fn is_temporary(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}

/// Between two takes.
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
const NFQA_CFG_CMD: u16 = libc::NFQA_CFG_CMD as u16;
const NFQA_CFG_PARAMS: u16 = libc::NFQA_CFG_PARAMS as u16;
const NFQA_CFG_QUEUE_MAXLEN: u16 = libc::NFQA_CFG_QUEUE_MAXLEN as u16;
const NFQA_CFG_MASK: u16 = libc::NFQA_CFG_MASK as u16;
const NFQA_CFG_FLAGS: u16 = libc::NFQA_CFG_FLAGS as u16;
const FLAG_FAIL_OPEN: u32 = libc::NFQA_CFG_F_FAIL_OPEN as u32;
const FLAG_GSO: u32 = libc::NFQA_CFG_F_GSO as u32;

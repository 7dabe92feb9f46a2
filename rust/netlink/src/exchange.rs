//! Questions to the kernel and its answers, one after the other.
//!
//! When reading an answer fails (the socket's buffer ran over), the kernel still has the rest of
//! it: it would refuse the next question (`EBUSY`), and the rest must not pass for a part of the
//! next answer. So it is taken away first.

use std::io::{self, IoSlice};

use crate::attribute::{ANSWER, DONE, ERROR, FLAG_MULTI, error, flags, messages, sequence};
use crate::socket::Socket;

/// The kernel's error about one message of a transaction.
#[derive(Debug)]
pub(crate) struct Refusal {
    /// The message's sequence number.
    pub(crate) sequence: u32,
    pub(crate) error: io::Error,
}

/// A netlink socket that asks, in the network namespace of the thread that opened it.
#[derive(Debug)]
pub(crate) struct Exchange {
    socket: Socket,
    buffers: Vec<Vec<u8>>,
    lengths: Vec<usize>,
    /// The newest answer was read to its end.
    is_read: bool,
}

impl Exchange {
    /// With a part of the kernel (`NETLINK_...`).
    pub(crate) fn open(protocol: i32) -> io::Result<Self> {
        let socket = Socket::to(protocol)?;
        // An error need not repeat the message that it is about, which may be longer than our
        // buffers.
        socket.set(libc::SOL_NETLINK, libc::NETLINK_CAP_ACK, 1)?;
        Ok(Self {
            socket,
            buffers: vec![vec![0; BUFFER]; BUFFERS],
            lengths: Vec::new(),
            is_read: true,
        })
    }

    /// Sends a request of one message, and shows each message of the answer, headers included, with
    /// its kind. Fails with the kernel's error, or `TimedOut`.
    pub(crate) fn ask(&mut self, request: &[u8], each: impl FnMut(u16, &[u8])) -> io::Result<()> {
        self.drain()?;
        self.is_read = false;
        self.socket.send(&[IoSlice::new(request)])?;
        let answer = self.read(each)?;
        self.is_read = true;
        answer
    }

    /// Reads an answer to its end. The inner error is the kernel's answer.
    fn read(&mut self, mut each: impl FnMut(u16, &[u8])) -> io::Result<io::Result<()>> {
        loop {
            self.socket.wait(ANSWER)?;
            let Some(count) = self.received()? else { return Err(io::ErrorKind::TimedOut.into()) };
            for (kind, message) in self.messages(count) {
                match kind {
                    DONE => return Ok(Ok(())),
                    ERROR => return Ok(error(message)),
                    _ => each(kind, message),
                }
                if flags(message) & FLAG_MULTI == 0 {
                    return Ok(Ok(()));
                }
            }
        }
    }

    /// Sends a transaction, which the kernel has applied or refused when this returns. The inner
    /// error is its first refusal.
    pub(crate) fn commit(&mut self, datagram: &[u8]) -> io::Result<Result<(), Refusal>> {
        let size = i32::try_from(datagram.len().saturating_mul(2)).unwrap_or(i32::MAX);
        self.socket
            .set(libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, size)
            .or_else(|_| self.socket.set(libc::SOL_SOCKET, libc::SO_SNDBUF, size))?;
        self.drain()?;
        self.is_read = false;
        self.socket.send(&[IoSlice::new(datagram)])?;
        let mut outcome = Ok(());
        while let Some(count) = self.received()? {
            for (_, message) in self.messages(count).filter(|&(kind, _)| kind == ERROR) {
                let refusal = |error| Refusal { sequence: sequence(message), error };
                outcome = outcome.and_then(|()| error(message).map_err(refusal));
            }
        }
        self.is_read = true;
        Ok(outcome)
    }

    /// Takes away what is left of an answer that was not read to its end.
    fn drain(&mut self) -> io::Result<()> {
        while !self.is_read {
            match self.received() {
                Ok(count) => self.is_read = count.is_none(),
                Err(lost) if lost.raw_os_error() == Some(libc::ENOBUFS) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// How many buffers have come; `None` when there is nothing.
    fn received(&mut self) -> io::Result<Option<usize>> {
        match self.socket.receive(&mut self.buffers, &mut self.lengths) {
            Ok(count) => Ok(Some(count)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn messages(&self, count: usize) -> impl Iterator<Item = (u16, &[u8])> {
        let received = self.buffers.iter().zip(&self.lengths).take(count);
        received.flat_map(|(buffer, &length)| messages(buffer.get(..length).unwrap_or_default()))
    }
}

/// The kernel puts 32 kB at most into one part of a dump.
const BUFFER: usize = 1 << 16;
const BUFFERS: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attribute::{FLAG_DUMP, Head, close, open};

    /// All devices (RTM_GETLINK), which need no privilege.
    fn devices() -> Vec<u8> {
        let mut request = Vec::new();
        let start = open(&mut request, Head { kind: 18, flags: FLAG_DUMP, ..Head::default() });
        close(&mut request, start, 0);
        request
    }

    fn counted(exchange: &mut Exchange) -> usize {
        let mut count = 0;
        exchange.ask(&devices(), |_, _| count += 1).expect("the kernel answers");
        count
    }

    #[test]
    fn what_is_left_of_an_answer_is_no_part_of_the_next() {
        let mut exchange = Exchange::open(libc::NETLINK_ROUTE).expect("a socket");
        let devices_there = counted(&mut exchange);
        assert!(devices_there > 0, "loopback is everywhere");
        // The kernel has more to say than one read takes.
        exchange.socket.send(&[IoSlice::new(&devices())]).expect("the kernel listens");
        exchange.is_read = false;
        assert_eq!(counted(&mut exchange), devices_there);
        assert_eq!(counted(&mut exchange), devices_there);
    }

    #[test]
    fn an_error_is_the_answer() {
        let mut exchange = Exchange::open(libc::NETLINK_ROUTE).expect("a socket");
        let mut request = Vec::new();
        let start = open(&mut request, Head { kind: 0xff, flags: FLAG_DUMP, ..Head::default() });
        close(&mut request, start, 0);
        assert!(exchange.ask(&request, |_, _| {}).is_err());
    }
}

//! The one exchange of a request for its answer.
//!
//! An answer is one message, or the parts of a dump. The kernel makes the first part while we send
//! the request, and each further part while we read the one before. Three rules follow:
//!
//! - The answer ends with `DONE`, with an error (`0` acknowledges), or with a message that is no
//!   part of several.
//! - Reading may fail half-way, because the socket's buffer ran over. The kernel still has the rest
//!   then: it refuses the next request (`EBUSY`), and the rest must not pass for a part of the next
//!   answer. So the next exchange drains the socket first.
//! - A transaction has no message that ends its answer. But the kernel has applied or refused all
//!   of it when `send` returns, so the answer waits at the socket then.

use std::io::{self, IoSlice};
use std::time::Instant;

use crate::attribute::{ANSWER, DONE, ERROR, FLAG_MULTI, error, flags, sequence};
use crate::inbox::{Arrival, Inbox};
use crate::socket::Socket;

/// The kernel's error about one message of a transaction.
#[derive(Debug)]
pub(crate) struct Refusal {
    /// The message's sequence number.
    pub(crate) sequence: u32,
    pub(crate) error: io::Error,
}

/// A socket that asks, in the network namespace of the thread that opened it.
#[derive(Debug)]
pub(crate) struct Exchange {
    socket: Socket,
    inbox: Inbox,
    /// The newest answer was read to its end.
    is_read: bool,
}

impl Exchange {
    /// Opens a socket to a part of the kernel (`NETLINK_...`).
    pub(crate) fn open(protocol: i32) -> io::Result<Self> {
        let socket = Socket::open(protocol)?;
        // Otherwise an error repeats the message that it is about, which may be longer than our
        // buffers.
        socket.set(libc::SOL_NETLINK, libc::NETLINK_CAP_ACK, 1)?;
        Ok(Self { socket, inbox: Inbox::new(), is_read: true })
    }

    /// Sends a request of one message, and shows each message of the answer, headers included, with
    /// its kind. Fails with the kernel's error, or `TimedOut`.
    pub(crate) fn ask(
        &mut self,
        request: &[u8],
        on_message: impl FnMut(u16, &[u8]),
    ) -> io::Result<()> {
        self.send(request)?;
        let answer = self.read(on_message)?;
        self.is_read = true;
        answer
    }

    /// Sends a transaction, and returns when the kernel has applied or refused it. The inner error
    /// is its first refusal.
    pub(crate) fn commit(&mut self, datagram: &[u8]) -> io::Result<Result<(), Refusal>> {
        let size = i32::try_from(datagram.len().saturating_mul(2)).unwrap_or(i32::MAX);
        self.socket.set_buffer(libc::SO_SNDBUFFORCE, libc::SO_SNDBUF, size)?;
        self.send(datagram)?;
        let mut outcome = Ok(());
        while self.take()? {
            for (_, message) in self.inbox.messages().filter(|&(kind, _)| kind == ERROR) {
                let refusal = |error| Refusal { sequence: sequence(message), error };
                outcome = outcome.and_then(|()| error(message).map_err(refusal));
            }
        }
        self.is_read = true;
        Ok(outcome)
    }

    /// Sends several requests by one system call, which the kernel answers one by one before the
    /// call returns, and shows each message of the answers, headers included, with its kind.
    pub(crate) fn ask_each(
        &mut self,
        datagram: &[u8],
        mut on_message: impl FnMut(u16, &[u8]),
    ) -> io::Result<()> {
        self.send(datagram)?;
        while self.take()? {
            for (kind, message) in self.inbox.messages() {
                on_message(kind, message);
            }
        }
        self.is_read = true;
        Ok(())
    }

    /// The socket, once its part of the kernel is set up.
    pub(crate) fn into_socket(self) -> Socket {
        self.socket
    }

    fn send(&mut self, datagram: &[u8]) -> io::Result<()> {
        while !self.is_read {
            self.is_read = self.inbox.take(&self.socket)? == Arrival::Nothing;
        }
        self.is_read = false;
        self.socket.send(&[IoSlice::new(datagram)])
    }

    /// Reads an answer to its end. The inner error is the kernel's answer.
    fn read(&mut self, mut on_message: impl FnMut(u16, &[u8])) -> io::Result<io::Result<()>> {
        let deadline = Instant::now() + ANSWER;
        loop {
            while !self.take()? {
                // A signal may end the wait early.
                let rest = deadline.saturating_duration_since(Instant::now());
                if rest.is_zero() {
                    return Err(io::ErrorKind::TimedOut.into());
                }
                self.socket.wait(rest)?;
            }
            for (kind, message) in self.inbox.messages() {
                match kind {
                    DONE => return Ok(Ok(())),
                    ERROR => return Ok(error(message)),
                    _ => on_message(kind, message),
                }
                if flags(message) & FLAG_MULTI == 0 {
                    return Ok(Ok(()));
                }
            }
        }
    }

    /// Whether messages have come.
    fn take(&mut self) -> io::Result<bool> {
        match self.inbox.take(&self.socket)? {
            Arrival::Messages => Ok(true),
            Arrival::Nothing => Ok(false),
            Arrival::Overrun => Err(io::Error::from_raw_os_error(libc::ENOBUFS)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attribute::{FLAG_DUMP, Head, close, open};

    /// All devices (RTM_GETLINK), which need no privilege.
    fn devices() -> Vec<u8> {
        let mut request = Vec::new();
        let start = open(
            &mut request,
            Head { kind: libc::RTM_GETLINK as u8, flags: FLAG_DUMP, ..Head::default() },
        );
        close(&mut request, start, 0);
        request
    }

    fn count_devices(exchange: &mut Exchange) -> usize {
        let mut count = 0;
        exchange.ask(&devices(), |_, _| count += 1).expect("the kernel answers");
        count
    }

    #[test]
    fn the_rest_of_an_answer_is_no_part_of_the_next() {
        let mut exchange = Exchange::open(libc::NETLINK_ROUTE).expect("a socket");
        let devices_there = count_devices(&mut exchange);
        assert!(devices_there > 0, "loopback is everywhere");
        // The kernel has more to say than one read takes.
        exchange.socket.send(&[IoSlice::new(&devices())]).expect("the kernel listens");
        exchange.is_read = false;
        assert_eq!(count_devices(&mut exchange), devices_there);
        assert_eq!(count_devices(&mut exchange), devices_there);
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

//! Messages that wait at a socket, taken many at a time.

use std::io;

use crate::attribute::messages;
use crate::socket::Socket;

/// Buffers for what is taken by one system call.
#[derive(Debug)]
pub(crate) struct Inbox {
    buffers: Vec<Vec<u8>>,
    lengths: Vec<usize>,
}

/// The outcome of a take.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Arrival {
    /// The inbox has it.
    Messages,
    Nothing,
    /// The socket's buffer was full: the kernel has dropped messages since the last take.
    Overrun,
}

impl Inbox {
    pub(crate) fn new() -> Self {
        Self { buffers: vec![vec![0; BUFFER]; BUFFERS], lengths: Vec::new() }
    }

    /// Takes messages that wait, in place of those that were taken before. Does not wait.
    pub(crate) fn take(&mut self, socket: &Socket) -> io::Result<Arrival> {
        loop {
            return match socket.receive(&mut self.buffers, &mut self.lengths) {
                Ok(0) => Ok(Arrival::Nothing),
                Ok(_) => Ok(Arrival::Messages),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(Arrival::Nothing),
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => Ok(Arrival::Overrun),
                Err(error) => Err(error),
            };
        }
    }

    /// Whether more messages may wait than were taken last.
    pub(crate) fn is_full(&self) -> bool {
        self.lengths.len() == self.buffers.len()
    }

    /// The messages that were taken last, headers included, each with its kind.
    pub(crate) fn messages(&self) -> impl Iterator<Item = (u16, &[u8])> {
        let datagrams = self.buffers.iter().zip(&self.lengths);
        datagrams.flat_map(|(buffer, &length)| messages(buffer.get(..length).unwrap_or_default()))
    }
}

/// The kernel puts 32 kB at most into one part of a dump, and fills no more of one event.
const BUFFER: usize = 32 << 10;
const BUFFERS: usize = 16;

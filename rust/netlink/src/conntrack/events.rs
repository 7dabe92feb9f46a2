//! The kernel's events about flows.

use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use super::entry::Entry;
use super::uapi::{DELETED_FLOW, NEW_FLOW};
use crate::attribute::flags;
use crate::inbox::{Arrival, Inbox};
use crate::socket::{Socket, wait};

/// An event about a flow.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Change {
    /// Its first packet went through.
    New(Entry),
    /// It is in another state, it is answered, or both sides have confirmed it.
    Updated(Entry),
    /// It is over.
    Ended(Entry),
}

/// Events that a listener wants.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Topic {
    /// Flows whose first packet went through: [`Change::New`].
    New,
    /// Flows that are over: [`Change::Ended`].
    Ended,
}

/// Ends the wait of [`Events::receive`], or of [`super::Answers::receive`].
#[derive(Debug)]
pub struct Waker(UnixStream);

impl Waker {
    /// A waker, and the end at which its calls arrive.
    pub(super) fn pair() -> io::Result<(UnixStream, Self)> {
        let (calls, waker) = UnixStream::pair()?;
        // Non-blocking: a caller never waits for the listener, which reads until nothing is left.
        calls.set_nonblocking(true)?;
        waker.set_nonblocking(true)?;
        Ok((calls, Self(waker)))
    }

    /// Ends a wait that goes on, or the next one.
    pub fn wake(&self) {
        // A full pipe is no failure: its unread calls end the wait.
        let _ = (&self.0).write(&[0]);
    }
}

/// How long events gather before they are read, unless a call comes: each of them would wake its
/// listener else, on the processor of a client that waits.
pub(super) const GATHER: Duration = Duration::from_millis(1);

/// Hears of flows, in the network namespace of the thread that opened it.
#[derive(Debug)]
pub struct Events {
    socket: Socket,
    calls: UnixStream,
    inbox: Inbox,
    hears_updates: bool,
}

impl Events {
    /// Listens to these topics from now on. At most `socket_buffer` bytes of events wait for us.
    /// The other value ends waits.
    ///
    /// # Errors
    /// The system's: no privilege, or no such kernel module.
    pub fn open(socket_buffer: i32, topics: &[Topic]) -> io::Result<(Self, Waker)> {
        let socket = Socket::open(libc::NETLINK_NETFILTER)?;
        socket.set_buffer(libc::SO_RCVBUFFORCE, libc::SO_RCVBUF, socket_buffer)?;
        for topic in topics {
            let group = match topic {
                Topic::New => libc::NFNLGRP_CONNTRACK_NEW,
                Topic::Ended => libc::NFNLGRP_CONNTRACK_DESTROY,
            };
            socket.listen(group, true)?;
        }
        let (calls, waker) = Waker::pair()?;
        Ok((Self { socket, calls, inbox: Inbox::new(), hears_updates: false }, waker))
    }

    /// Begins or ends to hear of flows that change ([`Change::Updated`]), in the order of the other
    /// events. A connection of TCP makes about five of them, a flow of UDP two; each is a message
    /// that the kernel makes and that wakes us. Cost: a system call for a change of mind.
    ///
    /// # Errors
    /// The system's: no privilege.
    pub fn hear_updates(&mut self, is_wanted: bool) -> io::Result<()> {
        if is_wanted != self.hears_updates {
            self.socket.listen(libc::NFNLGRP_CONNTRACK_UPDATE, is_wanted)?;
            self.hears_updates = is_wanted;
        }
        Ok(())
    }

    /// Adds what has happened to `changes`, after waiting for it or for a call of the [`Waker`], at
    /// most `timeout`, and [`GATHER`] more. Returns whether nothing was lost on the way.
    ///
    /// # Errors
    /// The system's.
    pub fn receive(&mut self, timeout: Duration, changes: &mut Vec<Change>) -> io::Result<bool> {
        self.socket.wait_or(&self.calls, timeout)?;
        // Where more waits than was taken last, enough has gathered: a flood would overrun us.
        if !timeout.is_zero() && !self.inbox.is_full() {
            wait([self.calls.as_raw_fd()], GATHER)?;
        }
        // Several calls end one wait: they carry no more than that.
        while (&self.calls).read(&mut [0; 64]).is_ok_and(|count| count > 0) {}
        match self.inbox.take(&self.socket)? {
            // ENOBUFS: the kernel does not say which events it dropped.
            Arrival::Overrun => return Ok(false),
            Arrival::Nothing => {}
            Arrival::Messages => {
                changes.extend(self.inbox.messages().filter_map(|(kind, message)| match kind {
                    // The kernel says by a flag which of these tells of a flow that begins.
                    NEW_FLOW if flags(message) & CREATE == 0 => {
                        Entry::parse(message).map(Change::Updated)
                    }
                    NEW_FLOW => Entry::parse(message).map(Change::New),
                    DELETED_FLOW => Entry::parse(message).map(Change::Ended),
                    _ => None,
                }));
            }
        }
        Ok(true)
    }
}

/// Of a message that tells of something new.
const CREATE: u16 = libc::NLM_F_CREATE as u16;

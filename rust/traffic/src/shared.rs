//! What the threads of a server share: counters, and the signal that ends them.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use serde::Serialize;

/// Counts of a server since it began.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Counts {
    /// Datagrams received.
    pub datagrams: u64,
    /// Pings answered.
    pub answered: u64,
    /// Connections accepted.
    pub connections: u64,
    /// Connections of the exchange port that are open now.
    pub open: u64,
    /// Bytes of streams.
    pub bytes: u64,
}

/// What the threads of a server share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) datagrams: AtomicU64,
    pub(crate) answered: AtomicU64,
    pub(crate) connections: AtomicU64,
    pub(crate) open: AtomicU64,
    pub(crate) bytes: AtomicU64,
    /// Readable for all waiting threads once the server stops: nobody reads it.
    pub(crate) stop: OwnedFd,
    is_running: AtomicBool,
}

impl Shared {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self {
            datagrams: AtomicU64::new(0),
            answered: AtomicU64::new(0),
            connections: AtomicU64::new(0),
            open: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            stop: eventfd(0, EventfdFlags::CLOEXEC)?,
            is_running: AtomicBool::new(true),
        })
    }

    pub(crate) fn counts(&self) -> Counts {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Counts {
            datagrams: read(&self.datagrams),
            answered: read(&self.answered),
            connections: read(&self.connections),
            open: read(&self.open),
            bytes: read(&self.bytes),
        }
    }

    /// Ends all threads, those that wait too.
    pub(crate) fn stop(&self) {
        self.is_running.store(false, Ordering::Relaxed);
        // Eight bytes always fit into a counter that nobody else writes.
        let _ = rustix::io::write(&self.stop, &1u64.to_ne_bytes());
    }

    /// Also for threads that never wait, because there is always more.
    pub(crate) fn is_running(&self) -> bool {
        self.is_running.load(Ordering::Relaxed)
    }

    /// Waits until the socket has something, or the server stops.
    pub(crate) fn wait_for(&self, socket: &impl AsFd) {
        let mut both = [PollFd::new(socket, PollFlags::IN), PollFd::new(&self.stop, PollFlags::IN)];
        // After a failure, such as a signal, the caller looks again.
        let _ = poll(&mut both, None);
    }
}

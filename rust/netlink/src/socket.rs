//! The system calls: a netlink socket, and the clock.
#![allow(unsafe_code)]

use std::ffi::c_void;
use std::io::{self, IoSlice};
use std::mem::{size_of, zeroed};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr::{from_mut, from_ref, null_mut};
use std::time::Duration;

/// A netlink socket, in the network namespace of the thread that opened it.
#[derive(Debug)]
pub(crate) struct Socket(OwnedFd);

impl Socket {
    /// Opens a socket to a part of the kernel (`NETLINK_...`).
    pub(crate) fn open(protocol: i32) -> io::Result<Self> {
        // SAFETY: no pointer is passed; the descriptor is owned from here on.
        let socket = unsafe {
            let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC;
            let descriptor = result_of(libc::socket(libc::AF_NETLINK, kind, protocol))?;
            Self(OwnedFd::from_raw_fd(descriptor))
        };
        let address = kernel();
        // SAFETY: the address is valid for the length that is given.
        result_of(unsafe {
            let length = size_of::<libc::sockaddr_nl>() as libc::socklen_t;
            libc::bind(socket.0.as_raw_fd(), from_ref(&address).cast(), length)
        })?;
        Ok(socket)
    }

    /// Sets an option that is a number.
    pub(crate) fn set(&self, level: i32, option: i32, value: i32) -> io::Result<()> {
        // SAFETY: the option takes a number.
        unsafe { self.set_value(level, option, &value) }
    }

    /// Sets an option.
    ///
    /// # Safety
    /// The option takes a value of this type, and what that points to is there to be read.
    unsafe fn set_value<T>(&self, level: i32, option: i32, value: &T) -> io::Result<()> {
        let (length, value) = (size_of::<T>() as libc::socklen_t, from_ref(value).cast());
        // SAFETY: the value is valid for the length that is given; the rest is the caller's.
        result_of(unsafe { libc::setsockopt(self.0.as_raw_fd(), level, option, value, length) })?;
        Ok(())
    }

    /// Begins or ends to hear a group's messages. Those that wait stay.
    pub(crate) fn listen(&self, group: i32, is_listening: bool) -> io::Result<()> {
        let option =
            if is_listening { libc::NETLINK_ADD_MEMBERSHIP } else { libc::NETLINK_DROP_MEMBERSHIP };
        self.set(libc::SOL_NETLINK, option, group)
    }

    /// Lets only those messages wait for us which this program passes (classic BPF).
    pub(crate) fn set_filter(&self, program: &mut [libc::sock_filter]) -> io::Result<()> {
        let length = u16::try_from(program.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
        let program = libc::sock_fprog { len: length, filter: program.as_mut_ptr() };
        // SAFETY: the option takes this, which points to as many instructions as it says. The
        // kernel copies them.
        unsafe { self.set_value(libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, &program) }
    }

    /// Sets the length of a buffer: beyond the system's limit with the privilege for that, and
    /// without it up to the limit.
    pub(crate) fn set_buffer(&self, forced: i32, limited: i32, bytes: i32) -> io::Result<()> {
        self.set(libc::SOL_SOCKET, forced, bytes)
            .or_else(|_| self.set(libc::SOL_SOCKET, limited, bytes))
    }

    /// Receives messages that are there, one into each buffer, and notes their lengths; returns how
    /// many. Does not wait: `WouldBlock`.
    pub(crate) fn receive(
        &self,
        buffers: &mut [Vec<u8>],
        lengths: &mut Vec<usize>,
    ) -> io::Result<usize> {
        self.receive_by(libc::MSG_DONTWAIT, buffers, lengths)
    }

    /// As [`Socket::receive`], and waits for the first message, as [`Socket::set_patience`] says:
    /// one system call, where a wait and a receipt are two.
    pub(crate) fn wait_and_receive(
        &self,
        buffers: &mut [Vec<u8>],
        lengths: &mut Vec<usize>,
    ) -> io::Result<usize> {
        self.receive_by(libc::MSG_WAITFORONE, buffers, lengths)
    }

    /// How long [`Socket::wait_and_receive`] waits, at least a microsecond.
    pub(crate) fn set_patience(&self, span: Duration) -> io::Result<()> {
        // None at all would be for ever.
        let span = span.max(Duration::from_micros(1));
        let value = libc::timeval {
            tv_sec: libc::time_t::try_from(span.as_secs()).unwrap_or(libc::time_t::MAX),
            tv_usec: libc::suseconds_t::from(span.subsec_micros()),
        };
        // SAFETY: the option takes this.
        unsafe { self.set_value(libc::SOL_SOCKET, libc::SO_RCVTIMEO, &value) }
    }

    fn receive_by(
        &self,
        flags: libc::c_int,
        buffers: &mut [Vec<u8>],
        lengths: &mut Vec<usize>,
    ) -> io::Result<usize> {
        lengths.clear();
        let mut slices: Vec<libc::iovec> = buffers
            .iter_mut()
            .map(|buffer| libc::iovec {
                iov_base: buffer.as_mut_ptr().cast(),
                iov_len: buffer.len(),
            })
            .collect();
        let mut messages: Vec<libc::mmsghdr> = slices
            .iter_mut()
            .map(|slice| {
                // SAFETY: all zeroes are a valid value of this structure of numbers and pointers.
                let mut message: libc::mmsghdr = unsafe { zeroed() };
                message.msg_hdr.msg_iov = from_mut(slice);
                message.msg_hdr.msg_iovlen = 1;
                message
            })
            .collect();
        // SAFETY: each message points to one slice, which points to a buffer that is borrowed
        // mutably until we return.
        let received = result_of(unsafe {
            let (first, count) = (messages.as_mut_ptr(), messages.len() as u32);
            libc::recvmmsg(self.0.as_raw_fd(), first, count, flags, null_mut())
        })?;
        lengths.extend(
            messages.iter().take(received as usize).map(|message| message.msg_len as usize),
        );
        Ok(lengths.len())
    }

    /// Sends pieces as one datagram.
    pub(crate) fn send(&self, pieces: &[IoSlice<'_>]) -> io::Result<()> {
        let mut address = kernel();
        // SAFETY: all zeroes are a valid value of this structure of numbers and pointers.
        let mut message: libc::msghdr = unsafe { zeroed() };
        message.msg_name = from_mut(&mut address).cast::<c_void>();
        message.msg_namelen = size_of::<libc::sockaddr_nl>() as libc::socklen_t;
        // An IoSlice has the layout of an iovec, and what it points to is only read.
        message.msg_iov = pieces.as_ptr().cast::<libc::iovec>().cast_mut();
        message.msg_iovlen = pieces.len();
        // SAFETY: address and pieces live until we return.
        let sent = unsafe { libc::sendmsg(self.0.as_raw_fd(), &raw const message, 0) };
        if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// Whether there is something to receive. Does not wait.
    pub(crate) fn is_readable(&self) -> io::Result<bool> {
        let mut poll = libc::pollfd { fd: self.0.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        // SAFETY: one structure, which lives until the call returns.
        match result_of(unsafe { libc::poll(&raw mut poll, 1, 0) }) {
            Err(error) if error.kind() != io::ErrorKind::Interrupted => Err(error),
            ready => Ok(ready.is_ok_and(|count| count > 0)),
        }
    }

    /// For [`wait`].
    pub(crate) fn number(&self) -> i32 {
        self.0.as_raw_fd()
    }

    /// Readable while there is something to receive.
    pub(crate) fn descriptor(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    /// Waits until there is something to receive, or the time is over.
    pub(crate) fn wait(&self, timeout: Duration) -> io::Result<()> {
        wait([self.0.as_raw_fd()], timeout)
    }

    /// As [`Socket::wait`], or until there is something to read from `other`.
    pub(crate) fn wait_or(&self, other: &impl AsRawFd, timeout: Duration) -> io::Result<()> {
        wait([self.0.as_raw_fd(), other.as_raw_fd()], timeout)
    }
}

/// Waits until there is something to read from one of these, or the time is over.
pub(crate) fn wait<const N: usize>(descriptors: [i32; N], timeout: Duration) -> io::Result<()> {
    let mut poll = descriptors.map(|fd| libc::pollfd { fd, events: libc::POLLIN, revents: 0 });
    let milliseconds = i32::try_from(timeout.as_millis()).unwrap_or(i32::MAX);
    // SAFETY: as many structures as are said, which live until we return.
    match result_of(unsafe { libc::poll(poll.as_mut_ptr(), N as libc::nfds_t, milliseconds) }) {
        Err(error) if error.kind() != io::ErrorKind::Interrupted => Err(error),
        _ => Ok(()),
    }
}

/// The system's monotonic clock in nanoseconds, the same that Python's `time.monotonic_ns` reads.
#[must_use]
pub fn monotonic() -> u64 {
    read_clock(libc::CLOCK_MONOTONIC)
}

/// The system's wall clock in nanoseconds since 1970.
pub(crate) fn since_epoch() -> u64 {
    read_clock(libc::CLOCK_REALTIME)
}

fn read_clock(clock: libc::clockid_t) -> u64 {
    // SAFETY: all zeroes are a valid time.
    let mut time: libc::timespec = unsafe { zeroed() };
    // SAFETY: the structure lives until the call returns, which cannot fail with these clocks.
    unsafe { libc::clock_gettime(clock, &raw mut time) };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// The kernel's address.
fn kernel() -> libc::sockaddr_nl {
    // SAFETY: all zeroes are a valid value of this structure of numbers. As an address it is the
    // kernel's to send to, and a free one to bind.
    let mut address: libc::sockaddr_nl = unsafe { zeroed() };
    address.nl_family = libc::AF_NETLINK as libc::sa_family_t;
    address
}

fn result_of(result: i32) -> io::Result<i32> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

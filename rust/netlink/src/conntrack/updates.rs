//! Hears of flows that are established for good, and of those that begin to end: the kernel's
//! events about changes, of which a filter at the socket passes these.

use std::io::{self, Read};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use super::entry::Entry;
use super::events::{GATHER, Waker};
use super::uapi::{
    CTA_PROTOINFO, CTA_PROTOINFO_STATE, CTA_PROTOINFO_TCP, CTA_STATUS, IPS_ASSURED, NEW_FLOW,
};
use crate::attribute::{ATTRIBUTE_HEADER, HEADER};
use crate::doubts::Doubts;
use crate::inbox::{Arrival, Inbox};
use crate::socket::{Socket, wait};

/// Hears of flows that both sides have confirmed, in the network namespace of the thread that
/// opened it. Those of TCP are told of when they are established, and when they begin to end.
#[derive(Debug)]
pub struct Updates {
    socket: Socket,
    calls: UnixStream,
    inbox: Inbox,
    is_listening: bool,
}

impl Updates {
    /// Listens from now on. At most `socket_buffer` bytes of events wait for us. The other value
    /// ends waits.
    ///
    /// # Errors
    /// The system's: no privilege, or no such kernel module.
    pub fn open(socket_buffer: i32) -> io::Result<(Self, Waker)> {
        let socket = Socket::open(libc::NETLINK_NETFILTER)?;
        socket.set_buffer(libc::SO_RCVBUFFORCE, libc::SO_RCVBUF, socket_buffer)?;
        socket.set_filter(&mut filter())?;
        socket.listen(libc::NFNLGRP_CONNTRACK_UPDATE, true)?;
        let (calls, waker) = Waker::pair()?;
        Ok((Self { socket, calls, inbox: Inbox::new(), is_listening: true }, waker))
    }

    /// Begins or ends to listen. Events that wait stay. Cost: a system call for a change.
    ///
    /// # Errors
    /// The system's: no privilege.
    pub fn listen(&mut self, is_listening: bool) -> io::Result<()> {
        if is_listening != self.is_listening {
            self.socket.listen(libc::NFNLGRP_CONNTRACK_UPDATE, is_listening)?;
            self.is_listening = is_listening;
        }
        Ok(())
    }

    /// Waits for events, for doubts or for a call of the [`Waker`], at most `timeout`, and
    /// [`GATHER`] more for events, which doubts and calls cut short.
    ///
    /// # Errors
    /// The system's.
    pub fn wait_beside(&mut self, doubts: &Doubts, timeout: Duration) -> io::Result<()> {
        let [rules, routing, ipsec] = doubts.sockets().map(Socket::number);
        let calls = self.calls.as_raw_fd();
        wait([self.socket.number(), rules, routing, ipsec, calls], timeout)?;
        if !timeout.is_zero() && !self.inbox.is_full() {
            wait([rules, routing, ipsec, calls], GATHER)?;
        }
        while (&self.calls).read(&mut [0; 64]).is_ok_and(|count| count > 0) {}
        Ok(())
    }

    /// Adds flows of which events tell to `entries`, some at a time, without waiting. Returns
    /// whether nothing was lost on the way.
    ///
    /// # Errors
    /// The system's.
    pub fn take(&mut self, entries: &mut Vec<Entry>) -> io::Result<bool> {
        match self.inbox.take(&self.socket)? {
            Arrival::Overrun => return Ok(false),
            Arrival::Nothing => {}
            Arrival::Messages => entries.extend(
                self.inbox
                    .messages()
                    .filter(|&(kind, _)| kind == NEW_FLOW)
                    .filter_map(|(_, message)| Entry::parse(message)),
            ),
        }
        Ok(true)
    }
}

/// Passes flows that are assured: those of TCP in the states `ESTABLISHED`, `FIN_WAIT` and `CLOSE`,
/// and events without a state, such as those of UDP. Jumps count the instructions that they leave
/// out.
fn filter() -> [libc::sock_filter; 24] {
    const LOAD: u32 = libc::BPF_LD | libc::BPF_W | libc::BPF_ABS;
    const ATTRIBUTE: u32 = (libc::SKF_AD_OFF + libc::SKF_AD_NLATTR) as u32;
    const NESTED: u32 = (libc::SKF_AD_OFF + libc::SKF_AD_NLATTR_NEST) as u32;
    let step = |code: u32, k: u32, jt, jf| libc::sock_filter { code: code as u16, jt, jf, k };
    let is = |k, jt, jf| step(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, k, jt, jf);
    let from_header = || step(libc::BPF_LD | libc::BPF_IMM, HEADER as u32, 0, 0);
    let wanted = |kind: u16| step(libc::BPF_LDX | libc::BPF_IMM, kind.into(), 0, 0);
    let find = || step(LOAD, ATTRIBUTE, 0, 0);
    let tax = || step(libc::BPF_MISC | libc::BPF_TAX, 0, 0, 0);
    let load = |size| step(libc::BPF_LD | size | libc::BPF_IND, ATTRIBUTE_HEADER as u32, 0, 0);
    [
        // A is where to look, X what for; A becomes where that is, or 0.
        from_header(),
        wanted(CTA_STATUS),
        find(),
        is(0, 19, 0),
        tax(),
        load(libc::BPF_W),
        step(libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K, IPS_ASSURED, 0, 16),
        from_header(),
        wanted(CTA_PROTOINFO),
        find(),
        is(0, 11, 0),
        wanted(CTA_PROTOINFO_TCP),
        step(LOAD, NESTED, 0, 0),
        is(0, 9, 0),
        wanted(CTA_PROTOINFO_STATE),
        step(LOAD, NESTED, 0, 0),
        is(0, 6, 0),
        tax(),
        load(libc::BPF_B),
        is(TCP_ESTABLISHED.into(), 2, 0),
        is(TCP_FIN_WAIT.into(), 1, 0),
        is(TCP_CLOSE.into(), 0, 1),
        step(libc::BPF_RET | libc::BPF_K, u32::MAX, 0, 0),
        step(libc::BPF_RET | libc::BPF_K, 0, 0, 0),
    ]
}

/// The kernel's numbers (`nf_conntrack_tcp.h`).
pub const TCP_ESTABLISHED: u8 = 3;
const TCP_FIN_WAIT: u8 = 4;
const TCP_CLOSE: u8 = 8;

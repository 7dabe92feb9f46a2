//! Hears when backends answer: the kernel's events about TCP connections whose SYN-ACK has come.
//!
//! Theory of operation. The kernel tells listeners of the group UPDATE of every change of every
//! flow, about six times for a connection of TCP, and makes each message for us. The SYN-ACK is the
//! change to `SYN_RECV`. A filter at the socket throws the others away, since each would wake us,
//! but for one in [`SAMPLED`]: these tell how many there are. A listener that wants to bound what
//! they cost the kernel leaves the group for a while ([`Answers::listen`]).
//!
//! The time of an answer is the kernel's where it tells it: from Linux 6.14 on, if
//! `net.netfilter.nf_conntrack_timestamp` is 1. Elsewhere it is the moment at which the message was
//! received, and that is right only if the message did not wait for us. So `empty` remembers when
//! there was nothing to receive last. A message has come since then, and if that is longer ago than
//! [`PROMPT`], its time is not known.

use std::io::{self, Read};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use super::entry::Entry;
use super::events::Waker;
use super::uapi::{
    CTA_PROTOINFO, CTA_PROTOINFO_STATE, CTA_PROTOINFO_TCP, CTA_TIMESTAMP_EVENT, NEW_FLOW,
};
use crate::attribute::{ATTRIBUTE_HEADER, HEADER, attributes};
use crate::inbox::{Arrival, Inbox};
use crate::socket::{Socket, monotonic, since_epoch};

/// A connection of TCP whose SYN-ACK went through.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Answer {
    /// The connection.
    pub entry: Entry,
    /// When that was, in nanoseconds of [`monotonic`].
    pub time: u64,
}

/// Hears of answers, in the network namespace of the thread that opened it.
#[derive(Debug)]
pub struct Answers {
    socket: Socket,
    calls: UnixStream,
    inbox: Inbox,
    is_listening: bool,
    /// When nothing waited at the socket last.
    empty: u64,
}

impl Answers {
    /// Opens a socket that does not listen yet. At most `socket_buffer` bytes of messages wait for
    /// us; more are lost. The other value ends waits.
    ///
    /// # Errors
    /// The system's.
    pub fn open(socket_buffer: i32) -> io::Result<(Self, Waker)> {
        let socket = Socket::open(libc::NETLINK_NETFILTER)?;
        socket.set_buffer(libc::SO_RCVBUFFORCE, libc::SO_RCVBUF, socket_buffer)?;
        socket.set_filter(&mut filter())?;
        let (calls, waker) = Waker::pair()?;
        let inbox = Inbox::new();
        Ok((Self { socket, calls, inbox, is_listening: false, empty: 0 }, waker))
    }

    /// Begins or ends to listen. Messages that wait stay. Cost: a system call for a change.
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

    /// Adds answers whose time is known to `answers`, after waiting for messages or for a call of
    /// the [`Waker`], at most `timeout`. Returns how many messages the kernel has made for us,
    /// about, whatever changes they were about.
    ///
    /// # Errors
    /// The system's.
    pub fn receive(&mut self, timeout: Duration, answers: &mut Vec<Answer>) -> io::Result<usize> {
        // What is there at once may have waited for us; what ends the wait has not.
        if !self.socket.is_readable()? {
            self.socket.wait_or(&self.calls, timeout)?;
            self.empty = monotonic();
        }
        while (&self.calls).read(&mut [0; 64]).is_ok_and(|count| count > 0) {}
        let arrival = self.inbox.take(&self.socket)?;
        let now = Now { monotonic: monotonic(), since_epoch: since_epoch() };
        let events = match arrival {
            Arrival::Messages => {
                let is_prompt = now.monotonic.saturating_sub(self.empty) <= PROMPT;
                let mut events = 0;
                for (_, message) in self.inbox.messages().filter(|&(kind, _)| kind == NEW_FLOW) {
                    let entry = Entry::parse(message).filter(is_answer);
                    events += if entry.is_some() { 1 } else { SAMPLED as usize };
                    let time = time(message, now, is_prompt);
                    answers.extend(entry.zip(time).map(|(entry, time)| Answer { entry, time }));
                }
                events
            }
            // Lost answers are not measured; nothing else depends on them. Others wait still.
            Arrival::Overrun => return Ok(0),
            Arrival::Nothing => 0,
        };
        if !self.inbox.is_full() {
            self.empty = now.monotonic;
        }
        Ok(events)
    }
}

/// One moment by both clocks.
#[derive(Clone, Copy)]
struct Now {
    monotonic: u64,
    since_epoch: u64,
}

/// Whether the change of a flow is its SYN-ACK.
fn is_answer(entry: &Entry) -> bool {
    entry.protocol == libc::IPPROTO_TCP as u8 && entry.state == Some(TCP_SYN_RECV)
}

/// When the change of a flow came of which a message tells, if that is known.
fn time(message: &[u8], now: Now, is_prompt: bool) -> Option<u64> {
    let mut stamps = attributes(message.get(HEADER..)?)
        .filter(|&(kind, _)| kind == CTA_TIMESTAMP_EVENT)
        .filter_map(|(_, value)| value.first_chunk().map(|&bytes| u64::from_be_bytes(bytes)));
    let Some(stamp) = stamps.next() else { return is_prompt.then_some(now.monotonic) };
    // The wall clock may have been set since.
    let age = now.since_epoch.checked_sub(stamp).filter(|&age| age < OLDEST)?;
    now.monotonic.checked_sub(age)
}

/// Passes TCP's changes to `SYN_RECV`, and one in [`SAMPLED`] of all others. Jumps count the
/// instructions that they leave out.
fn filter() -> [libc::sock_filter; 17] {
    const LOAD: u32 = libc::BPF_LD | libc::BPF_W | libc::BPF_ABS;
    const ATTRIBUTE: u32 = (libc::SKF_AD_OFF + libc::SKF_AD_NLATTR) as u32;
    const NESTED: u32 = (libc::SKF_AD_OFF + libc::SKF_AD_NLATTR_NEST) as u32;
    const RANDOM: u32 = (libc::SKF_AD_OFF + libc::SKF_AD_RANDOM) as u32;
    let step = |code: u32, k: u32, jt, jf| libc::sock_filter { code: code as u16, jt, jf, k };
    let is = |k, jt, jf| step(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, k, jt, jf);
    let wanted = |kind: u16| step(libc::BPF_LDX | libc::BPF_IMM, kind.into(), 0, 0);
    [
        // A is where to look, X what for; A becomes where that is, or 0.
        step(libc::BPF_LD | libc::BPF_IMM, HEADER as u32, 0, 0),
        wanted(CTA_PROTOINFO),
        step(LOAD, ATTRIBUTE, 0, 0),
        is(0, 9, 0),
        wanted(CTA_PROTOINFO_TCP),
        step(LOAD, NESTED, 0, 0),
        is(0, 6, 0),
        wanted(CTA_PROTOINFO_STATE),
        step(LOAD, NESTED, 0, 0),
        is(0, 3, 0),
        step(libc::BPF_MISC | libc::BPF_TAX, 0, 0, 0),
        step(libc::BPF_LD | libc::BPF_B | libc::BPF_IND, ATTRIBUTE_HEADER as u32, 0, 0),
        is(TCP_SYN_RECV.into(), 2, 0),
        step(LOAD, RANDOM, 0, 0),
        step(libc::BPF_JMP | libc::BPF_JGT | libc::BPF_K, u32::MAX / SAMPLED, 1, 0),
        step(libc::BPF_RET | libc::BPF_K, u32::MAX, 0, 0),
        step(libc::BPF_RET | libc::BPF_K, 0, 0, 0),
    ]
}

/// Of so many changes that are no answers one is passed.
const SAMPLED: u32 = 64;
/// Nanoseconds that a message may have waited, at most, for its time to count.
const PROMPT: u64 = 1_000_000;
/// Nanoseconds that a message waits, at most.
const OLDEST: u64 = 60_000_000_000;
/// The kernel's number (`nf_conntrack_tcp.h`).
const TCP_SYN_RECV: u8 = 2;

#[cfg(test)]
mod tests {
    use super::super::entry::Ends;
    use super::super::testing::{message, put_ends, put_reply};
    use super::super::uapi::CTA_STATUS;
    use super::*;
    use crate::attribute::{put, put_nest};

    const NOW: Now = Now { monotonic: 5_000_000_000, since_epoch: 1_800_000_000_000_000_000 };

    fn told(protocol: u8, state: u8, stamp: Option<u64>) -> Vec<u8> {
        let end = |text: &str| text.parse().expect("an address");
        message(|bytes| {
            let original = Ends { src: end("10.0.0.1:1"), dst: end("10.0.0.2:2") };
            put_ends(bytes, protocol, original);
            put_reply(bytes, protocol, Ends { src: original.dst, dst: original.src });
            put(bytes, CTA_STATUS, &0b1010u32.to_be_bytes());
            put_nest(bytes, CTA_PROTOINFO, |bytes| {
                put_nest(bytes, 1, |bytes| put(bytes, CTA_PROTOINFO_STATE, &[state]));
            });
            if let Some(stamp) = stamp {
                put(bytes, CTA_TIMESTAMP_EVENT, &stamp.to_be_bytes());
            }
        })
    }

    #[test]
    fn an_answer_is_a_syn_ack_of_tcp() {
        let is = |message: &[u8]| Entry::parse(message).is_some_and(|entry| is_answer(&entry));
        assert!(is(&told(6, TCP_SYN_RECV, None)));
        for state in [1, 3, 4, 5, 6, 7, 8, 9] {
            assert!(!is(&told(6, state, None)), "{state}");
        }
        assert!(!is(&told(132, TCP_SYN_RECV, None)), "another protocol's state");
    }

    #[test]
    fn a_message_that_may_have_waited_has_no_time_but_the_kernels() {
        assert_eq!(time(&told(6, 2, None), NOW, true), Some(NOW.monotonic));
        assert_eq!(time(&told(6, 2, None), NOW, false), None);
        let earlier = told(6, 2, Some(NOW.since_epoch - 7_000));
        for is_prompt in [true, false] {
            assert_eq!(time(&earlier, NOW, is_prompt), Some(NOW.monotonic - 7_000));
        }
        for stamp in [0, NOW.since_epoch + 1] {
            let message = told(6, 2, Some(stamp));
            assert_eq!(time(&message, NOW, true), None, "the wall clock was set");
        }
        assert_eq!(time(&[], NOW, true), None);
    }
}

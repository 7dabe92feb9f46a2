//! Hears when backends answer: the kernel's events about TCP connections whose SYN-ACK has come.
//!
//! Theory of operation. The kernel tells listeners of the group UPDATE of every change of every
//! flow, about six times for a connection of TCP, and makes each message for us. The SYN-ACK is the
//! change to `SYN_RECV`; the others are counted and left. A listener that wants to bound what this
//! costs the kernel leaves the group for a while ([`Answers::listen`]).
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
use super::uapi::{CTA_TIMESTAMP_EVENT, NEW_FLOW};
use crate::attribute::{HEADER, attributes};
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
            let option = if is_listening {
                libc::NETLINK_ADD_MEMBERSHIP
            } else {
                libc::NETLINK_DROP_MEMBERSHIP
            };
            self.socket.set(libc::SOL_NETLINK, option, libc::NFNLGRP_CONNTRACK_UPDATE)?;
            self.is_listening = is_listening;
        }
        Ok(())
    }

    /// Adds answers whose time is known to `answers`, after waiting for messages or for a call of
    /// the [`Waker`], at most `timeout`. Returns the number of messages, whatever they were about.
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
        let received = match arrival {
            Arrival::Messages => {
                let is_prompt = now.monotonic.saturating_sub(self.empty) <= PROMPT;
                let messages = self.inbox.messages();
                answers.extend(messages.filter_map(|(kind, message)| {
                    (kind == NEW_FLOW).then(|| answer(message, now, is_prompt))?
                }));
                self.inbox.count()
            }
            // Lost answers are not measured; nothing else depends on them. Others wait still.
            Arrival::Overrun => return Ok(0),
            Arrival::Nothing => 0,
        };
        if !self.inbox.is_full() {
            self.empty = now.monotonic;
        }
        Ok(received)
    }
}

/// One moment by both clocks.
#[derive(Clone, Copy)]
struct Now {
    monotonic: u64,
    since_epoch: u64,
}

/// The answer of which a message tells, if it does and its time is known.
fn answer(message: &[u8], now: Now, is_prompt: bool) -> Option<Answer> {
    let mut stamps = attributes(message.get(HEADER..)?)
        .filter(|&(kind, _)| kind == CTA_TIMESTAMP_EVENT)
        .filter_map(|(_, value)| value.first_chunk().map(|&bytes| u64::from_be_bytes(bytes)));
    let time = match stamps.next() {
        Some(stamp) => {
            // The wall clock may have been set since.
            let age = now.since_epoch.checked_sub(stamp).filter(|&age| age < OLDEST)?;
            now.monotonic.checked_sub(age)?
        }
        None => is_prompt.then_some(now.monotonic)?,
    };
    let entry = Entry::parse(message)?;
    let is_answer = entry.protocol == libc::IPPROTO_TCP as u8 && entry.state == Some(TCP_SYN_RECV);
    is_answer.then_some(Answer { entry, time })
}

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
    use super::super::uapi::{CTA_PROTOINFO, CTA_PROTOINFO_STATE, CTA_STATUS};
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

    fn time(message: &[u8], is_prompt: bool) -> Option<u64> {
        answer(message, NOW, is_prompt).map(|answer| answer.time)
    }

    #[test]
    fn an_answer_is_a_syn_ack_of_tcp() {
        let found = answer(&told(6, 2, None), NOW, true).expect("an answer");
        assert_eq!((found.entry.protocol, found.entry.state), (6, Some(2)));
        for state in [1, 3, 4, 5, 6, 7, 8, 9] {
            assert_eq!(time(&told(6, state, None), true), None, "{state}");
        }
        assert_eq!(time(&told(132, 2, None), true), None, "another protocol's state");
        assert_eq!(time(&[], true), None);
    }

    #[test]
    fn a_message_that_may_have_waited_has_no_time_but_the_kernels() {
        assert_eq!(time(&told(6, 2, None), true), Some(NOW.monotonic));
        assert_eq!(time(&told(6, 2, None), false), None);
        let earlier = told(6, 2, Some(NOW.since_epoch - 7_000));
        for is_prompt in [true, false] {
            assert_eq!(time(&earlier, is_prompt), Some(NOW.monotonic - 7_000));
        }
        assert_eq!(
            time(&told(6, 2, Some(NOW.since_epoch + 1)), true),
            None,
            "a clock that was set"
        );
        assert_eq!(time(&told(6, 2, Some(0)), true), None, "a clock that was set");
    }
}

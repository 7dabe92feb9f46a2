//! Flows of the kernel's connection tracking (`linux/netfilter/nfnetlink_conntrack.h`): those that
//! are there, what happens to them, and how to end one.
//!
//! Only those whose packets to the destination are tracked in the default zone: other zones are
//! others' views of packets that may be tracked in ours as well.

mod requests;

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use crate::attribute::{HEADER, attributes, find, messages, number};
use crate::socket::Socket;
pub use requests::{Requests, Selection, Statistics};

/// Source and destination of one direction.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ends {
    /// Who sends.
    pub src: SocketAddr,
    /// To whom.
    pub dst: SocketAddr,
}

/// A flow as the kernel has it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entry {
    /// The kernel's own number, by which it is told from a later one with the same ends.
    pub id: Option<u32>,
    /// Protocol number.
    pub protocol: u8,
    /// As the first packet came, before any translation.
    pub original: Ends,
    /// As answers come.
    pub reply: Ends,
    /// An answer was seen.
    pub is_replied: bool,
    /// Both sides have confirmed it.
    pub is_assured: bool,
    /// TCP's or SCTP's state, in the kernel's numbers.
    pub state: Option<u8>,
    /// Seconds until it ends without further packets.
    pub timeout: Option<u32>,
    /// Packets and bytes by direction, where the kernel counts them (`nf_conntrack_acct`).
    pub counters: Option<[(u64, u64); 2]>,
}

/// What has happened to a flow.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Change {
    /// Its first packet went through.
    New(Entry),
    /// It is over.
    Ended(Entry),
}

/// What a listener hears of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Topic {
    /// Flows whose first packet went through: [`Change::New`].
    New,
    /// Flows that are over: [`Change::Ended`].
    Ended,
}

/// Ends the wait of [`Events::receive`].
#[derive(Debug)]
pub struct Waker(UnixStream);

impl Waker {
    /// Ends a wait that goes on, or the next one.
    pub fn wake(&self) {
        // Full of unread calls: it will wake up.
        let _ = (&self.0).write(&[0]);
    }
}

/// What happens to flows, in the network namespace of the thread that opened it.
#[derive(Debug)]
pub struct Events {
    socket: Socket,
    calls: UnixStream,
    buffers: Vec<Vec<u8>>,
    lengths: Vec<usize>,
}

impl Events {
    /// Listens to these topics from now on. At most `socket_buffer` bytes of events wait for us.
    /// The other value ends waits.
    ///
    /// # Errors
    /// The system's: no privilege, or no such kernel module.
    pub fn open(socket_buffer: i32, topics: &[Topic]) -> io::Result<(Self, Waker)> {
        let socket = Socket::open()?;
        socket
            .set(libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, socket_buffer)
            .or_else(|_| socket.set(libc::SOL_SOCKET, libc::SO_RCVBUF, socket_buffer))?;
        for topic in topics {
            let group = match topic {
                Topic::New => libc::NFNLGRP_CONNTRACK_NEW,
                Topic::Ended => libc::NFNLGRP_CONNTRACK_DESTROY,
            };
            socket.set(libc::SOL_NETLINK, libc::NETLINK_ADD_MEMBERSHIP, group)?;
        }
        let (calls, waker) = UnixStream::pair()?;
        calls.set_nonblocking(true)?;
        waker.set_nonblocking(true)?;
        let buffers = vec![vec![0; BUFFER]; BUFFERS];
        Ok((Self { socket, calls, buffers, lengths: Vec::new() }, Waker(waker)))
    }

    /// Adds what has happened to `changes`, after waiting for it or for a call of the [`Waker`], at
    /// most `timeout`. Returns whether nothing was lost on the way.
    ///
    /// # Errors
    /// The system's.
    pub fn receive(&mut self, timeout: Duration, changes: &mut Vec<Change>) -> io::Result<bool> {
        self.socket.wait_or(&self.calls, timeout)?;
        while (&self.calls).read(&mut [0; 64]).is_ok_and(|count| count > 0) {}
        let count = match self.socket.receive(&mut self.buffers, &mut self.lengths) {
            Ok(count) => count,
            Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => return Ok(false),
            Err(error) if is_temporary(&error) => 0,
            Err(error) => return Err(error),
        };
        for (buffer, &length) in self.buffers.iter().zip(&self.lengths).take(count) {
            for (kind, message) in messages(buffer.get(..length).unwrap_or_default()) {
                let change = match kind {
                    NEW => Entry::parse(message).map(Change::New),
                    DELETED => Entry::parse(message).map(Change::Ended),
                    _ => None,
                };
                changes.extend(change);
            }
        }
        Ok(true)
    }
}

impl Entry {
    /// Reads a message; `None` for one that is not about a flow with addresses.
    #[must_use]
    pub fn parse(message: &[u8]) -> Option<Self> {
        let (mut original, mut reply) = (None, None);
        let (mut id, mut status, mut state, mut timeout) = (None, 0, None, None);
        let mut counters = [None, None];
        for (kind, value) in attributes(message.get(HEADER..)?) {
            match kind {
                // A zone of one direction stands with that direction.
                CTA_TUPLE_ORIG if find(value, CTA_TUPLE_ZONE).is_some() => return None,
                CTA_TUPLE_ORIG => original = tuple(value),
                CTA_TUPLE_REPLY => reply = tuple(value),
                CTA_STATUS => status = number(value)?,
                CTA_ID => id = number(value),
                CTA_ZONE => return None,
                CTA_TIMEOUT => timeout = number(value),
                CTA_PROTOINFO => {
                    let (_, nested) = attributes(value).next()?;
                    state = find(nested, CTA_STATE).and_then(|value| value.first().copied());
                }
                CTA_COUNTERS_ORIG => counters[0] = counted(value),
                CTA_COUNTERS_REPLY => counters[1] = counted(value),
                _ => {}
            }
        }
        let ((protocol, original), (_, reply)) = (original?, reply?);
        Some(Self {
            id,
            protocol,
            original,
            reply,
            is_replied: status & SEEN_REPLY != 0,
            is_assured: status & ASSURED != 0,
            state,
            timeout,
            counters: counters[0].zip(counters[1]).map(|(there, back)| [there, back]),
        })
    }
}

/// Protocol and ends of a nested tuple; ports are 0 where the protocol has none.
fn tuple(value: &[u8]) -> Option<(u8, Ends)> {
    let (ip, layer4) = (find(value, CTA_TUPLE_IP)?, find(value, CTA_TUPLE_PROTO)?);
    let address = |v4, v6| -> Option<IpAddr> {
        if let Some(value) = find(ip, v4) {
            return Some(Ipv4Addr::from(*value.first_chunk::<4>()?).into());
        }
        Some(Ipv6Addr::from(*find(ip, v6)?.first_chunk::<16>()?).into())
    };
    let port = |kind| {
        find(layer4, kind).and_then(<[u8]>::first_chunk).map_or(0, |&port| u16::from_be_bytes(port))
    };
    let src = SocketAddr::new(address(CTA_IP_V4_SRC, CTA_IP_V6_SRC)?, port(CTA_PROTO_SRC_PORT));
    let dst = SocketAddr::new(address(CTA_IP_V4_DST, CTA_IP_V6_DST)?, port(CTA_PROTO_DST_PORT));
    Some((*find(layer4, CTA_PROTO_NUM)?.first()?, Ends { src, dst }))
}

fn counted(value: &[u8]) -> Option<(u64, u64)> {
    let read = |kind| find(value, kind)?.first_chunk().map(|&bytes| u64::from_be_bytes(bytes));
    Some((read(CTA_COUNTERS_PACKETS)?, read(CTA_COUNTERS_BYTES)?))
}

fn is_temporary(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}

/// The kernel fills no more of one at a time.
const BUFFER: usize = 32 << 10;
const BUFFERS: usize = 16;
const SUBSYSTEM: u16 = 1;
const NEW: u16 = SUBSYSTEM << 8;
const DELETED: u16 = SUBSYSTEM << 8 | 2;
const SEEN_REPLY: u32 = 1 << 1;
const ASSURED: u32 = 1 << 2;
const CTA_TUPLE_ORIG: u16 = 1;
const CTA_TUPLE_REPLY: u16 = 2;
const CTA_STATUS: u16 = 3;
const CTA_PROTOINFO: u16 = 4;
const CTA_TIMEOUT: u16 = 7;
const CTA_COUNTERS_ORIG: u16 = 9;
const CTA_COUNTERS_REPLY: u16 = 10;
const CTA_ID: u16 = 12;
const CTA_ZONE: u16 = 18;
const CTA_TUPLE_IP: u16 = 1;
const CTA_TUPLE_PROTO: u16 = 2;
const CTA_TUPLE_ZONE: u16 = 3;
const CTA_IP_V4_SRC: u16 = 1;
const CTA_IP_V4_DST: u16 = 2;
const CTA_IP_V6_SRC: u16 = 3;
const CTA_IP_V6_DST: u16 = 4;
const CTA_PROTO_NUM: u16 = 1;
const CTA_PROTO_SRC_PORT: u16 = 2;
const CTA_PROTO_DST_PORT: u16 = 3;
/// The same number for TCP and SCTP.
const CTA_STATE: u16 = 1;
const CTA_COUNTERS_PACKETS: u16 = 1;
const CTA_COUNTERS_BYTES: u16 = 2;

#[cfg(test)]
mod tests {
    use super::requests::put_tuple;
    use super::*;
    use crate::attribute::{Head, close, open, put, put_nested};
    use proptest::prelude::*;

    fn ends(src: &str, dst: &str) -> Ends {
        Ends { src: src.parse().expect("an address"), dst: dst.parse().expect("an address") }
    }

    fn message(fill: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
        let mut bytes = Vec::new();
        let start = open(&mut bytes, Head { subsystem: SUBSYSTEM, ..Head::default() });
        fill(&mut bytes);
        close(&mut bytes, start, 0);
        bytes
    }

    fn put_ends(bytes: &mut Vec<u8>, protocol: u8, ends: Ends) {
        put_tuple(bytes, protocol, Some(ends.src), Some(ends.dst));
    }

    /// A tuple in the place of the reply's.
    fn put_reply(bytes: &mut Vec<u8>, protocol: u8, reply: Ends) {
        let start = bytes.len();
        put_ends(bytes, protocol, reply);
        bytes[start + 2] = CTA_TUPLE_REPLY as u8;
    }

    #[test]
    fn everything_that_is_said_is_known() {
        let original = ends("[fd00::1]:1000", "[fd00:30::ff]:80");
        let reply = ends("[fd00:17::3]:9876", "[fd00::1]:1000");
        let bytes = message(|bytes| {
            put_ends(bytes, 6, original);
            put_reply(bytes, 6, reply);
            put(bytes, CTA_STATUS, &0b1110u32.to_be_bytes());
            put(bytes, CTA_ID, &77u32.to_be_bytes());
            put(bytes, CTA_TIMEOUT, &300u32.to_be_bytes());
            put_nested(bytes, CTA_PROTOINFO, |bytes| {
                put_nested(bytes, 1, |bytes| put(bytes, CTA_STATE, &[3]));
            });
            for (kind, packets) in [(CTA_COUNTERS_ORIG, 7u64), (CTA_COUNTERS_REPLY, 8)] {
                put_nested(bytes, kind, |bytes| {
                    put(bytes, CTA_COUNTERS_PACKETS, &packets.to_be_bytes());
                    put(bytes, CTA_COUNTERS_BYTES, &(packets * 100).to_be_bytes());
                });
            }
        });
        assert_eq!(
            Entry::parse(&bytes),
            Some(Entry {
                id: Some(77),
                protocol: 6,
                original,
                reply,
                is_replied: true,
                is_assured: true,
                state: Some(3),
                timeout: Some(300),
                counters: Some([(7, 700), (8, 800)]),
            })
        );
    }

    #[test]
    fn what_is_no_flow_is_none() {
        assert_eq!(Entry::parse(&[]), None);
        assert_eq!(Entry::parse(&message(|_| {})), None, "no tuple");
        let only = message(|bytes| put_ends(bytes, 17, ends("10.0.0.1:1", "10.0.0.2:2")));
        assert_eq!(Entry::parse(&only), None, "one tuple");
        let flow = |zone: bool| {
            message(|bytes| {
                put_ends(bytes, 17, ends("10.0.0.1:1", "10.0.0.2:2"));
                put_reply(bytes, 17, ends("10.0.0.2:2", "10.0.0.1:1"));
                if zone {
                    put(bytes, CTA_ZONE, &7u16.to_be_bytes());
                }
            })
        };
        assert!(Entry::parse(&flow(false)).is_some());
        assert_eq!(Entry::parse(&flow(true)), None, "somebody else's view of the packet");
    }

    #[test]
    fn f125_a_zone_of_the_original_direction_is_somebody_elses() {
        let zoned = |place: u16| {
            message(|bytes| {
                for (kind, src, dst) in [
                    (CTA_TUPLE_ORIG, "10.0.0.1:1", "10.0.0.2:2"),
                    (CTA_TUPLE_REPLY, "10.0.0.2:2", "10.0.0.1:1"),
                ] {
                    let start = bytes.len();
                    put_ends(bytes, 17, ends(src, dst));
                    if kind == place {
                        put(bytes, CTA_TUPLE_ZONE, &7u16.to_be_bytes());
                    }
                    let length = (bytes.len() - start) as u16;
                    bytes[start..start + 2].copy_from_slice(&length.to_ne_bytes());
                    bytes[start + 2] = kind as u8;
                }
            })
        };
        assert_eq!(Entry::parse(&zoned(CTA_TUPLE_ORIG)), None);
        // Its packets to the destination are tracked in the default zone, and it is found and ended
        // there.
        assert!(Entry::parse(&zoned(CTA_TUPLE_REPLY)).is_some());
    }

    proptest! {
        #[test]
        fn any_bytes_are_read(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = Entry::parse(&bytes);
        }
    }
}

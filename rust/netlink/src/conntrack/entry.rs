//! A flow as the kernel's messages describe it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::uapi::{
    CTA_COUNTERS_BYTES, CTA_COUNTERS_ORIG, CTA_COUNTERS_PACKETS, CTA_COUNTERS_REPLY, CTA_HELP,
    CTA_ID, CTA_IP_V4_DST, CTA_IP_V4_SRC, CTA_IP_V6_DST, CTA_IP_V6_SRC, CTA_MARK,
    CTA_PROTO_DST_PORT, CTA_PROTO_NUM, CTA_PROTO_SRC_PORT, CTA_PROTOINFO, CTA_PROTOINFO_STATE,
    CTA_SEQ_ADJ_ORIG, CTA_SEQ_ADJ_REPLY, CTA_STATUS, CTA_SYNPROXY, CTA_TIMEOUT, CTA_TIMESTAMP,
    CTA_TIMESTAMP_START, CTA_TUPLE_IP, CTA_TUPLE_ORIG, CTA_TUPLE_PROTO, CTA_TUPLE_REPLY,
    CTA_TUPLE_ZONE, CTA_USE, CTA_ZONE, IPS_ASSURED, IPS_HELPER, IPS_NAT_CLASH, IPS_SEEN_REPLY,
    IPS_SEQ_ADJUST,
};
use crate::attribute::{HEADER, attributes, find, number, put, put_nest};
use crate::socket::{monotonic, since_epoch};

/// Source and destination of one direction.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Ends {
    /// The sender.
    pub src: SocketAddr,
    /// The receiver.
    pub dst: SocketAddr,
}

impl Ends {
    /// The other way.
    #[must_use]
    pub fn reversed(self) -> Self {
        Self { src: self.dst, dst: self.src }
    }
}

/// A flow as the kernel has it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entry {
    /// The kernel's own number, by which it is told from a later one with the same ends.
    pub id: Option<u32>,
    /// Its connmark; `None` for a kernel without connmarks.
    pub mark: Option<u32>,
    /// References that the kernel has to it; events do not tell them.
    pub uses: Option<u32>,
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
    /// The kernel changes its packets beyond their ends, or has to read all of them: it has a
    /// helper (FTP), or its sequence numbers are shifted (SYNPROXY, helpers). Events tell of
    /// SYNPROXY when it begins only; dumps and answers always do.
    pub needs_conntrack: bool,
    /// TCP's or SCTP's state, in the kernel's numbers.
    pub state: Option<u8>,
    /// Seconds until it ends without further packets.
    pub timeout: Option<u32>,
    /// Packets and bytes by direction, where the kernel counts them (`nf_conntrack_acct`).
    pub counters: Option<[(u64, u64); 2]>,
    /// When it began, in nanoseconds of the wall clock, where the kernel remembers that
    /// (`nf_conntrack_timestamp`); dumps and ends tell it.
    pub started: Option<u64>,
}

impl Entry {
    /// Reads a message; `None` for one that is not about a flow with addresses, or about an entry
    /// beside a flow's own: conntrack makes one for each datagram that came while the flow's first
    /// was still on its way, and got another source port (`IPS_NAT_CLASH`).
    #[must_use]
    pub fn parse(message: &[u8]) -> Option<Self> {
        let (mut original, mut reply) = (None, None);
        let (mut id, mut mark, mut uses, mut status) = (None, None, None, 0);
        let (mut state, mut timeout, mut started) = (None, None, None);
        let mut counters = [None, None];
        let mut is_special = false;
        for (kind, value) in attributes(message.get(HEADER..)?) {
            match kind {
                // A zone of one direction stands with that direction.
                CTA_TUPLE_ORIG if find(value, CTA_TUPLE_ZONE).is_some() => return None,
                CTA_TUPLE_ORIG => original = tuple(value),
                CTA_TUPLE_REPLY => reply = tuple(value),
                CTA_HELP | CTA_SEQ_ADJ_ORIG | CTA_SEQ_ADJ_REPLY => is_special = true,
                // Flows that were made by ctnetlink have room for it, without numbers.
                CTA_SYNPROXY => {
                    is_special |= attributes(value).any(|(_, value)| number(value) != Some(0));
                }
                CTA_STATUS => status = number(value)?,
                CTA_ID => id = number(value),
                CTA_MARK => mark = number(value),
                CTA_USE => uses = number(value),
                // Another zone may track the same ends as another flow.
                CTA_ZONE => return None,
                CTA_TIMEOUT => timeout = number(value),
                CTA_PROTOINFO => {
                    // TCP and SCTP have nests of their own, and the state has one number in both.
                    let (_, nested) = attributes(value).next()?;
                    state =
                        find(nested, CTA_PROTOINFO_STATE).and_then(|value| value.first().copied());
                }
                CTA_TIMESTAMP => started = number64(value, CTA_TIMESTAMP_START),
                CTA_COUNTERS_ORIG => counters[0] = counters_of(value),
                CTA_COUNTERS_REPLY => counters[1] = counters_of(value),
                _ => {}
            }
        }
        let ((protocol, original), (_, reply)) = (original?, reply?);
        // It translates answers for a second, and its end is not that of the flow.
        if status & IPS_NAT_CLASH != 0 {
            return None;
        }
        Some(Self {
            id,
            mark,
            uses,
            protocol,
            original,
            reply,
            is_replied: status & IPS_SEEN_REPLY != 0,
            is_assured: status & IPS_ASSURED != 0,
            needs_conntrack: is_special || status & (IPS_SEQ_ADJUST | IPS_HELPER) != 0,
            state,
            timeout,
            // The kernel sends the counters of both directions or none.
            counters: counters[0].zip(counters[1]).map(|(there, back)| [there, back]),
            started,
        })
    }

    /// Nanoseconds since it began, where the kernel remembers that. The wall clock may have been
    /// set since: nothing has begun ahead of us, and nothing is older than the machine's run.
    #[must_use]
    pub fn age(&self) -> Option<u64> {
        let age = since_epoch().checked_sub(self.started?)?;
        (age <= monotonic()).then_some(age)
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
    // ICMP has type, code and identifier in the place of ports.
    let port = |kind| {
        find(layer4, kind).and_then(<[u8]>::first_chunk).map_or(0, |&port| u16::from_be_bytes(port))
    };
    let src = SocketAddr::new(address(CTA_IP_V4_SRC, CTA_IP_V6_SRC)?, port(CTA_PROTO_SRC_PORT));
    let dst = SocketAddr::new(address(CTA_IP_V4_DST, CTA_IP_V6_DST)?, port(CTA_PROTO_DST_PORT));
    Some((*find(layer4, CTA_PROTO_NUM)?.first()?, Ends { src, dst }))
}

fn counters_of(value: &[u8]) -> Option<(u64, u64)> {
    Some((number64(value, CTA_COUNTERS_PACKETS)?, number64(value, CTA_COUNTERS_BYTES)?))
}

/// A number of 64 bits among nested attributes.
fn number64(nest: &[u8], kind: u16) -> Option<u64> {
    find(nest, kind)?.first_chunk().map(|&bytes| u64::from_be_bytes(bytes))
}

/// A tuple, or what is known of one.
pub(super) fn put_tuple(
    bytes: &mut Vec<u8>,
    protocol: u8,
    src: Option<SocketAddr>,
    dst: Option<SocketAddr>,
) {
    put_tuple_as(bytes, CTA_TUPLE_ORIG, protocol, src, dst);
}

/// The same, of the direction `kind`.
pub(super) fn put_tuple_as(
    bytes: &mut Vec<u8>,
    kind: u16,
    protocol: u8,
    src: Option<SocketAddr>,
    dst: Option<SocketAddr>,
) {
    let ends = [
        (src, CTA_IP_V4_SRC, CTA_IP_V6_SRC, CTA_PROTO_SRC_PORT),
        (dst, CTA_IP_V4_DST, CTA_IP_V6_DST, CTA_PROTO_DST_PORT),
    ];
    put_nest(bytes, kind, |bytes| {
        put_nest(bytes, CTA_TUPLE_IP, |bytes| {
            // In a filter an end may be open: the kernel compares the fields that are put.
            for (end, v4, v6, _) in ends {
                match end.map(|end| end.ip()) {
                    Some(IpAddr::V4(address)) => put(bytes, v4, &address.octets()),
                    Some(IpAddr::V6(address)) => put(bytes, v6, &address.octets()),
                    None => {}
                }
            }
        });
        put_nest(bytes, CTA_TUPLE_PROTO, |bytes| {
            put(bytes, CTA_PROTO_NUM, &[protocol]);
            for (end, _, _, port) in ends {
                if let Some(end) = end {
                    put(bytes, port, &end.port().to_be_bytes());
                }
            }
        });
    });
}

#[cfg(test)]
mod tests {
    use super::super::testing::{message, put_ends, put_reply};
    use super::*;
    use crate::attribute::{put, put_nest};
    use proptest::prelude::*;

    fn ends(src: &str, dst: &str) -> Ends {
        Ends { src: src.parse().expect("an address"), dst: dst.parse().expect("an address") }
    }

    #[test]
    fn a_flow_is_described() {
        let original = ends("[fd00::1]:1000", "[fd00:30::ff]:80");
        let reply = ends("[fd00:17::3]:9876", "[fd00::1]:1000");
        let bytes = message(|bytes| {
            put_ends(bytes, 6, original);
            put_reply(bytes, 6, reply);
            put(bytes, CTA_STATUS, &0b1110u32.to_be_bytes());
            put(bytes, CTA_ID, &77u32.to_be_bytes());
            put(bytes, CTA_MARK, &0x1000u32.to_be_bytes());
            put(bytes, CTA_USE, &2u32.to_be_bytes());
            put(bytes, CTA_TIMEOUT, &300u32.to_be_bytes());
            put_nest(bytes, CTA_PROTOINFO, |bytes| {
                put_nest(bytes, 1, |bytes| put(bytes, CTA_PROTOINFO_STATE, &[3]));
            });
            put_nest(bytes, CTA_TIMESTAMP, |bytes| {
                put(bytes, CTA_TIMESTAMP_START, &1_700_000_000_000_000_000u64.to_be_bytes());
            });
            for (kind, packets) in [(CTA_COUNTERS_ORIG, 7u64), (CTA_COUNTERS_REPLY, 8)] {
                put_nest(bytes, kind, |bytes| {
                    put(bytes, CTA_COUNTERS_PACKETS, &packets.to_be_bytes());
                    put(bytes, CTA_COUNTERS_BYTES, &(packets * 100).to_be_bytes());
                });
            }
        });
        assert_eq!(
            Entry::parse(&bytes),
            Some(Entry {
                id: Some(77),
                mark: Some(0x1000),
                uses: Some(2),
                protocol: 6,
                original,
                reply,
                is_replied: true,
                is_assured: true,
                needs_conntrack: false,
                state: Some(3),
                timeout: Some(300),
                counters: Some([(7, 700), (8, 800)]),
                started: Some(1_700_000_000_000_000_000),
            })
        );
    }

    #[test]
    fn a_flow_has_an_age_where_its_beginning_is_known() {
        let begun = |nanoseconds: Option<u64>| {
            let bytes = message(|bytes| {
                put_ends(bytes, 6, ends("10.0.0.1:1", "10.0.0.2:2"));
                put_reply(bytes, 6, ends("10.0.0.2:2", "10.0.0.1:1"));
                if let Some(time) = nanoseconds {
                    put_nest(bytes, CTA_TIMESTAMP, |bytes| {
                        put(bytes, CTA_TIMESTAMP_START, &time.to_be_bytes());
                    });
                }
            });
            Entry::parse(&bytes).expect("a flow").age()
        };
        let second = 1_000_000_000;
        let age = begun(Some(since_epoch() - second)).expect("it is known");
        assert!((second..60 * second).contains(&age), "{age}");
        assert_eq!(begun(None), None);
        assert_eq!(begun(Some(since_epoch() + 60 * second)), None, "the wall clock was set back");
        assert_eq!(begun(Some(second)), None, "it was set when the machine came to know the time");
    }

    #[test]
    fn a_flow_of_which_conntrack_needs_each_packet_is_told() {
        let needs = |fill: &dyn Fn(&mut Vec<u8>)| {
            let bytes = message(|bytes| {
                put_ends(bytes, 6, ends("10.0.0.1:1", "10.0.0.2:2"));
                put_reply(bytes, 6, ends("10.0.0.2:2", "10.0.0.1:1"));
                fill(bytes);
            });
            Entry::parse(&bytes).expect("a flow").needs_conntrack
        };
        assert!(!needs(&|_| ()));
        for kind in [CTA_HELP, CTA_SEQ_ADJ_ORIG, CTA_SEQ_ADJ_REPLY] {
            assert!(needs(&|bytes| put_nest(bytes, kind, |_| ())), "{kind}");
        }
        for shift in [0_u32, 7] {
            let numbers = |bytes: &mut Vec<u8>| {
                put(bytes, 1, &0_u32.to_be_bytes());
                put(bytes, 3, &shift.to_be_bytes());
            };
            let is_needed = needs(&|bytes| put_nest(bytes, CTA_SYNPROXY, numbers));
            assert_eq!(is_needed, shift != 0);
        }
        for bit in (0..16).filter(|bit| *bit != 12) {
            let status = |bytes: &mut Vec<u8>| put(bytes, CTA_STATUS, &(1u32 << bit).to_be_bytes());
            assert_eq!(needs(&status), [6, 13].contains(&bit), "{bit}");
        }
    }

    #[test]
    fn an_entry_beside_a_flows_own_is_no_flow() {
        let with = |status: u32| {
            Entry::parse(&message(|bytes| {
                put_ends(bytes, 17, ends("10.0.0.1:1", "10.0.0.2:2"));
                put_reply(bytes, 17, ends("10.0.0.2:2", "10.0.0.1:7"));
                put(bytes, CTA_STATUS, &status.to_be_bytes());
            }))
        };
        assert!(with(0b1110).is_some());
        assert_eq!(with(0b1110 | 1 << 12), None);
    }

    #[test]
    fn a_message_without_two_tuples_is_no_flow() {
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
    fn f125_a_flow_with_a_zone_of_the_original_direction_is_left_out() {
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

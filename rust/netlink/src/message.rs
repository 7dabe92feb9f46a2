//! The kernel's message about a packet in a queue.

use std::ops::Range;

use crate::attribute::{HEADER, NetlinkHeader, attributes, number};

/// A packet in a queue, as far as its driver needs to know. Its bytes stand in the message.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Message {
    /// Number by which the verdict names it.
    pub id: u32,
    /// Index of the device it came in by; 0 without one.
    pub in_device: u32,
    /// The packet mark.
    pub mark: u32,
    /// Where in the message the packet stands, from its IP header on.
    pub payload: Range<usize>,
    /// The packet's length if the payload is only its beginning.
    pub whole_length: Option<u32>,
    /// Whether the transport checksum is yet to be computed.
    pub is_checksum_missing: bool,
}

impl Message {
    /// Reads a message; `None` for one that is not about a packet.
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        if NetlinkHeader::parse(bytes)?.kind != PACKET {
            return None;
        }
        let mut message = Self::default();
        let mut is_named = false;
        for (kind, value) in attributes(bytes.get(HEADER..)?) {
            match kind {
                NFQA_PACKET_HDR => {
                    // Behind the number: EtherType and hook.
                    message.id = number(value.get(..PACKET_HEADER)?)?;
                    is_named = true;
                }
                NFQA_MARK => message.mark = number(value)?,
                NFQA_IFINDEX_INDEV => message.in_device = number(value)?,
                NFQA_PAYLOAD => {
                    let start = value.as_ptr().addr() - bytes.as_ptr().addr();
                    message.payload = start..start + value.len();
                }
                NFQA_CAP_LEN => message.whole_length = Some(number(value)?),
                NFQA_SKB_INFO => {
                    message.is_checksum_missing = number(value)? & SKB_CSUM_NOT_READY != 0;
                }
                _ => {}
            }
        }
        is_named.then_some(message)
    }
}

/// What else the kernel says about a packet. The engine needs none of it, so it is read apart.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Details {
    /// `EtherType`.
    pub protocol: u16,
    /// Hook of netfilter, from 0, PREROUTING, to 4, POSTROUTING.
    pub hook: u8,
    /// Index of the device it is to leave by; 0 without one.
    pub out_device: u32,
    /// Indexes of the bridge's ports that it came in by and is to leave by; 0 without one.
    pub bridge_ports: (u32, u32),
    /// The sender's link-layer address.
    pub hardware_address: Option<Vec<u8>>,
    /// When it was received, in microseconds since 1970; `None` for one that was not.
    pub time: Option<u64>,
}

impl Details {
    /// Reads the message of a packet, behind which the bytes of an earlier one may stand.
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let mut details = Self::default();
        let message = bytes.get(..NetlinkHeader::parse(bytes)?.length)?;
        for (kind, value) in attributes(message.get(HEADER..)?) {
            match kind {
                NFQA_PACKET_HDR => {
                    let &[_, _, _, _, high, low, hook] = value.get(..PACKET_HEADER)? else {
                        return None;
                    };
                    (details.protocol, details.hook) = (u16::from_be_bytes([high, low]), hook);
                }
                NFQA_IFINDEX_OUTDEV => details.out_device = number(value)?,
                NFQA_IFINDEX_PHYSINDEV => details.bridge_ports.0 = number(value)?,
                NFQA_IFINDEX_PHYSOUTDEV => details.bridge_ports.1 = number(value)?,
                NFQA_HWADDR => {
                    // A length, two bytes of padding, and eight for the address.
                    let length = usize::from(u16::from_be_bytes([*value.first()?, *value.get(1)?]));
                    details.hardware_address = Some(value.get(4..4 + length)?.to_vec());
                }
                NFQA_TIMESTAMP => {
                    let (seconds, rest) = value.split_at_checked(8)?;
                    let big = |bytes: &[u8]| Some(u64::from_be_bytes(bytes.try_into().ok()?));
                    details.time = Some(
                        big(seconds)?
                            .saturating_mul(1_000_000)
                            .saturating_add(big(rest.get(..8)?)?),
                    );
                }
                _ => {}
            }
        }
        Some(details)
    }
}

/// Subsystem and kind.
const PACKET: u16 = (libc::NFNL_SUBSYS_QUEUE as u16) << 8 | libc::NFQNL_MSG_PACKET as u16;
/// Length of `struct nfqnl_msg_packet_hdr`.
const PACKET_HEADER: usize = 7;
const NFQA_PACKET_HDR: u16 = libc::NFQA_PACKET_HDR as u16;
const NFQA_MARK: u16 = libc::NFQA_MARK as u16;
const NFQA_IFINDEX_INDEV: u16 = libc::NFQA_IFINDEX_INDEV as u16;
const NFQA_IFINDEX_OUTDEV: u16 = libc::NFQA_IFINDEX_OUTDEV as u16;
const NFQA_IFINDEX_PHYSINDEV: u16 = libc::NFQA_IFINDEX_PHYSINDEV as u16;
const NFQA_IFINDEX_PHYSOUTDEV: u16 = libc::NFQA_IFINDEX_PHYSOUTDEV as u16;
const NFQA_HWADDR: u16 = libc::NFQA_HWADDR as u16;
const NFQA_TIMESTAMP: u16 = libc::NFQA_TIMESTAMP as u16;
const NFQA_PAYLOAD: u16 = libc::NFQA_PAYLOAD as u16;
const NFQA_CAP_LEN: u16 = libc::NFQA_CAP_LEN as u16;
const NFQA_SKB_INFO: u16 = libc::NFQA_SKB_INFO as u16;
const SKB_CSUM_NOT_READY: u32 = libc::NFQA_SKB_CSUMNOTREADY as u32;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attribute::{Head, close, open, put};
    use proptest::prelude::*;

    fn message(attributes: &[(u16, &[u8])]) -> Vec<u8> {
        let mut bytes = Vec::new();
        let start = open(&mut bytes, Head { subsystem: 3, resource: 7, ..Head::default() });
        for (kind, value) in attributes {
            put(&mut bytes, *kind, value);
        }
        close(&mut bytes, start, 0);
        bytes
    }

    #[test]
    fn a_packet_is_described() {
        let bytes = message(&[
            (NFQA_PACKET_HDR, &[0, 0, 1, 2, 8, 0, 3]),
            (NFQA_MARK, &[0, 0, 0x10, 0]),
            (NFQA_IFINDEX_INDEV, &[0, 0, 0, 5]),
            (libc::NFQA_IFINDEX_OUTDEV as u16, &[0, 0, 0, 6]),
            (NFQA_SKB_INFO, &[0, 0, 0, 3]),
            (NFQA_CAP_LEN, &[0, 1, 0, 0]),
            (NFQA_PAYLOAD, b"E...."),
        ]);
        let packet = Message::parse(&bytes).expect("a packet");
        assert_eq!(&bytes[packet.payload.clone()], b"E....");
        let expected = Message {
            id: 0x102,
            in_device: 5,
            mark: 0x1000,
            payload: packet.payload.clone(),
            whole_length: Some(0x1_0000),
            is_checksum_missing: true,
        };
        assert_eq!(packet, expected);
    }

    #[test]
    fn details_are_read_apart() {
        let mut time = 1_700_000_000u64.to_be_bytes().to_vec();
        time.extend(250_000u64.to_be_bytes());
        let bytes = message(&[
            (NFQA_PACKET_HDR, &[0, 0, 1, 2, 0x86, 0xdd, 3]),
            (NFQA_IFINDEX_OUTDEV, &[0, 0, 0, 6]),
            (NFQA_IFINDEX_PHYSINDEV, &[0, 0, 0, 7]),
            (NFQA_IFINDEX_PHYSOUTDEV, &[0, 0, 0, 8]),
            (NFQA_HWADDR, &[0, 6, 0, 0, 2, 0, 0, 0, 0, 9, 0, 0]),
            (NFQA_TIMESTAMP, &time),
        ]);
        let expected = Details {
            protocol: 0x86dd,
            hook: 3,
            out_device: 6,
            bridge_ports: (7, 8),
            hardware_address: Some(vec![2, 0, 0, 0, 0, 9]),
            time: Some(1_700_000_000_250_000),
        };
        assert_eq!(Details::parse(&bytes), Some(expected));
        let damaged = message(&[(NFQA_HWADDR, &[0, 60, 0, 0, 2])]);
        assert_eq!(Details::parse(&damaged), None);
    }

    #[test]
    fn a_checksum_is_missing_with_and_without_a_super_packet() {
        for (flags, is_missing) in [(0, false), (1, true), (2, false), (3, true), (4, false)] {
            let bytes = message(&[(NFQA_PACKET_HDR, &[0; 7]), (NFQA_SKB_INFO, &[0, 0, 0, flags])]);
            let packet = Message::parse(&bytes).expect("a packet");
            assert_eq!(packet.is_checksum_missing, is_missing, "{flags}");
        }
    }

    #[test]
    fn what_is_no_packet_is_none() {
        assert_eq!(Message::parse(&message(&[])), None, "no packet number");
        assert_eq!(Message::parse(&message(&[(NFQA_PACKET_HDR, &[0; 6])])), None, "cut");
        let mut other = message(&[(NFQA_PACKET_HDR, &[0; 7])]);
        other[4] = 2;
        assert_eq!(Message::parse(&other), None, "another kind of message");
        assert_eq!(Message::parse(&[0; 19]), None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read(mut bytes in prop::collection::vec(any::<u8>(), 20..200)) {
            bytes[4..6].copy_from_slice(&PACKET.to_ne_bytes());
            if let Some(message) = Message::parse(&bytes) {
                prop_assert!(bytes.get(message.payload).is_some());
            }
            let _ = Details::parse(&bytes);
        }
    }
}

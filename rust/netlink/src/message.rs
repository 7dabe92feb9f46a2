//! What the kernel says of a packet in a queue.

use std::ops::Range;

use crate::attribute::{HEADER, attributes};

/// A packet in a queue, as far as its message tells. Its bytes stand in the message.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Message {
    /// Number by which the verdict names it.
    pub id: u32,
    /// The netfilter hook: 0 prerouting, 1 input, 2 forward, 3 output, 4 postrouting.
    pub hook: u8,
    /// EtherType.
    pub protocol: u16,
    /// Index of the device it came in by; 0 without one.
    pub in_device: u32,
    /// Index of the device it leaves by; 0 where that is not known yet.
    pub out_device: u32,
    /// The packet mark.
    pub mark: u32,
    /// Where in the message the packet stands, from its IP header on.
    pub payload: Range<usize>,
    /// The packet's length if the payload is only its beginning.
    pub whole_length: Option<u32>,
    /// Whether the transport checksum is yet to be computed.
    pub is_checksum_missing: bool,
    /// Whether it is a super-packet that will be segmented.
    pub is_gso: bool,
    /// The VLAN tag that was taken off, if any.
    pub vlan: Option<Vlan>,
}

/// A VLAN tag (IEEE 802.1Q).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Vlan {
    /// EtherType of the tag.
    pub protocol: u16,
    /// Priority and VLAN number.
    pub tag: u16,
}

impl Message {
    /// Reads a message; `None` for one that is not about a packet.
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let header: &[u8; HEADER] = bytes.first_chunk()?;
        // Kind and subsystem: a packet of a queue.
        if u16::from_ne_bytes([header[4], header[5]]) != PACKET {
            return None;
        }
        let mut message = Self::default();
        let mut is_named = false;
        for (kind, value) in attributes(&bytes[HEADER..]) {
            match kind {
                NFQA_PACKET_HDR => {
                    let &[a, b, c, d, e, f, hook] = value.first_chunk::<7>()?;
                    message.id = u32::from_be_bytes([a, b, c, d]);
                    message.protocol = u16::from_be_bytes([e, f]);
                    message.hook = hook;
                    is_named = true;
                }
                NFQA_MARK => message.mark = number(value)?,
                NFQA_IFINDEX_INDEV => message.in_device = number(value)?,
                NFQA_IFINDEX_OUTDEV => message.out_device = number(value)?,
                NFQA_PAYLOAD => {
                    let start = value.as_ptr().addr() - bytes.as_ptr().addr();
                    message.payload = start..start + value.len();
                }
                NFQA_CAP_LEN => message.whole_length = Some(number(value)?),
                NFQA_SKB_INFO => {
                    let flags = number(value)?;
                    message.is_checksum_missing = flags & SKB_CSUM_NOT_READY != 0;
                    message.is_gso = flags & SKB_GSO != 0;
                }
                NFQA_VLAN => message.vlan = vlan(value),
                _ => {}
            }
        }
        is_named.then_some(message)
    }
}

fn vlan(nested: &[u8]) -> Option<Vlan> {
    let find = |wanted| {
        let value = attributes(nested).find(|&(kind, _)| kind == wanted)?.1;
        value.first_chunk().map(|&bytes| u16::from_be_bytes(bytes))
    };
    Some(Vlan { protocol: find(NFQA_VLAN_PROTO)?, tag: find(NFQA_VLAN_TCI)? })
}

fn number(value: &[u8]) -> Option<u32> {
    value.first_chunk().map(|&bytes| u32::from_be_bytes(bytes))
}

const PACKET: u16 = 3 << 8;
const NFQA_PACKET_HDR: u16 = 1;
const NFQA_MARK: u16 = 3;
const NFQA_IFINDEX_INDEV: u16 = 5;
const NFQA_IFINDEX_OUTDEV: u16 = 6;
const NFQA_PAYLOAD: u16 = 10;
const NFQA_CAP_LEN: u16 = 13;
const NFQA_SKB_INFO: u16 = 14;
const NFQA_VLAN: u16 = 19;
const NFQA_VLAN_PROTO: u16 = 1;
const NFQA_VLAN_TCI: u16 = 2;
const SKB_CSUM_NOT_READY: u32 = 1;
const SKB_GSO: u32 = 2;

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
    fn everything_that_is_said_is_known() {
        let mut vlan = Vec::new();
        put(&mut vlan, NFQA_VLAN_PROTO, &0x8100u16.to_be_bytes());
        put(&mut vlan, NFQA_VLAN_TCI, &42u16.to_be_bytes());
        let bytes = message(&[
            (NFQA_PACKET_HDR, &[0, 0, 1, 2, 8, 0, 3]),
            (NFQA_MARK, &[0, 0, 0x10, 0]),
            (NFQA_IFINDEX_INDEV, &[0, 0, 0, 5]),
            (NFQA_IFINDEX_OUTDEV, &[0, 0, 0, 6]),
            (NFQA_SKB_INFO, &[0, 0, 0, 3]),
            (NFQA_CAP_LEN, &[0, 1, 0, 0]),
            (NFQA_VLAN | 0x8000, &vlan),
            (NFQA_PAYLOAD, b"E...."),
        ]);
        let found = Message::parse(&bytes).expect("a packet");
        assert_eq!(&bytes[found.payload.clone()], b"E....");
        let payload = found.payload.clone();
        assert_eq!(
            found,
            Message {
                id: 0x102,
                hook: 3,
                protocol: 0x800,
                in_device: 5,
                out_device: 6,
                mark: 0x1000,
                payload,
                whole_length: Some(0x1_0000),
                is_checksum_missing: true,
                is_gso: true,
                vlan: Some(Vlan { protocol: 0x8100, tag: 42 }),
            }
        );
    }

    #[test]
    fn a_checksum_may_be_missing_without_a_super_packet_and_the_other_way_round() {
        for (flags, expected) in
            [(0, (false, false)), (1, (true, false)), (2, (false, true)), (4, (false, false))]
        {
            let bytes = message(&[(NFQA_PACKET_HDR, &[0; 7]), (NFQA_SKB_INFO, &[0, 0, 0, flags])]);
            let found = Message::parse(&bytes).expect("a packet");
            assert_eq!((found.is_checksum_missing, found.is_gso), expected, "{flags}");
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
        }
    }
}

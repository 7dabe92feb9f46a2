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

/// Subsystem and kind.
const PACKET: u16 = (libc::NFNL_SUBSYS_QUEUE as u16) << 8 | libc::NFQNL_MSG_PACKET as u16;
/// Length of `struct nfqnl_msg_packet_hdr`.
const PACKET_HEADER: usize = 7;
const NFQA_PACKET_HDR: u16 = libc::NFQA_PACKET_HDR as u16;
const NFQA_MARK: u16 = libc::NFQA_MARK as u16;
const NFQA_IFINDEX_INDEV: u16 = libc::NFQA_IFINDEX_INDEV as u16;
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
        }
    }
}

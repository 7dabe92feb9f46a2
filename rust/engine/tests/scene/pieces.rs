//! Datagrams in pieces, and pieces put together again.

use super::bytes::*;
use super::{Cast as _, Family};

/// A datagram of 4,000 bytes that a client sends, and the same as its backend gets it.
pub(crate) fn big_datagram(family: Family) -> (Vec<u8>, Vec<u8>) {
    let payload: Vec<u8> = (0..4000).map(|at| (at % 251) as u8).collect();
    let client = family.client(1, 5555);
    (udp(client, family.vip(), &payload), udp(client, family.backend(0), &payload))
}

/// Puts fragments together again, in whatever order they are, with the headers of the first.
pub(crate) fn reassemble(fragments: &[Vec<u8>]) -> Vec<u8> {
    let is_v4 = fragments[0][0] >> 4 == 4;
    let header = if is_v4 { l4(&fragments[0]) } else { 48 };
    let mut parts: Vec<(usize, &[u8])> = fragments
        .iter()
        .map(|fragment| {
            let field =
                |at: usize| usize::from(u16::from_be_bytes([fragment[at], fragment[at + 1]]));
            let offset = if is_v4 { (field(6) & 0x1fff) * 8 } else { field(42) & 0xfff8 };
            (offset, &fragment[header..total(fragment)])
        })
        .collect();
    parts.sort_by_key(|(offset, _)| *offset);
    let mut payload: Vec<u8> = Vec::new();
    for (offset, part) in parts {
        assert_eq!(offset, payload.len(), "no gap and no overlap");
        payload.extend(part);
    }
    let mut packet = fragments[0][..header.min(40)].to_vec();
    if is_v4 {
        packet[6..8].fill(0);
        let length = (packet.len() + payload.len()) as u16;
        packet[2..4].copy_from_slice(&length.to_be_bytes());
        seal_ipv4(&mut packet);
    } else {
        packet[6] = fragments[0][40];
        packet[4..6].copy_from_slice(&(payload.len() as u16).to_be_bytes());
    }
    packet.extend(payload);
    packet
}

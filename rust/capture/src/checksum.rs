//! Transport checksums of packets that were captured before the sending host's device had filled
//! them in.
//!
//! The engine changes a checksum by what a translation changes under it, which is right for a right
//! one. A host that leaves the work to its device writes the sum of the pseudo header into the
//! field instead (Linux with the length, Windows without), to which the device adds the rest. Such
//! a sum must become that of the new pseudo header. The field of an uncut segment may also
//! hold neither; then it stays.

use std::net::{Ipv4Addr, Ipv6Addr};

use kbe_nat_engine::wire::{Headers, Layer4, Wire, checksum, tcp, udp};

/// Brings the transport checksum of a translated packet into the state in which it was captured.
/// `is_whole`: no byte of the packet is missing. Cost: constant, unless the sum of a pseudo header
/// stands in the field or the packet is an uncut segment; then a pass over it.
pub(crate) fn settle(captured: &[u8], translated: &mut [u8], is_whole: bool) {
    match captured.first().map(|first| first >> 4) {
        Some(4) => settle_family::<Ipv4Addr>(captured, translated, is_whole),
        Some(6) => settle_family::<Ipv6Addr>(captured, translated, is_whole),
        _ => {}
    }
}

fn settle_family<A: Wire>(captured: &[u8], translated: &mut [u8], is_whole: bool) {
    let wired = A::parse(captured).ok();
    let is_uncut = wired.is_none();
    let Some(before) = wired.or_else(|| A::parse_captured(captured)) else { return };
    let place = usize::from(before.l4)
        + match before.layer4 {
            Layer4::Tcp => tcp::CHECKSUM,
            Layer4::Udp => udp::CHECKSUM,
            _ => return,
        };
    let Some(&field) = captured.get(place..).and_then(|bytes| bytes.first_chunk::<2>()) else {
        return;
    };
    let lengths = [before.end as usize - usize::from(before.l4), 0];
    let seed = lengths.into_iter().find(|&length| pseudo_sum(&before, length) == field);
    let is_none = before.layer4 == Layer4::Udp && field == [0, 0];
    if before.is_fragment || is_none || (seed.is_none() && !(is_uncut && is_whole)) {
        return;
    }
    if is_whole && is_right(&before, captured) {
        return;
    }
    let settled = match seed {
        Some(length) => {
            let Some(after) = A::parse(translated).ok().or_else(|| A::parse_captured(translated))
            else {
                return;
            };
            pseudo_sum(&after, length)
        }
        None => field,
    };
    if let Some(target) = translated.get_mut(place..place + 2) {
        target.copy_from_slice(&settled);
    }
}

/// The sum that a host leaves in the field for its device to complete.
fn pseudo_sum<A: Wire>(headers: &Headers<A>, length: usize) -> [u8; 2] {
    checksum::complete(pseudo(headers, length), &[]).map(|byte| !byte)
}

fn is_right<A: Wire>(headers: &Headers<A>, packet: &[u8]) -> bool {
    let transport = headers.transport(packet);
    checksum::complete(pseudo(headers, transport.len()), transport) == [0, 0]
}

fn pseudo<A: Wire>(headers: &Headers<A>, length: usize) -> u32 {
    let ends = &headers.tuple.ends;
    A::pseudo_header(ends.src, ends.dst, headers.tuple.protocol, length)
}

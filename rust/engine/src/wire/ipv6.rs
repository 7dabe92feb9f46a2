//! IPv6 (RFC 8200), with a bounded walk over the extension headers.

use std::net::Ipv6Addr;

use super::checksum::Delta;
use super::{
    Fragment, Headers, Layer4, Malformed, Plain, Wire, headers, quoted_transport, tcp, transport,
    udp, uncut_transport,
};
use crate::tuple::{Protocol, WireEnds};

/// The fixed header.
pub const HEADER: usize = 40;
/// Where both addresses stand.
pub const ADDRESSES: usize = 8;
/// Extension headers that are followed; more are malformed. RFC 8200, 4.1 knows seven.
pub const MAX_EXTENSIONS: usize = 8;

/// Header and UDP header of a plain packet.
const PLAIN: usize = HEADER + udp::HEADER;
/// Header and TCP header of one.
const PLAIN_TCP: usize = HEADER + tcp::MIN_HEADER;

impl Wire for Ipv6Addr {
    const HEADER: usize = HEADER;

    fn parse(packet: &[u8]) -> Result<Headers<Self>, Malformed> {
        let header: &[u8; HEADER] = packet.first_chunk().ok_or(Malformed::IpLength)?;
        let (src, dst) = fixed(header).ok_or(Malformed::IpLength)?;
        let end = HEADER + usize::from(u16::from_be_bytes([header[4], header[5]]));
        if end > packet.len() || (end == HEADER && header[6] == HOP_BY_HOP) {
            return Err(Malformed::IpLength);
        }
        let walk = extensions(header[6], &packet[..end])?;
        let payload = packet.get(walk.l4..end).ok_or(Malformed::Extensions)?;
        let layer4 = match walk.fragment {
            Some(fragment) if fragment.offset > 0 => (Layer4::LaterFragment, 0, 0),
            fragment => transport::<Self>(walk.protocol, payload, fragment.is_none())?,
        };
        Ok(headers((src, dst, walk.protocol), layer4, (walk.l4, end), walk.fragment.is_some()))
    }

    fn parse_captured(packet: &[u8]) -> Option<Headers<Self>> {
        let header: &[u8; HEADER] = packet.first_chunk()?;
        let (src, dst) = fixed(header)?;
        if header[4..6] != [0, 0] {
            return None;
        }
        let end = match jumbo_length(header[6], packet) {
            Some(length) => HEADER.checked_add(length as usize)?,
            None => packet.len(),
        };
        let walk = extensions(header[6], packet.get(..end)?).ok()?;
        if walk.fragment.is_some() {
            return None;
        }
        let layer4 = uncut_transport::<Self>(walk.protocol, packet.get(walk.l4..end)?)?;
        Some(headers((src, dst, walk.protocol), layer4, (walk.l4, end), false))
    }

    #[inline(always)]
    fn plain(packet: &[u8]) -> Option<Plain<Self>> {
        let header: &[u8; PLAIN] = packet.first_chunk()?;
        let protocol = Protocol(header[6]);
        let length = usize::from(u16::from_be_bytes([header[4], header[5]]));
        let end = HEADER + length;
        if header[0] >> 4 != 6 || end > packet.len() || end < PLAIN {
            return None;
        }
        let is_known = match protocol {
            Protocol::UDP => {
                let datagram =
                    usize::from(u16::from_be_bytes([header[HEADER + 4], header[HEADER + 5]]));
                datagram >= udp::HEADER && datagram <= length
            }
            protocol => protocol == Protocol::TCP,
        };
        is_known.then_some(Plain { ends: ends(header)?, protocol, end: end as u32 })
    }

    #[inline(always)]
    fn plain_ends(packet: &[u8]) -> Option<WireEnds<Self>> {
        packet.first_chunk().and_then(ends)
    }

    #[inline(always)]
    fn plain_ack(packet: &[u8], end: u16) -> Option<tcp::Segment> {
        let header: &[u8; PLAIN_TCP] = packet.first_chunk()?;
        let length = u32::from(end).checked_sub(HEADER as u32)?;
        tcp::Segment::plain_ack(header.last_chunk()?, length)
    }

    #[inline(always)]
    fn rewrite_plain_udp(packet: &mut [u8], to: &WireEnds<Self>, _: Delta, l4: Delta) {
        let Some(header) = packet.first_chunk_mut::<PLAIN>() else { return };
        write_plain_ends(header, to);
        let place = HEADER + udp::CHECKSUM;
        let sum = l4.update_udp([header[place], header[place + 1]]);
        header[place..place + 2].copy_from_slice(&sum);
    }

    #[inline(always)]
    fn rewrite_plain_tcp(packet: &mut [u8], to: &WireEnds<Self>, _: Delta, l4: Delta) {
        let Some(header) = packet.first_chunk_mut::<PLAIN_TCP>() else { return };
        write_plain_ends(header, to);
        let place = HEADER + tcp::CHECKSUM;
        let sum = l4.update([header[place], header[place + 1]]);
        header[place..place + 2].copy_from_slice(&sum);
    }

    fn parse_quoted(quote: &[u8]) -> Option<Headers<Self>> {
        let header: &[u8; HEADER] = quote.first_chunk()?;
        let (src, dst) = fixed(header)?;
        let length = HEADER + usize::from(u16::from_be_bytes([header[4], header[5]]));
        let end = length.min(quote.len());
        let walk = extensions(header[6], &quote[..end]).ok()?;
        if walk.fragment.is_some_and(|fragment| fragment.offset > 0) {
            return None;
        }
        let layer4 = quoted_transport::<Self>(walk.protocol, quote.get(walk.l4..end)?)?;
        Some(headers((src, dst, walk.protocol), layer4, (walk.l4, end), false))
    }

    fn fragment(packet: &[u8]) -> Option<Fragment> {
        let header: &[u8; HEADER] = packet.first_chunk()?;
        let end = HEADER + usize::from(u16::from_be_bytes([header[4], header[5]]));
        let walk = extensions(header[6], packet.get(..end)?).ok()?;
        Some(Fragment { length: end.saturating_sub(walk.l4) as u32, ..walk.fragment? })
    }

    #[inline]
    fn write_addresses(packet: &mut [u8], src: Self, dst: Self, _: Delta) {
        let Some(header) = packet.first_chunk_mut::<HEADER>() else { return };
        header[ADDRESSES..ADDRESSES + 16].copy_from_slice(&src.octets());
        header[ADDRESSES + 16..HEADER].copy_from_slice(&dst.octets());
    }
}

#[inline(always)]
fn ends(header: &[u8; PLAIN]) -> Option<WireEnds<Ipv6Addr>> {
    let (src, dst) = fixed(header.first_chunk()?)?;
    Some(WireEnds { src, dst, ports: [header[40], header[41], header[42], header[43]] })
}

struct Walk {
    protocol: Protocol,
    l4: usize,
    /// Its length is not filled in; a fragment that is the whole datagram is none (RFC 6946).
    fragment: Option<Fragment>,
}

/// Follows the extension headers of `packet` up to what NAT can use, or cannot look behind (ESP,
/// AH, a later fragment).
fn extensions(mut next: u8, packet: &[u8]) -> Result<Walk, Malformed> {
    let mut l4 = HEADER;
    let mut fragment = None;
    for _ in 0..=MAX_EXTENSIONS {
        match next {
            HOP_BY_HOP | ROUTING | DESTINATION | MOBILITY => {
                let header = packet.get(l4..l4 + 8).ok_or(Malformed::Extensions)?;
                if next == ROUTING && header[2] == 0 {
                    return Err(Malformed::SourceRoute);
                }
                next = header[0];
                l4 += (usize::from(header[1]) + 1) * 8;
            }
            FRAGMENT => {
                let header = packet.get(l4..l4 + 8).ok_or(Malformed::Extensions)?;
                let field = u16::from_be_bytes([header[2], header[3]]);
                let offset = u32::from(field & 0xfff8);
                next = header[0];
                l4 += 8;
                let (id, more) = ([header[4], header[5], header[6], header[7]], field & 1 != 0);
                if more || offset > 0 {
                    fragment =
                        Some(Fragment { id: u32::from_be_bytes(id), offset, length: 0, more });
                }
                if offset > 0 {
                    return Ok(Walk { protocol: Protocol(next), l4, fragment });
                }
            }
            _ => return Ok(Walk { protocol: Protocol(next), l4, fragment }),
        }
    }
    Err(Malformed::Extensions)
}

/// Writes addresses and ports of a plain packet.
#[inline(always)]
fn write_plain_ends<const N: usize>(header: &mut [u8; N], to: &WireEnds<Ipv6Addr>) {
    header[ADDRESSES..ADDRESSES + 16].copy_from_slice(&to.src.octets());
    header[ADDRESSES + 16..HEADER].copy_from_slice(&to.dst.octets());
    header[HEADER..HEADER + 4].copy_from_slice(&to.ports);
}

/// The length that a jumbo payload option says (RFC 2675): all that follows the fixed header.
#[must_use]
pub fn jumbo_length(next: u8, packet: &[u8]) -> Option<u32> {
    if next != HOP_BY_HOP {
        return None;
    }
    let size = (usize::from(*packet.get(HEADER + 1)?) + 1) * 8;
    let mut options = packet.get(HEADER + 2..HEADER + size)?;
    loop {
        options = match options {
            [PAD1, rest @ ..] => rest,
            [JUMBO, 4, a, b, c, d, ..] => return Some(u32::from_be_bytes([*a, *b, *c, *d])),
            [_, length, rest @ ..] => rest.get(usize::from(*length)..)?,
            _ => return None,
        };
    }
}

#[inline(always)]
fn fixed(header: &[u8; HEADER]) -> Option<(Ipv6Addr, Ipv6Addr)> {
    let src: [u8; 16] = header[8..24].try_into().ok()?;
    let dst: [u8; 16] = header[24..40].try_into().ok()?;
    (header[0] >> 4 == 6).then(|| (src.into(), dst.into()))
}

const PAD1: u8 = 0;
const JUMBO: u8 = 0xc2;
const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const DESTINATION: u8 = 60;
const MOBILITY: u8 = 135;

//! IPv4 (RFC 791).

use std::net::Ipv4Addr;

use super::checksum::Delta;
use super::{
    Fragment, Headers, Layer4, Malformed, Plain, Wire, headers, quoted_transport, tcp, transport,
    udp, uncut_transport,
};
use crate::tuple::{Protocol, WireEnds};

/// The header without options.
pub const MIN_HEADER: usize = 20;
/// Where the header checksum stands.
pub const CHECKSUM: usize = 10;
/// Where both addresses stand.
pub const ADDRESSES: usize = 12;

/// Header and UDP header of a plain packet.
const PLAIN: usize = MIN_HEADER + udp::HEADER;
/// Header and TCP header of one.
const PLAIN_TCP: usize = MIN_HEADER + tcp::MIN_HEADER;
const MORE_FRAGMENTS: u16 = 0x2000;
const OFFSET: u16 = 0x1fff;

impl Wire for Ipv4Addr {
    const HEADER: usize = MIN_HEADER;

    #[inline(always)]
    fn parse(packet: &[u8]) -> Result<Headers<Self>, Malformed> {
        let header: &[u8; MIN_HEADER] = packet.first_chunk().ok_or(Malformed::IpLength)?;
        let (src, dst, protocol, l4) = fixed(header).ok_or(Malformed::IpLength)?;
        let end = usize::from(u16::from_be_bytes([header[2], header[3]]));
        let payload = packet.get(l4..end).ok_or(Malformed::IpLength)?;
        if l4 > MIN_HEADER && !are_sound(&packet[MIN_HEADER..l4]) {
            return Err(Malformed::Options);
        }
        let field = u16::from_be_bytes([header[6], header[7]]);
        let is_fragment = field & (MORE_FRAGMENTS | OFFSET) != 0;
        let layer4 = if field & OFFSET == 0 {
            transport::<Self>(protocol, payload, !is_fragment)?
        } else {
            (Layer4::LaterFragment, 0, 0)
        };
        Ok(headers((src, dst, protocol), layer4, (l4, end), is_fragment))
    }

    fn parse_captured(packet: &[u8]) -> Option<Headers<Self>> {
        let header: &[u8; MIN_HEADER] = packet.first_chunk()?;
        let (src, dst, protocol, l4) = fixed(header)?;
        let field = u16::from_be_bytes([header[6], header[7]]);
        if header[2..4] != [0, 0] || field & (MORE_FRAGMENTS | OFFSET) != 0 {
            return None;
        }
        if l4 > MIN_HEADER && !are_sound(packet.get(MIN_HEADER..l4)?) {
            return None;
        }
        let layer4 = uncut_transport::<Self>(protocol, packet.get(l4..)?)?;
        Some(headers((src, dst, protocol), layer4, (l4, packet.len()), false))
    }

    #[inline(always)]
    fn plain(packet: &[u8]) -> Option<Plain<Self>> {
        let header: &[u8; PLAIN] = packet.first_chunk()?;
        let fragment = u16::from_ne_bytes([header[6], header[7]]);
        let end = u32::from(u16::from_be_bytes([header[2], header[3]]));
        if header[0] != 0x45
            || fragment & (MORE_FRAGMENTS | OFFSET).to_be() != 0
            || end as usize > packet.len()
        {
            return None;
        }
        let protocol = Protocol(header[9]);
        // What the packet must hold behind the IP header; so the constant offsets lie within it.
        let length = match protocol {
            Protocol::UDP => u32::from(u16::from_be_bytes([header[24], header[25]])),
            Protocol::TCP => udp::HEADER as u32,
            _ => return None,
        };
        let is_sound = length >= udp::HEADER as u32 && MIN_HEADER as u32 + length <= end;
        is_sound.then_some(Plain { ends: ends(header), protocol, end })
    }

    #[inline(always)]
    fn plain_ends(packet: &[u8]) -> Option<WireEnds<Self>> {
        packet.first_chunk().map(ends)
    }

    #[inline(always)]
    fn plain_ack(packet: &[u8], end: u16) -> Option<tcp::Segment> {
        let header: &[u8; PLAIN_TCP] = packet.first_chunk()?;
        let length = u32::from(end).checked_sub(MIN_HEADER as u32)?;
        tcp::Segment::plain_ack(header.last_chunk()?, length)
    }

    #[inline(always)]
    fn rewrite_plain_udp(packet: &mut [u8], to: &WireEnds<Self>, l3: Delta, l4: Delta) {
        let Some(header) = packet.first_chunk_mut::<PLAIN>() else { return };
        write_plain_ends(header, to, l3);
        let place = MIN_HEADER + udp::CHECKSUM;
        let sum = l4.update_udp([header[place], header[place + 1]]);
        header[place..place + 2].copy_from_slice(&sum);
    }

    #[inline(always)]
    fn rewrite_plain_tcp(packet: &mut [u8], to: &WireEnds<Self>, l3: Delta, l4: Delta) {
        let Some(header) = packet.first_chunk_mut::<PLAIN_TCP>() else { return };
        write_plain_ends(header, to, l3);
        let place = MIN_HEADER + tcp::CHECKSUM;
        let sum = l4.update([header[place], header[place + 1]]);
        header[place..place + 2].copy_from_slice(&sum);
    }

    fn parse_quoted(quote: &[u8]) -> Option<Headers<Self>> {
        let header: &[u8; MIN_HEADER] = quote.first_chunk()?;
        let (src, dst, protocol, l4) = fixed(header)?;
        if u16::from_be_bytes([header[6], header[7]]) & OFFSET != 0 {
            return None;
        }
        let length = usize::from(u16::from_be_bytes([header[2], header[3]]));
        let end = length.min(quote.len());
        let layer4 = quoted_transport::<Self>(protocol, quote.get(l4..end)?)?;
        Some(headers((src, dst, protocol), layer4, (l4, end), false))
    }

    fn fragment(packet: &[u8]) -> Option<Fragment> {
        let header: &[u8; MIN_HEADER] = packet.first_chunk()?;
        let (.., l4) = fixed(header)?;
        let field = u16::from_be_bytes([header[6], header[7]]);
        let end = u32::from(u16::from_be_bytes([header[2], header[3]]));
        (field & (MORE_FRAGMENTS | OFFSET) != 0).then_some(Fragment {
            id: u32::from(u16::from_be_bytes([header[4], header[5]])),
            offset: u32::from(field & OFFSET) * 8,
            length: end.saturating_sub(l4 as u32),
            more: field & MORE_FRAGMENTS != 0,
        })
    }

    #[inline]
    fn write_addresses(packet: &mut [u8], src: Self, dst: Self, delta: Delta) {
        let Some(header) = packet.first_chunk_mut::<MIN_HEADER>() else { return };
        header[ADDRESSES..ADDRESSES + 4].copy_from_slice(&src.octets());
        header[ADDRESSES + 4..ADDRESSES + 8].copy_from_slice(&dst.octets());
        let updated = delta.update([header[CHECKSUM], header[CHECKSUM + 1]]);
        header[CHECKSUM..CHECKSUM + 2].copy_from_slice(&updated);
    }
}

/// Writes addresses, ports and the IP header's checksum of a plain packet.
#[inline(always)]
fn write_plain_ends<const N: usize>(header: &mut [u8; N], to: &WireEnds<Ipv4Addr>, l3: Delta) {
    let sum = l3.update([header[CHECKSUM], header[CHECKSUM + 1]]);
    header[CHECKSUM..CHECKSUM + 2].copy_from_slice(&sum);
    header[ADDRESSES..ADDRESSES + 4].copy_from_slice(&to.src.octets());
    header[ADDRESSES + 4..ADDRESSES + 8].copy_from_slice(&to.dst.octets());
    header[MIN_HEADER..MIN_HEADER + 4].copy_from_slice(&to.ports);
}

#[inline(always)]
fn ends(header: &[u8; PLAIN]) -> WireEnds<Ipv4Addr> {
    WireEnds {
        src: Ipv4Addr::new(header[12], header[13], header[14], header[15]),
        dst: Ipv4Addr::new(header[16], header[17], header[18], header[19]),
        ports: [header[20], header[21], header[22], header[23]],
    }
}

/// Whether each option says a length that lies within the header (RFC 791, 3.1), as the kernel
/// wants it (ip_options_compile).
fn are_sound(mut options: &[u8]) -> bool {
    loop {
        options = match options {
            [] | [0, ..] => return true,
            [1, rest @ ..] => rest,
            [_, length, ..] if *length >= 2 => match options.get(usize::from(*length)..) {
                Some(rest) => rest,
                None => return false,
            },
            _ => return false,
        };
    }
}

/// Addresses, protocol and header length; `None` when version or header length cannot be.
#[inline]
fn fixed(header: &[u8; MIN_HEADER]) -> Option<(Ipv4Addr, Ipv4Addr, Protocol, usize)> {
    let l4 = usize::from(header[0] & 0x0f) * 4;
    if header[0] >> 4 != 4 || l4 < MIN_HEADER {
        return None;
    }
    let src = Ipv4Addr::new(header[12], header[13], header[14], header[15]);
    let dst = Ipv4Addr::new(header[16], header[17], header[18], header[19]);
    Some((src, dst, Protocol(header[9]), l4))
}

//! The packet that rejects another: ICMP port unreachable, or a RST.
//!
//! kube-proxy rejects with ICMP for every protocol (`REJECT --reject-with icmp-port-unreachable`);
//! a RST is for nodes that ask for one.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::tuple::{Ends, Protocol, WireEnds};
use crate::wire::checksum::{self, Delta};
use crate::wire::tcp::{self, Flags, Segment};
use crate::wire::{Headers, Layer4, Wire, icmp, ipv4, ipv6};

/// How a packet is rejected.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum RejectWith {
    /// ICMP type 3 code 3, or ICMPv6 type 1 code 4.
    #[default]
    PortUnreachable,
    /// A RST for TCP (RFC 9293, 3.10.7.1), port unreachable for all else.
    TcpReset,
}

/// The answer that rejects `packet`, from the address that it was sent to. `None` where none may be
/// sent: to an ICMP error or another ICMP message that is no echo request, a RST, a later fragment,
/// a group or an address that is no host's (RFC 1122 3.2.2, RFC 4443
/// 2.4), or to what is no packet at all.
#[must_use]
pub fn reject(packet: &[u8], answer: RejectWith) -> Option<Vec<u8>> {
    match packet.first()? >> 4 {
        4 => reject_in::<Ipv4Addr>(packet, answer),
        6 => reject_in::<Ipv6Addr>(packet, answer),
        _ => None,
    }
}

fn reject_in<A: Compose>(packet: &[u8], answer: RejectWith) -> Option<Vec<u8>> {
    // Of packets of a wire only sound ones are rejected; a capture has segments without a length
    // too.
    let headers = A::parse(packet).ok().or_else(|| A::parse_captured(packet))?;
    let segment = match headers.layer4 {
        Layer4::IcmpError | Layer4::IcmpOther | Layer4::LaterFragment | Layer4::EchoReply => {
            return None;
        }
        Layer4::Tcp => Segment::parse(headers.transport(packet)),
        _ => None,
    };
    let is_reset = segment.is_some_and(|segment| segment.flags.has(Flags::RST));
    let hosts = [headers.tuple.ends.src.into(), headers.tuple.ends.dst.into()];
    if is_reset || !hosts.into_iter().all(is_host) {
        return None;
    }
    match (segment, answer) {
        (Some(segment), RejectWith::TcpReset) => Some(reset(&headers, &segment)),
        _ => Some(A::unreachable(&headers, packet)),
    }
}

/// Whether an address can be that of one host.
fn is_host(address: IpAddr) -> bool {
    !address.is_unspecified()
        && !address.is_multicast()
        && match address {
            IpAddr::V4(address) => !address.is_broadcast(),
            IpAddr::V6(_) => true,
        }
}

fn reset<A: Compose>(headers: &Headers<A>, segment: &Segment) -> Vec<u8> {
    let ends = headers.tuple.ends.reply();
    // RFC 9293, 3.5.2: acknowledge what cannot be, or take the place that the sender expects.
    let (seq, ack, flags) = match segment.flags.has(Flags::ACK) {
        true => (segment.ack, 0, Flags::RST),
        false => (0, segment.seq.wrapping_add(segment.length), Flags::RST | Flags::ACK),
    };
    let mut tcp = [0; tcp::MIN_HEADER];
    tcp[0..2].copy_from_slice(&ends.sport.to_be_bytes());
    tcp[2..4].copy_from_slice(&ends.dport.to_be_bytes());
    tcp[4..8].copy_from_slice(&u32::to_be_bytes(seq));
    tcp[8..12].copy_from_slice(&u32::to_be_bytes(ack));
    tcp[12] = (tcp::MIN_HEADER as u8 / 4) << 4;
    tcp[tcp::FLAGS] = flags;
    let pseudo = A::pseudo_header(ends.src, ends.dst, Protocol::TCP, tcp.len());
    let checksum = checksum::complete(pseudo, &tcp);
    tcp[tcp::CHECKSUM..tcp::CHECKSUM + 2].copy_from_slice(&checksum);
    A::compose(&ends, Protocol::TCP, &tcp)
}

/// Packets of one family, made from nothing.
trait Compose: Wire {
    /// An IP header and `payload`.
    fn compose(ends: &Ends<Self>, protocol: Protocol, payload: &[u8]) -> Vec<u8>;

    /// Port unreachable, with as much of `packet` as is due.
    fn unreachable(headers: &Headers<Self>, packet: &[u8]) -> Vec<u8>;
}

/// An ICMP message about the quoted bytes, its checksum zero.
fn message(kind: u8, code: u8, quote: &[u8]) -> Vec<u8> {
    let mut message = vec![kind, code, 0, 0, 0, 0, 0, 0];
    message.extend_from_slice(quote);
    message
}

fn seal(message: &mut [u8], pseudo: u32) {
    let checksum = checksum::complete(pseudo, message);
    message[icmp::CHECKSUM..icmp::CHECKSUM + 2].copy_from_slice(&checksum);
}

impl Compose for Ipv4Addr {
    fn compose(ends: &Ends<Self>, protocol: Protocol, payload: &[u8]) -> Vec<u8> {
        let mut packet = vec![0; ipv4::MIN_HEADER];
        packet[0] = 0x45;
        let length = (ipv4::MIN_HEADER + payload.len()) as u16;
        packet[2..4].copy_from_slice(&length.to_be_bytes());
        // Don't fragment, so the identification may be 0 (RFC 6864, 4.1).
        packet[6] = 0x40;
        packet[8] = TTL;
        packet[9] = protocol.0;
        let sum = checksum::complete(0, &packet);
        packet[ipv4::CHECKSUM..ipv4::CHECKSUM + 2].copy_from_slice(&sum);
        let unset = Ends { src: Self::UNSPECIFIED, dst: Self::UNSPECIFIED, ..*ends };
        let (from, to): (WireEnds<Self>, WireEnds<Self>) = (unset.into(), (*ends).into());
        let (l3, _): (Delta, Delta) = crate::rewrite::deltas(protocol, &from, &to);
        Self::write_addresses(&mut packet, ends.src, ends.dst, l3);
        packet.extend_from_slice(payload);
        packet
    }

    fn unreachable(headers: &Headers<Self>, packet: &[u8]) -> Vec<u8> {
        // RFC 1812, 4.3.2.3: as much as fits into 576 bytes.
        let quote = &packet[..(headers.end as usize).min(576 - ipv4::MIN_HEADER - icmp::HEADER)];
        let mut message = message(3, 3, quote);
        seal(&mut message, 0);
        Self::compose(&headers.tuple.ends.reply(), Protocol::ICMP, &message)
    }
}

impl Compose for Ipv6Addr {
    fn compose(ends: &Ends<Self>, protocol: Protocol, payload: &[u8]) -> Vec<u8> {
        let mut packet = vec![0; ipv6::HEADER];
        packet[0] = 0x60;
        packet[4..6].copy_from_slice(&(payload.len() as u16).to_be_bytes());
        packet[6] = protocol.0;
        packet[7] = TTL;
        Self::write_addresses(&mut packet, ends.src, ends.dst, Delta::NONE);
        packet.extend_from_slice(payload);
        packet
    }

    fn unreachable(headers: &Headers<Self>, packet: &[u8]) -> Vec<u8> {
        // RFC 4443, 3.1: as much as fits into the minimum MTU.
        let quote = &packet[..(headers.end as usize).min(1280 - ipv6::HEADER - icmp::HEADER)];
        let ends = headers.tuple.ends.reply();
        let mut message = message(1, 4, quote);
        let pseudo = Self::pseudo_header(ends.src, ends.dst, Protocol::ICMPV6, message.len());
        seal(&mut message, pseudo);
        Self::compose(&ends, Protocol::ICMPV6, &message)
    }
}

const TTL: u8 = 64;

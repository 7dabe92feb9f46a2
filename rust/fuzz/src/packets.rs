//! Valid packets to begin with, and checksums as the RFCs define them, computed word by word and
//! without the engine's code.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use kbe_nat_engine::tuple::{Ends, Protocol};
use kbe_nat_engine::wire::{Headers, Layer4, Wire};

use crate::cluster::{CLIENT, CLIENT6, NODE, NODE6, VIP, VIP6};

/// An IP packet with checksums. Both addresses are of one family.
///
/// # Panics
/// When they are not.
#[must_use]
pub fn packet(src: IpAddr, dst: IpAddr, protocol: Protocol, payload: &[u8]) -> Vec<u8> {
    let mut packet = match (src, dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            let length = (20 + payload.len()) as u16;
            let mut packet = vec![0x45, 0, 0, 0, 0x12, 0x34, 0, 0, 64, protocol.0, 0, 0];
            packet[2..4].copy_from_slice(&length.to_be_bytes());
            packet.extend(src.octets());
            packet.extend(dst.octets());
            packet
        }
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            let mut packet = vec![0x60, 0, 0, 0, 0, 0, protocol.0, 64];
            packet[4..6].copy_from_slice(&(payload.len() as u16).to_be_bytes());
            packet.extend(src.octets());
            packet.extend(dst.octets());
            packet
        }
        _ => unreachable!("addresses of two families"),
    };
    packet.extend_from_slice(payload);
    seal(&mut packet);
    packet
}

/// A TCP segment; `options` are a multiple of four bytes.
#[must_use]
pub fn tcp(
    ports: (u16, u16),
    flags: u8,
    (seq, ack): (u32, u32),
    options: &[u8],
    payload: &[u8],
) -> Vec<u8> {
    let mut segment = with_ports(ports);
    segment.extend(seq.to_be_bytes());
    segment.extend(ack.to_be_bytes());
    segment.extend([((20 + options.len()) as u8 / 4) << 4, flags, 0xff, 0, 0, 0, 0, 0]);
    segment.extend_from_slice(options);
    segment.extend_from_slice(payload);
    segment
}

/// A UDP datagram.
#[must_use]
pub fn udp(ports: (u16, u16), payload: &[u8]) -> Vec<u8> {
    let mut datagram = with_ports(ports);
    datagram.extend(((8 + payload.len()) as u16).to_be_bytes());
    // Any number but 0, which would say that there is no checksum; sealing computes it.
    datagram.extend([0, 1]);
    datagram.extend_from_slice(payload);
    datagram
}

/// An SCTP packet with one chunk.
#[must_use]
pub fn sctp(ports: (u16, u16), chunk: u8, payload: &[u8]) -> Vec<u8> {
    let mut packet = with_ports(ports);
    packet.extend([0xde, 0xad, 0xbe, 0xef, 0, 0, 0, 0, chunk, 0]);
    packet.extend(((4 + payload.len()) as u16).to_be_bytes());
    packet.extend_from_slice(payload);
    packet
}

/// An ICMP or ICMPv6 message: type, code, the four bytes behind the checksum, and the rest.
#[must_use]
pub fn icmp(kind: u8, code: u8, rest: u32, payload: &[u8]) -> Vec<u8> {
    let mut message = vec![kind, code, 0, 0];
    message.extend(rest.to_be_bytes());
    message.extend_from_slice(payload);
    message
}

fn with_ports((sport, dport): (u16, u16)) -> Vec<u8> {
    [sport.to_be_bytes(), dport.to_be_bytes()].concat()
}

const SYN: u8 = 2;
const RST: u8 = 4;
const ACK: u8 = 16;
const FIN: u8 = 1;

/// Valid packets of every kind that the engine tells apart, to frontends of [`crate::cluster`] and
/// past them.
#[must_use]
pub fn seeds() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    let sides = [
        (IpAddr::from(CLIENT), IpAddr::from(VIP), IpAddr::from(NODE)),
        (CLIENT6.into(), VIP6.into(), NODE6.into()),
    ];
    for (client, vip, node) in sides {
        let (echo, request) =
            if client.is_ipv4() { (Protocol::ICMP, 8) } else { (Protocol::ICMPV6, 128) };
        let mut add =
            |dst, protocol, payload: &[u8]| seeds.push(packet(client, dst, protocol, payload));
        let to = (40_000, 80);
        add(vip, Protocol::TCP, &tcp(to, SYN, (100, 0), &[2, 4, 5, 0xb4, 1, 3, 3, 7], &[]));
        add(vip, Protocol::TCP, &tcp(to, ACK, (101, 501), &[], &[]));
        add(vip, Protocol::TCP, &tcp(to, ACK, (101, 501), &[], b"GET / HTTP/1.1\r\n\r\n"));
        add(vip, Protocol::TCP, &tcp(to, FIN | ACK, (119, 501), &[], &[]));
        add(vip, Protocol::TCP, &tcp(to, RST, (101, 0), &[], &[]));
        add(vip, Protocol::TCP, &tcp((40_001, 81), SYN, (1, 0), &[], &[]));
        add(vip, Protocol::TCP, &tcp((40_002, 82), SYN, (1, 0), &[], &[]));
        add(node, Protocol::TCP, &tcp((40_003, 30_080), SYN, (1, 0), &[], &[]));
        add(vip, Protocol::UDP, &udp((50_000, 53), b"where is it?"));
        add(vip, Protocol::UDP, &udp((50_001, 53), b"odd"));
        add(vip, Protocol::SCTP, &sctp((5000, 5060), 1, &[0; 16]));
        add(vip, Protocol::SCTP, &sctp((5000, 5060), 10, b"cookie"));
        add(vip, Protocol::SCTP, &sctp((5000, 5060), 0, b"data"));
        add(vip, echo, &icmp(request, 0, 0x0007_0001, b"ping"));
        add(vip, Protocol(47), b"something without ports");
        add(node, Protocol::UDP, &udp((50_002, 9), b"not ours"));
    }
    seeds.extend(special());
    seeds
}

/// Packets with options, extension headers, in fragments, and errors that quote others.
fn special() -> Vec<Vec<u8>> {
    let (client, vip) = (IpAddr::from(CLIENT), IpAddr::from(VIP));
    let (client6, vip6) = (IpAddr::from(CLIENT6), IpAddr::from(VIP6));
    let query = udp((50_003, 53), &[0x5a; 24]);
    let without_checksum = {
        let mut bytes = packet(client, vip, Protocol::UDP, &query);
        bytes[26..28].fill(0);
        bytes
    };
    let with_options = {
        let mut bytes = packet(client, vip, Protocol::UDP, &query);
        bytes.splice(20..20, [0x94, 4, 0, 0]);
        bytes[0] = 0x46;
        bytes[3] += 4;
        seal(&mut bytes);
        bytes
    };
    let fragment = |field: u16, payload: &[u8]| {
        let mut bytes = packet(client, vip, Protocol(253), payload);
        bytes[6..8].copy_from_slice(&field.to_be_bytes());
        bytes[9] = Protocol::UDP.0;
        seal(&mut bytes);
        bytes
    };
    let behind = |first: u8, headers: &[u8], payload: &[u8]| {
        let mut bytes = packet(client6, vip6, Protocol(first), &[headers, payload].concat());
        seal(&mut bytes);
        bytes
    };
    let hop_by_hop = [60, 0, 1, 4, 0, 0, 0, 0, 17, 0, 1, 4, 0, 0, 0, 0];
    let padded = [packet(client, vip, Protocol::UDP, &query), vec![0xee; 7]].concat();
    let quoting = packet(vip, client, Protocol::UDP, &query);
    let quoting6 = packet(vip6, client6, Protocol::UDP, &query);
    vec![
        without_checksum,
        with_options,
        padded,
        fragment(0x2000, &query[..16]),
        fragment(0x2002, &query[16..24]),
        fragment(0x0003, &query[24..]),
        behind(0, &hop_by_hop, &query),
        behind(44, &[17, 0, 0, 1, 0, 0, 0, 9], &query[..16]),
        behind(44, &[17, 0, 0, 0x10, 0, 0, 0, 9], &query[16..]),
        behind(43, &[17, 0, 0, 0, 0, 0, 0, 0], &query),
        packet(client, vip, Protocol::ICMP, &icmp(3, 3, 0, &quoting)),
        packet(client6, vip6, Protocol::ICMPV6, &icmp(1, 4, 0, &quoting6)),
    ]
}

/// The answer to a packet that a backend (or a client) got: addresses and ports exchanged, TCP
/// flags and ICMP type as an answer has them. `None` for what has no answer.
#[must_use]
pub fn answer(packet: &[u8]) -> Option<Vec<u8>> {
    match packet.first()? >> 4 {
        4 => answer_of::<Ipv4Addr>(packet, &[(8, 0), (0, 8)]),
        6 => answer_of::<Ipv6Addr>(packet, &[(128, 129), (129, 128)]),
        _ => None,
    }
}

fn answer_of<A: Wire>(received: &[u8], echoes: &[(u8, u8)]) -> Option<Vec<u8>> {
    let headers = A::parse(received).ok()?;
    let Ends { src, dst, .. } = headers.tuple.ends;
    let mut payload = headers.transport(received).to_vec();
    match headers.layer4 {
        Layer4::Tcp => {
            let flags = payload[13];
            let length = payload.len().saturating_sub(usize::from(payload[12] >> 4) * 4);
            let seq = u32::from_be_bytes([payload[4], payload[5], payload[6], payload[7]]);
            let ack = u32::from_be_bytes([payload[8], payload[9], payload[10], payload[11]]);
            let (seq, ack) = match flags & SYN {
                0 => (ack, seq.wrapping_add(length as u32 + u32::from(flags & FIN))),
                _ => (500, seq.wrapping_add(1)),
            };
            payload = tcp(
                (headers.tuple.ends.dport, headers.tuple.ends.sport),
                flags | ACK,
                (seq, ack),
                &[],
                &[],
            );
        }
        Layer4::Udp | Layer4::Sctp => payload[..4].rotate_left(2),
        Layer4::EchoRequest | Layer4::EchoReply => {
            payload[0] = echoes.iter().find(|(kind, _)| *kind == payload[0])?.1;
        }
        Layer4::Portless => {}
        Layer4::IcmpError | Layer4::IcmpOther | Layer4::LaterFragment => return None,
    }
    Some(packet(dst.into(), src.into(), headers.tuple.protocol, &payload))
}

/// The ICMP error by which `from` complains about `quoted`, of which `length` bytes are quoted.
#[must_use]
pub fn complaint(
    from: IpAddr,
    quoted: &[u8],
    kind: u8,
    code: u8,
    length: usize,
) -> Option<Vec<u8>> {
    let quote = &quoted[..length.min(quoted.len())];
    let (to, protocol) = match quoted.first()? >> 4 {
        4 => (IpAddr::from(<[u8; 4]>::try_from(quoted.get(12..16)?).ok()?), Protocol::ICMP),
        6 => (IpAddr::from(<[u8; 16]>::try_from(quoted.get(8..24)?).ok()?), Protocol::ICMPV6),
        _ => return None,
    };
    (from.is_ipv4() == to.is_ipv4())
        .then(|| packet(from, to, protocol, &icmp(kind, code, 0, quote)))
}

/// Which checksums of a packet are right; `None` where there is none to be checked.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Sums {
    /// The IPv4 header's.
    pub ip: Option<bool>,
    /// TCP's, UDP's, SCTP's or ICMP's.
    pub transport: Option<bool>,
}

/// The checksums of what is a packet. Fragments have no transport checksum of their own.
#[must_use]
pub fn sums(packet: &[u8]) -> Sums {
    match packet.first().map(|byte| byte >> 4) {
        Some(4) => {
            let header =
                packet.get(..usize::from(packet[0] & 15) * 4).filter(|header| header.len() >= 20);
            Sums {
                ip: header.map(|header| sum(header) == 0xffff),
                transport: transport_sum::<Ipv4Addr>(packet),
            }
        }
        Some(6) => Sums { ip: None, transport: transport_sum::<Ipv6Addr>(packet) },
        _ => Sums::default(),
    }
}

/// Makes the checksums of a packet right, as far as it is one.
pub fn seal(packet: &mut [u8]) {
    if let Some(4) = packet.first().map(|byte| byte >> 4) {
        let length = usize::from(packet[0] & 15) * 4;
        if length >= 20 && length <= packet.len() {
            packet[10..12].fill(0);
            let checksum = !sum(&packet[..length]);
            packet[10..12].copy_from_slice(&checksum.to_be_bytes());
        }
        seal_transport::<Ipv4Addr>(packet);
    } else {
        seal_transport::<Ipv6Addr>(packet);
    }
}

/// Where the transport checksum stands, and what it covers; `None` where there is none, or not all
/// of it is there.
fn coverage<A: Wire>(packet: &[u8]) -> Option<(Headers<A>, usize, usize)> {
    let headers = A::parse(packet).ok().or_else(|| A::parse_captured(packet));
    let headers = headers.filter(|headers| !headers.is_fragment)?;
    let bytes = headers.transport(packet);
    let (place, length) = match headers.layer4 {
        Layer4::Tcp => (16, bytes.len()),
        // Bytes behind the datagram's own length are not part of it (RFC 768).
        Layer4::Udp => match u16::from_be_bytes([bytes[4], bytes[5]]) {
            0 => (6, bytes.len()),
            length => (6, usize::from(length)),
        },
        Layer4::Sctp => (8, bytes.len()),
        Layer4::Portless | Layer4::LaterFragment => return None,
        _ => (2, bytes.len()),
    };
    Some((headers, place, length))
}

fn transport_sum<A: Wire>(packet: &[u8]) -> Option<bool> {
    let (headers, place, length) = coverage::<A>(packet)?;
    let bytes = &headers.transport(packet)[..length];
    if headers.layer4 == Layer4::Sctp {
        return Some(bytes[8..12] == crc(bytes));
    }
    if headers.layer4 == Layer4::Udp && bytes[place..place + 2] == [0, 0] {
        return None;
    }
    let all = [&pseudo(&headers, length)[..], bytes].concat();
    let mut rest = all.clone();
    rest[all.len() - length + place..][..2].fill(0);
    if rest.iter().all(|&byte| byte == 0) {
        // An echo reply of zeros alone has 0xffff for its checksum, which no incremental update can
        // tell from 0.
        return None;
    }
    Some(sum(&all) == 0xffff)
}

fn seal_transport<A: Wire>(packet: &mut [u8]) {
    let Some((headers, place, length)) = coverage::<A>(packet) else { return };
    let pseudo = pseudo(&headers, length);
    let bytes = &mut headers.transport_mut(packet)[..length];
    if headers.layer4 == Layer4::Sctp {
        let crc = crc(bytes);
        bytes[8..12].copy_from_slice(&crc);
        return;
    }
    bytes[place..place + 2].fill(0);
    let checksum = match !sum(&[&pseudo[..], bytes].concat()) {
        0 if headers.layer4 == Layer4::Udp => 0xffff,
        checksum => checksum,
    };
    bytes[place..place + 2].copy_from_slice(&checksum.to_be_bytes());
}

/// The pseudo header of RFC 9293 3.1 and RFC 8200 8.1; ICMP alone has none.
fn pseudo<A: Wire>(headers: &Headers<A>, length: usize) -> Vec<u8> {
    if headers.tuple.protocol == Protocol::ICMP {
        return Vec::new();
    }
    let mut pseudo = Vec::new();
    for address in [headers.tuple.ends.src, headers.tuple.ends.dst] {
        match address.into() {
            IpAddr::V4(address) => pseudo.extend(address.octets()),
            IpAddr::V6(address) => pseudo.extend(address.octets()),
        }
    }
    pseudo.extend((length as u32).to_be_bytes());
    pseudo.extend([0, 0, 0, headers.tuple.protocol.0]);
    pseudo
}

/// The ones' complement sum, big endian, one word after the other (RFC 1071).
#[must_use]
pub fn sum(bytes: &[u8]) -> u16 {
    let mut total = 0u32;
    for word in bytes.chunks(2) {
        total += u32::from(word[0]) << 8 | word.get(1).map_or(0, |&low| u32::from(low));
        total = (total & 0xffff) + (total >> 16);
    }
    total as u16
}

fn crc(packet: &[u8]) -> [u8; 4] {
    let mut zeroed = packet.to_vec();
    zeroed[8..12].fill(0);
    crc32c::crc32c(&zeroed).to_le_bytes()
}

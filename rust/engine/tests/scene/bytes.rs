//! Packets made from nothing, and checksums computed in full, word by word, so that nothing is
//! checked against the engine's own arithmetic.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use kbe_nat_engine::tuple::Protocol;

pub(crate) const FIN: u8 = 0x01;
pub(crate) const SYN: u8 = 0x02;
pub(crate) const RST: u8 = 0x04;
pub(crate) const PSH: u8 = 0x08;
pub(crate) const ACK: u8 = 0x10;
pub(crate) const URG: u8 = 0x20;

/// A TCP segment's header fields and payload.
#[derive(Clone, Debug)]
pub(crate) struct Tcp {
    pub(crate) flags: u8,
    pub(crate) seq: u32,
    pub(crate) ack: u32,
    pub(crate) window: u16,
    pub(crate) options: Vec<u8>,
    pub(crate) payload: Vec<u8>,
}

impl Tcp {
    pub(crate) fn new(flags: u8, seq: u32, ack: u32) -> Self {
        Self { flags, seq, ack, window: 60_000, options: Vec::new(), payload: Vec::new() }
    }
}

pub(crate) fn ip(src: IpAddr, dst: IpAddr, protocol: Protocol, payload: &[u8]) -> Vec<u8> {
    match (src, dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => ipv4(src, dst, protocol, &[], payload),
        (IpAddr::V6(src), IpAddr::V6(dst)) => ipv6(src, dst, protocol.0, payload),
        _ => unreachable!("one packet has one family"),
    }
}

/// `options` are filled up to a multiple of four bytes.
pub(crate) fn ipv4(
    src: Ipv4Addr,
    dst: Ipv4Addr,
    protocol: Protocol,
    options: &[u8],
    payload: &[u8],
) -> Vec<u8> {
    let mut packet = vec![0x45, 0, 0, 0, 0x12, 0x34, 0, 0, 64, protocol.0, 0, 0];
    packet.extend(src.octets());
    packet.extend(dst.octets());
    packet.extend(options);
    packet.resize(packet.len().next_multiple_of(4), 0);
    packet[0] = 0x40 | (packet.len() / 4) as u8;
    let length = (packet.len() + payload.len()) as u16;
    packet[2..4].copy_from_slice(&length.to_be_bytes());
    seal_ipv4(&mut packet);
    packet.extend(payload);
    packet
}

/// Puts the right checksum into an IPv4 header.
pub(crate) fn seal_ipv4(packet: &mut [u8]) {
    let header = usize::from(packet[0] & 15) * 4;
    packet[10..12].fill(0);
    let sum = !sum(0, &packet[..header]);
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
}

pub(crate) fn ipv6(src: Ipv6Addr, dst: Ipv6Addr, next: u8, payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x60, 0, 0, 0];
    packet.extend((payload.len() as u16).to_be_bytes());
    packet.extend([next, 64]);
    packet.extend(src.octets());
    packet.extend(dst.octets());
    packet.extend(payload);
    packet
}

pub(crate) fn tcp(src: SocketAddr, dst: SocketAddr, segment: &Tcp) -> Vec<u8> {
    ip(src.ip(), dst.ip(), Protocol::TCP, &tcp_bytes(src, dst, segment))
}

/// The segment alone, with its checksum.
pub(crate) fn tcp_bytes(src: SocketAddr, dst: SocketAddr, segment: &Tcp) -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.extend(src.port().to_be_bytes());
    bytes.extend(dst.port().to_be_bytes());
    bytes.extend(segment.seq.to_be_bytes());
    bytes.extend(segment.ack.to_be_bytes());
    bytes.extend([0, segment.flags]);
    bytes.extend(segment.window.to_be_bytes());
    bytes.extend([0; 4]);
    bytes.extend(&segment.options);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes[12] = (bytes.len() as u8 / 4) << 4;
    bytes.extend(&segment.payload);
    let sum = !sum(pseudo(src.ip(), dst.ip(), Protocol::TCP, bytes.len()), &bytes);
    bytes[16..18].copy_from_slice(&sum.to_be_bytes());
    bytes
}

pub(crate) fn udp(src: SocketAddr, dst: SocketAddr, payload: &[u8]) -> Vec<u8> {
    ip(src.ip(), dst.ip(), Protocol::UDP, &udp_bytes(src, dst, payload))
}

/// The datagram alone, with its checksum.
pub(crate) fn udp_bytes(src: SocketAddr, dst: SocketAddr, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.extend(src.port().to_be_bytes());
    bytes.extend(dst.port().to_be_bytes());
    bytes.extend((8 + payload.len() as u16).to_be_bytes());
    bytes.extend([0; 2]);
    bytes.extend(payload);
    let sum = match !sum(pseudo(src.ip(), dst.ip(), Protocol::UDP, bytes.len()), &bytes) {
        0 => 0xffff,
        sum => sum,
    };
    bytes[6..8].copy_from_slice(&sum.to_be_bytes());
    bytes
}

/// An SCTP packet with one chunk of this type.
pub(crate) fn sctp(src: SocketAddr, dst: SocketAddr, chunk: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.extend(src.port().to_be_bytes());
    bytes.extend(dst.port().to_be_bytes());
    bytes.extend([0xde, 0xad, 0xbe, 0xef, 0, 0, 0, 0, chunk, 0]);
    bytes.extend((4 + payload.len() as u16).to_be_bytes());
    bytes.extend(payload);
    let crc = crc32c(&bytes);
    bytes[8..12].copy_from_slice(&crc.to_le_bytes());
    ip(src.ip(), dst.ip(), Protocol::SCTP, &bytes)
}

/// An ICMP or ICMPv6 message: type, code, the rest of its header, and what follows.
pub(crate) fn icmp(
    src: IpAddr,
    dst: IpAddr,
    kind: (u8, u8),
    rest: [u8; 4],
    body: &[u8],
) -> Vec<u8> {
    let protocol = if src.is_ipv4() { Protocol::ICMP } else { Protocol::ICMPV6 };
    let mut bytes = vec![kind.0, kind.1, 0, 0];
    bytes.extend(rest);
    bytes.extend(body);
    let start = if src.is_ipv4() { 0 } else { pseudo(src, dst, protocol, bytes.len()) };
    let sum = !sum(start, &bytes);
    bytes[2..4].copy_from_slice(&sum.to_be_bytes());
    ip(src, dst, protocol, &bytes)
}

/// An echo request, or the reply to one.
pub(crate) fn echo(src: IpAddr, dst: IpAddr, is_request: bool, id: u16, payload: &[u8]) -> Vec<u8> {
    let kind = match (src.is_ipv4(), is_request) {
        (true, true) => 8,
        (true, false) => 0,
        (false, true) => 128,
        (false, false) => 129,
    };
    let id = id.to_be_bytes();
    icmp(src, dst, (kind, 0), [id[0], id[1], 0, 1], payload)
}

/// Cuts an IP packet without extension headers into fragments of `size` bytes of payload (a
/// multiple of 8).
pub(crate) fn fragments(packet: &[u8], size: usize) -> Vec<Vec<u8>> {
    let payload = &packet[l4(packet)..];
    (0..payload.len())
        .step_by(size)
        .map(|start| {
            let end = payload.len().min(start + size);
            fragment(packet, start, &payload[start..end], end < payload.len())
        })
        .collect()
}

/// One fragment of `packet`, with any bytes at any offset.
pub(crate) fn fragment(packet: &[u8], offset: usize, payload: &[u8], more: bool) -> Vec<u8> {
    let field = (offset as u16 & 0xfff8).to_be_bytes();
    if packet[0] >> 4 == 4 {
        let mut fragment = packet[..l4(packet)].to_vec();
        let field = ((offset as u16 / 8) | if more { 0x2000 } else { 0 }).to_be_bytes();
        fragment[6..8].copy_from_slice(&field);
        let length = (fragment.len() + payload.len()) as u16;
        fragment[2..4].copy_from_slice(&length.to_be_bytes());
        seal_ipv4(&mut fragment);
        fragment.extend(payload);
        return fragment;
    }
    let mut fragment = packet[..40].to_vec();
    fragment[6] = 44;
    fragment[4..6].copy_from_slice(&(8 + payload.len() as u16).to_be_bytes());
    fragment.extend([packet[6], 0, field[0], field[1] | u8::from(more), 0, 0, 0x12, 0x34]);
    fragment.extend(payload);
    fragment
}

/// Where the transport header stands, in a packet without extension headers.
pub(crate) fn l4(packet: &[u8]) -> usize {
    if packet[0] >> 4 == 4 { usize::from(packet[0] & 15) * 4 } else { 40 }
}

fn addresses(packet: &[u8]) -> (IpAddr, IpAddr, Protocol) {
    if packet[0] >> 4 == 4 {
        let address =
            |at: usize| <[u8; 4]>::try_from(&packet[at..at + 4]).expect("four bytes").into();
        (address(12), address(16), Protocol(packet[9]))
    } else {
        let address =
            |at: usize| <[u8; 16]>::try_from(&packet[at..at + 16]).expect("16 bytes").into();
        (address(8), address(24), Protocol(packet[6]))
    }
}

/// Source and destination of a packet without extension headers; ports only where the protocol has
/// some.
pub(crate) fn ends(packet: &[u8]) -> (SocketAddr, SocketAddr) {
    let (src, dst, protocol) = addresses(packet);
    let at = l4(packet);
    let port = |at: usize| u16::from_be_bytes([packet[at], packet[at + 1]]);
    let (sport, dport) = match protocol {
        Protocol::TCP | Protocol::UDP | Protocol::SCTP => (port(at), port(at + 2)),
        Protocol::ICMP | Protocol::ICMPV6 => (port(at + 4), port(at + 4)),
        _ => (0, 0),
    };
    (SocketAddr::new(src, sport), SocketAddr::new(dst, dport))
}

/// Whether all checksums of a packet without extension headers are right, recomputed in full; of an
/// ICMP error, the quoted IP header's too, and that of the quoted packet if it is quoted in full.
#[track_caller]
pub(crate) fn assert_intact(packet: &[u8]) {
    assert!(is_header_intact(packet), "IPv4 header checksum");
    assert!(is_transport_intact(packet), "transport checksum of {:?}", ends(packet));
    let at = l4(packet);
    let is_error = match addresses(packet).2 {
        Protocol::ICMP => matches!(packet[at], 3 | 4 | 5 | 11 | 12),
        Protocol::ICMPV6 => packet[at] < 128,
        _ => false,
    };
    if is_error {
        let quote = &packet[at + 8..];
        assert!(is_header_intact(quote), "quoted IPv4 header checksum");
        if quote.len() == total(quote) {
            assert!(is_transport_intact(quote), "quoted transport checksum");
        }
    }
}

/// The length of a packet by its header.
pub(crate) fn total(packet: &[u8]) -> usize {
    if packet[0] >> 4 == 4 {
        usize::from(u16::from_be_bytes([packet[2], packet[3]]))
    } else {
        40 + usize::from(u16::from_be_bytes([packet[4], packet[5]]))
    }
}

pub(crate) fn is_header_intact(packet: &[u8]) -> bool {
    packet[0] >> 4 == 6 || sum(0, &packet[..l4(packet)]) == 0xffff
}

/// As a receiver would judge.
pub(crate) fn is_transport_intact(packet: &[u8]) -> bool {
    let (src, dst, protocol) = addresses(packet);
    let bytes = &packet[l4(packet)..total(packet)];
    let start = pseudo(src, dst, protocol, bytes.len());
    match protocol {
        Protocol::TCP | Protocol::ICMPV6 => sum(start, bytes) == 0xffff,
        Protocol::UDP => bytes[6..8] == [0, 0] || sum(start, bytes) == 0xffff,
        Protocol::ICMP => sum(0, bytes) == 0xffff,
        Protocol::SCTP => {
            let mut cleared = bytes.to_vec();
            cleared[8..12].fill(0);
            bytes[8..12] == crc32c(&cleared).to_le_bytes()
        }
        _ => true,
    }
}

/// The sum of 16-bit words modulo 0xffff (RFC 1071), word by word, not complemented.
pub(crate) fn sum(start: u32, bytes: &[u8]) -> u16 {
    let mut sum = u64::from(start);
    for word in bytes.chunks(2) {
        sum += u64::from(word[0]) << 8 | u64::from(*word.get(1).unwrap_or(&0));
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

/// The sum of a pseudo header (RFC 9293 3.1, RFC 8200 8.1).
pub(crate) fn pseudo(src: IpAddr, dst: IpAddr, protocol: Protocol, length: usize) -> u32 {
    let mut bytes = Vec::new();
    for address in [src, dst] {
        match address {
            IpAddr::V4(address) => bytes.extend(address.octets()),
            IpAddr::V6(address) => bytes.extend(address.octets()),
        }
    }
    bytes.extend((length as u32).to_be_bytes());
    bytes.extend([0, 0, 0, protocol.0]);
    u32::from(sum(0, &bytes))
}

/// CRC32c bit by bit (RFC 9260, appendix A).
pub(crate) fn crc32c(bytes: &[u8]) -> u32 {
    let mut crc = u32::MAX;
    for &byte in bytes {
        crc ^= u32::from(byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 { (crc >> 1) ^ 0x82f6_3b78 } else { crc >> 1 };
        }
    }
    !crc
}

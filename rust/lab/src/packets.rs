//! The simulation's packets in bytes, and the addresses of its actors.
//!
//! Payloads are left out: a request is a header that moves no bytes, and its size is booked beside.
//! Sequence numbers follow from a connection's ends, so that the engine's TCP tracking sees
//! handshakes and closes that fit. Addresses of IPv6 have those of IPv4 as their last bits.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use kbe_nat_engine::Cidr;
use kbe_nat_engine::rng::mix64;
use kbe_nat_engine::tuple::{Family, Protocol};
use kbe_nat_engine::wire::checksum;

/// Bytes of a packet buffer.
pub(crate) const BUFFER: usize = 72;
/// Of all addresses of IPv6: unique local ones.
const PREFIX: u128 = 0xfd00_6b62_6500_0000 << 64;
const CLIENTS: u32 = 0x0a00_0001;
const STRANGERS: u32 = 0x0b00_0000;
const SERVICES: u32 = 0x6440_0001;
const BACKENDS: u32 = 0xac10_0001;
const NODES: u32 = 0xc000_0201;
const SERVICE_PORT: u16 = 80;
const BACKEND_PORT: u16 = 8080;

pub(crate) const SYN: u8 = 0x02;
pub(crate) const RST: u8 = 0x04;
pub(crate) const ACK: u8 = 0x10;
pub(crate) const FIN: u8 = 0x01;

/// Chunks of SCTP (RFC 9260, 3.2).
pub(crate) const DATA: u8 = 0;
pub(crate) const INIT: u8 = 1;
pub(crate) const INIT_ACK: u8 = 2;
pub(crate) const ABORT: u8 = 6;
pub(crate) const SHUTDOWN: u8 = 7;
pub(crate) const SHUTDOWN_ACK: u8 = 8;
pub(crate) const COOKIE_ECHO: u8 = 10;
pub(crate) const COOKIE_ACK: u8 = 11;
pub(crate) const SHUTDOWN_COMPLETE: u8 = 14;

/// Clients that have an address: 10.0.0.0/8.
pub(crate) const MAX_CLIENTS: u32 = (1 << 24) - 2;
/// Services that have an address: 100.64.0.0/10.
pub(crate) const MAX_SERVICES: usize = 1 << 20;
/// Backends that have an address: 172.16.0.0/12.
pub(crate) const MAX_BACKENDS: usize = 1 << 20;

/// The place of a packet in its connection, as far as sequence numbers go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Turn {
    /// Before the handshake is complete.
    Handshake,
    /// After it.
    Open,
    /// After the client has closed.
    Closing,
}

/// A packet of the simulation.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Segment {
    pub(crate) protocol: Protocol,
    pub(crate) family: Family,
    /// The client's address, or the last bits of it.
    pub(crate) source: Ipv4Addr,
    pub(crate) port: u16,
    /// The Service's number.
    pub(crate) service: u32,
    /// The backend that it comes from, for an answer.
    pub(crate) backend: u32,
    /// The node and the port that an answer goes to in the place of the client's, where its source
    /// was replaced.
    pub(crate) answered_to: Option<(u32, u16)>,
    pub(crate) is_reply: bool,
    /// It opens a connection.
    pub(crate) is_first: bool,
    /// Of TCP; the first chunk's type of SCTP.
    pub(crate) flags: u8,
    pub(crate) turn: Turn,
    /// The node that the routers send it to.
    pub(crate) node: u32,
}

pub(crate) fn client(number: u32) -> Ipv4Addr {
    Ipv4Addr::from(CLIENTS + number)
}

/// A source of a flood, from 26 bits.
pub(crate) fn stranger(bits: u64) -> Ipv4Addr {
    Ipv4Addr::from(STRANGERS + (bits & 0x03ff_ffff) as u32)
}

fn address(bits: u32, family: Family) -> IpAddr {
    match family {
        Family::V4 => IpAddr::V4(Ipv4Addr::from(bits)),
        Family::V6 => IpAddr::V6(Ipv6Addr::from(PREFIX | u128::from(bits))),
    }
}

pub(crate) fn service(number: u32, family: Family) -> SocketAddr {
    SocketAddr::new(address(SERVICES + number, family), SERVICE_PORT)
}

pub(crate) fn backend(number: u32, family: Family) -> SocketAddr {
    SocketAddr::new(address(BACKENDS + number, family), BACKEND_PORT)
}

/// The address of a node that replaces clients'.
pub(crate) fn node(number: u32, family: Family) -> IpAddr {
    address(NODES + number, family)
}

/// The network of `count` clients, a power of two, that begins with client `count - 1`.
pub(crate) fn network(count: u32, family: Family) -> Option<Cidr> {
    let width = if family == Family::V4 { 32 } else { 128 };
    Cidr::new(address(CLIENTS - 1 + count, family), width - count.ilog2() as u8)
}

/// The port that a packet comes from.
pub(crate) fn source_port(packet: &[u8]) -> Option<u16> {
    let start = if packet.first()? >> 4 == 6 { V6_HEADER } else { V4_HEADER };
    Some(u16::from_be_bytes(packet.get(start..start + 2)?.try_into().ok()?))
}

/// The number of the backend that a packet goes to.
pub(crate) fn backend_of(packet: &[u8]) -> Option<u32> {
    let end = if packet.first()? >> 4 == 6 { V6_HEADER } else { V4_HEADER };
    let octets: [u8; 4] = packet.get(end - 4..end)?.try_into().ok()?;
    u32::from_be_bytes(octets).checked_sub(BACKENDS)
}

impl Segment {
    /// Ends of the connection, as the client sees them.
    pub(crate) fn ends(&self) -> (SocketAddr, SocketAddr) {
        let source = address(self.source.into(), self.family);
        (SocketAddr::new(source, self.port), service(self.service, self.family))
    }

    /// Writes the packet, and returns its length.
    pub(crate) fn write(&self, bytes: &mut [u8; BUFFER]) -> usize {
        *bytes = [0; BUFFER];
        let (client, port) = (u32::from(self.source), self.port);
        let (from, to, source, destination) = if self.is_reply {
            let translated = self.answered_to.map(|(number, port)| (NODES + number, port));
            let (to, port) = translated.unwrap_or((client, port));
            (BACKENDS + self.backend, to, BACKEND_PORT, port)
        } else {
            (client, SERVICES + self.service, port, SERVICE_PORT)
        };
        let start = if self.family == Family::V6 { V6_HEADER } else { V4_HEADER };
        let (header, transport) = bytes.split_at_mut(start);
        transport[..2].copy_from_slice(&source.to_be_bytes());
        transport[2..4].copy_from_slice(&destination.to_be_bytes());
        let length = self.write_transport(transport);
        match self.family {
            Family::V4 => self.write_v4(header, from, to, start + length),
            Family::V6 => self.write_v6(header, from, to, length),
        }
        start + length
    }

    fn write_v4(&self, header: &mut [u8], from: u32, to: u32, length: usize) {
        header[0] = 0x45;
        header[2..4].copy_from_slice(&(length as u16).to_be_bytes());
        header[8] = 64;
        header[9] = self.protocol.0;
        header[12..16].copy_from_slice(&from.to_be_bytes());
        header[16..20].copy_from_slice(&to.to_be_bytes());
        let sum = checksum::complete(0, header);
        header[10..12].copy_from_slice(&sum);
    }

    fn write_v6(&self, header: &mut [u8], from: u32, to: u32, length: usize) {
        header[0] = 0x60;
        header[4..6].copy_from_slice(&(length as u16).to_be_bytes());
        header[6] = self.protocol.0;
        header[7] = 64;
        header[8..24].copy_from_slice(&(PREFIX | u128::from(from)).to_be_bytes());
        header[24..40].copy_from_slice(&(PREFIX | u128::from(to)).to_be_bytes());
    }

    /// What follows the ports. Checksums are changed by difference, right or wrong; that of SCTP is
    /// computed anew.
    fn write_transport(&self, transport: &mut [u8]) -> usize {
        match self.protocol {
            Protocol::TCP => {
                let (sequence, acknowledged) = self.sequence();
                transport[4..8].copy_from_slice(&sequence.to_be_bytes());
                transport[8..12].copy_from_slice(&acknowledged.to_be_bytes());
                transport[12] = 5 << 4;
                transport[13] = self.flags;
                transport[14..16].copy_from_slice(&u16::MAX.to_be_bytes());
                transport[16] = 1;
                20
            }
            Protocol::SCTP => {
                transport[4] = 1;
                transport[12] = self.flags;
                transport[15] = SCTP_CHUNK;
                12 + usize::from(SCTP_CHUNK)
            }
            _ => {
                transport[4..6].copy_from_slice(&8u16.to_be_bytes());
                transport[6] = 1;
                8
            }
        }
    }

    /// Sequence and acknowledgement numbers.
    fn sequence(&self) -> (u32, u32) {
        let ends = u64::from(u32::from(self.source)) << 32
            | u64::from(self.port) << 16
            | u64::from(self.service & 0xffff);
        let mixed = mix64(!ends);
        // Neither runs over: what follows adds no more than 2.
        let (client, server) = (mixed as u32 >> 1, (mixed >> 33) as u32);
        match (self.is_reply, self.turn) {
            (false, Turn::Handshake) if self.flags & SYN != 0 => (client, 0),
            (false, Turn::Closing) => (client + 2, server + 2),
            (false, _) => (client + 1, server + 1),
            (true, Turn::Handshake) => (server, client + 1),
            (true, Turn::Open) => (server + 1, client + 1),
            (true, Turn::Closing) => (server + 1, client + 2),
        }
    }
}

const V4_HEADER: usize = 20;
const V6_HEADER: usize = 40;
/// Bytes of a chunk: as many as INIT has.
const SCTP_CHUNK: u8 = 20;

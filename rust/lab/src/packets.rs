//! The simulation's packets in bytes, and the addresses of its actors.
//!
//! Payloads are left out: a request is a header that moves no bytes, and its size is booked beside.
//! Sequence numbers follow from a connection's ends, so that the engine's TCP tracking sees
//! handshakes and closes that fit.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use kbe_nat_engine::rng::mix64;
use kbe_nat_engine::tuple::Protocol;
use kbe_nat_engine::wire::checksum;

/// Bytes of a packet buffer.
pub(crate) const BUFFER: usize = 40;
const CLIENTS: u32 = 0x0a00_0001;
const STRANGERS: u32 = 0x0b00_0000;
const SERVICES: u32 = 0x6440_0001;
const BACKENDS: u32 = 0xac10_0001;
const SERVICE_PORT: u16 = 80;
const BACKEND_PORT: u16 = 8080;

pub(crate) const SYN: u8 = 0x02;
pub(crate) const RST: u8 = 0x04;
pub(crate) const ACK: u8 = 0x10;
pub(crate) const FIN: u8 = 0x01;

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
    /// The client's address.
    pub(crate) source: Ipv4Addr,
    pub(crate) port: u16,
    /// The Service's number.
    pub(crate) service: u32,
    /// The backend that it comes from, for an answer.
    pub(crate) backend: u32,
    pub(crate) is_reply: bool,
    /// It opens a connection.
    pub(crate) is_first: bool,
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

pub(crate) fn service(number: u32) -> SocketAddr {
    SocketAddr::new(IpAddr::V4(Ipv4Addr::from(SERVICES + number)), SERVICE_PORT)
}

pub(crate) fn backend(number: u32) -> SocketAddr {
    SocketAddr::new(IpAddr::V4(Ipv4Addr::from(BACKENDS + number)), BACKEND_PORT)
}

/// The number of the backend that a packet goes to.
pub(crate) fn backend_of(packet: &[u8]) -> Option<u32> {
    let octets: [u8; 4] = packet.get(16..20)?.try_into().ok()?;
    u32::from_be_bytes(octets).checked_sub(BACKENDS)
}

impl Segment {
    /// Ends of the connection, as the client sees them.
    pub(crate) fn ends(&self) -> (SocketAddr, SocketAddr) {
        (SocketAddr::new(IpAddr::V4(self.source), self.port), service(self.service))
    }

    /// Writes the packet, and returns its length.
    pub(crate) fn write(&self, bytes: &mut [u8; BUFFER]) -> usize {
        let is_tcp = self.protocol == Protocol::TCP;
        let length: u16 = if is_tcp { 40 } else { 28 };
        let (client, port) = (u32::from(self.source), self.port);
        let (from, to, source, destination) = if self.is_reply {
            (BACKENDS + self.backend, client, BACKEND_PORT, port)
        } else {
            (client, SERVICES + self.service, port, SERVICE_PORT)
        };
        *bytes = [0; BUFFER];
        bytes[0] = 0x45;
        bytes[2..4].copy_from_slice(&length.to_be_bytes());
        bytes[8] = 64;
        bytes[9] = self.protocol.0;
        bytes[12..16].copy_from_slice(&from.to_be_bytes());
        bytes[16..20].copy_from_slice(&to.to_be_bytes());
        let sum = checksum::complete(0, &bytes[..20]);
        bytes[10..12].copy_from_slice(&sum);
        bytes[20..22].copy_from_slice(&source.to_be_bytes());
        bytes[22..24].copy_from_slice(&destination.to_be_bytes());
        if is_tcp {
            let (sequence, acknowledged) = self.sequence();
            bytes[24..28].copy_from_slice(&sequence.to_be_bytes());
            bytes[28..32].copy_from_slice(&acknowledged.to_be_bytes());
            bytes[32] = 5 << 4;
            bytes[33] = self.flags;
            bytes[34..36].copy_from_slice(&u16::MAX.to_be_bytes());
            // Checksums of the transport are changed by difference, right or wrong.
            bytes[36] = 1;
        } else {
            bytes[24..26].copy_from_slice(&8u16.to_be_bytes());
            bytes[26] = 1;
        }
        usize::from(length)
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

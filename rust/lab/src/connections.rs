//! Connections alive, and the stages of their lives.
//!
//! A connection has exactly one next packet, which waits in the cell's queue. A TCP connection
//! lives through all stages in their order, requests and answers as often as it has them; a UDP
//! conversation has those two alone, and one-way UDP only requests. A UDP conversation of a single
//! request rests until its lifetime is over, as a socket that stays open.

use std::collections::{HashMap, HashSet};
use std::net::Ipv4Addr;

use kbe_nat_engine::rng::mix64;
use kbe_nat_engine::tuple::Family;

use crate::packets::{self, ACK, FIN, SYN, Segment, Turn, client};
use crate::spec::TrafficKind;

/// The next packet of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// SYN.
    Open,
    /// SYN-ACK.
    Accept,
    /// The ACK that completes the handshake.
    Confirm,
    Request,
    Answer,
    /// FIN of the client.
    Close,
    /// FIN of the backend.
    CloseAnswer,
    /// The last ACK.
    CloseConfirm,
    /// The fourth packet of SCTP's handshake, COOKIE ACK.
    Acknowledge,
    /// No packet: a UDP conversation ends then.
    Rest,
}

/// A connection.
#[derive(Clone, Debug)]
pub(crate) struct Connection {
    /// Position of its source of traffic.
    pub(crate) traffic: u32,
    pub(crate) kind: TrafficKind,
    pub(crate) family: Family,
    /// Number of its Service.
    pub(crate) service: u32,
    pub(crate) client: u32,
    pub(crate) port: u16,
    pub(crate) node: u32,
    /// Its backend, once it was admitted.
    pub(crate) backend: Option<u32>,
    /// The node and the port of its source towards the backend, where they are not the client's.
    pub(crate) translated: Option<(u32, u16)>,
    pub(crate) stage: Stage,
    /// Requests that are still to be sent.
    pub(crate) requests: u32,
    /// It rests after its last request, for a gap.
    pub(crate) rests: bool,
    /// Nanoseconds between an answer and the next request.
    pub(crate) gap: u64,
    /// Bytes of an answer.
    pub(crate) bytes: f64,
    /// When its next packet is due, in nanoseconds.
    pub(crate) at: u64,
}

impl Connection {
    /// Its next packet.
    pub(crate) fn segment(&self) -> Segment {
        let (is_reply, flags, turn) = match self.stage {
            Stage::Open => (false, SYN, Turn::Handshake),
            Stage::Accept => (true, SYN | ACK, Turn::Handshake),
            Stage::Confirm | Stage::Request | Stage::Rest => (false, ACK, Turn::Open),
            Stage::Answer => (true, ACK, Turn::Open),
            Stage::Close => (false, FIN | ACK, Turn::Open),
            Stage::CloseAnswer => (true, FIN | ACK, Turn::Closing),
            Stage::CloseConfirm => (false, ACK, Turn::Closing),
            Stage::Acknowledge => (true, ACK, Turn::Open),
        };
        Segment {
            protocol: self.kind.protocol(),
            family: self.family,
            source: client(self.client),
            port: self.port,
            service: self.service,
            backend: self.backend.unwrap_or(0),
            answered_to: self.translated,
            is_reply,
            is_first: self.backend.is_none(),
            flags: if self.kind == TrafficKind::Sctp { self.chunk() } else { flags },
            turn,
            // Answers go to the node whose address the backend has seen.
            node: self.translated.filter(|_| is_reply).map_or(self.node, |(node, _)| node),
        }
    }

    /// The first chunk of its next packet of SCTP.
    fn chunk(&self) -> u8 {
        match self.stage {
            Stage::Open => packets::INIT,
            Stage::Accept => packets::INIT_ACK,
            Stage::Confirm => packets::COOKIE_ECHO,
            Stage::Acknowledge => packets::COOKIE_ACK,
            Stage::Request | Stage::Answer | Stage::Rest => packets::DATA,
            Stage::Close => packets::SHUTDOWN,
            Stage::CloseAnswer => packets::SHUTDOWN_ACK,
            Stage::CloseConfirm => packets::SHUTDOWN_COMPLETE,
        }
    }

    /// A packet from the client that changes nothing, to see where it goes.
    pub(crate) fn keepalive(&self) -> Segment {
        let flags = if self.kind == TrafficKind::Sctp { packets::DATA } else { ACK };
        Segment { is_reply: false, flags, turn: Turn::Open, node: self.node, ..self.segment() }
    }

    /// Whether its client hears nothing, and so does not notice that a backend died.
    pub(crate) fn is_one_way(&self) -> bool {
        self.kind == TrafficKind::UdpOneWay
    }

    /// Whether both ends have talked and none has closed.
    pub(crate) fn is_established(&self) -> bool {
        let is_between =
            matches!(self.stage, Stage::Request | Stage::Answer | Stage::Close | Stage::Rest);
        self.backend.is_some() && is_between
    }

    /// Goes on to the next packet; false after the last. `latency` is that of the backend, in
    /// nanoseconds.
    pub(crate) fn advance(&mut self, latency: u64) -> bool {
        let has_handshake = self.kind.has_handshake();
        let (stage, delay) = match self.stage {
            Stage::Open => (Stage::Accept, latency),
            Stage::Accept => (Stage::Confirm, 0),
            Stage::Confirm if self.kind == TrafficKind::Sctp => (Stage::Acknowledge, 0),
            Stage::Confirm | Stage::Acknowledge => (Stage::Request, self.gap),
            Stage::Request if self.is_one_way() => self.follow_up(Stage::Rest),
            Stage::Request => (Stage::Answer, latency),
            Stage::Answer => self.follow_up(if has_handshake { Stage::Close } else { Stage::Rest }),
            Stage::Close => (Stage::CloseAnswer, 0),
            Stage::CloseAnswer => (Stage::CloseConfirm, 0),
            Stage::CloseConfirm | Stage::Rest => return false,
        };
        if stage == Stage::Rest && !self.rests {
            return false;
        }
        // A lifetime may be longer than the clock can tell: such a connection never ends.
        (self.stage, self.at) = (stage, self.at.saturating_add(delay));
        true
    }

    /// The stage after a request that is done, `last` after the last one, and when it is due.
    fn follow_up(&mut self, last: Stage) -> (Stage, u64) {
        self.requests -= 1;
        (if self.requests == 0 { last } else { Stage::Request }, self.gap)
    }
}

/// Connections by slot. A slot is used again with another serial number, by which a stale reference
/// is told.
#[derive(Debug, Default)]
pub(crate) struct Connections {
    slots: Vec<(u32, Option<Connection>)>,
    free: Vec<u32>,
}

impl Connections {
    pub(crate) fn insert(&mut self, connection: Connection) -> u32 {
        if let Some(slot) = self.free.pop() {
            self.slots[slot as usize].1 = Some(connection);
            return slot;
        }
        self.slots.push((0, Some(connection)));
        self.slots.len() as u32 - 1
    }

    pub(crate) fn serial(&self, slot: u32) -> u32 {
        self.slots[slot as usize].0
    }

    pub(crate) fn get(&self, slot: u32) -> Option<&Connection> {
        self.slots[slot as usize].1.as_ref()
    }

    pub(crate) fn get_mut(&mut self, slot: u32) -> Option<&mut Connection> {
        self.slots[slot as usize].1.as_mut()
    }

    pub(crate) fn remove(&mut self, slot: u32) -> Option<Connection> {
        let (serial, connection) = &mut self.slots[slot as usize];
        let connection = connection.take()?;
        *serial = serial.wrapping_add(1);
        self.free.push(slot);
        Some(connection)
    }

    /// All connections, by slot.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u32, &Connection)> {
        let slots = self.slots.iter().zip(0..);
        slots.filter_map(|((_, connection), slot)| Some((slot, connection.as_ref()?)))
    }
}

/// Source ports: each client goes through its ports in turn, from a random one on, past those that
/// it has in use with the same Service.
#[derive(Debug)]
pub(crate) struct Ports {
    seed: u64,
    /// By client; 0 before its first.
    next: Vec<u16>,
    used: HashSet<(u32, u32, u16)>,
    /// Ports in use by client and Service: a search that cannot find any is not begun.
    counts: HashMap<(u32, u32), u32>,
}

impl Ports {
    const FIRST: u16 = 1024;
    const ALL: u32 = u16::MAX as u32 - Self::FIRST as u32 + 1;

    pub(crate) fn new(seed: u64, clients: u32) -> Self {
        Self { seed, next: vec![0; clients as usize], used: HashSet::new(), counts: HashMap::new() }
    }

    /// A port, unless the client has all in use.
    pub(crate) fn take(&mut self, client: u32, service: u32) -> Option<u16> {
        let count = self.counts.entry((client, service)).or_default();
        if *count == Self::ALL {
            return None;
        }
        let next = &mut self.next[client as usize];
        if *next == 0 {
            let hash = mix64(self.seed ^ mix64(u64::from(client) + 1));
            // Evenly over the range: a remainder or a bound would favour some ports.
            *next = Self::FIRST + (((hash >> 32) * u64::from(Self::ALL)) >> 32) as u16;
        }
        loop {
            let port = *next;
            *next = next.checked_add(1).unwrap_or(Self::FIRST);
            if self.used.insert((client, service, port)) {
                *count += 1;
                return Some(port);
            }
        }
    }

    pub(crate) fn give_back(&mut self, connection: &Connection) {
        let ends = (connection.client, connection.service);
        self.used.remove(&(ends.0, ends.1, connection.port));
        if let Some(count) = self.counts.get_mut(&ends) {
            *count -= 1;
            if *count == 0 {
                self.counts.remove(&ends);
            }
        }
    }
}

/// Routers' hash of a flow, with a salt that no balancer has.
pub(crate) fn node_hash(source: Ipv4Addr, port: u16, service: u32) -> u64 {
    let ends = u64::from(u32::from(source)) << 16 | u64::from(port);
    mix64(mix64(ends ^ SALT) ^ u64::from(service))
}

const SALT: u64 = 0x6563_6d70_0000_0000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_begin_at_the_same_port_as_often_as_birthdays_fall_together() {
        let clients = 20_000;
        let mut counts = vec![0u64; 1 << 16];
        for seed in 0..4 {
            let mut ports = Ports::new(seed, clients);
            for client in 0..clients {
                counts[usize::from(ports.take(client, 0).unwrap())] += 1;
            }
        }
        assert_eq!(counts[..usize::from(Ports::FIRST)].iter().sum::<u64>(), 0);
        let all = f64::from(4 * clients);
        let pairs: u64 = counts.iter().map(|count| count * count.saturating_sub(1) / 2).sum();
        // Pairs of n that meet in m places: n(n - 1) / 2m, with a variance of nearly as much.
        let mean = all * (all - 1.0) / 2.0 / f64::from(Ports::ALL);
        assert!((pairs as f64 - mean).abs() < 5.0 * mean.sqrt(), "{pairs} pairs, not {mean:.0}");
    }
}

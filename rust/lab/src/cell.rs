//! A cell: its parts, and the fates of packets.
//!
//! A batch goes through the nodes together; then each connection goes on by the fate of its packet,
//! and its next packet is queued. `run` takes steps from the queue, `timeline` does events.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;

use kbe_nat_engine::tuple::Protocol;

use crate::balancers::Foreign;
use crate::connections::{Connection, Connections, Ports, Stage, node_hash};
use crate::dataplane::{Costs, Dataplane, Fate, TableUse};
use crate::measures::{Measures, Outcome};
use crate::packets::{self, ABORT, ACK, RST, SYN, Segment, Turn};
use crate::rows::{CellResult, CostRow, PortRow, Progress, Totals};
use crate::services::Services;
use crate::spec::{CellSpec, Ecmp, TrafficKind};
use crate::traffic::{SECOND, Source};

/// The next thing to happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Step {
    /// The next connection of an open loop, or packet of a flood.
    Arrival(u32),
    /// The next connection of a client of a closed loop.
    Client(u32, u32),
    /// The next packet of the connection in a slot, by its serial number.
    Packet(u32, u32),
    Second,
    Event(u32),
}

/// Whose packet it is.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Origin {
    Connection(u32),
    Flood,
    /// A reset, whose fate changes nothing.
    Reset,
}

/// A cell that runs.
#[derive(Debug)]
pub struct Cell {
    pub(crate) spec: CellSpec,
    pub(crate) services: Services,
    pub(crate) measures: Measures,
    pub(crate) dataplane: Box<dyn Dataplane>,
    pub(crate) connections: Connections,
    pub(crate) foreign: Option<Arc<dyn Foreign>>,
    /// Whether each node serves.
    pub(crate) nodes: Vec<bool>,
    pub(crate) progress: Progress,
    pub(crate) peak: TableUse,
    /// Most bytes of balancers; `None` once some were not known.
    pub(crate) balancer_peak: Option<u64>,
    pub(crate) sources: Vec<Source>,
    pub(crate) ports: Ports,
    pub(crate) queue: BinaryHeap<Reverse<(u64, u64, Step)>>,
    pub(crate) steps: u64,
    pub(crate) now: u64,
    pub(crate) batch: Vec<(Segment, Origin)>,
    pub(crate) batch_start: u64,
    pub(crate) fates: Vec<Fate>,
    pub(crate) packets: u64,
    pub(crate) flood: (u64, u64),
    pub(crate) time: u64,
}

impl Cell {
    pub(crate) fn push(&mut self, at: u64, step: Step) {
        self.steps += 1;
        self.queue.push(Reverse((at, self.steps, step)));
    }

    /// A client begins a connection.
    pub(crate) fn begin(&mut self, traffic: u32, client: Option<u32>, at: u64) {
        let source = &mut self.sources[traffic as usize];
        let draft = source.draft(client);
        let spec = &source.spec;
        let (kind, requests) = (spec.kind, spec.requests);
        let service = self.services.group(spec.service).start + draft.replica;
        self.measures.offer(&self.services.services[service as usize]);
        let Some(port) = self.ports.take(draft.client, service) else {
            let state = &self.services.services[service as usize];
            self.measures.end(state, None, Outcome::Refused, at);
            self.wait_for_client(traffic, draft.client, at);
            return;
        };
        let has_handshake = kind.has_handshake();
        let pauses = if has_handshake { requests + 1 } else { (requests - 1).max(1) };
        let connection = Connection {
            traffic,
            kind,
            family: self.services.services[service as usize].family,
            service,
            client: draft.client,
            port,
            node: self.node_of(packets::client(draft.client), port, service),
            backend: None,
            translated: None,
            stage: if has_handshake { Stage::Open } else { Stage::Request },
            requests,
            rests: !has_handshake && requests == 1,
            gap: nanoseconds(draft.lifetime / f64::from(pauses)),
            bytes: draft.size / f64::from(requests),
            at,
        };
        let segment = connection.segment();
        let slot = self.connections.insert(connection);
        self.batch.push((segment, Origin::Connection(slot)));
    }

    /// A packet of a flood.
    pub(crate) fn add_stranger(&mut self, traffic: u32) {
        let source = &mut self.sources[traffic as usize];
        let bits = source.bits();
        let service = self.services.group(source.spec.service).start + source.replica();
        let (address, port) = (packets::stranger(bits), (bits >> 32) as u16 | 1024);
        let segment = Segment {
            protocol: Protocol::TCP,
            family: self.services.services[service as usize].family,
            source: address,
            port,
            service,
            backend: 0,
            answered_to: None,
            is_reply: false,
            is_first: true,
            flags: SYN,
            turn: Turn::Handshake,
            node: self.node_of(address, port, service),
        };
        self.batch.push((segment, Origin::Flood));
    }

    /// Notes how full the tables are now.
    pub(crate) fn note_tables(&mut self) -> TableUse {
        let tables = self.dataplane.table_use();
        self.peak = self.peak.max(tables);
        tables
    }

    pub(crate) fn wait_for_client(&mut self, traffic: u32, client: u32, now: u64) {
        if let Some(at) = self.sources[traffic as usize].next_of_client(now) {
            self.push(at, Step::Client(traffic, client));
        }
    }

    /// The node that routers choose for a flow; beyond all when none serves.
    pub(crate) fn node_of(&self, source: std::net::Ipv4Addr, port: u16, service: u32) -> u32 {
        let total = self.nodes.len() as u64;
        if total == 1 && self.nodes[0] {
            return 0;
        }
        let hash = node_hash(source, port, service);
        let alive = |number: &usize| self.nodes[*number];
        let first = (hash % total) as usize;
        if self.spec.ecmp == Ecmp::Resilient && self.nodes[first] {
            return first as u32;
        }
        let count = (0..self.nodes.len()).filter(alive).count() as u64;
        // A second hash: the flows of a lost node spread over all others.
        let hash = if self.spec.ecmp == Ecmp::Resilient { hash.rotate_left(32) } else { hash };
        let place = hash.checked_rem(count).map(|place| place as usize);
        let number = place.and_then(|place| (0..self.nodes.len()).filter(alive).nth(place));
        number.map_or(u32::MAX, |number| number as u32)
    }

    /// Sends the batch, and does what follows.
    pub(crate) fn flush(&mut self) {
        if self.batch.is_empty() {
            return;
        }
        self.now = self.now.max(self.batch_start);
        let batch = std::mem::take(&mut self.batch);
        let segments: Vec<Segment> = batch.iter().map(|&(segment, _)| segment).collect();
        let mut fates = std::mem::take(&mut self.fates);
        self.send(&segments, &mut fates);
        for (place, (&(_, origin), &fate)) in batch.iter().zip(&fates).enumerate() {
            if let Origin::Connection(slot) = origin {
                self.note_translation(slot, place, fate);
            }
            match origin {
                Origin::Connection(slot) => self.follow(slot, fate),
                Origin::Flood => {
                    self.flood.0 += 1;
                    self.flood.1 += u64::from(matches!(fate, Fate::To(_)));
                }
                Origin::Reset => {}
            }
        }
        self.fates = fates;
    }

    /// Notes the source with which the packet at this position of the last batch came to its
    /// backend.
    pub(crate) fn note_translation(&mut self, slot: u32, place: usize, fate: Fate) {
        if matches!(fate, Fate::To(_))
            && let Some(&port) = self.dataplane.source_ports().get(place)
            && let Some(connection) = self.connections.get_mut(slot)
        {
            connection.translated = Some((connection.node, port));
        }
    }

    /// The fates of packets that are sent now.
    pub(crate) fn send(&mut self, segments: &[Segment], fates: &mut Vec<Fate>) {
        fates.clear();
        self.packets += segments.len() as u64;
        self.dataplane.send(self.now, segments, &self.measures.loads, fates);
    }

    /// A connection's packet has met its fate.
    fn follow(&mut self, slot: u32, fate: Fate) {
        let Some(connection) = self.connections.get(slot) else { return };
        let is_one_way = connection.is_one_way();
        let serves = |backend: u32| is_one_way || self.services.backend(backend).is_alive;
        match (connection.backend, fate) {
            (None, Fate::To(backend)) => {
                let is_served = serves(backend);
                self.admit(slot, backend);
                if !is_served {
                    return self.end(slot, Outcome::Lost);
                }
            }
            (None, _) => return self.end(slot, Outcome::Refused),
            (Some(backend), Fate::To(target)) if backend == target && serves(backend) => {}
            (Some(_), Fate::Back) => {}
            (Some(_), Fate::To(target)) => {
                if !self.divert(slot, target) {
                    return self.end(slot, Outcome::Lost);
                }
            }
            (Some(_), Fate::Refused) => return self.end(slot, Outcome::Lost),
        }
        self.go_on(slot);
    }

    /// A connection alive got to a backend that is not its own, or is dead. True if it survives.
    pub(crate) fn divert(&mut self, slot: u32, target: u32) -> bool {
        let Some(connection) = self.connections.get_mut(slot) else { return false };
        let Some(backend) = connection.backend else { return false };
        let state = &self.services.services[connection.service as usize];
        if backend == target {
            return false;
        }
        let has_handshake = connection.kind.has_handshake();
        let survives =
            connection.is_one_way() || !has_handshake && self.services.backend(target).is_alive;
        self.measures.note_move(state, backend, survives.then_some(target), self.now);
        if survives {
            connection.backend = Some(target);
        } else if has_handshake {
            let is_sctp = connection.kind == TrafficKind::Sctp;
            // It knows no such connection, and says so.
            let reset = Segment {
                is_reply: true,
                backend: target,
                flags: if is_sctp { ABORT } else { RST | ACK },
                ..connection.keepalive()
            };
            if self.batch.is_empty() {
                self.batch_start = self.now;
            }
            self.batch.push((reset, Origin::Reset));
        }
        survives
    }

    fn admit(&mut self, slot: u32, backend: u32) {
        let Some(connection) = self.connections.get_mut(slot) else { return };
        connection.backend = Some(backend);
        let state = &self.services.services[connection.service as usize];
        self.measures.admit(state, backend, connection.at);
        let (service, client) = (connection.service, connection.client);
        self.measures.note_affinity(service, state, client, backend, connection.at);
    }

    /// Queues the next packet, or ends the connection after its last.
    fn go_on(&mut self, slot: u32) {
        let Some(connection) = self.connections.get_mut(slot) else { return };
        let Some(backend) = connection.backend else { return };
        let state = self.services.backend(backend);
        let load = f64::from(self.measures.loads[backend as usize]);
        let slowness = state.capacity.map_or(1.0, |capacity| (load / capacity).max(1.0));
        let latency = state.latency * slowness;
        let is_answer = connection.stage == Stage::Answer;
        if is_answer || connection.is_one_way() && state.is_alive {
            let service = &self.services.services[connection.service as usize];
            self.measures.answer(service, backend, connection.bytes);
        }
        if connection.advance(nanoseconds(latency)) {
            let at = connection.at;
            let serial = self.connections.serial(slot);
            self.push(at, Step::Packet(slot, serial));
        } else {
            self.end(slot, Outcome::Served);
        }
    }

    /// Ends a connection when its packet is due.
    pub(crate) fn end(&mut self, slot: u32, outcome: Outcome) {
        if let Some(connection) = self.connections.get(slot) {
            self.end_at(slot, outcome, connection.at);
        }
    }

    /// Ends a connection at `at` nanoseconds, which may be before its packet is due: its client
    /// notices then.
    pub(crate) fn end_at(&mut self, slot: u32, outcome: Outcome, at: u64) {
        let Some(connection) = self.connections.remove(slot) else { return };
        self.dataplane.close(&connection.keepalive());
        self.ports.give_back(&connection);
        let state = &self.services.services[connection.service as usize];
        self.measures.end(state, connection.backend, outcome, at);
        self.wait_for_client(connection.traffic, connection.client, connection.at);
    }

    /// The results; the cell has run to its end.
    #[must_use]
    pub fn finish(&self) -> CellResult {
        let mut open = vec![0; self.services.groups.len()];
        for (_, connection) in self.connections.iter() {
            open[self.services.services[connection.service as usize].group as usize] += 1;
        }
        let (services, backends) = self.measures.close(&open);
        let (tables, costs) = (self.dataplane.table_use(), self.dataplane.costs());
        let peak = self.peak.max(tables);
        let ports = self.dataplane.ports().map(|row| PortRow {
            ports_peak: peak.ports,
            pool_peak: peak.pool,
            ..row
        });
        let Costs { firsts, first_time, others, other_time, .. } = costs;
        let mean = |time: u64, packets: u64| (packets > 0).then(|| time as f64 / packets as f64);
        CellResult {
            services,
            backends,
            totals: Totals {
                packets: self.packets,
                flows_peak: peak.flows,
                memory_bytes: peak.bytes,
                balancer_bytes: self.balancer_peak,
                expired: tables.expired,
                evicted: tables.evicted,
                flood: self.flood.0,
                flood_admitted: self.flood.1,
                flood_refused: self.flood.0 - self.flood.1,
            },
            ports: ports.into_iter().collect(),
            cost: CostRow {
                packet_ns: mean(other_time, others),
                first_packet_ns: mean(first_time, firsts),
                cell_ns: self.time as f64 / self.packets.max(1) as f64,
            },
        }
    }
}

pub(crate) fn nanoseconds(seconds: f64) -> u64 {
    (seconds * SECOND) as u64
}

/// Packets of a batch at most, as a node's queue hands them out.
pub(crate) const BATCH: usize = 256;
/// Nanoseconds within which packets come together: a hundredth of the engine's tick.
pub(crate) const QUANTUM: u64 = 500_000;

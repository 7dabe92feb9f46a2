//! Nodes without full connection tracking: every packet is chosen for anew, or all but a few.
//!
//! JET (Mendelson, Vargaftik, Lorenz, Barabash, Keslassy and Orda, CoNEXT 2021) tracks a connection
//! only where the arrival of a backend could move it. The backends that may arrive are the horizon
//! H; the working ones are W. A connection is tracked exactly if the choice among W and H together
//! differs from that among W. With strategies that move nothing between backends that stay, no
//! arrival out of H breaks a connection then; departures break those of the leaver alone. The
//! expected share of tracked connections is |H| / (|W| + |H|).
//!
//! An entry leaves the table when its connection ends. One that no second packet has confirmed, as
//! those of a flood, leaves it after the engine's timeout for SYNs.

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasherDefault, DefaultHasher};

use kbe_nat_engine::ServicePort;
use kbe_nat_engine::balance::{Loads, Request, State, stable_hash_address, stable_hash_tuple};
use kbe_nat_engine::service::Scope;

use super::{Costs, Dataplane, Fate, ServiceState, TableUse, groups, thread_time};
use crate::cell::nanoseconds;
use crate::packets::Segment;
use crate::spec::{CellSpec, Memory};

/// Protocol, client and Service of a connection.
type Key = (u8, u32, u16, u32);

#[derive(Debug)]
struct Service {
    state: ServiceState,
    /// One for each node.
    memories: Vec<State>,
}

/// A tracked connection.
#[derive(Clone, Copy, Debug)]
struct Entry {
    backend: u32,
    /// When it is forgotten, in nanoseconds; the end of time once a second packet has come.
    until: u64,
}

/// The connections that a node tracks.
#[derive(Clone, Debug, Default)]
struct Table {
    /// With a fixed hash: its memory is the same for equal seeds.
    entries: HashMap<Key, Entry, BuildHasherDefault<DefaultHasher>>,
    /// Ends of entries in the order of their times, out of date for most.
    ends: VecDeque<(u64, Key)>,
    expired: u64,
}

impl Table {
    /// The backend of a known connection, which this packet confirms.
    fn confirm(&mut self, packet: &Segment) -> Option<u32> {
        let entry = self.entries.get_mut(&key(packet))?;
        if !packet.is_first {
            entry.until = u64::MAX;
        }
        Some(entry.backend)
    }

    fn track(&mut self, packet: &Segment, backend: u32, until: u64) {
        self.entries.insert(key(packet), Entry { backend, until });
        self.ends.push_back((until, key(packet)));
    }

    /// Memory of as many entries, in a map whose buckets are a power of two and full to 7/8 at
    /// most, with a byte of control each; and of the queue of ends.
    fn bytes(&self) -> u64 {
        let buckets = (self.entries.len() as u64 * 8).div_ceil(7).next_power_of_two();
        let entry = size_of::<(Key, Entry)>() as u64 + 1;
        let ends = self.ends.len() * size_of::<(u64, Key)>();
        if self.entries.is_empty() { ends as u64 } else { buckets * entry + ends as u64 }
    }

    fn expire(&mut self, now: u64) {
        while let Some(&(until, key)) = self.ends.front().filter(|&&(until, _)| until < now) {
            self.ends.pop_front();
            if self.entries.get(&key).is_some_and(|entry| entry.until == until) {
                self.entries.remove(&key);
                self.expired += 1;
            }
        }
    }
}

/// Nodes that choose by the flow's hash.
#[derive(Debug)]
pub(crate) struct Choosers {
    seed: u64,
    nodes: u32,
    services: HashMap<u32, Service>,
    /// Connections that are tracked, by node; `None` without any memory.
    tables: Option<Vec<Table>>,
    /// Nanoseconds until an entry without a second packet is forgotten.
    timeout: u64,
    costs: Costs,
}

impl Choosers {
    /// With or without the table of JET.
    pub(crate) fn new(spec: &CellSpec) -> Self {
        let tables = || vec![Table::default(); spec.nodes as usize];
        let seconds = spec.timeouts.get("tcp_syn_sent").copied().unwrap_or(SYN_TIMEOUT);
        Self {
            seed: spec.seed,
            nodes: spec.nodes,
            services: HashMap::new(),
            tables: (spec.memory == Memory::Jet).then(tables),
            timeout: nanoseconds(seconds),
            costs: Costs::default(),
        }
    }

    fn fate(&mut self, now: u64, packet: &Segment, loads: &[u32]) -> Fate {
        if packet.is_reply {
            // Without state there is nothing to find: the backend's answer names the Service.
            return Fate::Back;
        }
        let mut table = self.tables.as_mut().map(|tables| &mut tables[packet.node as usize]);
        if let Some(backend) = table.as_mut().and_then(|table| table.confirm(packet)) {
            return Fate::To(backend);
        }
        let Some(service) = self.services.get_mut(&packet.service) else { return Fate::Refused };
        let memory = &mut service.memories[packet.node as usize];
        let state = &service.state;
        let choice = pick(&state.port, &state.backends, packet, loads, memory);
        let Some(backend) = choice else { return Fate::Refused };
        if let (Some(table), Some((port, backends)), true) =
            (table, &state.horizon, packet.is_first)
            && pick(port, backends, packet, loads, memory) != choice
        {
            table.track(packet, backend, now.saturating_add(self.timeout));
        }
        Fate::To(backend)
    }
}

fn key(packet: &Segment) -> Key {
    (packet.protocol.0, u32::from(packet.source), packet.port, packet.service)
}

fn pick(
    port: &ServicePort,
    backends: &[u32],
    packet: &Segment,
    loads: &[u32],
    memory: &mut State,
) -> Option<u32> {
    let (from, to) = packet.ends();
    let request = Request {
        source: stable_hash_address(from.ip(), SEED),
        flow: stable_hash_tuple(packet.protocol.0, from, to, SEED),
        loads: Loads { records: backends, active: loads, ..Loads::default() },
    };
    let index = port.set(Scope::Cluster).balancer().pick(&request, memory)?;
    backends.get(index).copied()
}

/// The engine's: with it the same strategy chooses the same backends, whatever the memory.
const SEED: u64 = 0;
/// Seconds, as the engine's.
const SYN_TIMEOUT: f64 = 120.0;

impl Dataplane for Choosers {
    fn send(&mut self, now: u64, packets: &[Segment], loads: &[u32], fates: &mut Vec<Fate>) {
        let start = fates.len();
        fates.resize(start + packets.len(), Fate::Refused);
        for (_, is_first, group) in groups(packets, self.nodes) {
            let time = thread_time();
            for &place in &group {
                fates[start + place] = self.fate(now, &packets[place], loads);
            }
            self.costs.note(is_first, group.len(), thread_time() - time);
        }
    }

    fn update(&mut self, services: &[ServiceState]) -> Result<(), String> {
        for state in services {
            // Connections of backends that left are forgotten: they are chosen for anew.
            for table in self.tables.iter_mut().flatten() {
                table.entries.retain(|key, entry| {
                    key.3 != state.number || state.backends.contains(&entry.backend)
                });
            }
            let seed = self.seed;
            let memories = || vec![State::new(seed); self.nodes as usize];
            let service = self
                .services
                .entry(state.number)
                .or_insert_with(|| Service { state: state.clone(), memories: memories() });
            service.state = state.clone();
        }
        Ok(())
    }

    fn restart(&mut self, node: u32) {
        if let Some(tables) = &mut self.tables {
            tables[node as usize].entries.clear();
        }
    }

    fn close(&mut self, packet: &Segment) {
        // Routers may have sent it to other nodes in the course of its life.
        for table in self.tables.iter_mut().flatten() {
            table.entries.remove(&key(packet));
        }
    }

    fn expire(&mut self, now: u64) {
        for table in self.tables.iter_mut().flatten() {
            table.expire(now);
        }
    }

    fn table_use(&self) -> TableUse {
        let tables = self.tables.iter().flatten();
        tables.fold(TableUse::default(), |sum, table| TableUse {
            flows: sum.flows + table.entries.len() as u64,
            bytes: sum.bytes + table.bytes(),
            expired: sum.expired + table.expired,
            ..sum
        })
    }

    fn costs(&self) -> Costs {
        self.costs
    }
}

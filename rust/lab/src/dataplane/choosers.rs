//! Nodes without full connection tracking: every packet is chosen for anew, or all but a few.
//!
//! JET (Mendelson, Vargaftik, Lorenz, Barabash, Keslassy and Orda, CoNEXT 2021) tracks a connection
//! only where the arrival of a backend could move it. The backends that may arrive are the horizon
//! H; the working ones are W. A connection is tracked exactly if the choice among W and H together
//! differs from that among W. With strategies that move nothing between backends that stay, no
//! arrival out of H breaks a connection then; departures break those of the leaver alone. The
//! expected share of tracked connections is |H| / (|W| + |H|).

use std::collections::HashMap;

use kbe_nat_engine::ServicePort;
use kbe_nat_engine::balance::{Loads, Request, State, stable_hash_address, stable_hash_tuple};
use kbe_nat_engine::service::Scope;

use super::{Costs, Dataplane, Fate, ServiceState, TableUse, groups, thread_time};
use crate::packets::Segment;

/// Protocol, client and Service of a connection.
type Key = (u8, u32, u16, u32);

#[derive(Debug)]
struct Service {
    state: ServiceState,
    /// One for each node.
    memories: Vec<State>,
}

/// Nodes that choose by the flow's hash.
#[derive(Debug)]
pub(crate) struct Choosers {
    seed: u64,
    nodes: u32,
    services: HashMap<u32, Service>,
    /// Connections that are tracked, by node; `None` without any memory.
    tables: Option<Vec<HashMap<Key, u32>>>,
    costs: Costs,
}

impl Choosers {
    /// With or without the table of JET.
    pub(crate) fn new(nodes: u32, seed: u64, is_jet: bool) -> Self {
        let tables = is_jet.then(|| vec![HashMap::new(); nodes as usize]);
        Self { seed, nodes, services: HashMap::new(), tables, costs: Costs::default() }
    }

    fn fate(&mut self, packet: &Segment, loads: &[u32]) -> Fate {
        if packet.is_reply {
            // Without state there is nothing to find: the backend's answer names the Service.
            return Fate::Back;
        }
        let table = self.tables.as_mut().map(|tables| &mut tables[packet.node as usize]);
        if let Some(&backend) = table.as_ref().and_then(|table| table.get(&key(packet))) {
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
            table.insert(key(packet), backend);
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
        loads: Loads { records: backends, active: loads },
    };
    let index = port.set(Scope::Cluster).balancer().pick(&request, memory)?;
    backends.get(index).copied()
}

/// The engine's: with it the same strategy chooses the same backends, whatever the memory.
const SEED: u64 = 0;

impl Dataplane for Choosers {
    fn send(&mut self, _: u64, packets: &[Segment], loads: &[u32], fates: &mut Vec<Fate>) {
        let start = fates.len();
        fates.resize(start + packets.len(), Fate::Refused);
        for (_, is_first, group) in groups(packets, self.nodes) {
            let time = thread_time();
            for &place in &group {
                fates[start + place] = self.fate(&packets[place], loads);
            }
            self.costs.note(is_first, group.len(), thread_time() - time);
        }
    }

    fn update(&mut self, services: &[ServiceState]) -> Result<(), String> {
        for state in services {
            // Connections of backends that left are forgotten: they are chosen for anew.
            for table in self.tables.iter_mut().flatten() {
                table.retain(|key, backend| {
                    key.3 != state.number || state.backends.contains(backend)
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
            tables[node as usize].clear();
        }
    }

    fn close(&mut self, packet: &Segment) {
        if let Some(tables) = &mut self.tables {
            tables[packet.node as usize].remove(&key(packet));
        }
    }

    fn table_use(&self) -> TableUse {
        let flows = self.tables.iter().flatten().map(|table| table.len() as u64).sum();
        TableUse { flows, ..TableUse::default() }
    }

    fn costs(&self) -> Costs {
        self.costs
    }
}

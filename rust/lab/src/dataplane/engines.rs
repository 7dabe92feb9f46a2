//! Nodes with the engine: full connection tracking.

use std::sync::Arc;

use kbe_nat_engine::conntrack::ports::PortUse;
use kbe_nat_engine::conntrack::timeouts::Timeouts;
use kbe_nat_engine::{
    Action, Cause, Config, Engine, Meta, NodeView, Packet, ServicePort, ServiceTable, Verdict,
};

use super::{Costs, Dataplane, Fate, ServiceState, TableUse, groups, thread_time};
use crate::packets::{BUFFER, Segment, backend_of, source_port};
use crate::rows::PortRow;
use crate::source_nat::Observer;
use crate::spec::{CellSpec, LabError};

/// Engines of one seed, as the nodes of a cluster have: their consistent choices agree.
#[derive(Debug)]
pub(crate) struct Engines {
    /// By node: each has an address of its own for source NAT.
    configs: Vec<Config>,
    engines: Vec<Engine>,
    table: Arc<ServiceTable>,
    buffers: Vec<[u8; BUFFER]>,
    verdicts: Vec<Verdict>,
    costs: Costs,
    /// Of engines that were lost.
    former: TableUse,
    source_nat: Option<SourceNat>,
}

/// An observer of replaced sources, and the counters of lost engines.
#[derive(Debug)]
struct SourceNat {
    observer: Observer,
    /// By position in the last batch.
    ports: Vec<u16>,
    /// Of engines that were lost.
    former: PortUse,
    former_exhausted: u64,
}

/// Flows that an engine looks at for expiry after each batch, as in the loop of a node.
const EXPIRY_BUDGET: usize = 1024;

impl Engines {
    /// One engine for each node, with no Service yet.
    pub(crate) fn new(spec: &CellSpec, seed: u64) -> Result<Self, LabError> {
        let mut timeouts = Timeouts::default();
        for (name, &seconds) in &spec.timeouts {
            timeouts.set(name, seconds).map_err(|error| LabError::Cell(error.to_string()))?;
        }
        let limits = &spec.limits;
        let config = Config {
            seed,
            // Equal on all nodes: they share one table.
            secret: seed,
            max_flows: limits.max_flows as usize,
            max_unassured: limits.max_unassured.unwrap_or(limits.max_flows) as usize,
            max_flows_per_source: limits.max_flows_per_source,
            decisions: 0,
            timeouts,
            ..Config::default()
        };
        let configs: Vec<Config> = (0..spec.nodes)
            .map(|node| match &spec.source_nat {
                Some(source_nat) => source_nat.configure(config.clone(), node),
                None => Ok(config.clone()),
            })
            .collect::<Result<_, _>>()?;
        let engines: Vec<_> = configs.iter().cloned().map(Engine::new).collect();
        let table = engines.first().map(|engine| engine.services().clone());
        let table = table.ok_or_else(|| LabError::Cell("no node".to_owned()))?;
        Ok(Self {
            configs,
            engines,
            table,
            buffers: Vec::new(),
            verdicts: Vec::new(),
            costs: Costs::default(),
            former: TableUse::default(),
            source_nat: spec.source_nat.as_ref().map(|source_nat| SourceNat {
                observer: Observer::new(source_nat),
                ports: Vec::new(),
                former: PortUse::default(),
                former_exhausted: 0,
            }),
        })
    }
}

impl Dataplane for Engines {
    fn send(&mut self, now: u64, packets: &[Segment], _: &[u32], fates: &mut Vec<Fate>) {
        let start = fates.len();
        fates.resize(start + packets.len(), Fate::Refused);
        let fates = &mut fates[start..];
        if let Some(source_nat) = &mut self.source_nat {
            source_nat.ports.clear();
            source_nat.ports.resize(packets.len(), 0);
        }
        self.buffers.resize(packets.len().max(self.buffers.len()), [0; BUFFER]);
        for (node, is_first, group) in groups(packets, self.engines.len() as u32) {
            let engine = &mut self.engines[node as usize];
            let mut batch: Vec<Packet<'_>> = group
                .iter()
                .zip(&mut self.buffers)
                .map(|(&place, buffer)| {
                    let length = packets[place].write(buffer);
                    Packet { bytes: &mut buffer[..length], meta: Meta::default() }
                })
                .collect();
            self.verdicts.clear();
            let start = thread_time();
            engine.process_batch(now, &mut batch, &mut self.verdicts);
            self.costs.note(is_first, group.len(), thread_time() - start);
            for ((&place, verdict), packet) in group.iter().zip(&self.verdicts).zip(&batch) {
                fates[place] = match verdict.action {
                    Action::Translate if verdict.flags & Verdict::REPLY != 0 => Fate::Back,
                    Action::Translate => backend_of(packet.bytes).map_or(Fate::Refused, Fate::To),
                    _ => Fate::Refused,
                };
                if let (Some(source_nat), Fate::To(backend)) = (&mut self.source_nat, fates[place])
                    && let Some(port) = source_port(packet.bytes)
                {
                    source_nat.ports[place] = port;
                    if verdict.cause == Cause::New {
                        source_nat.observer.see(node, backend, port);
                    }
                }
            }
            engine.expire(now, EXPIRY_BUDGET);
        }
    }

    fn source_ports(&self) -> &[u16] {
        self.source_nat.as_ref().map_or(&[], |source_nat| &source_nat.ports)
    }

    fn ports(&self) -> Option<PortRow> {
        let source_nat = self.source_nat.as_ref()?;
        let uses = self.engines.iter().map(Engine::port_use);
        let sum = uses.fold(source_nat.former, add);
        let refusals: u64 = self.engines.iter().map(exhaustions).sum();
        let mut row = PortRow {
            allocations: sum.allocations,
            collisions: sum.collisions,
            probes: (sum.allocations > 0).then(|| sum.probes as f64 / sum.allocations as f64),
            exhausted: source_nat.former_exhausted + refusals,
            pool_size: self.engines.first()?.occupancy().leasable_ports as u64,
            log_lines: sum.log_lines,
            ..PortRow::default()
        };
        source_nat.observer.report(&mut row);
        Some(row)
    }

    fn update(&mut self, services: &[ServiceState]) -> Result<(), String> {
        let changed: Vec<Arc<ServicePort>> =
            services.iter().map(|service| service.port.clone()).collect();
        let masquerade_all = self.source_nat.is_some();
        let node = NodeView { masquerade_all, ..NodeView::default() };
        let table = self.table.with_changes(&changed, &[], Some(node));
        self.table = Arc::new(table.map_err(|error| error.to_string())?);
        for engine in &mut self.engines {
            drop(engine.replace_services(self.table.clone()));
        }
        Ok(())
    }

    fn restart(&mut self, node: u32) {
        let engine = &mut self.engines[node as usize];
        let last = engine.occupancy();
        self.former.expired += last.expired;
        self.former.evicted += last.evicted;
        if let Some(source_nat) = &mut self.source_nat {
            source_nat.former = add(source_nat.former, engine.port_use());
            source_nat.former_exhausted += exhaustions(engine);
        }
        *engine = Engine::new(self.configs[node as usize].clone());
        drop(engine.replace_services(self.table.clone()));
    }

    fn close(&mut self, _: &Segment) {}

    fn expire(&mut self, now: u64) {
        for engine in &mut self.engines {
            // Loops of nodes go on between packets; here a pass over all flows does it at once.
            engine.expire(now, usize::MAX);
        }
    }

    fn table_use(&self) -> TableUse {
        self.engines.iter().fold(self.former, |sum, engine| {
            let tables = engine.occupancy();
            TableUse {
                flows: sum.flows + tables.flows as u64,
                ports: sum.ports + tables.leased_ports as u64,
                pool: sum.pool.max(tables.most_leased_ports as u64),
                bytes: sum.bytes + engine.table_bytes() as u64,
                expired: sum.expired + tables.expired,
                evicted: sum.evicted + tables.evicted,
            }
        })
    }

    fn costs(&self) -> Costs {
        self.costs
    }
}

fn add(a: PortUse, b: PortUse) -> PortUse {
    PortUse {
        allocations: a.allocations + b.allocations,
        collisions: a.collisions + b.collisions,
        probes: a.probes + b.probes,
        log_lines: a.log_lines + b.log_lines,
    }
}

/// First packets that an engine refused for want of a port.
fn exhaustions(engine: &Engine) -> u64 {
    engine.causes().find(|&(cause, _)| cause == Cause::PortsExhausted).map_or(0, |(_, n)| n)
}

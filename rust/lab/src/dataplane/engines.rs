//! Nodes with the engine: full connection tracking.

use std::sync::Arc;

use kbe_nat_engine::conntrack::timeouts::Timeouts;
use kbe_nat_engine::{
    Action, Config, Engine, Meta, NodeView, Packet, ServicePort, ServiceTable, Verdict,
};

use super::{Costs, Dataplane, Fate, ServiceState, TableUse, groups, thread_time};
use crate::packets::{BUFFER, Segment, backend_of};
use crate::spec::{CellSpec, LabError};

/// Engines of one seed, as the nodes of a cluster have: their consistent choices agree.
#[derive(Debug)]
pub(crate) struct Engines {
    config: Config,
    engines: Vec<Engine>,
    table: Arc<ServiceTable>,
    buffers: Vec<[u8; BUFFER]>,
    verdicts: Vec<Verdict>,
    costs: Costs,
    /// Of engines that were lost.
    former: TableUse,
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
        let engines: Vec<_> = (0..spec.nodes).map(|_| Engine::new(config.clone())).collect();
        let table = engines.first().map(|engine| engine.services().clone());
        let table = table.ok_or_else(|| LabError::Cell("no node".to_owned()))?;
        Ok(Self {
            config,
            engines,
            table,
            buffers: Vec::new(),
            verdicts: Vec::new(),
            costs: Costs::default(),
            former: TableUse::default(),
        })
    }
}

impl Dataplane for Engines {
    fn send(&mut self, now: u64, packets: &[Segment], _: &[u32], fates: &mut Vec<Fate>) {
        let start = fates.len();
        fates.resize(start + packets.len(), Fate::Refused);
        let fates = &mut fates[start..];
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
            }
            engine.expire(now, EXPIRY_BUDGET);
        }
    }

    fn update(&mut self, services: &[ServiceState]) -> Result<(), String> {
        let changed: Vec<Arc<ServicePort>> =
            services.iter().map(|service| service.port.clone()).collect();
        let table = self.table.with_changes(&changed, &[], Some(NodeView::default()));
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
        *engine = Engine::new(self.config.clone());
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

//! Running a cell: a queue of steps in time, and batches of packets between them.
//!
//! Steps that are due within a [`QUANTUM`] form a batch, which goes through the nodes together, as
//! a node's loop takes packets from its queue. No connection has two packets in one batch, because
//! its next packet is queued only when the fate of the last one is known. Ends of seconds and
//! events are barriers: the batch before them is sent first.
//!
//! Determinism: the queue is ordered by time and then by the order of entry; nothing iterates over
//! a map; the only clock that is read measures costs, which change nothing.
//!
//! After an event every established connection sends a packet at once. So its damage is counted in
//! full and at this event, whenever the connection would have talked next.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;

use crate::balancers::Foreign;
use crate::cell::{BATCH, Cell, Origin, QUANTUM, Step, nanoseconds};
use crate::connections::{Connections, Ports, Stage};
use crate::dataplane::{Choosers, Dataplane, Engines, TableUse, thread_time};
use crate::measures::{Measures, Outcome};
use crate::packets;
use crate::rows::{Progress, TableRow};
use crate::services::Services;
use crate::spec::{Arrivals, CellSpec, LabError, Memory, TrafficKind};
use crate::traffic::{SECOND, Source};

impl Cell {
    /// A cell at its start.
    ///
    /// # Errors
    /// [`LabError`] for a description that does not fit.
    pub fn new(spec: CellSpec, foreign: Option<Arc<dyn Foreign>>) -> Result<Self, LabError> {
        let services = Services::new(&spec, foreign.as_deref())?;
        let dataplane: Box<dyn Dataplane> = match spec.memory {
            Memory::Conntrack => Box::new(Engines::new(&spec, spec.seed)?),
            Memory::None | Memory::Jet => Box::new(Choosers::new(&spec)),
        };
        let clients = spec.traffic.iter().map(|traffic| traffic.clients.count).max().unwrap_or(0);
        if clients > packets::MAX_CLIENTS {
            return Err(LabError::Cell(format!("more than {} clients", packets::MAX_CLIENTS)));
        }
        let sources = spec.traffic.iter().zip(0..).map(|(traffic, part)| {
            let (_, replicas) = services.groups[traffic.service as usize];
            Source::new(traffic, part, spec.seed, replicas)
        });
        let mut cell = Self {
            measures: Measures::new(&services),
            sources: sources.collect(),
            ports: Ports::new(spec.seed, clients),
            nodes: vec![true; spec.nodes as usize],
            dataplane,
            services,
            foreign,
            connections: Connections::default(),
            progress: Progress::default(),
            peak: TableUse::default(),
            balancer_peak: Some(0),
            queue: BinaryHeap::new(),
            steps: 0,
            now: 0,
            batch: Vec::new(),
            batch_start: 0,
            fates: Vec::new(),
            packets: 0,
            flood: (0, 0),
            time: 0,
            spec,
        };
        let all: Vec<u32> = (0..cell.services.services.len() as u32).collect();
        cell.put_in_force(0.0, "start", &all)?;
        cell.plan();
        Ok(cell)
    }

    /// Queues the first steps.
    fn plan(&mut self) {
        // Events first: they come before arrivals of the same moment.
        let times: Vec<u64> = self.spec.events.iter().map(|e| nanoseconds(e.at)).collect();
        for (at, number) in times.into_iter().zip(0..) {
            self.push(at, Step::Event(number));
        }
        self.push_second(0);
        for number in 0..self.sources.len() as u32 {
            let source = &mut self.sources[number as usize];
            if matches!(source.spec.arrivals, Arrivals::Closed(_)) {
                for client in 0..source.spec.clients.count {
                    self.wait_for_client(number, client, 0);
                }
            } else if let Some(at) = source.next_arrival() {
                self.push(at, Step::Arrival(number));
            }
        }
    }

    /// Queues the end of the second after `at`; the last one of a run may be shorter.
    fn push_second(&mut self, at: u64) {
        let next = (at + nanoseconds(1.0)).min(nanoseconds(self.spec.duration));
        if next > at {
            self.push(next, Step::Second);
        } else {
            // The run ends with its last second: what is due at this very moment is behind both.
            self.queue.clear();
        }
    }

    /// Runs until `until` seconds, or the cell's end, and returns what has happened since the last
    /// call.
    ///
    /// # Errors
    /// [`LabError`] for a change that cannot be: a strategy may refuse a list of backends.
    pub fn advance(&mut self, until: f64) -> Result<Progress, LabError> {
        let start = thread_time();
        let end = nanoseconds(until.min(self.spec.duration));
        while let Some(&Reverse((at, _, step))) = self.queue.peek() {
            let is_barrier = matches!(step, Step::Second | Step::Event(_));
            let is_full = self.batch.len() >= BATCH || at > self.batch_start + QUANTUM;
            if !self.batch.is_empty() && (is_barrier || is_full || at > end) {
                self.flush();
                continue;
            }
            if at > end {
                break;
            }
            self.queue.pop();
            self.take(at, step)?;
        }
        self.flush();
        self.now = self.now.max(end);
        self.time += thread_time() - start;
        Ok(std::mem::take(&mut self.progress))
    }

    fn take(&mut self, at: u64, step: Step) -> Result<(), LabError> {
        if self.batch.is_empty() {
            self.batch_start = at;
        }
        match step {
            Step::Arrival(number) => {
                let source = &mut self.sources[number as usize];
                if source.spec.kind == TrafficKind::SynFlood {
                    self.add_stranger(number);
                } else {
                    self.begin(number, None, at);
                }
                if let Some(at) = self.sources[number as usize].next_arrival() {
                    self.push(at, Step::Arrival(number));
                }
            }
            Step::Client(number, client) => self.begin(number, Some(client), at),
            Step::Packet(slot, serial) => {
                let connection = self.connections.get(slot);
                match connection.filter(|_| self.connections.serial(slot) == serial) {
                    Some(connection) if connection.stage == Stage::Rest => {
                        self.end(slot, Outcome::Served);
                    }
                    Some(connection) => {
                        self.batch.push((connection.segment(), Origin::Connection(slot)));
                    }
                    None => {}
                }
            }
            Step::Second => {
                self.now = self.now.max(at);
                let time = at as f64 / SECOND;
                self.dataplane.expire(at);
                let rows = self.measures.end_second(&self.services, at);
                self.progress.seconds.extend(rows);
                let tables = self.note_tables();
                self.progress.tables.push(TableRow {
                    time,
                    flows: tables.flows,
                    expired: tables.expired,
                    evicted: tables.evicted,
                });
                self.push_second(at);
            }
            Step::Event(number) => {
                self.now = self.now.max(at);
                self.change(number)?;
            }
        }
        Ok(())
    }
}

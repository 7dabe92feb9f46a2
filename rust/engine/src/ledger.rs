//! The engine's books: what is live of each service port and backend, and what they have carried.
//!
//! A service port and its backends keep their number while they are in the tables or a flow uses them, so flows, affinity and
//! counters stay when a table is replaced or a strategy changed.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;

use crate::balance::{Loads, State};
use crate::hash::HashKey;
use crate::rng::{Rng, mix64};
use crate::service::{Scope, ServicePort, ServiceTable};
use crate::verdict::Cause;

/// Flows, packets and bytes; the latter by direction.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Traffic {
    /// Flows that were opened.
    pub flows: u64,
    /// Packets to the backend and back.
    pub packets: [u64; 2],
    /// Bytes of IP packets to the backend and back.
    pub bytes: [u64; 2],
}

impl Traffic {
    /// Adds packets and bytes of a flow. A restored flow may claim any number of them.
    pub(crate) fn carry(&mut self, packets: [u64; 2], bytes: [u64; 2]) {
        for direction in 0..2 {
            self.packets[direction] = self.packets[direction].saturating_add(packets[direction]);
            self.bytes[direction] = self.bytes[direction].saturating_add(bytes[direction]);
        }
    }

    pub(crate) fn add(&mut self, other: &Self) {
        self.flows += other.flows;
        self.carry(other.packets, other.bytes);
    }
}

/// One backend of one service port.
#[derive(Debug)]
pub(crate) struct BackendRecord {
    pub(crate) address: SocketAddr,
    /// Number of its service port.
    pub(crate) service: u32,
    /// Distinguishes it from those that had this record before.
    pub(crate) birth: u32,
    pub(crate) active: u32,
    pub(crate) is_gone: bool,
    /// Of flows that have ended; `flows` counts the live ones too.
    pub(crate) ended: Traffic,
}

/// One service port.
#[derive(Debug)]
pub(crate) struct ServiceRecord {
    /// As it was in the newest table that had it.
    pub(crate) service: Arc<ServicePort>,
    /// The balancers' memories, by scope.
    pub(crate) states: [State; 2],
    /// Backend records in the order of the service port's two lists; empty while it is in no table.
    pub(crate) backends: [Vec<u32>; 2],
    /// Backends that are in neither list any more, but still have flows.
    pub(crate) gone: Vec<u32>,
    /// What backends that are no more have carried.
    pub(crate) past: Traffic,
    pub(crate) refused: Vec<(Cause, u64)>,
    /// The adoption that last found it in the table.
    generation: u32,
    is_served: bool,
}

impl ServiceRecord {
    /// All its backends, each once.
    pub(crate) fn all_backends(&self) -> impl Iterator<Item = u32> {
        let only_local = self.backends[1].iter().filter(|id| !self.backends[0].contains(id));
        self.backends[0].iter().chain(only_local).chain(&self.gone).copied()
    }
}

/// See the module documentation.
#[derive(Debug)]
pub(crate) struct Ledger {
    seed: u64,
    services: Vec<Option<ServiceRecord>>,
    /// By family: a Service of both has its name twice.
    numbers: [HashMap<Box<str>, u32, HashKey>; 2],
    backends: Vec<BackendRecord>,
    free_services: Vec<u32>,
    free_backends: Vec<u32>,
    births: u32,
    /// Service number by position in the table.
    positions: Vec<u32>,
    generation: u32,
}

impl Ledger {
    pub(crate) fn new(seed: u64, key: HashKey) -> Self {
        Self {
            seed,
            services: Vec::new(),
            numbers: [HashMap::with_hasher(key), HashMap::with_hasher(key)],
            backends: Vec::new(),
            free_services: Vec::new(),
            free_backends: Vec::new(),
            births: 0,
            positions: Vec::new(),
            generation: 0,
        }
    }

    /// Takes a new table over. Cost: a name look-up per service port; more only for those that changed.
    pub(crate) fn adopt(&mut self, table: &ServiceTable) {
        self.generation = self.generation.wrapping_add(1);
        self.positions.clear();
        for service in table.services() {
            let number = match self.find(service.name(), service.is_ipv4()) {
                Some(number) => number,
                None => self.open_service(service),
            };
            self.positions.push(number);
            let Some(record) = &mut self.services[number as usize] else { continue };
            record.generation = self.generation;
            if !record.is_served || !Arc::ptr_eq(&record.service, service) {
                record.service = service.clone();
                record.is_served = true;
                self.list_backends(number, service);
            }
        }
        for number in 0..self.services.len() as u32 {
            if let Some(record) = &mut self.services[number as usize]
                && record.is_served
                && record.generation != self.generation
            {
                record.is_served = false;
                let former = std::mem::take(&mut record.backends);
                self.retire(number, former.into_iter().flatten().collect());
                self.close_if_unused(number);
            }
        }
    }

    /// The number of the service port at this position of the table.
    pub(crate) fn number(&self, position: u32) -> u32 {
        self.positions[position as usize]
    }

    pub(crate) fn service(&self, number: u32) -> Option<&ServiceRecord> {
        self.services.get(number as usize)?.as_ref()
    }

    pub(crate) fn service_mut(&mut self, number: u32) -> Option<&mut ServiceRecord> {
        self.services.get_mut(number as usize)?.as_mut()
    }

    /// A service port's memory to write to, beside the backends' records.
    pub(crate) fn choosing(&mut self, number: u32) -> Option<(&mut ServiceRecord, &[BackendRecord])> {
        Some((self.services.get_mut(number as usize)?.as_mut()?, &self.backends))
    }

    pub(crate) fn backend(&self, id: u32) -> &BackendRecord {
        &self.backends[id as usize]
    }

    pub(crate) fn backends(&self) -> &[BackendRecord] {
        &self.backends
    }

    pub(crate) fn services(&self) -> impl Iterator<Item = (u32, &ServiceRecord)> {
        (0..).zip(&self.services).filter_map(|(number, record)| Some((number, record.as_ref()?)))
    }

    /// The number of a service port by its name and family.
    pub(crate) fn find(&self, name: &str, is_ipv4: bool) -> Option<u32> {
        self.numbers[usize::from(is_ipv4)].get(name).copied()
    }

    pub(crate) fn open_flow(&mut self, backend: u32) {
        let record = &mut self.backends[backend as usize];
        record.active += 1;
        record.ended.flows += 1;
    }

    pub(crate) fn close_flow(&mut self, backend: u32, packets: [u64; 2], bytes: [u64; 2]) {
        let record = &mut self.backends[backend as usize];
        record.active -= 1;
        record.ended.carry(packets, bytes);
        let service = record.service;
        if record.is_gone && record.active == 0 {
            self.forget_backend(backend);
            self.close_if_unused(service);
        }
    }

    pub(crate) fn refuse(&mut self, number: u32, cause: Cause) {
        if let Some(record) = self.service_mut(number) {
            match record.refused.iter_mut().find(|(known, _)| *known == cause) {
                Some((_, count)) => *count += 1,
                None => record.refused.push((cause, 1)),
            }
        }
    }

    /// The record of a service port's backend for a flow that is restored; one that the tables do not have is gone.
    pub(crate) fn backend_for(&mut self, number: u32, address: SocketAddr) -> u32 {
        let known = self.service(number).and_then(|record| {
            record.all_backends().find(|&id| self.backends[id as usize].address == address)
        });
        known.unwrap_or_else(|| {
            let id = self.open_backend(number, address);
            self.backends[id as usize].is_gone = true;
            if let Some(record) = self.service_mut(number) {
                record.gone.push(id);
            }
            id
        })
    }

    fn open_service(&mut self, service: &Arc<ServicePort>) -> u32 {
        let number = self.free_services.pop().unwrap_or(self.services.len() as u32);
        // A service port's random sequence depends on its name and the seed alone, not on what others do.
        let name = service.name().bytes().fold(self.seed, |hash, byte| mix64(hash ^ u64::from(byte)));
        let state = |scope: Scope| State { rng: Rng::new(mix64(name ^ scope as u64)), ..State::new(name) };
        let record = ServiceRecord {
            service: service.clone(),
            states: [state(Scope::Cluster), state(Scope::Local)],
            backends: Default::default(),
            gone: Vec::new(),
            past: Traffic::default(),
            refused: Vec::new(),
            generation: self.generation,
            is_served: false,
        };
        if number as usize == self.services.len() {
            self.services.push(Some(record));
        } else {
            self.services[number as usize] = Some(record);
        }
        self.numbers[usize::from(service.is_ipv4())].insert(service.name().into(), number);
        number
    }

    /// Gives every backend of the service port's newest form its record, and retires the records of the others.
    fn list_backends(&mut self, number: u32, service: &ServicePort) {
        let Some(record) = self.service_mut(number) else { return };
        let former = std::mem::take(&mut record.backends);
        let mut known: HashMap<SocketAddr, (u32, bool)> =
            former.iter().flatten().map(|&id| (self.backends[id as usize].address, (id, false))).collect();
        let lists = [Scope::Cluster, Scope::Local].map(|scope| {
            let listed = service.set(scope).backends().iter().map(|backend| {
                let (id, is_kept) = known
                    .entry(backend.address)
                    .or_insert_with(|| (self.open_backend(number, backend.address), true));
                *is_kept = true;
                *id
            });
            listed.collect()
        });
        if let Some(record) = self.service_mut(number) {
            record.backends = lists;
        }
        self.retire(number, known.into_values().filter(|&(_, is_kept)| !is_kept).map(|(id, _)| id).collect());
    }

    /// Forgets backends that are in neither list any more, at once or when their last flow ends.
    fn retire(&mut self, number: u32, mut ids: Vec<u32>) {
        ids.sort_unstable();
        ids.dedup();
        for id in ids {
            self.backends[id as usize].is_gone = true;
            if self.backends[id as usize].active == 0 {
                self.forget_backend(id);
            } else if let Some(record) = self.service_mut(number) {
                record.gone.push(id);
            }
        }
    }

    fn open_backend(&mut self, service: u32, address: SocketAddr) -> u32 {
        self.births = self.births.wrapping_add(1);
        let record = BackendRecord {
            address,
            service,
            birth: self.births,
            active: 0,
            is_gone: false,
            ended: Traffic::default(),
        };
        match self.free_backends.pop() {
            Some(id) => {
                self.backends[id as usize] = record;
                id
            }
            None => {
                self.backends.push(record);
                self.backends.len() as u32 - 1
            }
        }
    }

    fn forget_backend(&mut self, id: u32) {
        let record = &self.backends[id as usize];
        let (service, ended) = (record.service, record.ended);
        if let Some(record) = self.service_mut(service) {
            record.past.add(&ended);
            record.gone.retain(|&known| known != id);
        }
        self.free_backends.push(id);
    }

    /// Forgets a service port that is in no table and has no flow left.
    fn close_if_unused(&mut self, number: u32) {
        if let Some(record) = &self.services[number as usize]
            && !record.is_served
            && record.gone.is_empty()
        {
            self.numbers[usize::from(record.service.is_ipv4())].remove(record.service.name());
            self.services[number as usize] = None;
            self.free_services.push(number);
        }
    }
}

/// The live flows of the backends of one list.
pub(crate) struct ListLoads<'a> {
    pub(crate) ids: &'a [u32],
    pub(crate) records: &'a [BackendRecord],
}

impl Loads for ListLoads<'_> {
    fn active(&self, index: usize) -> u32 {
        self.records[self.ids[index] as usize].active
    }
}

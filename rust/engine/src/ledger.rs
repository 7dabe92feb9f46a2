//! The engine's books: flows, loads and counters of each service port and backend.
//!
//! Theory of operation. Tables come and go; flows, affinity and counters must outlive them. So the
//! books give each service port and each of its backends a number of their own, and flows refer to
//! these alone:
//!
//! - A service port is known by name and family. It keeps its number while a table has it or a flow
//!   uses it; when both end, its record is closed and the number is given out again.
//! - A backend is known by its address within its service port. A service port that comes back with
//!   another list finds the records, and so the flows and loads, of the backends that it had.
//! - `numbers_by_slot` leads from a table's slots to numbers, so a first packet needs no look-up by
//!   name. It is right for the table in force and none other: [`Ledger::adopt`] takes the table
//!   over under the same lock under which packets are processed.
//! - [`Ledger::adopt`] compares two tables and touches the service ports that differ. Service ports
//!   are entered before those that left are withdrawn, since a service port may move to another
//!   slot; `generation` tells both apart.
//! - A record never holds the last reference to a large service port: the table before still has
//!   it, and is dropped where no packet waits. A withdrawn one keeps its name alone.
//! - `unruled` spares first packets the second look (`filtering`). It names the adoption for which
//!   it holds, so a new table or a new view of the node ends it without a pass over the records.
//! - `birth` distinguishes a backend from those that had its record before. It changes as well when
//!   a backend comes back into the lists: clients do not stick to one that was away.
//! - The flight recorder has numbers of service ports too. Numbers and lists may mean something
//!   else later, so the recorder gets each service port as it was before it changes.

mod record;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;

use crate::balance::{HalfLife, Latency, Loads, State, Strategy};
use crate::clock::Tick;
use crate::connects::ConnectTimes;
use crate::conntrack::state as flow;
use crate::hash::HashKey;
use crate::recorder::Recorder;
use crate::rng::{Rng, mix64};
use crate::service::{Scope, ServicePort, ServiceTable};
use crate::tuple::Family;
use crate::verdict::Cause;
pub use record::Traffic;
pub(crate) use record::{BackendRecord, ServiceRecord, Standing};

/// See the module documentation.
#[derive(Debug)]
pub(crate) struct Ledger {
    seed: u64,
    key: HashKey,
    services: Vec<Option<ServiceRecord>>,
    /// By family: a Service of both has its name twice.
    numbers: [HashMap<Box<str>, u32, HashKey>; 2],
    backends: Vec<BackendRecord>,
    /// Live flows by backend record, in which the backend has work and has none
    /// ([`flow::State::is_inactive`]): apart, so that a balancer that compares them reads no more.
    active: Vec<u32>,
    inactive: Vec<u32>,
    /// Connect times by backend record, for the strategy that goes by them: no longer than the last
    /// record that has any.
    latencies: Vec<Latency>,
    free_services: Vec<u32>,
    free_backends: Vec<u32>,
    births: u32,
    /// Service number by slot of the table.
    numbers_by_slot: Vec<u32>,
    generation: u32,
    /// Decisions that refer to service ports.
    pub(crate) recorder: Recorder,
}

impl Ledger {
    /// An empty ledger, that remembers so many decisions.
    pub(crate) fn new(seed: u64, key: HashKey, decisions: usize) -> Self {
        Self {
            seed,
            key,
            services: Vec::new(),
            numbers: [HashMap::with_hasher(key), HashMap::with_hasher(key)],
            backends: Vec::new(),
            active: Vec::new(),
            inactive: Vec::new(),
            latencies: Vec::new(),
            free_services: Vec::new(),
            free_backends: Vec::new(),
            births: 0,
            numbers_by_slot: Vec::new(),
            generation: 0,
            recorder: Recorder::new(decisions, key),
        }
    }

    /// Takes over a table, in the place of `former`. Cost: only for differences; for each
    /// service port that differs a name look-up, and one look-up per backend.
    pub(crate) fn adopt(&mut self, former: &ServiceTable, table: &ServiceTable) {
        self.generation = self.generation.wrapping_add(1);
        self.recorder.begin_generation(self.generation);
        let changed = table.slots_changed_since(former);
        for &slot in &changed {
            if let Some(service) = table.in_slot(slot) {
                self.serve(slot, service);
            }
        }
        // Only now: a service port may have moved to another slot.
        for service in changed.iter().filter_map(|&slot| former.in_slot(slot)) {
            if let Some(number) = self.find(service.name(), service.family()) {
                self.withdraw(number);
            }
        }
    }

    /// Brings the record of a service port up to date, and opens one where there is none.
    fn serve(&mut self, slot: u32, service: &Arc<ServicePort>) {
        let number = match self.find(service.name(), service.family()) {
            Some(number) => number,
            None => self.open_service(service),
        };
        // Slots are the table's and may be another service port's with the next table; numbers are
        // the ledger's and stay with the name.
        let slot = slot as usize;
        if slot >= self.numbers_by_slot.len() {
            self.numbers_by_slot.resize(slot + 1, 0);
        }
        self.numbers_by_slot[slot] = number;
        if self.service(number).is_some_and(|record| !Arc::ptr_eq(&record.service, service)) {
            self.supersede(number);
        }
        let Some(record) = &mut self.services[number as usize] else { return };
        record.generation = self.generation;
        if !record.is_served || !Arc::ptr_eq(&record.service, service) {
            record.service = service.clone();
            record.is_served = true;
            self.list_backends(number, service);
        }
    }

    /// Notes that a service port which was served is in the table no more, unless it was found
    /// there.
    fn withdraw(&mut self, number: u32) {
        let Some(record) = &mut self.services[number as usize] else { return };
        // A service port that `serve` met in this table has only moved to another slot.
        if !record.is_served || record.generation == self.generation {
            return;
        }
        self.supersede(number);
        let Some(record) = &mut self.services[number as usize] else { return };
        record.is_served = false;
        record.backends = Default::default();
        // The former table has the rest, which can be large, and is dropped where time does not
        // matter; the last flow of this record ends in a packet's path.
        record.service = Arc::new(record.service.without_backends());
        self.retire(number, |_| Standing::Gone);
        self.close_if_unused(number);
    }

    /// Hands a service port that is about to change to the flight recorder, if any decision was
    /// made by it. Cost: its backends; decisions themselves note nothing here.
    fn supersede(&mut self, number: u32) {
        let Some(record) = &mut self.services[number as usize] else { return };
        // A flow is counted where it is served, a refusal where it is refused.
        let served = record.ids.values().map(|&id| self.backends[id as usize].ended.flows);
        let refused = record.refused.iter().map(|&(_, count)| count);
        let decisions = record.past.flows + served.sum::<u64>() + refused.sum::<u64>();
        if record.decisions != decisions {
            record.decisions = decisions;
            self.recorder.supersede(number, &record.service);
        }
    }

    /// The number of the service port in this slot of the table.
    #[inline]
    pub(crate) fn number(&self, slot: u32) -> u32 {
        self.numbers_by_slot[slot as usize]
    }

    pub(crate) fn service(&self, number: u32) -> Option<&ServiceRecord> {
        self.services.get(number as usize)?.as_ref()
    }

    pub(crate) fn service_mut(&mut self, number: u32) -> Option<&mut ServiceRecord> {
        self.services.get_mut(number as usize)?.as_mut()
    }

    /// A service port's memory to write to, beside the backends' records, and their loads at `now`
    /// but for the list that these are of.
    #[inline]
    pub(crate) fn choosing(
        &mut self,
        number: u32,
        now: Tick,
    ) -> Option<(&mut ServiceRecord, &[BackendRecord], Loads<'_>)> {
        let record = self.services.get_mut(number as usize)?.as_mut()?;
        let (active, inactive, latencies) = (&*self.active, &*self.inactive, &*self.latencies);
        Some((record, &self.backends, Loads { records: &[], active, inactive, latencies, now }))
    }

    /// Live flows of a backend.
    pub(crate) fn flows(&self, id: u32) -> u32 {
        self.active[id as usize] + self.inactive[id as usize]
    }

    /// Of these, the ones in which it has no work.
    pub(crate) fn inactive(&self, id: u32) -> u32 {
        self.inactive[id as usize]
    }

    /// Those in which it has work, or those in which it has none.
    #[inline(always)]
    fn load(&mut self, id: u32, state: flow::State) -> &mut u32 {
        let loads = if state.is_inactive() { &mut self.inactive } else { &mut self.active };
        &mut loads[id as usize]
    }

    pub(crate) fn backend(&self, id: u32) -> &BackendRecord {
        &self.backends[id as usize]
    }

    /// Whether no rule of the table in force is about packets to this backend, by what
    /// [`Ledger::note_unruled`] was told. The answer is the same for all of its flows, and tables
    /// change seldom: one comparison stands in for the look-ups that tell.
    #[inline]
    pub(crate) fn is_unruled(&self, id: u32) -> bool {
        self.backends[id as usize].unruled == Some(self.generation)
    }

    /// Remembers what was found out about the table in force.
    pub(crate) fn note_unruled(&mut self, id: u32) {
        self.backends[id as usize].unruled = Some(self.generation);
    }

    pub(crate) fn backends(&self) -> &[BackendRecord] {
        &self.backends
    }

    pub(crate) fn services(&self) -> impl Iterator<Item = (u32, &ServiceRecord)> {
        self.services_from(0)
    }

    /// The service ports whose numbers are `first` and more.
    pub(crate) fn services_from(&self, first: u32) -> impl Iterator<Item = (u32, &ServiceRecord)> {
        (first..)
            .zip(self.services.get(first as usize..).unwrap_or_default())
            .filter_map(|(number, record)| Some((number, record.as_ref()?)))
    }

    /// The number of a service port by its name and family.
    pub(crate) fn find(&self, name: &str, family: Family) -> Option<u32> {
        self.numbers[family as usize].get(name).copied()
    }

    /// Counts a flow to this backend that begins in `state`, and returns its service port's number.
    #[inline(always)]
    pub(crate) fn open_flow(&mut self, backend: u32, state: flow::State) -> u32 {
        *self.load(backend, state) += 1;
        let record = &mut self.backends[backend as usize];
        record.ended.flows += 1;
        record.service
    }

    /// Leaves a flow of this backend out of its loads, for a look at what follows its end.
    /// [`Ledger::count_again`] undoes it.
    pub(crate) fn leave_out(&mut self, backend: u32, state: flow::State) {
        *self.load(backend, state) -= 1;
    }

    /// Takes a flow into its backend's loads that was left out of them.
    pub(crate) fn count_again(&mut self, backend: u32, state: flow::State) {
        *self.load(backend, state) += 1;
    }

    /// Moves a flow of this backend from one state to another.
    #[inline]
    pub(crate) fn move_flow(&mut self, backend: u32, from: flow::State, to: flow::State) {
        if from.is_inactive() != to.is_inactive() {
            *self.load(backend, from) -= 1;
            *self.load(backend, to) += 1;
        }
    }

    /// Ends a flow of this backend that is in `state`.
    pub(crate) fn close_flow(
        &mut self,
        backend: u32,
        state: flow::State,
        packets: [u64; 2],
        bytes: [u64; 2],
    ) {
        *self.load(backend, state) -= 1;
        let record = &mut self.backends[backend as usize];
        record.ended.carry(packets, bytes);
        let service = record.service;
        if record.standing != Standing::Listed && self.flows(backend) == 0 {
            self.forget_backend(backend);
            self.close_if_unused(service);
        }
    }

    /// Counts that a backend has answered a client's SYN after so many nanoseconds; `None`: the
    /// clock has jumped meanwhile.
    pub(crate) fn note_connect(&mut self, backend: u32, now: Tick, nanoseconds: Option<u64>) {
        let Some(nanoseconds) = nanoseconds else { return };
        let record = &mut self.backends[backend as usize];
        record.connects.get_or_insert_default().note(nanoseconds);
        let service = record.service;
        let strategy = self.service(service).map(|record| record.service.spec().strategy);
        if let Some(Strategy::PeakEwma { decay }) = strategy {
            let backend = backend as usize;
            if backend >= self.latencies.len() {
                self.latencies.resize(backend + 1, Latency::default());
            }
            let latency = &mut self.latencies[backend];
            *latency = latency.note(nanoseconds, now, HalfLife::of(decay));
        }
    }

    pub(crate) fn refuse(&mut self, number: u32, cause: Cause) {
        if let Some(record) = self.service_mut(number) {
            match record.refused.iter_mut().find(|(counted, _)| *counted == cause) {
                Some((_, count)) => *count += 1,
                None => record.refused.push((cause, 1)),
            }
        }
    }

    /// The standing of an endpoint of a service port, whether it has a record or not.
    pub(crate) fn standing(&self, number: u32, address: SocketAddr) -> Standing {
        match self.service(number) {
            Some(record) => match record.ids.get(&address) {
                Some(&id) => self.backends[id as usize].standing,
                None if record.is_served && record.service.serves_still(address) => {
                    Standing::Serving
                }
                None => Standing::Gone,
            },
            None => Standing::Gone,
        }
    }

    /// The record of a service port's backend for a flow that was not decided here just now.
    pub(crate) fn backend_for(&mut self, number: u32, address: SocketAddr) -> u32 {
        if let Some(&id) = self.service(number).and_then(|record| record.ids.get(&address)) {
            return id;
        }
        let standing = self.standing(number, address);
        let id = self.open_backend(number, address, standing);
        if let Some(record) = self.service_mut(number) {
            record.ids.insert(address, id);
        }
        id
    }

    fn open_service(&mut self, service: &Arc<ServicePort>) -> u32 {
        let number = self.free_services.pop().unwrap_or(self.services.len() as u32);
        // A service port's random sequence depends on its name and the seed alone, not on what
        // others do.
        let name =
            service.name().bytes().fold(self.seed, |hash, byte| mix64(hash ^ u64::from(byte)));
        let state =
            |scope: Scope| State { rng: Rng::new(mix64(name ^ scope as u64)), ..State::new(name) };
        let record = ServiceRecord {
            service: service.clone(),
            states: [state(Scope::Cluster), state(Scope::Local)],
            backends: Default::default(),
            ids: HashMap::with_hasher(self.key),
            past: Traffic::default(),
            past_connects: ConnectTimes::default(),
            refused: Vec::new(),
            generation: self.generation,
            decisions: 0,
            is_served: false,
        };
        if number as usize == self.services.len() {
            self.services.push(Some(record));
        } else {
            self.services[number as usize] = Some(record);
        }
        self.numbers[service.family() as usize].insert(service.name().into(), number);
        number
    }

    /// Gives every backend of the service port's newest form its record, and the others the
    /// standing that leaves them the flows that they may still have.
    fn list_backends(&mut self, number: u32, service: &ServicePort) {
        let none = HashMap::with_hasher(self.key);
        let Some(record) = self.service_mut(number) else { return };
        let mut ids = std::mem::replace(&mut record.ids, none);
        // At once: a map that grows leaves a gap of each size that it had, ten thousand times.
        let listed =
            [Scope::Cluster, Scope::Local].map(|scope| service.set(scope).backends().len());
        ids.reserve(listed.into_iter().max().unwrap_or(0).saturating_sub(ids.len()));
        let lists = [Scope::Cluster, Scope::Local].map(|scope| {
            let listed = service.set(scope).backends().iter().map(|backend| {
                let address = backend.address;
                let open = || self.open_backend(number, address, Standing::Listed);
                let id = *ids.entry(address).or_insert_with(open);
                self.list(id);
                id
            });
            listed.collect()
        });
        if let Some(record) = self.service_mut(number) {
            record.backends = lists;
            record.ids = ids;
        }
        self.retire(number, |address| {
            if service.serves_still(address) { Standing::Serving } else { Standing::Gone }
        });
    }

    /// Notes that a backend is in a list of the table that is being taken over. Clients do not
    /// stick to one that was away.
    fn list(&mut self, id: u32) {
        // A new birth makes affinity that names the former one void.
        let birth = self.births.wrapping_add(1);
        let record = &mut self.backends[id as usize];
        record.generation = self.generation;
        if record.standing != Standing::Listed {
            record.standing = Standing::Listed;
            record.birth = birth;
            self.births = birth;
        }
    }

    /// Says of the backends that are in no list any more what they may still have. Backends
    /// without flows are forgotten.
    fn retire(&mut self, number: u32, standing: impl Fn(SocketAddr) -> Standing) {
        let Some(record) = self.service(number) else { return };
        let generation = self.generation;
        let is_listed = |id: &u32| self.backends[*id as usize].generation == generation;
        let unlisted: Vec<u32> = record.all_backends().filter(|id| !is_listed(id)).collect();
        for id in unlisted {
            let record = &mut self.backends[id as usize];
            record.standing = standing(record.address);
            if self.flows(id) == 0 {
                self.forget_backend(id);
            }
        }
    }

    fn open_backend(&mut self, service: u32, address: SocketAddr, standing: Standing) -> u32 {
        self.births = self.births.wrapping_add(1);
        let record = BackendRecord {
            address,
            service,
            birth: self.births,
            standing,
            generation: self.generation,
            unruled: None,
            ended: Traffic::default(),
            connects: None,
        };
        match self.free_backends.pop() {
            // Its last flow has ended.
            Some(id) => {
                self.backends[id as usize] = record;
                if let Some(latency) = self.latencies.get_mut(id as usize) {
                    *latency = Latency::default();
                }
                id
            }
            None => {
                self.active.push(0);
                self.inactive.push(0);
                self.backends.push(record);
                self.backends.len() as u32 - 1
            }
        }
    }

    fn forget_backend(&mut self, id: u32) {
        let record = &mut self.backends[id as usize];
        let (service, address, ended) = (record.service, record.address, record.ended);
        let connects = record.connects.take();
        if let Some(record) = self.service_mut(service) {
            record.past.add(&ended);
            if let Some(connects) = connects {
                record.past_connects.add(&connects);
            }
            record.ids.remove(&address);
        }
        self.free_backends.push(id);
    }

    /// Forgets a service port that is in no table and has no flow left.
    fn close_if_unused(&mut self, number: u32) {
        if let Some(record) = &self.services[number as usize]
            && !record.is_served
            && record.ids.is_empty()
        {
            self.numbers[record.service.family() as usize].remove(record.service.name());
            self.services[number as usize] = None;
            self.free_services.push(number);
        }
    }
}

//! The flows of which packets may pass the kernel's stack by, as far as we know of them: which are
//! candidates, which are proposed to the cache, and what the cache has carried of each.
//!
//! Theory of operation. A flow has a record from the moment at which conntrack calls it assured,
//! and these stages:
//!
//! - *Waiting*: it may be proposed once it is due. TCP waits for [`TCP_AGE`], because a short
//!   connection costs more to propose than it saves; UDP is assured after two seconds.
//! - *Proposed*: the cache has a proposal for each direction, and makes entries of them when
//!   packets leave.
//! - *Again*: the same, and it is to be proposed once more when it is due: the cache does not carry
//!   it, although conntrack has seen packets of it. The cache ends a flow with any RST or SYN, also
//!   with one that the ends do not heed.
//! - *Aside*: it has made room for another one. It is proposed again if it lives and there is room.
//! - *Special*: conntrack has to see each of its packets.
//! - *Over*: it is ending.
//!
//! The first three hold a place (`places.rs`). The record of the others stays until conntrack ends
//! the flow, if its counters are to be added to conntrack's.
//!
//! The cache counts what it carries by entries, which come and go; a record adds up what former
//! entries have counted and what the present ones had when they were looked at last.
//!
//! A *look* is a dump of conntrack's whole table beside one of the cache. It tells which flows live
//! and are not carried, which make room first because they are idle, and of which connections
//! conntrack's timeout is to be renewed: it misses most acknowledgements, takes data for
//! unacknowledged, and would forget an idle connection after
//! `nf_conntrack_tcp_timeout_unacknowledged`.
//!
//! Invariants: there are as many places as the limit says, and four times as many records and flows
//! in the queue at most. No system call is made here.

mod carried;
mod places;
mod record;

use std::collections::{HashMap, HashSet, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use kbe_nat_engine::Cidr;
use kbe_nat_engine::tuple::Protocol;
use kbe_nat_netlink::conntrack::{Ends, Entry};

pub(crate) use record::{Carried, Passage};
pub use record::{FlowKey, Standing};

use places::Places;
use record::{Record, Stage, is_ending, is_established, is_same, is_tcp, passages, totals};

/// All records.
#[derive(Debug)]
pub(crate) struct CachedFlows {
    places: Places,
    records: HashMap<FlowKey, Record>,
    /// With the time of each. TCP and UDP wait for different times, so each has a queue in order.
    due: [VecDeque<(Instant, FlowKey)>; 2],
    ranges: Vec<Cidr>,
    services: HashSet<(u8, SocketAddr)>,
    local: HashSet<IpAddr>,
    dump: u64,
    /// Seconds for which conntrack keeps an established connection.
    established: u32,
    /// Connections whose timeout is to be renewed, by the ends of both directions.
    renewals: Vec<[Ends; 2]>,
    refused: u64,
}

impl CachedFlows {
    /// Of `limit` flows at most; none with an address in one of these ranges.
    pub(crate) fn new(limit: usize, ranges: Vec<Cidr>) -> Self {
        Self {
            places: Places::new(limit),
            records: HashMap::new(),
            due: Default::default(),
            ranges,
            services: HashSet::new(),
            local: HashSet::new(),
            dump: 0,
            established: 0,
            renewals: Vec::new(),
            refused: 0,
        }
    }

    /// Flows that wait or are proposed.
    pub(crate) fn count(&self) -> usize {
        self.places.taken()
    }

    /// Flows that found no room.
    pub(crate) fn refused(&self) -> u64 {
        self.refused
    }

    /// Takes note of a flow as conntrack has it now: a candidate, one that is known, or one that
    /// begins to end. Adds to `over` what is to be taken out of the cache.
    pub(crate) fn note(&mut self, entry: &Entry, now: Instant, over: &mut Vec<[Passage; 2]>) {
        let key = FlowKey { protocol: entry.protocol, original: entry.original };
        let Some(record) = self.records.get_mut(&key) else {
            return self.consider(key, entry, now, over);
        };
        record.dump = self.dump;
        if record.reply != entry.reply || !is_same(record.id, entry.id) {
            // Another flow with the same ends.
            over.extend(self.finish(&key));
            self.records.remove(&key);
            return self.consider(key, entry, now, over);
        }
        let stage = record.stage;
        if is_ending(entry) {
            over.extend(self.finish(&key));
        } else if entry.needs_conntrack {
            over.extend(self.finish(&key));
            self.move_to(&key, Stage::Special);
        } else if stage == Stage::Over && !(is_tcp(entry) && entry.state.is_none()) {
            // It was excluded for a time. An event without a state may be about a connection that
            // is ending.
            if self.is_candidate(&key, entry) && self.make_room(&key, over) {
                self.enqueue(key, now, Stage::Waiting);
            }
        }
    }

    /// Takes note of a flow as a look shows it. Adds to `over` what is to be taken out of the
    /// cache.
    pub(crate) fn look(&mut self, entry: &Entry, now: Instant, over: &mut Vec<[Passage; 2]>) {
        self.note(entry, now, over);
        let key = FlowKey { protocol: entry.protocol, original: entry.original };
        let Some(record) = self.records.get_mut(&key) else { return };
        let packets = totals(record).map(|carried| carried.packets);
        let (former, seconds, when) = record.alive;
        let quiet = now.saturating_duration_since(when);
        let rest = seconds.saturating_sub(quiet.as_secs() as u32);
        let timeout = entry.timeout.unwrap_or(0);
        // Without a packet the timeout runs down; seconds are rounded.
        let is_alive = packets[0] + packets[1] > former || timeout.abs_diff(rest) > 2;
        let is_idle = !is_alive && quiet >= IDLE;
        if is_alive {
            record.alive = (packets[0] + packets[1], timeout, now);
        }
        // Both ends have sent, so it was not broken; the kernel's own timeouts are for those.
        let has_both = packets.iter().zip(record.renewed).all(|(packets, last)| *packets > last);
        if record.stage.is_in_cache() && is_tcp(entry) && has_both && timeout < self.established / 2
        {
            record.renewed = packets;
            record.alive.1 = self.established;
            record.alive.2 = now;
            self.renewals.push([key.original, record.reply]);
        }
        let stage = record.stage;
        record.is_idle = is_idle;
        let is_carried = record.is_current == [true; 2];
        match stage {
            Stage::Proposed if is_idle => self.places.offer(key),
            Stage::Proposed if is_alive && !is_carried => {
                self.enqueue(key, now, Stage::Again);
            }
            Stage::Aside if is_alive && self.make_room(&key, over) => {
                self.enqueue(key, now, Stage::Waiting);
            }
            _ => {}
        }
    }

    /// Begins a look at all flows, of whose dump it returns the number; conntrack keeps an
    /// established connection for so many seconds. [`CachedFlows::count_entry`] comes next, for all
    /// entries, and then [`CachedFlows::look`].
    pub(crate) fn begin_look(&mut self, established: u32) -> u64 {
        self.established = established;
        self.places.withdraw();
        for record in self.records.values_mut() {
            record.is_current = [false; 2];
        }
        self.dump += 1;
        self.dump
    }

    /// The connections of which conntrack's timeout is to be renewed, by the ends of both
    /// directions, and that timeout in seconds.
    pub(crate) fn take_renewals(&mut self) -> (Vec<[Ends; 2]>, u32) {
        (std::mem::take(&mut self.renewals), self.established)
    }

    /// Flows whose time has come, [`BATCH`] at most.
    pub(crate) fn take_due(&mut self, now: Instant) -> Vec<FlowKey> {
        let mut flows = Vec::new();
        for queue in &mut self.due {
            while flows.len() < BATCH && queue.front().is_some_and(|&(when, _)| when <= now) {
                flows.extend(queue.pop_front().map(|(_, key)| key));
            }
        }
        flows.retain(|key| {
            let stage = self.records.get(key).map(|record| record.stage);
            matches!(stage, Some(Stage::Waiting | Stage::Again))
        });
        flows
    }

    /// When the next flow is due.
    pub(crate) fn next_due(&self) -> Option<Instant> {
        self.due.iter().filter_map(|queue| queue.front()).map(|&(when, _)| when).min()
    }

    /// The ends of a flow's answers; `None` if it has no record.
    pub(crate) fn reply(&self, key: &FlowKey) -> Option<Ends> {
        self.records.get(key).map(|record| record.reply)
    }

    /// Takes note that a flow which is due is proposed, and returns its proposals; `None` if it
    /// ended meanwhile.
    pub(crate) fn propose(&mut self, key: &FlowKey) -> Option<[Passage; 2]> {
        let record = self.records.get_mut(key)?;
        if !matches!(record.stage, Stage::Waiting | Stage::Again) {
            return None;
        }
        record.stage = Stage::Proposed;
        Some(passages(key, record))
    }

    /// The flow of which this is a direction, if it is proposed.
    pub(crate) fn flow_of(&self, passage: &Passage) -> Option<FlowKey> {
        let Passage { protocol, arriving, leaving } = *passage;
        let ends = [(arriving, leaving.reversed()), (leaving.reversed(), arriving)];
        ends.into_iter().map(|(original, reply)| (FlowKey { protocol, original }, reply)).find_map(
            |(key, reply)| {
                let record = self.records.get(&key)?;
                (record.reply == reply && record.stage.is_in_cache()).then_some(key)
            },
        )
    }

    /// Has a flow that is proposed be so once more: the programs have taken it out.
    pub(crate) fn propose_again(&mut self, key: FlowKey, now: Instant) {
        if self.records.get(&key).is_some_and(|record| record.stage == Stage::Proposed) {
            self.enqueue(key, now, Stage::Again);
        }
    }

    /// Takes note that a flow is ending, and returns what is to be taken out of the cache. Its
    /// record stays for the counters, if there are any.
    pub(crate) fn finish(&mut self, key: &FlowKey) -> Option<[Passage; 2]> {
        self.leave(key, Stage::Over)
    }

    /// [`CachedFlows::finish`], if this is the flow's number still.
    pub(crate) fn finish_with(&mut self, key: &FlowKey, id: Option<u32>) -> Option<[Passage; 2]> {
        if self.is_another(key, id) { None } else { self.finish(key) }
    }

    /// Whether the record is that of another flow with the same ends. Flows have numbers.
    pub(crate) fn is_another(&self, key: &FlowKey, id: Option<u32>) -> bool {
        self.records.get(key).is_some_and(|record| !is_same(record.id, id))
    }

    fn leave(&mut self, key: &FlowKey, stage: Stage) -> Option<[Passage; 2]> {
        let record = self.records.get(key)?;
        let passages = record.stage.is_in_cache().then(|| passages(key, record));
        let is_waiting = record.stage == Stage::Waiting;
        let is_blank = is_waiting && totals(record) == [Carried::default(); 2];
        self.move_to(key, stage);
        if is_blank {
            self.records.remove(key);
        }
        passages
    }

    /// What the cache has carried of a flow that has ended. Its record goes.
    pub(crate) fn end(&mut self, key: &FlowKey) -> [Carried; 2] {
        self.move_to(key, Stage::Over);
        self.records.remove(key).map_or_else(Default::default, |record| totals(&record))
    }

    /// Takes note of what an entry of the cache has counted, and whether it is current, or `None`:
    /// it was taken out.
    pub(crate) fn count_entry(
        &mut self,
        passage: &Passage,
        carried: Carried,
        is_current: Option<bool>,
    ) {
        let Passage { protocol, arriving, leaving } = *passage;
        // An entry is that of a client's packets, or of answers.
        let original = FlowKey { protocol, original: arriving };
        let reply = FlowKey { protocol, original: leaving.reversed() };
        let (key, side) = match self.records.get(&original) {
            Some(record) if record.reply == leaving.reversed() => (original, 0),
            _ => (reply, 1),
        };
        let Some(record) = self.records.get_mut(&key) else { return };
        if side == 1 && record.reply != arriving {
            return;
        }
        record.is_current[side] = is_current == Some(true);
        let (former, present) = (&mut record.former[side], &mut record.present[side]);
        if carried.packets < present.packets {
            // The entry was forgotten for want of room, and another one has begun to count.
            former.add(*present);
        }
        *present = carried;
        if is_current.is_none() {
            former.add(std::mem::take(present));
        }
    }

    /// The flows that a dump which was complete has not shown.
    pub(crate) fn missing(&self, dump: u64) -> Vec<FlowKey> {
        let is_missing = |record: &Record| record.dump < dump;
        self.records.iter().filter(|(_, record)| is_missing(record)).map(|(&key, _)| key).collect()
    }

    /// The frontends whose flows are not to be cached, in place of those before. Returns what is to
    /// be taken out of the cache.
    pub(crate) fn exclude_services(
        &mut self,
        services: HashSet<(u8, SocketAddr)>,
    ) -> Vec<[Passage; 2]> {
        self.services = services;
        self.finish_refused()
    }

    /// The addresses of the node itself. Returns what is to be taken out of the cache.
    pub(crate) fn set_local(&mut self, local: HashSet<IpAddr>) -> Vec<[Passage; 2]> {
        self.local = local;
        self.finish_refused()
    }

    /// Whether a flow is in the cache, or why not.
    pub(crate) fn standing(&self, key: &FlowKey, reply: Option<Ends>) -> Standing {
        let record = self.records.get(key);
        if let Some(refusal) = self.refusal(key, reply.or(record.map(|record| record.reply))) {
            return refusal;
        }
        match record.map(|record| record.stage) {
            Some(Stage::Proposed | Stage::Again) => Standing::Proposed,
            Some(Stage::Aside) => Standing::Aside,
            Some(Stage::Special) => Standing::Special,
            Some(Stage::Waiting) => Standing::Waiting,
            Some(Stage::Over) => Standing::Over,
            None => Standing::Unknown,
        }
    }

    fn finish_refused(&mut self) -> Vec<[Passage; 2]> {
        let refused: Vec<FlowKey> = self
            .records
            .iter()
            .filter(|(key, record)| self.refusal(key, Some(record.reply)).is_some())
            .map(|(&key, _)| key)
            .collect();
        refused.iter().filter_map(|key| self.finish(key)).collect()
    }

    /// Makes a record, if the flow is established and not refused and there is room.
    fn consider(
        &mut self,
        key: FlowKey,
        entry: &Entry,
        now: Instant,
        over: &mut Vec<[Passage; 2]>,
    ) {
        if !self.is_candidate(&key, entry) {
            return;
        }
        let has_room = self.records.len() < self.places.limit().saturating_mul(RECORDS);
        if !has_room || !entry.needs_conntrack && !self.make_room(&key, over) {
            self.refused += 1;
            return;
        }
        let record = Record {
            reply: entry.reply,
            id: entry.id,
            stage: Stage::Special,
            former: Default::default(),
            present: Default::default(),
            is_current: Default::default(),
            renewed: Default::default(),
            alive: (0, entry.timeout.unwrap_or(0), now),
            is_idle: false,
            dump: self.dump,
        };
        self.records.insert(key, record);
        if !entry.needs_conntrack && !self.enqueue(key, now, Stage::Waiting) {
            self.records.remove(&key);
        }
    }

    fn is_candidate(&self, key: &FlowKey, entry: &Entry) -> bool {
        is_established(entry) && self.refusal(key, Some(entry.reply)).is_none()
    }

    /// Has a flow that has a record wait for its proposal; returns whether there is room.
    fn enqueue(&mut self, key: FlowKey, now: Instant, stage: Stage) -> bool {
        let (queue, age) =
            if key.protocol == Protocol::UDP.0 { (0, Duration::ZERO) } else { (1, TCP_AGE) };
        let queued: usize = self.due.iter().map(VecDeque::len).sum();
        // Connections that have come and gone leave places behind until these are due.
        if queued >= self.places.limit().saturating_mul(RECORDS) {
            self.refused += 1;
            return false;
        }
        self.move_to(&key, stage);
        self.due[queue].push_back((now + age, key));
        true
    }

    /// Has a flow without a place find one, if need be that of another flow, which is to be taken
    /// out of the cache then; returns whether there is one.
    fn make_room(&mut self, key: &FlowKey, over: &mut Vec<[Passage; 2]>) -> bool {
        if !self.places.is_full() {
            return true;
        }
        let is_idle = |record: &Record| record.stage == Stage::Proposed && record.is_idle;
        let mut idle = std::iter::from_fn(|| self.places.take_offer());
        let former = idle.find(|key| self.records.get(key).is_some_and(is_idle));
        let former = former.or_else(|| {
            let has_place = |key: &FlowKey| self.records.get(key).map(|record| record.stage);
            let has_place = |key: &FlowKey| has_place(key).is_some_and(Stage::has_place);
            self.places.excess(key.original.src.ip(), self.records.keys(), has_place)
        });
        let Some(former) = former else { return false };
        over.extend(self.leave(&former, Stage::Aside));
        true
    }

    fn move_to(&mut self, key: &FlowKey, stage: Stage) {
        let Some(record) = self.records.get_mut(key) else { return };
        let had_place = std::mem::replace(&mut record.stage, stage).has_place();
        self.places.change(key.original.src.ip(), had_place, stage.has_place());
    }

    fn refusal(&self, key: &FlowKey, reply: Option<Ends>) -> Option<Standing> {
        let (original, protocol) = (key.original, key.protocol);
        if protocol != Protocol::TCP.0 && protocol != Protocol::UDP.0 {
            return Some(Standing::Protocol);
        }
        if self.services.contains(&(protocol, original.dst)) {
            return Some(Standing::Service);
        }
        let is_local = |end: SocketAddr| self.local.contains(&end.ip());
        // The frontend, and whom the backend sees, may be addresses of the node.
        if is_local(original.src) || reply.is_some_and(|reply| is_local(reply.src)) {
            return Some(Standing::Local);
        }
        let ends = [original.src, original.dst].into_iter();
        let mut ends = ends.chain(reply.into_iter().flat_map(|reply| [reply.src, reply.dst]));
        let is_excluded = ends.any(|end| self.ranges.iter().any(|range| range.contains(end.ip())));
        is_excluded.then_some(Standing::Range)
    }
}

/// How long a connection of TCP is established before it is proposed.
const TCP_AGE: Duration = Duration::from_secs(1);
/// After so long without a packet a flow makes room for others first.
const IDLE: Duration = Duration::from_secs(60);
/// Records, and flows in the queue, for each place.
const RECORDS: usize = 4;
/// Flows that are proposed at once.
const BATCH: usize = 64;

#[cfg(test)]
mod tests;

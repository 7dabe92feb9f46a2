//! The flows of which packets may pass the kernel's stack by, as far as we know of them: which are
//! candidates, which are proposed to the cache, and what the cache has carried of each.
//!
//! Theory of operation. A flow has a record from the moment at which conntrack calls it assured,
//! and three stages:
//!
//! - *Waiting*: it may be proposed once it is due. TCP waits for [`TCP_AGE`], because a short
//!   connection costs more to propose than it saves; UDP is assured after two seconds.
//! - *Proposed*: the cache has a proposal for each direction, and makes entries of them when
//!   packets leave.
//! - *Over*: it is ending. The record stays until conntrack ends the flow, since its counters are
//!   to be added to conntrack's.
//!
//! The cache counts what it carries by entries, which come and go; a record adds up what former
//! entries have counted and what the present ones had when they were looked at last.
//!
//! Invariants: there are [`CachedFlows::limit`] records at most, and four times as many places in
//! the queue. No system call is made here.

use std::collections::{HashMap, HashSet, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use kbe_nat_engine::Cidr;
use kbe_nat_engine::tuple::Protocol;
use kbe_nat_netlink::conntrack::{Ends, Entry, TCP_ESTABLISHED};

/// A flow, by the ends of its first packet.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct FlowKey {
    /// Its protocol's number.
    pub protocol: u8,
    /// Client and frontend.
    pub original: Ends,
}

/// One direction of a flow: a packet's ends as it comes, and as it leaves.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Passage {
    /// Its protocol's number.
    pub(crate) protocol: u8,
    /// Before translation.
    pub(crate) arriving: Ends,
    /// After it.
    pub(crate) leaving: Ends,
}

/// Packets and bytes.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Carried {
    /// Packets; of a super-packet, its segments.
    pub packets: u64,
    /// Bytes from the network header on.
    pub bytes: u64,
}

/// Why a flow is not cached, or whether it may be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Standing {
    /// Proposed: the cache carries it as soon as packets have left.
    Proposed,
    /// It is not established for long enough.
    Waiting,
    /// It is ending.
    Over,
    /// Conntrack has not called it assured, or it has ended.
    Unknown,
    /// Neither TCP nor UDP.
    Protocol,
    /// Its Service is excluded.
    Service,
    /// One of its addresses is in an excluded range.
    Range,
    /// A client or server of the node itself: its packets do not pass through.
    Local,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    Waiting,
    Proposed,
    Over,
}

#[derive(Debug)]
struct Record {
    reply: Ends,
    /// Conntrack's number.
    id: Option<u32>,
    stage: Stage,
    /// By entries that are gone; of the client's packets, and of the backend's.
    former: [Carried; 2],
    /// By the present entries, when they were looked at last.
    present: [Carried; 2],
    /// The dump of conntrack that has shown it last, or during which it was made.
    dump: u64,
}

/// All records.
#[derive(Debug)]
pub(crate) struct CachedFlows {
    limit: usize,
    records: HashMap<FlowKey, Record>,
    /// With the time of each. TCP and UDP wait for different times, so each has a queue in order.
    due: [VecDeque<(Instant, FlowKey)>; 2],
    ranges: Vec<Cidr>,
    services: HashSet<(u8, SocketAddr)>,
    local: HashSet<IpAddr>,
    dump: u64,
    refused: u64,
}

impl CachedFlows {
    /// Of `limit` flows at most; none with an address in one of these ranges.
    pub(crate) fn new(limit: usize, ranges: Vec<Cidr>) -> Self {
        Self {
            limit,
            records: HashMap::new(),
            due: Default::default(),
            ranges,
            services: HashSet::new(),
            local: HashSet::new(),
            dump: 0,
            refused: 0,
        }
    }

    /// Flows with a record.
    pub(crate) fn count(&self) -> usize {
        self.records.len()
    }

    /// Flows that found no room.
    pub(crate) fn refused(&self) -> u64 {
        self.refused
    }

    /// Takes note of a flow as conntrack has it now: a candidate, one that is known, or one that
    /// begins to end. Returns what is to be taken out of the cache.
    pub(crate) fn note(&mut self, entry: &Entry, now: Instant) -> Option<[Passage; 2]> {
        let key = FlowKey { protocol: entry.protocol, original: entry.original };
        if let Some(record) = self.records.get_mut(&key) {
            record.dump = self.dump;
            if record.reply != entry.reply || record.id.is_some() && record.id != entry.id {
                // Another flow with the same ends.
                let passages = passages(&key, record);
                self.records.remove(&key);
                self.consider(key, entry, now);
                return Some(passages);
            }
            if is_ending(entry) {
                return self.finish(&key);
            }
            // An event without a state may be about a connection that is ending.
            let is_over = record.stage == Stage::Over && !(is_tcp(entry) && entry.state.is_none());
            if is_over && self.is_candidate(&key, entry) {
                // It was excluded for a time.
                self.enqueue(key, now);
            }
            return None;
        }
        self.consider(key, entry, now);
        None
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
            self.records.get(key).is_some_and(|record| record.stage == Stage::Waiting)
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

    /// Takes note that a waiting flow is proposed, and returns its proposals; `None` if it ended
    /// meanwhile.
    pub(crate) fn propose(&mut self, key: &FlowKey) -> Option<[Passage; 2]> {
        let record = self.records.get_mut(key).filter(|record| record.stage == Stage::Waiting)?;
        record.stage = Stage::Proposed;
        Some(passages(key, record))
    }

    /// Lets go of a flow of which the cache has nothing.
    pub(crate) fn drop_candidate(&mut self, key: &FlowKey) {
        if self.records.get(key).is_some_and(|record| record.stage == Stage::Waiting) {
            self.finish(key);
        }
    }

    /// Takes note that a flow is ending, and returns what is to be taken out of the cache. Its
    /// record stays for the counters, if there are any.
    pub(crate) fn finish(&mut self, key: &FlowKey) -> Option<[Passage; 2]> {
        let record = self.records.get_mut(key)?;
        let former = std::mem::replace(&mut record.stage, Stage::Over);
        let passages = passages(key, record);
        match former {
            Stage::Proposed => Some(passages),
            Stage::Waiting if totals(record) == [Carried::default(); 2] => {
                self.records.remove(key);
                None
            }
            Stage::Waiting | Stage::Over => None,
        }
    }

    /// What the cache has carried of a flow that has ended. Its record goes.
    pub(crate) fn end(&mut self, key: &FlowKey) -> [Carried; 2] {
        self.records.remove(key).map_or_else(Default::default, |record| totals(&record))
    }

    /// What the cache has carried of a flow so far.
    pub(crate) fn carried(&self, key: &FlowKey) -> [Carried; 2] {
        self.records.get(key).map_or_else(Default::default, totals)
    }

    /// Takes note of what an entry of the cache has counted; `is_gone`: it was taken out.
    pub(crate) fn count_entry(&mut self, passage: &Passage, carried: Carried, is_gone: bool) {
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
        let (former, present) = (&mut record.former[side], &mut record.present[side]);
        if carried.packets < present.packets {
            // The entry was forgotten for want of room, and another one has begun to count.
            former.add(*present);
        }
        *present = carried;
        if is_gone {
            former.add(std::mem::take(present));
        }
    }

    /// Begins to compare all records with a dump of conntrack, and returns its number.
    pub(crate) fn begin_dump(&mut self) -> u64 {
        self.dump += 1;
        self.dump
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
            Some(Stage::Proposed) => Standing::Proposed,
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
    fn consider(&mut self, key: FlowKey, entry: &Entry, now: Instant) {
        if !self.is_candidate(&key, entry) {
            return;
        }
        if self.records.len() >= self.limit {
            self.refused += 1;
            return;
        }
        let record = Record {
            reply: entry.reply,
            id: entry.id,
            stage: Stage::Over,
            former: Default::default(),
            present: Default::default(),
            dump: self.dump,
        };
        self.records.insert(key, record);
        if !self.enqueue(key, now) {
            self.records.remove(&key);
        }
    }

    fn is_candidate(&self, key: &FlowKey, entry: &Entry) -> bool {
        is_established(entry) && self.refusal(key, Some(entry.reply)).is_none()
    }

    /// Has a flow that has a record wait for its proposal; returns whether there is room.
    fn enqueue(&mut self, key: FlowKey, now: Instant) -> bool {
        let (queue, age) =
            if key.protocol == Protocol::UDP.0 { (0, Duration::ZERO) } else { (1, TCP_AGE) };
        let queued: usize = self.due.iter().map(VecDeque::len).sum();
        let record = self.records.get_mut(&key);
        // Connections that have come and gone leave places behind until these are due.
        let Some(record) = record.filter(|_| queued < self.limit.saturating_mul(4)) else {
            self.refused += 1;
            return false;
        };
        record.stage = Stage::Waiting;
        self.due[queue].push_back((now + age, key));
        true
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

impl Carried {
    fn add(&mut self, other: Self) {
        self.packets += other.packets;
        self.bytes += other.bytes;
    }
}

fn is_tcp(entry: &Entry) -> bool {
    entry.protocol == Protocol::TCP.0
}

/// Whether both ends have confirmed the flow, and it is not ending. An event has no state where
/// that is as it was: so does one about a connection that conntrack has met in its middle.
fn is_established(entry: &Entry) -> bool {
    entry.is_assured && !is_ending(entry)
}

/// Whether conntrack has seen that TCP ends.
fn is_ending(entry: &Entry) -> bool {
    is_tcp(entry) && entry.state.is_some_and(|state| state != TCP_ESTABLISHED)
}

fn passages(key: &FlowKey, record: &Record) -> [Passage; 2] {
    let FlowKey { protocol, original } = *key;
    [
        Passage { protocol, arriving: original, leaving: record.reply.reversed() },
        Passage { protocol, arriving: record.reply, leaving: original.reversed() },
    ]
}

fn totals(record: &Record) -> [Carried; 2] {
    let mut totals = record.former;
    for (total, present) in totals.iter_mut().zip(record.present) {
        total.add(present);
    }
    totals
}

/// How long a connection of TCP is established before it is proposed.
const TCP_AGE: Duration = Duration::from_secs(1);
/// Flows that are proposed at once.
const BATCH: usize = 64;

#[cfg(test)]
mod tests;

//! Flows: both directions of each in one record, found by the tuple of either.
//!
//! - [`index`] leads from the hash of a tuple to the flow and the direction. A flow has two entries
//!   there, one for each direction.
//! - [`record`] is the flow itself, in a hot and a cold part. A flow keeps its record, and with it
//!   its number, for as long as it lives; free records are linked through `next`.
//! - [`sweep`] finds the flows that expired and that no packet looks up.
//! - [`state`], [`timeouts`] and [`tcp`] say how a packet moves a flow, and how long it lives then.
//! - [`ports`] leases the source ports of masqueraded flows.
//!
//! There are no timers. A deadline is checked when a flow is looked up, so an expired flow is never
//! used, whether the sweep has seen it or not (as in Linux and gVisor).
//!
//! Memory is bounded by the table's capacity. A flow that both sides have confirmed is assured and
//! stays. The others are in a list by age, whose oldest is evicted when room is needed: a flood of
//! first packets thus costs only other such flows.
//!
//! Invariants: a record that is not free has both entries in the index; a record is in the list of
//! unassured flows exactly if it is neither free nor assured; the sweep's bound is never later than
//! the first deadline of a flow that the kernel does not hold.

pub mod index;
pub mod ports;
mod record;
pub mod state;
mod sweep;
pub mod tcp;
pub mod timeouts;

use std::ops::Range;

use crate::clock::{Tick, between, ticks};
use crate::hash::HashKey;
use crate::hint;
use crate::tuple::{Address, Direction, Protocol, Tuple, WireEnds};
pub(crate) use index::FlowId;
use index::{Entry, Index, IndexFull, Probe};
pub(crate) use record::{Cold, Hot, STALE};
use state::State;
use sweep::{Look, Sweep};
use tcp::Tracking;

/// All flows of one family.
#[derive(Debug)]
pub(crate) struct FlowTable<A> {
    key: HashKey,
    index: Index,
    hot: Vec<Hot<A>>,
    cold: Vec<Cold>,
    capacity: usize,
    live: usize,
    free: FlowId,
    /// Ends of the list of unassured flows, and its length.
    oldest: FlowId,
    youngest: FlowId,
    unassured: usize,
    sweep: Sweep,
}

/// Why a flow was not inserted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum InsertError {
    /// The table has no room.
    Full,
    /// Too many tuples fall into one place of the index.
    Chain(IndexFull),
}

impl<A: Address> FlowTable<A> {
    /// A table for at most `capacity` flows. Memory is taken as flows come.
    pub(crate) fn new(capacity: usize, key: HashKey) -> Self {
        Self {
            key,
            index: Index::new(capacity.saturating_mul(2)),
            hot: Vec::new(),
            cold: Vec::new(),
            capacity,
            live: 0,
            free: NIL,
            oldest: NIL,
            youngest: NIL,
            unassured: 0,
            sweep: Sweep::default(),
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.live
    }

    /// Bytes of the records that ever held a flow, and of the index, which is whole from the first
    /// flow on.
    pub(crate) fn bytes(&self) -> usize {
        size_of_val(&*self.hot) + size_of_val(&*self.cold) + self.index.bytes()
    }

    pub(crate) fn unassured_flows(&self) -> usize {
        self.unassured
    }

    #[inline(always)]
    fn hash(&self, ends: &WireEnds<A>, protocol: Protocol) -> u64 {
        self.key.tuple(ends, protocol)
    }

    /// Where in the index the look-up of these ends begins.
    #[inline(always)]
    pub(crate) fn probe(&self, ends: &WireEnds<A>, protocol: Protocol) -> Probe {
        self.index.probe(self.hash(ends, protocol))
    }

    /// Fetches that part of the index. Cost: none.
    #[inline(always)]
    pub(crate) fn prefetch_index(&self, probe: Probe) {
        self.index.prefetch(probe);
    }

    /// The flow that this probe most probably means.
    #[inline(always)]
    pub(crate) fn guess(&self, probe: Probe) -> Entry {
        self.index.guess(probe)
    }

    /// Fetches a flow's record.
    #[inline(always)]
    pub(crate) fn prefetch_flow(&self, entry: Entry, is_tracked: bool) {
        hint::prefetch(&self.hot, entry.flow() as usize);
        if is_tracked {
            hint::prefetch(&self.cold, entry.flow() as usize);
        }
    }

    /// All records, those of flows that have ended too, by flow number.
    #[inline(always)]
    pub(crate) fn slices_mut(&mut self) -> (&mut [Hot<A>], &mut [Cold]) {
        (&mut self.hot, &mut self.cold)
    }

    #[inline(always)]
    fn is_meant(&self, entry: Entry, ends: &WireEnds<A>, protocol: Protocol) -> bool {
        self.hot.get(entry.flow() as usize).is_some_and(|hot| {
            (hot.ends[entry.direction() as usize] == *ends) & (hot.protocol == protocol)
        })
    }

    /// The entry under which the flow of these ends is found; also of an expired one. Cost: one
    /// line of the index and one record.
    #[inline(always)]
    pub(crate) fn entry(&self, ends: &WireEnds<A>, protocol: Protocol) -> Option<Entry> {
        self.entry_at(self.probe(ends, protocol), ends, protocol)
    }

    /// The same, where the look-up of these ends begins with `probe`.
    #[inline(always)]
    pub(crate) fn entry_at(
        &self,
        probe: Probe,
        ends: &WireEnds<A>,
        protocol: Protocol,
    ) -> Option<Entry> {
        self.index.find(probe, |entry| self.is_meant(entry, ends, protocol))
    }

    /// The flow to which this tuple belongs, and in which direction.
    #[inline(always)]
    pub(crate) fn find(&self, tuple: &Tuple<A>) -> Option<(FlowId, Direction)> {
        let entry = self.entry(&tuple.ends.into(), tuple.protocol)?;
        Some((entry.flow(), entry.direction()))
    }

    /// As [`FlowTable::find`], but looks first where [`FlowTable::guess`] led: a right guess saves
    /// the index. The flow that was guessed may have ended since, and its record may be free.
    #[inline(always)]
    pub(crate) fn find_near(&self, guess: Entry, tuple: &Tuple<A>) -> Option<(FlowId, Direction)> {
        let (ends, protocol) = (tuple.ends.into(), tuple.protocol);
        let is_right = self.is_meant(guess, &ends, protocol)
            && self.hot[guess.flow() as usize].state != State::Free;
        let entry = if is_right { guess } else { self.entry(&ends, protocol)? };
        Some((entry.flow(), entry.direction()))
    }

    #[inline]
    pub(crate) fn hot(&self, id: FlowId) -> &Hot<A> {
        &self.hot[id as usize]
    }

    #[inline]
    pub(crate) fn hot_mut(&mut self, id: FlowId) -> &mut Hot<A> {
        &mut self.hot[id as usize]
    }

    #[inline]
    pub(crate) fn cold(&self, id: FlowId) -> &Cold {
        &self.cold[id as usize]
    }

    #[inline]
    pub(crate) fn cold_mut(&mut self, id: FlowId) -> &mut Cold {
        &mut self.cold[id as usize]
    }

    #[inline]
    pub(crate) fn both(&self, id: FlowId) -> (&Hot<A>, &Cold) {
        (&self.hot[id as usize], &self.cold[id as usize])
    }

    #[inline]
    pub(crate) fn both_mut(&mut self, id: FlowId) -> (&mut Hot<A>, &mut Cold) {
        (&mut self.hot[id as usize], &mut self.cold[id as usize])
    }

    /// Packets of a flow, by direction.
    pub(crate) fn packets(&self, id: FlowId) -> [u64; 2] {
        let (hot, cold) = (self.hot(id), self.cold(id));
        [0, 1].map(|side| {
            u64::from(cold.tracking.sides[side].packets_high) << 32 | u64::from(hot.packets[side])
        })
    }

    /// Notes that a direction's 32 bits of packets have run over.
    #[cold]
    pub(crate) fn carry_packets(&mut self, id: FlowId, direction: Direction) {
        let high = &mut self.cold[id as usize].tracking.sides[direction as usize].packets_high;
        *high = high.saturating_add(1);
    }

    /// All flows, expired ones included.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (FlowId, &Hot<A>, &Cold)> {
        self.iter_in(0..self.hot.len())
    }

    /// The flows in these records, expired ones included. A flow keeps its record for as long as it
    /// lives.
    pub(crate) fn iter_in(
        &self,
        records: Range<usize>,
    ) -> impl Iterator<Item = (FlowId, &Hot<A>, &Cold)> {
        let start = records.start;
        let (hot, cold) = (self.hot.get(records.clone()), self.cold.get(records));
        hot.unwrap_or_default()
            .iter()
            .zip(cold.unwrap_or_default())
            .enumerate()
            .filter(|(_, (hot, _))| hot.state != State::Free)
            .map(move |(place, (hot, cold))| ((start + place) as FlowId, hot, cold))
    }

    /// Records that the table has, those that are free included.
    pub(crate) fn records(&self) -> usize {
        self.hot.len()
    }

    /// Enters a flow whose two tuples are known to be new. Cost: two lines of the index and one
    /// record.
    pub(crate) fn insert(
        &mut self,
        hot: Hot<A>,
        created: Tick,
        backend: u32,
        tracking: Tracking,
    ) -> Result<FlowId, InsertError> {
        let probes = [0, 1].map(|side| self.probe(&hot.ends[side], hot.protocol));
        self.insert_at(probes, hot, created, backend, tracking)
    }

    /// The same, where the look-ups of both directions' ends begin with these probes.
    #[inline(always)]
    pub(crate) fn insert_at(
        &mut self,
        [original, reply]: [Probe; 2],
        mut hot: Hot<A>,
        created: Tick,
        backend: u32,
        tracking: Tracking,
    ) -> Result<FlowId, InsertError> {
        if self.live >= self.capacity {
            return Err(InsertError::Full);
        }
        // Memory is reserved at once, with the first flow: tables that grow would stall a packet
        // for a copy of all records, and an engine that serves one family pays for one.
        if self.hot.capacity() == 0 {
            self.index.reserve();
            self.hot = hint::reserve(self.capacity);
            self.cold = hint::reserve(self.capacity);
        }
        let id = if self.free == NIL { self.hot.len() as FlowId } else { self.free };
        self.index.insert(original, id, Direction::Original).map_err(InsertError::Chain)?;
        // An entry without a record would lead packets to another flow, so both are there or none.
        if let Err(error) = self.index.insert(reply, id, Direction::Reply) {
            self.index.remove(original, id, Direction::Original);
            return Err(InsertError::Chain(error));
        }
        hot.settle();
        self.live += 1;
        self.sweep.note(hot.deadline);
        let is_assured = hot.has(Hot::<A>::ASSURED);
        let cold = Cold { created, backend, prev: NIL, next: NIL, tracking };
        if self.free == NIL {
            self.hot.push(hot);
            self.cold.push(cold);
        } else {
            self.free = self.cold[id as usize].next;
            self.hot[id as usize] = hot;
            self.cold[id as usize] = cold;
        }
        // A flow from a checkpoint, or one that the kernel reports, may be assured from the start.
        if !is_assured {
            self.link_youngest(id);
        }
        Ok(id)
    }

    /// Gives a flow's answers other ends; false where another flow has these, or the index has no
    /// room. Cost: two lines of the index and one record.
    pub(crate) fn readdress(&mut self, id: FlowId, reply: WireEnds<A>) -> bool {
        let hot = self.hot(id);
        let [former, next] = [hot.ends[Direction::Reply as usize], reply]
            .map(|ends| self.probe(&ends, hot.protocol));
        if self.entry_at(next, &reply, hot.protocol).is_some()
            || self.index.insert(next, id, Direction::Reply).is_err()
        {
            return false;
        }
        self.index.remove(former, id, Direction::Reply);
        self.hot_mut(id).ends[Direction::Reply as usize] = reply;
        true
    }

    /// Takes a flow out. Cost: two lines of the index and one record.
    pub(crate) fn remove(&mut self, id: FlowId) {
        for direction in [Direction::Original, Direction::Reply] {
            let hot = self.hot(id);
            let probe = self.probe(&hot.ends[direction as usize], hot.protocol);
            self.index.remove(probe, id, direction);
        }
        if !self.hot(id).has(Hot::<A>::ASSURED) {
            self.unlink(id);
        }
        // The ends stay in the record, so only the state tells a guess that they mean no flow; it
        // also takes the record off the fast path.
        self.hot[id as usize].set_state(State::Free);
        self.cold[id as usize].next = self.free;
        self.free = id;
        self.live -= 1;
    }

    /// Whether a packet of this flow that came to us means that the kernel, to which it was
    /// offloaded, has forgotten it.
    pub(crate) fn has_left_kernel(&self, id: FlowId, now: Tick) -> bool {
        let (hot, cold) = (self.hot(id), self.cold(id));
        let age = between(cold.created, now);
        // Datagrams that were queued together with the first one may come a little behind it.
        hot.has(Hot::<A>::OFFLOADED) && (hot.state.is_tcp() || age > ticks(QUEUED_TOGETHER))
    }

    /// Whether the kernel, which was made to forget this flow, is about to get an entry of it back
    /// that has what it chooses anew otherwise: the source port of a masqueraded flow.
    pub(crate) fn is_coming_back(&self, id: FlowId, now: Tick) -> bool {
        let hot = self.hot(id);
        let is_told = !hot.has(Hot::<A>::OFFLOADED);
        let remaining = hot.deadline.saturating_sub(now);
        let is_late = is_told && remaining <= ticks(REMEMBERED) - ticks(RESTORED);
        hot.has(Hot::<A>::MASQUERADE) && !is_late
    }

    /// From now on the flow is never evicted.
    pub(crate) fn assure(&mut self, id: FlowId) {
        if !self.hot(id).has(Hot::<A>::ASSURED) {
            self.unlink(id);
            self.hot[id as usize].set_flags(0, Hot::<A>::ASSURED);
        }
    }

    /// The flow that is evicted when room is needed.
    pub(crate) fn eviction_candidate(&self) -> Option<FlowId> {
        (self.oldest != NIL).then_some(self.oldest)
    }

    /// Must be called with a deadline that moved to an earlier moment.
    #[inline]
    pub(crate) fn note_deadline(&mut self, deadline: Tick) {
        self.sweep.note(deadline);
    }

    /// The next flow of the sweep that has expired or for which `is_over` holds; offloaded ones
    /// are left out. Takes the records looked at from the budget. Cost: one record each.
    pub(crate) fn sweep(
        &mut self,
        now: Tick,
        budget: &mut usize,
        mut is_over: impl FnMut(&Hot<A>, &Cold) -> bool,
    ) -> Option<FlowId> {
        let Self { hot, cold, sweep, live, .. } = self;
        sweep.next(now, *live > 0, hot.len(), budget, |record| {
            let (hot, cold) = (&hot[record], &cold[record]);
            if hot.state == State::Free || hot.has(Hot::<A>::OFFLOADED) {
                Look::Exempt
            } else if hot.is_expired(now) || is_over(hot, cold) {
                Look::Over
            } else {
                Look::Until(hot.deadline)
            }
        })
    }

    /// A moment before which no flow ends, unless traffic shortens it; `None` without flows.
    pub(crate) fn earliest_deadline(&self) -> Option<Tick> {
        (self.live > 0).then(|| self.sweep.earliest_deadline(self.hot.len()))
    }

    #[inline(always)]
    fn link_youngest(&mut self, id: FlowId) {
        let last = std::mem::replace(&mut self.youngest, id);
        self.cold[id as usize].prev = last;
        match last {
            NIL => self.oldest = id,
            last => self.cold[last as usize].next = id,
        }
        self.unassured += 1;
    }

    fn unlink(&mut self, id: FlowId) {
        let Cold { prev, next, .. } = self.cold[id as usize];
        match prev {
            NIL => self.oldest = next,
            prev => self.cold[prev as usize].next = next,
        }
        match next {
            NIL => self.youngest = prev,
            next => self.cold[next as usize].prev = prev,
        }
        let cold = &mut self.cold[id as usize];
        (cold.prev, cold.next) = (NIL, NIL);
        self.unassured -= 1;
    }
}

const NIL: FlowId = FlowId::MAX;
/// Seconds.
const QUEUED_TOGETHER: f64 = 1.0;
/// Seconds for which a flow is known that the kernel was made to forget.
pub(crate) const REMEMBERED: f64 = 60.0;
/// Seconds within which the kernel has it again, if it gets it back.
const RESTORED: f64 = 0.5;

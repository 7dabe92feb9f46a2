//! Flows: both directions of each in one record, found by the tuple of either.
//!
//! A flow's record is split by use: `Hot` is one cache line (two for IPv6) and all that a packet
//! of an established flow touches; `Cold` is the rest. A flow keeps its record, and with it its
//! number, for as long as it lives; free records are linked through `next`. Memory is bounded by
//! the table's capacity.
//!
//! There are no timers. A deadline is checked when a flow is looked up, so a flow that is over is
//! never used; a sweep in bounded steps frees the flows that no packet looks up (as in Linux and
//! gVisor). The sweep passes over all records with a cursor, as often as needed and no more:
//!
//! - `earliest` is a lower bound of the deadlines that the running pass has seen, and of those that
//!   came since. Packets mostly move deadlines to later moments, which costs nothing here; a
//!   deadline that moves to an earlier one must be noted (`FlowTable::note_deadline`).
//! - `before` is the same bound of the former pass, for the records that the running pass has not
//!   seen yet. The smaller of both is never later than the first end of a flow, so a driver may
//!   sleep until then.
//! - A new pass begins when the former one is done and the bound has passed.
//!
//! Offloaded flows are left out: the kernel says when they are over.
//!
//! A flow that both sides have confirmed is assured. The others are in a list by age, whose oldest
//! is evicted when room is needed: a flood of first packets thus costs only other such flows.

pub mod index;
pub mod ports;
pub mod state;
pub mod tcp;
pub mod timeouts;

use std::ops::Range;

use crate::clock::{Tick, ticks};
use crate::hash::HashKey;
use crate::hint;
use crate::tuple::{Address, Direction, Ends, Protocol, Tuple, WireEnds};
use crate::wire::checksum::Delta;
pub(crate) use index::FlowId;
use index::{Entry, Index, IndexFull, Probe};
use state::State;
use tcp::Tracking;

/// The generation of no service table: the next packet of a flow that has it is assessed anew.
pub(crate) const STALE: u32 = u32::MAX;

/// The part of a record that a packet of an established flow touches.
#[derive(Clone, Debug)]
#[repr(C, align(64))]
pub(crate) struct Hot<A> {
    /// By direction: client to frontend, and backend to client (or to the leased source).
    pub(crate) ends: [WireEnds<A>; 2],
    /// The flow is gone after this moment.
    pub(crate) deadline: Tick,
    /// The service table under which its backend was last found to be there, or [`STALE`].
    pub(crate) generation: u32,
    /// The change that the original direction's rewrite makes to an IP header checksum; the
    /// reply's is the inverse.
    pub(crate) l3: Delta,
    /// The same for a transport checksum.
    pub(crate) l4: Delta,
    pub(crate) protocol: Protocol,
    pub(crate) state: State,
    pub(crate) flags: u8,
    /// By direction; the overflow is carried to [`tcp::Side::packets_high`].
    pub(crate) packets: [u32; 2],
    pub(crate) bytes: [u64; 2],
}

impl<A: Address> Hot<A> {
    /// Flag: a reply was seen.
    pub(crate) const REPLIED: u8 = 1;
    /// Flag: both sides have answered; never evicted.
    pub(crate) const ASSURED: u8 = 2;
    /// Flag: the sender of original packets masquerades them.
    pub(crate) const MASQUERADE: u8 = 4;
    /// Flag: the port that the backend answers to is leased.
    pub(crate) const LEASED: u8 = 8;
    /// Flag: it is offloaded: the kernel translates its packets, and says when it is over.
    pub(crate) const OFFLOADED: u8 = 16;
    /// Flag: an operator has taken it out of the kernel's table after it was offloaded.
    pub(crate) const FORGOTTEN: u8 = 32;

    pub(crate) fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    /// The ends of a packet of this direction, before the rewrite.
    pub(crate) fn ends(&self, direction: Direction) -> Ends<A> {
        self.ends[direction as usize].ends()
    }

    /// The ends after the rewrite.
    #[inline]
    pub(crate) fn translation(&self, direction: Direction) -> WireEnds<A> {
        self.ends[direction.opposite() as usize].reply()
    }

    /// The change that the rewrite makes to the checksums of IP header and transport.
    #[inline]
    pub(crate) fn deltas(&self, direction: Direction) -> (Delta, Delta) {
        match direction {
            Direction::Original => (self.l3, self.l4),
            Direction::Reply => (self.l3.inverse(), self.l4.inverse()),
        }
    }

    /// Whether a packet of this direction moves nothing but the deadline: most packets of UDP.
    #[inline(always)]
    pub(crate) fn is_steady(&self, direction: Direction) -> bool {
        match self.state {
            State::UdpStream => true,
            State::Udp => (self.flags & Self::REPLIED) | direction as u8 == 0,
            _ => false,
        }
    }

    /// Counts a packet; whether that fitted, see [`FlowTable::carry_packets`].
    #[inline(always)]
    pub(crate) fn count(&mut self, direction: Direction, bytes: u32) -> bool {
        let side = direction as usize;
        self.bytes[side] = self.bytes[side].wrapping_add(bytes.into());
        let (packets, has_run_over) = self.packets[side].overflowing_add(1);
        self.packets[side] = packets;
        !has_run_over
    }

    #[inline]
    pub(crate) fn is_expired(&self, now: Tick) -> bool {
        now > self.deadline
    }

    /// Whether nothing is known of its end.
    pub(crate) fn is_alive(&self, now: Tick) -> bool {
        self.has(Self::OFFLOADED) || !self.is_expired(now)
    }
}

/// The part that only new, changing and ending flows touch, and TCP's windows.
#[derive(Clone, Debug)]
pub(crate) struct Cold {
    pub(crate) created: Tick,
    /// The backend's record in the ledger.
    pub(crate) backend: u32,
    /// Neighbours in the list of unassured flows, oldest first; `next` also links free records.
    prev: FlowId,
    next: FlowId,
    pub(crate) tracking: Tracking,
}

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

/// Where the sweep for expired flows stands.
#[derive(Debug)]
struct Sweep {
    cursor: usize,
    /// No flow that the running pass has seen, or that came since, ends before this.
    earliest: Tick,
    /// The same for the flows that the running pass has not yet seen.
    before: Tick,
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
            index: Index::default(),
            hot: Vec::new(),
            cold: Vec::new(),
            capacity,
            live: 0,
            free: NIL,
            oldest: NIL,
            youngest: NIL,
            unassured: 0,
            sweep: Sweep { cursor: 0, earliest: Tick::MAX, before: Tick::MAX },
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.live
    }

    pub(crate) fn unassured(&self) -> usize {
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

    /// The record of an entry's flow, if packets with these ends are meant by it.
    #[inline(always)]
    pub(crate) fn meant_mut(
        &mut self,
        entry: Entry,
        ends: &WireEnds<A>,
        protocol: Protocol,
    ) -> Option<&mut Hot<A>> {
        self.hot.get_mut(entry.flow() as usize).filter(|hot| {
            (hot.ends[entry.direction() as usize] == *ends) & (hot.protocol == protocol)
        })
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
        let hash = self.hash(ends, protocol);
        self.index.find(hash, |entry| self.is_meant(entry, ends, protocol))
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
    #[inline(always)]
    pub(crate) fn insert(
        &mut self,
        hot: Hot<A>,
        created: Tick,
        backend: u32,
        tracking: Tracking,
    ) -> Result<FlowId, InsertError> {
        if self.live >= self.capacity {
            return Err(InsertError::Full);
        }
        if self.hot.capacity() == 0 {
            self.index = Index::new(self.capacity * 2);
            self.hot = hint::reserve(self.capacity);
            self.cold = hint::reserve(self.capacity);
        }
        let id = if self.free == NIL { self.hot.len() as FlowId } else { self.free };
        let hashes = hot.ends.map(|ends| self.hash(&ends, hot.protocol));
        self.index.insert(hashes[0], id, Direction::Original).map_err(InsertError::Chain)?;
        if let Err(error) = self.index.insert(hashes[1], id, Direction::Reply) {
            self.index.remove(hashes[0], id, Direction::Original);
            return Err(InsertError::Chain(error));
        }
        self.live += 1;
        self.sweep.earliest = self.sweep.earliest.min(hot.deadline);
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
        if !is_assured {
            self.link_youngest(id);
        }
        Ok(id)
    }

    /// Takes a flow out. Cost: two lines of the index and one record.
    pub(crate) fn remove(&mut self, id: FlowId) {
        for direction in [Direction::Original, Direction::Reply] {
            let hot = self.hot(id);
            let hash = self.hash(&hot.ends[direction as usize], hot.protocol);
            self.index.remove(hash, id, direction);
        }
        if !self.hot(id).has(Hot::<A>::ASSURED) {
            self.unlink(id);
        }
        self.hot[id as usize].state = State::Free;
        self.cold[id as usize].next = self.free;
        self.free = id;
        self.live -= 1;
    }

    /// Whether a packet of this flow that came to us means that the kernel, to which it was
    /// offloaded, has forgotten it.
    pub(crate) fn has_left_kernel(&self, id: FlowId, now: Tick) -> bool {
        let (hot, cold) = (self.hot(id), self.cold(id));
        let age = now.saturating_sub(cold.created);
        // Datagrams that were queued together with the first one may come a little behind it.
        hot.has(Hot::<A>::OFFLOADED) && (hot.state.is_tcp() || age > ticks(QUEUED_TOGETHER))
    }

    /// From now on the flow is never evicted.
    pub(crate) fn assure(&mut self, id: FlowId) {
        if !self.hot(id).has(Hot::<A>::ASSURED) {
            self.unlink(id);
            self.hot[id as usize].flags |= Hot::<A>::ASSURED;
        }
    }

    /// The flow that is evicted when room is needed.
    pub(crate) fn oldest_unassured(&self) -> Option<FlowId> {
        (self.oldest != NIL).then_some(self.oldest)
    }

    /// Must be told of a deadline that moved to an earlier moment.
    #[inline]
    pub(crate) fn note_deadline(&mut self, deadline: Tick) {
        self.sweep.earliest = self.sweep.earliest.min(deadline);
    }

    /// Looks at the next records of the sweep, at most `budget`, and returns the first one for
    /// which `is_over` holds, with the number of records looked at; to be called again with the
    /// rest of the budget.
    pub(crate) fn sweep(
        &mut self,
        budget: usize,
        mut is_over: impl FnMut(&Hot<A>, &Cold) -> bool,
    ) -> (Option<FlowId>, usize) {
        let end = self.hot.len().min(self.sweep.cursor.saturating_add(budget));
        for id in self.sweep.cursor..end {
            let hot = &self.hot[id];
            if hot.state == State::Free || hot.has(Hot::<A>::OFFLOADED) {
                continue;
            }
            if is_over(hot, &self.cold[id]) {
                let seen = id + 1 - self.sweep.cursor;
                self.sweep.cursor = id + 1;
                return (Some(id as FlowId), seen);
            }
            self.sweep.earliest = self.sweep.earliest.min(hot.deadline);
        }
        let seen = end - self.sweep.cursor;
        self.sweep.cursor = end;
        (None, seen)
    }

    /// Whether the running pass has seen every record.
    pub(crate) fn is_swept(&self) -> bool {
        self.sweep.cursor >= self.hot.len()
    }

    /// Begins a new pass.
    pub(crate) fn restart_sweep(&mut self) {
        self.sweep = Sweep { cursor: 0, earliest: Tick::MAX, before: self.sweep.earliest };
    }

    /// A moment before which no flow ends, unless traffic shortens it; `None` without flows.
    pub(crate) fn earliest_deadline(&self) -> Option<Tick> {
        let unseen = if self.is_swept() { Tick::MAX } else { self.sweep.before };
        (self.live > 0).then(|| self.sweep.earliest.min(unseen))
    }

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

const _: () = assert!(size_of::<Hot<std::net::Ipv4Addr>>() == 64, "one cache line");
const _: () = assert!(size_of::<Hot<std::net::Ipv6Addr>>() == 128, "two cache lines");
const _: () = assert!(size_of::<Cold>() == 48, "with hot record and index 127.5 bytes a flow");

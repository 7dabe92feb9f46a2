//! Fragments of datagrams that nobody has put together: all follow what was decided for the first
//! one, in whatever order they come.
//!
//! Nothing is reassembled. A datagram is known by its addresses, protocol and identification, and
//! goes through these states:
//!
//! - Undecided: no fragment with offset 0 has come. Later fragments wait, in bounded number, size
//!   and time.
//! - Decided: the first fragment has got a verdict, the fate of all. Fragments that waited are
//!   released with it, and later ones follow it at once.
//! - Refused: fragments overlap (RFC 5722, and Linux for IPv4 since 2018), contradict each other
//!   about the end, or the first one was refused. No fragment is sent on.
//!
//! A datagram leaves when it is complete, when its time is over, or when a newer one needs its
//! place. Deadlines lie equally far behind the first fragments, so a queue holds them in order; a
//! serial number tells whether an entry of the queue still means the datagram of that name.
//! Fragments that waited for a datagram that was given up are handed out as dropped: a driver that
//! was told to hold a packet always hears what becomes of it.
//!
//! Kernel queues behind connection tracking never see fragments; captures do.

use std::collections::{HashMap, VecDeque};

use crate::clock::{Tick, ticks};
use crate::hash::HashKey;
use crate::tuple::{Address, Protocol};
use crate::verdict::{Action, Cause, Verdict};
use crate::wire::checksum::Delta;
use crate::wire::{Fragment, Headers};

/// The fields that fragments of one datagram share (RFC 791, RFC 8200 4.5).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct DatagramId<A> {
    src: A,
    dst: A,
    protocol: Protocol,
    id: u32,
}

impl<A: Address> DatagramId<A> {
    pub(crate) fn new(headers: &Headers<A>, fragment: &Fragment) -> Self {
        let ends = headers.tuple.ends;
        Self { src: ends.src, dst: ends.dst, protocol: headers.tuple.protocol, id: fragment.id }
    }
}

/// The decision for a datagram.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum DatagramFate<A> {
    /// It goes on untouched.
    Pass,
    /// It gets these addresses.
    Translate { src: A, dst: A, l3: Delta, flags: u8 },
    /// No fragment of it is sent on.
    Refused(Cause),
}

impl<A> DatagramFate<A> {
    /// The verdict on a later fragment.
    pub(crate) fn verdict(&self) -> Verdict {
        match *self {
            Self::Pass => Verdict::new(Action::Pass, Cause::NotOurs),
            Self::Refused(cause) => Verdict::drop(cause),
            Self::Translate { flags, .. } => {
                Verdict { flags, ..Verdict::new(Action::Translate, Cause::Fragment) }
            }
        }
    }
}

/// A fragment that waits.
#[derive(Debug)]
pub(crate) struct Held {
    pub(crate) ticket: u32,
    pub(crate) packet: Vec<u8>,
}

/// The next step for a fragment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Admission<A> {
    /// It is the first one: decide, and then [`Fragments::settle`].
    Decide,
    /// Its datagram is decided.
    Follow(DatagramFate<A>),
    /// It must wait: [`Fragments::hold`].
    Wait,
}

#[derive(Debug)]
struct Datagram<A> {
    fate: Option<DatagramFate<A>>,
    /// The ranges seen: disjoint, not adjacent, in order.
    seen: Vec<(u32, u32)>,
    /// Where the datagram ends, once the last fragment was seen.
    end: Option<u32>,
    held: Vec<Held>,
    /// Distinguishes it from earlier ones with the same identification.
    serial: u64,
}

/// All datagrams of one family that are under way in fragments.
#[derive(Debug)]
pub(crate) struct Fragments<A> {
    datagrams: HashMap<DatagramId<A>, Datagram<A>, HashKey>,
    /// In the order of their deadlines, which all lie equally far behind their first fragment.
    deadlines: VecDeque<(Tick, u64, DatagramId<A>)>,
    capacity: usize,
    held: usize,
    held_bytes: usize,
    serial: u64,
    /// The last one given out. Both families' tickets go to one driver, so those of IPv4 are even
    /// and those of IPv6 odd.
    tickets: u32,
    /// Held fragments whose datagram was given up, with the cause.
    given_up: Vec<(Held, Cause)>,
}

impl<A: Address> Fragments<A> {
    pub(crate) fn new(capacity: usize, key: HashKey) -> Self {
        Self {
            datagrams: HashMap::with_hasher(key),
            deadlines: VecDeque::new(),
            capacity,
            held: 0,
            held_bytes: 0,
            serial: 0,
            tickets: u32::from(A::VERSION == 6),
            given_up: Vec::new(),
        }
    }

    pub(crate) fn held(&self) -> usize {
        self.held
    }

    /// Enters a fragment. A new datagram in a full table pushes the oldest out.
    pub(crate) fn admit(
        &mut self,
        id: DatagramId<A>,
        fragment: &Fragment,
        now: Tick,
    ) -> Admission<A> {
        // Two out for one in: the table empties itself without a timer, at a constant cost.
        self.expire(now, 2);
        if self.capacity == 0 {
            return Admission::Follow(DatagramFate::Refused(Cause::FragmentLimit));
        }
        if !self.datagrams.contains_key(&id) {
            // The oldest leaves, not the new one: datagrams that are begun and never end would
            // otherwise shut out all others until their time is over.
            while self.datagrams.len() >= self.capacity {
                self.pop_oldest(Cause::FragmentLimit);
            }
            self.serial += 1;
            self.deadlines.push_back((now.saturating_add(ticks(TIMEOUT)), self.serial, id));
            let datagram = Datagram {
                fate: None,
                seen: Vec::new(),
                end: None,
                held: Vec::new(),
                serial: self.serial,
            };
            self.datagrams.insert(id, datagram);
        }
        let Some(datagram) = self.datagrams.get_mut(&id) else { return Admission::Wait };
        if let Err(cause) = datagram.see(fragment) {
            // The network may repeat a fragment; one that overlaps in part is an attack on the
            // receiver's reassembly (RFC 5722), and all of it is refused.
            if cause == Cause::FragmentOverlap && datagram.is_repeated(fragment) {
                return Admission::Follow(DatagramFate::Refused(cause));
            }
            datagram.fate = Some(DatagramFate::Refused(cause));
            let held = std::mem::take(&mut datagram.held);
            self.give_up(held, cause);
            return Admission::Follow(DatagramFate::Refused(cause));
        }
        match datagram.fate {
            Some(fate) => {
                self.forget_complete(id);
                Admission::Follow(fate)
            }
            None if fragment.offset == 0 => Admission::Decide,
            None => Admission::Wait,
        }
    }

    /// The fate of a fragment if it came now; nothing changes.
    pub(crate) fn look(&self, id: &DatagramId<A>) -> Option<DatagramFate<A>> {
        self.datagrams.get(id)?.fate
    }

    /// Keeps a fragment until its datagram is decided; `None` when there is no room.
    pub(crate) fn hold(&mut self, id: &DatagramId<A>, packet: &[u8]) -> Option<u32> {
        if self.held >= self.capacity || self.held_bytes + packet.len() > self.capacity * HELD_BYTES
        {
            return None;
        }
        let datagram = self.datagrams.get_mut(id)?;
        // By two: both families' tickets go to one driver and must not meet.
        self.tickets = self.tickets.wrapping_add(2);
        self.held += 1;
        self.held_bytes += packet.len();
        datagram.held.push(Held { ticket: self.tickets, packet: packet.to_vec() });
        Some(self.tickets)
    }

    /// Takes note of what was decided for the first fragment, and hands out those that waited for
    /// it.
    pub(crate) fn settle(&mut self, id: DatagramId<A>, fate: DatagramFate<A>) -> Vec<Held> {
        let Some(datagram) = self.datagrams.get_mut(&id) else { return Vec::new() };
        datagram.fate = Some(fate);
        let held = std::mem::take(&mut datagram.held);
        self.count_out(&held);
        self.forget_complete(id);
        held
    }

    /// Gives up datagrams whose time is over, at most `budget`.
    pub(crate) fn expire(&mut self, now: Tick, budget: usize) {
        for _ in 0..budget {
            match self.deadlines.front() {
                Some(&(deadline, ..)) if now > deadline => self.pop_oldest(Cause::FragmentTimeout),
                _ => break,
            }
        }
    }

    /// When the next datagram is given up.
    pub(crate) fn earliest_deadline(&self) -> Option<Tick> {
        self.deadlines.front().map(|&(deadline, ..)| deadline)
    }

    /// The held fragments that were given up since the last call.
    pub(crate) fn take_given_up(&mut self) -> Vec<(Held, Cause)> {
        std::mem::take(&mut self.given_up)
    }

    fn pop_oldest(&mut self, cause: Cause) {
        let Some((_, serial, id)) = self.deadlines.pop_front() else { return };
        if self.datagrams.get(&id).is_some_and(|datagram| datagram.serial == serial)
            && let Some(datagram) = self.datagrams.remove(&id)
        {
            self.give_up(datagram.held, cause);
        }
    }

    fn give_up(&mut self, held: Vec<Held>, cause: Cause) {
        self.count_out(&held);
        self.given_up.extend(held.into_iter().map(|held| (held, cause)));
    }

    fn count_out(&mut self, held: &[Held]) {
        self.held -= held.len();
        self.held_bytes -= held.iter().map(|held| held.packet.len()).sum::<usize>();
    }

    /// A datagram of which all was seen is over; its identification may come again at once.
    fn forget_complete(&mut self, id: DatagramId<A>) {
        if self.datagrams.get(&id).is_some_and(Datagram::is_complete) {
            self.datagrams.remove(&id);
            // Its place in `deadlines` is skipped when its turn comes, by the serial; keep that
            // list bounded too.
            if self.deadlines.len() > 2 * self.capacity {
                let datagrams = &self.datagrams;
                self.deadlines.retain(|(_, serial, id)| {
                    datagrams.get(id).is_some_and(|datagram| datagram.serial == *serial)
                });
            }
        }
    }
}

impl<A> Datagram<A> {
    fn see(&mut self, fragment: &Fragment) -> Result<(), Cause> {
        let (start, end) = (fragment.offset, fragment.offset + fragment.length);
        if end > MAX_DATAGRAM
            || (fragment.more && (!fragment.length.is_multiple_of(8) || fragment.length == 0))
        {
            return Err(Cause::Malformed);
        }
        let place = self.seen.partition_point(|&(_, seen_end)| seen_end <= start);
        let overlaps = self.seen.get(place).is_some_and(|&(seen_start, _)| seen_start < end);
        let is_behind_end =
            self.end.is_some_and(|last| end > last || (!fragment.more && end != last));
        let has_more_behind =
            !fragment.more && self.seen.last().is_some_and(|&(_, seen_end)| seen_end > end);
        if overlaps || is_behind_end || has_more_behind {
            return Err(Cause::FragmentOverlap);
        }
        // A datagram in alternating gaps would make each look at it longer.
        if self.seen.len() >= MAX_RUNS {
            return Err(Cause::FragmentLimit);
        }
        // Only the last fragment tells the length; until then any offset may be right.
        if !fragment.more {
            self.end = Some(end);
        }
        let joins_before = place > 0 && self.seen[place - 1].1 == start;
        let joins_behind = self.seen.get(place).is_some_and(|&(seen_start, _)| seen_start == end);
        match (joins_before, joins_behind) {
            (true, true) => self.seen[place - 1].1 = self.seen.remove(place).1,
            (true, false) => self.seen[place - 1].1 = end,
            (false, true) => self.seen[place].0 = start,
            (false, false) => self.seen.insert(place, (start, end)),
        }
        Ok(())
    }

    /// Whether the fragment lies wholly within what was seen: a repetition, which the kernel drops
    /// alone.
    fn is_repeated(&self, fragment: &Fragment) -> bool {
        let (start, end) = (fragment.offset, fragment.offset + fragment.length);
        self.seen.iter().any(|&(seen_start, seen_end)| seen_start <= start && end <= seen_end)
    }

    fn is_complete(&self) -> bool {
        self.end.is_some_and(|end| self.seen.first() == Some(&(0, end)))
    }
}

/// A held fragment's way out of the engine.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Released {
    /// The number that its [`Verdict`] named.
    pub ticket: u32,
    /// The verdict on it.
    pub verdict: Verdict,
    /// The packet, rewritten if the verdict says so.
    pub packet: Vec<u8>,
}

/// Seconds from a datagram's first fragment to its end (net.ipv4.ipfrag_time).
const TIMEOUT: f64 = 30.0;
/// Bytes that may wait, per datagram that may be known.
const HELD_BYTES: usize = 2048;
/// Gaps in a datagram that are kept track of.
const MAX_RUNS: usize = 64;
/// No datagram is longer (RFC 791; for IPv6 its payload, RFC 8200).
const MAX_DATAGRAM: u32 = 65_535;

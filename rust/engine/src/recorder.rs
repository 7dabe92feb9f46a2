//! The flight recorder: the last decisions about first packets, for questions after the fact.
//!
//! Theory of operation. A decision is one [`Entry`] of a ring, written where the first packet of a
//! flow is decided; an older entry gives way to it. An entry must stay small and cheap to write, so
//! it holds what changes from packet to packet, and the rest is found by its sequence number when
//! it is read:
//!
//! - Addresses and ports stand in the entry. Records of backends are used again, addresses tell.
//! - A service port is told by its number in the ledger. Numbers are used again, and lists of
//!   endpoints change, so the ledger hands over each form of a service port that ends
//!   ([`Recorder::supersede`]). An entry belongs to the first form of its number that ended behind
//!   it, or to the one in force.
//! - The generation of the tables changes seldom: `generations` says from which entry on each one
//!   was in force.
//!
//! Forms and generations go when the last entry that could need them has gone. A form is kept only
//! if a decision was made by it, so there are no more forms than entries and service ports. Their
//! endpoints are bounded apart: the oldest forms lose their list first, and keep their name.

use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use crate::balance::Strategy;
use crate::clock::Tick;
use crate::hash::HashKey;
use crate::service::{Scope, ServicePort};
use crate::tuple::{Address, Family, Protocol, Tuple};
use crate::verdict::{Action, Cause, Verdict};

/// How a first packet was decided, in three bits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(crate) enum Outcome {
    /// Served by a backend of the service port's strategy.
    Strategy,
    /// Served by the backend that the client had before.
    Affinity,
    /// Served, in mid-stream, by a choice that all nodes agree on.
    Consistent,
    /// Dropped.
    Drop,
    /// Rejected.
    Reject,
}

impl Outcome {
    const ALL: [Self; 5] =
        [Self::Strategy, Self::Affinity, Self::Consistent, Self::Drop, Self::Reject];

    /// The outcome for a packet that is not served.
    pub(crate) fn refusal(verdict: Verdict) -> Self {
        if verdict.action == Action::Reject { Self::Reject } else { Self::Drop }
    }

    /// The action that it was.
    pub(crate) fn action(self) -> Action {
        match self {
            Self::Strategy | Self::Affinity | Self::Consistent => Action::Translate,
            Self::Drop => Action::Drop,
            Self::Reject => Action::Reject,
        }
    }
}

/// An entry as it stands in the ring: plain numbers, so that the kernel hands out zeroed memory for
/// all of them and no packet waits until it is written.
///
/// The first three are the addresses of client, frontend and backend ([`Address::bits`]); IPv4 has
/// the same layout as IPv6. The fourth has, from its lowest bit on: the three ports, 16 bits each;
/// five bits of [`Cause`] and three of [`Outcome`]; the protocol, 8; the tick, 32; the family, 8;
/// and the service port's number, 24.
type Words = [u128; 4];

const _: () = assert!(size_of::<Words>() <= 64);
const _: () = assert!(Outcome::ALL.len() <= 8 && Cause::COUNT <= 32);

/// Stands for no service port. A ledger with so many would need gigabytes for them.
const NO_SERVICE: u32 = (1 << 24) - 1;

/// One decision.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Entry(Words);

impl Entry {
    /// The decision that this backend serves.
    #[inline(always)]
    pub(crate) fn served<A: Address>(
        tick: Tick,
        tuple: Tuple<A>,
        service: u32,
        outcome: Outcome,
        backend: (A, u16),
    ) -> Self {
        Self::new(tick, tuple, service, (outcome as u8) << 5 | Cause::New as u8, backend)
    }

    /// The decision that nobody serves, made by this service port if there is one.
    pub(crate) fn refused<A: Address>(
        tick: Tick,
        tuple: Tuple<A>,
        service: Option<u32>,
        verdict: Verdict,
    ) -> Self {
        let outcome = Outcome::refusal(verdict);
        let verdict = (outcome as u8) << 5 | verdict.cause as u8;
        Self::new(tick, tuple, service.unwrap_or(NO_SERVICE), verdict, (tuple.ends.dst, 0))
    }

    #[inline(always)]
    fn new<A: Address>(
        tick: Tick,
        Tuple { ends, protocol }: Tuple<A>,
        service: u32,
        verdict: u8,
        (backend, port): (A, u16),
    ) -> Self {
        let low = u64::from(ends.sport)
            | u64::from(ends.dport) << 16
            | u64::from(port) << 32
            | u64::from(verdict) << 48
            | u64::from(protocol.0) << 56;
        let high = u64::from(tick) | u64::from(A::VERSION) << 32 | u64::from(service) << 40;
        let rest = u128::from(high) << 64 | u128::from(low);
        Self([ends.src.bits(), ends.dst.bits(), backend.bits(), rest])
    }

    pub(crate) fn client(&self) -> SocketAddr {
        self.end(0)
    }

    pub(crate) fn frontend(&self) -> SocketAddr {
        self.end(1)
    }

    pub(crate) fn backend(&self) -> Option<SocketAddr> {
        (self.outcome().action() == Action::Translate).then(|| self.end(2))
    }

    pub(crate) fn outcome(&self) -> Outcome {
        Outcome::ALL[usize::from(self.rest(48) as u8 >> 5)]
    }

    pub(crate) fn cause(&self) -> Cause {
        Cause::ALL[usize::from(self.rest(48) as u8 & 31)]
    }

    pub(crate) fn protocol(&self) -> Protocol {
        Protocol(self.rest(56) as u8)
    }

    pub(crate) fn tick(&self) -> Tick {
        self.rest(64) as Tick
    }

    /// The service port's number in the ledger at that time.
    pub(crate) fn service(&self) -> Option<u32> {
        let number = self.rest(104) as u32;
        (number != NO_SERVICE).then_some(number)
    }

    fn end(&self, place: usize) -> SocketAddr {
        let bits = self.0[place];
        let address: IpAddr = if self.rest(96) as u8 == Family::V4.version() {
            Ipv4Addr::from((bits as u32).to_ne_bytes()).into()
        } else {
            Ipv6Addr::from(bits.to_ne_bytes()).into()
        };
        SocketAddr::new(address, self.rest(16 * place) as u16)
    }

    /// The fourth number from this bit on.
    fn rest(&self, bit: usize) -> u128 {
        self.0[3] >> bit
    }
}

/// A service port as it was for some decisions.
#[derive(Clone, Debug)]
pub(crate) struct Form {
    /// The sequence number behind its last decision.
    until: u64,
    pub(crate) name: Box<str>,
    pub(crate) strategy: Strategy,
    /// `None` where the list was given up for newer ones.
    endpoints: Option<Arc<[SocketAddr]>>,
}

impl Form {
    /// Its endpoints, if they are remembered.
    pub(crate) fn endpoints(&self) -> Option<Arc<[SocketAddr]>> {
        self.endpoints.clone()
    }

    fn of(until: u64, service: &ServicePort) -> Self {
        Self {
            until,
            name: service.name().into(),
            strategy: service.spec().strategy,
            endpoints: Some(endpoints(service)),
        }
    }
}

/// The endpoints of a service port that get flows, of both lists, each once, in the order of
/// addresses.
pub(crate) fn endpoints(service: &ServicePort) -> Arc<[SocketAddr]> {
    let lists = [Scope::Cluster, Scope::Local].map(|scope| service.set(scope).backends());
    let eligible = lists.into_iter().flatten().filter(|backend| backend.weight > 0);
    let mut addresses: Vec<SocketAddr> = eligible.map(|backend| backend.address).collect();
    addresses.sort_unstable();
    addresses.dedup();
    addresses.into()
}

/// See the module documentation.
#[derive(Debug)]
pub(crate) struct Recorder {
    capacity: usize,
    /// Empty before the first decision; then `capacity` entries, those behind `position` zeroes in
    /// the first round.
    ring: Vec<Words>,
    /// Where the next entry goes.
    position: usize,
    /// How often the ring was filled.
    rounds: u64,
    /// By number: the forms of service ports that have ended, oldest first.
    forms: HashMap<u32, VecDeque<Form>, HashKey>,
    /// The same forms by their ends, oldest first; of those before `stripped` the lists were given
    /// up.
    ends: VecDeque<(u64, u32)>,
    stripped: usize,
    /// Endpoints in the lists of all forms.
    listed: usize,
    /// Generations of the tables, each with the sequence number of its first decision.
    generations: VecDeque<(u64, u32)>,
}

impl Recorder {
    /// Remembers so many decisions; none, and at no cost, with 0.
    pub(crate) fn new(capacity: usize, key: HashKey) -> Self {
        Self {
            capacity,
            ring: Vec::new(),
            position: 0,
            rounds: 0,
            forms: HashMap::with_hasher(key),
            ends: VecDeque::new(),
            stripped: 0,
            listed: 0,
            generations: VecDeque::from([(0, 0)]),
        }
    }

    /// Remembers a decision.
    #[inline(always)]
    pub(crate) fn record(&mut self, entry: Entry) {
        if self.position >= self.ring.len() && !self.make_place() {
            return;
        }
        self.ring[self.position] = entry.0;
        self.position += 1;
    }

    /// Takes the ring's memory, or begins a new round. False: nothing is remembered.
    #[cold]
    #[inline(never)]
    fn make_place(&mut self) -> bool {
        if self.ring.is_empty() {
            self.ring = vec![[0; 4]; self.capacity];
        } else {
            self.position = 0;
            self.rounds += 1;
        }
        self.capacity > 0
    }

    /// The sequence number of the next decision; the first is 0.
    pub(crate) fn next(&self) -> u64 {
        self.rounds * self.capacity as u64 + self.position as u64
    }

    /// The sequence number of the oldest decision that is remembered.
    pub(crate) fn oldest(&self) -> u64 {
        self.next().saturating_sub(self.capacity as u64)
    }

    /// The decision with this sequence number.
    pub(crate) fn entry(&self, sequence: u64) -> Option<Entry> {
        if !(self.oldest()..self.next()).contains(&sequence) {
            return None;
        }
        self.ring.get((sequence % self.capacity as u64) as usize).copied().map(Entry)
    }

    /// The form of the service port by which a decision was made; `None` for the one in force.
    pub(crate) fn form(&self, sequence: u64, service: u32) -> Option<&Form> {
        let forms = self.forms.get(&service)?;
        forms.get(forms.partition_point(|form| form.until <= sequence))
    }

    /// The generation of the tables under which a decision was made.
    pub(crate) fn generation(&self, sequence: u64) -> u32 {
        let behind = self.generations.partition_point(|&(first, _)| first <= sequence);
        behind.checked_sub(1).map_or(0, |place| self.generations[place].1)
    }

    /// Notes that the next decisions are made by tables of another generation.
    pub(crate) fn begin_generation(&mut self, generation: u32) {
        let next = self.next();
        // No decision was made under the last one.
        if self.generations.back().is_some_and(|&(first, _)| first == next) {
            self.generations.pop_back();
        }
        self.generations.push_back((next, generation));
        let oldest = self.oldest();
        while self.generations.get(1).is_some_and(|&(first, _)| first <= oldest) {
            self.generations.pop_front();
        }
    }

    /// Notes that no more decisions are made by a service port as it is. Cost: its endpoints.
    pub(crate) fn supersede(&mut self, number: u32, service: &ServicePort) {
        self.forget_forms();
        if self.capacity == 0 {
            return;
        }
        let form = Form::of(self.next(), service);
        self.listed += form.endpoints.as_ref().map_or(0, |list| list.len());
        self.ends.push_back((form.until, number));
        self.forms.entry(number).or_default().push_back(form);
        self.strip_forms();
    }

    /// Forgets the forms behind which all entries have gone.
    fn forget_forms(&mut self) {
        let oldest = self.oldest();
        while let Some(&(until, number)) = self.ends.front()
            && until <= oldest
        {
            self.ends.pop_front();
            self.stripped = self.stripped.saturating_sub(1);
            let Some(forms) = self.forms.get_mut(&number) else { continue };
            let former = forms.pop_front().and_then(|form| form.endpoints);
            self.listed -= former.map_or(0, |list| list.len());
            if forms.is_empty() {
                self.forms.remove(&number);
            }
        }
    }

    /// Gives up the lists of the oldest forms while all of them are too long together.
    fn strip_forms(&mut self) {
        while self.listed > self.capacity.saturating_mul(ENDPOINTS)
            && let Some(&(until, number)) = self.ends.get(self.stripped)
        {
            self.stripped += 1;
            let forms = self.forms.get_mut(&number).into_iter().flatten();
            for form in forms.take_while(|form| form.until <= until) {
                self.listed -= form.endpoints.take().map_or(0, |list| list.len());
            }
        }
    }
}

/// Endpoints of former forms that are kept for each entry of the ring.
const ENDPOINTS: usize = 2;

#[cfg(test)]
mod tests;

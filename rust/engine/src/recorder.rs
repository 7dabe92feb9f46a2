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
use crate::tuple::{Address, Family, Protocol, WireEnds};
use crate::verdict::{Action, Cause, Outcome, Verdict};

/// An entry as it stands in the ring: plain bytes, so that the kernel hands out zeroed memory for
/// all of them and no packet waits until it is written.
type Bytes = [u8; 64];

/// Where the parts of an entry begin, each in native byte order unless it is written as it stands
/// in the packet. An IPv4 address takes four of sixteen bytes; the others stay as they are.
const CLIENT: usize = 0;
const FRONTEND: usize = 16;
const BACKEND: usize = 32;
/// As in the packet, the client's and the frontend's.
const PORTS: usize = 48;
const BACKEND_PORT: usize = 52;
/// Five bits of [`Cause`] and three of [`Outcome`].
const VERDICT: usize = 54;
const PROTOCOL: usize = 55;
const TICK: usize = 56;
/// The service port's number, 24 bits, and the family.
const SERVICE: usize = 60;

const _: () = assert!(Outcome::ALL.len() <= 8 && Cause::COUNT <= 32);

/// Stands for no service port. A ledger with so many would need gigabytes for them.
const NO_SERVICE: u32 = (1 << 24) - 1;

/// A decision that is to be remembered.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ruling<'a, A> {
    tick: Tick,
    /// Those of the first packet, and those of answers to it as they come from the backend.
    ends: &'a [WireEnds<A>; 2],
    protocol: Protocol,
    service: u32,
    outcome: Outcome,
    cause: Cause,
}

impl<'a, A: Address> Ruling<'a, A> {
    /// The decision that the backend serves from which these answers come.
    #[inline(always)]
    pub(crate) fn served(
        tick: Tick,
        (ends, protocol): (&'a [WireEnds<A>; 2], Protocol),
        service: u32,
        outcome: Outcome,
    ) -> Self {
        Self { tick, ends, protocol, service, outcome, cause: Cause::New }
    }

    /// The decision that nobody serves, made by this service port if there is one.
    pub(crate) fn refused(
        tick: Tick,
        (ends, protocol): (&'a [WireEnds<A>; 2], Protocol),
        service: Option<u32>,
        verdict: Verdict,
    ) -> Self {
        let (service, cause) = (service.unwrap_or(NO_SERVICE), verdict.cause);
        Self { tick, ends, protocol, service, outcome: Outcome::refusal(verdict), cause }
    }

    /// Writes each part where it belongs, one after the other: a store for each costs a packet
    /// fewer instructions than to put them together, and no register holds one for long.
    #[inline(always)]
    fn write(&self, bytes: &mut Bytes) {
        let [packet, answer] = self.ends;
        put_address(bytes, CLIENT, packet.src);
        put_address(bytes, FRONTEND, packet.dst);
        put_address(bytes, BACKEND, answer.src);
        put(bytes, PORTS, packet.ports);
        put(bytes, BACKEND_PORT, [answer.ports[0], answer.ports[1]]);
        bytes[VERDICT] = self.outcome as u8 | self.cause as u8;
        bytes[PROTOCOL] = self.protocol.0;
        put(bytes, TICK, self.tick.to_ne_bytes());
        put(bytes, SERVICE, (self.service | u32::from(A::VERSION) << 24).to_ne_bytes());
    }
}

#[inline(always)]
fn put_address<A: Address>(bytes: &mut Bytes, start: usize, address: A) {
    let bits = address.bits();
    if A::FAMILY == Family::V4 {
        put(bytes, start, (bits as u32).to_ne_bytes());
    } else {
        put(bytes, start, bits.to_ne_bytes());
    }
}

/// Stores a part of an entry, at a place that is known where this is compiled.
#[inline(always)]
fn put<const SIZE: usize>(bytes: &mut Bytes, start: usize, part: [u8; SIZE]) {
    bytes[start..start + SIZE].copy_from_slice(&part);
}

/// One decision, as it is remembered.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Entry(Bytes);

impl Entry {
    pub(crate) fn client(&self) -> SocketAddr {
        SocketAddr::new(self.address(CLIENT), u16::from_be_bytes(self.part(PORTS)))
    }

    pub(crate) fn frontend(&self) -> SocketAddr {
        SocketAddr::new(self.address(FRONTEND), u16::from_be_bytes(self.part(PORTS + 2)))
    }

    pub(crate) fn backend(&self) -> Option<SocketAddr> {
        let port = u16::from_be_bytes(self.part(BACKEND_PORT));
        let end = SocketAddr::new(self.address(BACKEND), port);
        (self.outcome().action() == Action::Translate).then_some(end)
    }

    pub(crate) fn outcome(&self) -> Outcome {
        Outcome::ALL[usize::from(self.0[VERDICT] >> 5)]
    }

    pub(crate) fn cause(&self) -> Cause {
        Cause::ALL[usize::from(self.0[VERDICT] & 31)]
    }

    pub(crate) fn protocol(&self) -> Protocol {
        Protocol(self.0[PROTOCOL])
    }

    pub(crate) fn tick(&self) -> Tick {
        Tick::from_ne_bytes(self.part(TICK))
    }

    /// The service port's number in the ledger at that time.
    pub(crate) fn service(&self) -> Option<u32> {
        let number = u32::from_ne_bytes(self.part(SERVICE)) & NO_SERVICE;
        (number != NO_SERVICE).then_some(number)
    }

    fn address(&self, start: usize) -> IpAddr {
        let version = u32::from_ne_bytes(self.part(SERVICE)) >> 24;
        if version == Family::V4.version().into() {
            Ipv4Addr::from(self.part(start)).into()
        } else {
            Ipv6Addr::from(self.part(start)).into()
        }
    }

    fn part<const SIZE: usize>(&self, start: usize) -> [u8; SIZE] {
        std::array::from_fn(|place| self.0[start + place])
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
    ring: Vec<Bytes>,
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
    pub(crate) fn record<A: Address>(&mut self, ruling: &Ruling<'_, A>) {
        if self.position >= self.ring.len() {
            self.make_place();
        }
        let position = self.position;
        // There is none where nothing is to be remembered.
        if let Some(place) = self.ring.get_mut(position) {
            ruling.write(place);
            self.position = position + 1;
        }
    }

    /// Takes the ring's memory, or begins a new round.
    #[cold]
    #[inline(never)]
    fn make_place(&mut self) {
        if self.ring.is_empty() {
            self.ring = vec![[0; size_of::<Bytes>()]; self.capacity];
        } else {
            self.position = 0;
            self.rounds += 1;
        }
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

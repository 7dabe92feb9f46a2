//! The engine's public view of itself: flows, counters. Copies; nothing in here is on a packet's
//! path.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::Range;

use super::{Engine, EngineAddress};
use crate::cidr::Cidr;
use crate::clock::{self, Tick};
use crate::connects::ConnectTimes;
use crate::conntrack::ports::PortUse;
use crate::conntrack::state::State;
use crate::conntrack::{FlowId, Hot};
use crate::events::{EventKind, Seen};
use crate::ledger::{Standing, Traffic};
use crate::pipeline::FamilyState;
use crate::tuple::{Direction, Ends, Family, Protocol, Tuple, WireEnds};
use crate::verdict::Cause;
use crate::wire::Wire;

/// A flow at one moment.
#[derive(Clone, PartialEq, Debug)]
pub struct Flow {
    /// Protocol.
    pub protocol: Protocol,
    /// Its state's name as nf_conntrack shows it.
    pub state: Option<&'static str>,
    /// Both sides have confirmed it.
    pub assured: bool,
    /// The backend has answered.
    pub replied: bool,
    /// Client.
    pub source: SocketAddr,
    /// Frontend, as the client addressed it.
    pub destination: SocketAddr,
    /// Backend.
    pub reply_source: SocketAddr,
    /// Where the backend answers to.
    pub reply_destination: SocketAddr,
    /// Name of its service port.
    pub service: String,
    /// Its source is masqueraded.
    pub masquerade: bool,
    /// Packets to the backend and back.
    pub packets: [u64; 2],
    /// Bytes of IP packets to the backend and back.
    pub bytes: [u64; 2],
    /// Seconds since it began.
    pub age: f64,
    /// Seconds until it ends without further packets.
    pub timeout: f64,
}

/// Which flows are wanted; `None` is all.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// Of this protocol.
    pub protocol: Option<Protocol>,
    /// Of the service port with this name.
    pub service: Option<String>,
    /// From a client address of this range.
    pub source: Option<Cidr>,
    /// To a frontend address of this range.
    pub destination: Option<Cidr>,
    /// Served by a backend address of this range.
    pub backend: Option<Cidr>,
    /// In the state of this name.
    pub state: Option<String>,
}

/// A list of flows that is made page by page; the engine may carry packets between two pages.
///
/// A flow that lives through all of it is in it exactly once. Flows that begin after the list does
/// are left out.
#[derive(Clone, Debug)]
pub struct Listing {
    filter: Filter,
    since: Tick,
    /// Records of either family that are still to be looked at. Records that the tables get
    /// later hold newer flows only.
    remaining: [Range<usize>; 2],
}

impl Listing {
    /// The next records of both families, at most `budget` but one at least; `None` when all were
    /// looked at.
    fn next_records(&mut self, budget: usize) -> Option<[Range<usize>; 2]> {
        let mut budget = budget.max(1);
        let pages = self.remaining.each_mut().map(|remaining| {
            let page = remaining.start..remaining.start + remaining.len().min(budget);
            (remaining.start, budget) = (page.end, budget - page.len());
            page
        });
        pages.iter().any(|page| !page.is_empty()).then_some(pages)
    }
}

/// The traffic of every backend at one moment, and how far a list of it is.
#[derive(Clone, Debug)]
pub struct Census {
    /// By backend record.
    totals: Vec<Traffic>,
    /// Flows that are over, likewise.
    over: Vec<u32>,
    /// Tell whether a record is still the same backend's.
    births: Vec<u32>,
    /// The number of the service port that comes next.
    next: u32,
}

impl Census {
    /// What a backend had carried; nothing if it has come since.
    fn traffic(&self, id: u32, birth: u32) -> Traffic {
        let is_same = self.births.get(id as usize) == Some(&birth);
        if is_same { self.totals[id as usize] } else { Traffic::default() }
    }

    /// How many of its flows were over, at most so many: those that may be now.
    fn over(&self, id: u32, birth: u32, inactive: u32) -> u32 {
        let is_same = self.births.get(id as usize) == Some(&birth);
        if is_same { self.over[id as usize].min(inactive) } else { 0 }
    }
}

/// Puts service ports into the order of their names, and their backends into that of their
/// addresses. One that went and came back between two pages stays once.
pub fn sort_service_stats(services: &mut Vec<ServiceStats>) {
    for service in services.iter_mut() {
        service.backends.sort_by_key(|backend| (backend.address, backend.is_gone));
    }
    services.sort_by(|a, b| (&a.name, a.family).cmp(&(&b.name, b.family)));
    services.dedup_by(|a, b| (&a.name, a.family) == (&b.name, b.family));
}

/// Counters of a backend.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BackendStats {
    /// Where it is.
    pub address: SocketAddr,
    /// Flows alive, without those that are over.
    pub active: u32,
    /// Of these, flows that give it no work ([`State::is_inactive`]).
    pub inactive: u32,
    /// Beside these, flows that are over and only remembered ([`State::is_over`]).
    pub over: u32,
    /// All that it has carried.
    pub traffic: Traffic,
    /// How long it took to answer clients; `None` if it never did.
    pub connects: Option<Box<ConnectTimes>>,
    /// It is in the tables no more, but has flows.
    pub is_gone: bool,
}

/// Counters of a service port.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ServiceStats {
    /// Its name.
    pub name: String,
    /// The family that it serves.
    pub family: Family,
    /// All that it has carried, by backends that are no more as well.
    pub traffic: Traffic,
    /// How long its backends took to answer clients, those that are no more as well.
    pub connects: ConnectTimes,
    /// Packets that were not served, by cause.
    pub refused: Vec<(Cause, u64)>,
    /// Its backends, sorted by address.
    pub backends: Vec<BackendStats>,
}

impl ServiceStats {
    /// Flows alive, without those that are over.
    #[must_use]
    pub fn active(&self) -> u64 {
        self.backends.iter().map(|backend| u64::from(backend.active)).sum()
    }
}

/// Sizes of what the engine remembers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Occupancy {
    /// Flows in the tables, expired ones that are not yet swept out included.
    pub flows: usize,
    /// Of these, assured ones.
    pub assured: usize,
    /// Clients whose backend is remembered.
    pub affinities: usize,
    /// Source ports that are leased to masqueraded flows.
    pub leased_ports: usize,
    /// Of these, the ones towards the backend that most are leased towards, from one address.
    pub most_leased_ports: usize,
    /// Source ports that can be leased towards one backend, from one address.
    pub leasable_ports: usize,
    /// Fragments that wait.
    pub held_fragments: usize,
    /// Flows that have ended by their timeout.
    pub expired: u64,
    /// Flows that made room for others.
    pub evicted: u64,
}

impl Engine {
    /// The flows alive that match, at most `limit`. Cost: a pass over the table.
    #[must_use]
    pub fn flows(&self, filter: &Filter, limit: usize) -> Vec<Flow> {
        let (mut listing, mut flows) = (self.listing(filter.clone()), Vec::new());
        while flows.len() < limit
            && let Some(page) = self.next_flows(&mut listing, PAGE)
        {
            flows.extend(page);
        }
        flows.truncate(limit);
        flows
    }

    /// Ends the flows that match, and returns how many they were. Cost: a pass over the table.
    pub fn delete_flows(&mut self, filter: &Filter) -> usize {
        let mut listing = self.listing(filter.clone());
        std::iter::from_fn(|| self.end_next_flows(&mut listing, PAGE)).sum()
    }

    /// Ends the flow of this protocol from a client to a frontend. Returns whether there was one.
    pub fn end_flow(&mut self, protocol: Protocol, from: SocketAddr, to: SocketAddr) -> bool {
        match Family::of(to.ip()) {
            Family::V4 => self.end_flow_in::<Ipv4Addr>(protocol, from, to),
            Family::V6 => self.end_flow_in::<Ipv6Addr>(protocol, from, to),
        }
    }

    /// A list of the flows alive that match, for [`Engine::next_flows`] or
    /// [`Engine::end_next_flows`].
    #[must_use]
    pub fn listing(&self, filter: Filter) -> Listing {
        let remaining = [0..self.v4.flows.records(), 0..self.v6.flows.records()];
        Listing { filter, since: self.shared.clock.tick(), remaining }
    }

    /// The next flows of a list, perhaps none; `None` at its end. Cost: looks at `budget` records,
    /// at most.
    pub fn next_flows(&self, listing: &mut Listing, budget: usize) -> Option<Vec<Flow>> {
        let [v4, v6] = listing.next_records(budget)?;
        let mut flows: Vec<Flow> =
            self.listing_ids(&self.v4, v4, listing).map(|id| self.flow(&self.v4, id)).collect();
        flows.extend(self.listing_ids(&self.v6, v6, listing).map(|id| self.flow(&self.v6, id)));
        Some(flows)
    }

    /// Ends the next flows of a list, and returns how many; `None` at its end. Cost: looks at
    /// `budget` records, at most.
    pub fn end_next_flows(&mut self, listing: &mut Listing, budget: usize) -> Option<usize> {
        let [v4, v6] = listing.next_records(budget)?;
        Some(
            self.end_flows_in::<Ipv4Addr>(v4, listing) + self.end_flows_in::<Ipv6Addr>(v6, listing),
        )
    }

    /// From now on notes what happens to flows, at most so many events of each family until they
    /// are taken; 0 is none.
    pub fn watch(&mut self, capacity: usize) {
        self.v4.events.watch(capacity);
        self.v6.events.watch(capacity);
    }

    /// Events of flows since the last call, and how many were lost because no watcher took
    /// them. A flow is shown as it was then; its timeout counts from now.
    pub fn take_events(&mut self) -> (Vec<(EventKind, Flow)>, u64) {
        let ((v4, lost), (v6, more)) = (self.v4.events.take(), self.v6.events.take());
        let mut events = Vec::with_capacity(v4.len() + v6.len());
        events.extend(v4.iter().map(|seen| self.event(seen)));
        events.extend(v6.iter().map(|seen| self.event(seen)));
        (events, lost + more)
    }

    /// Counters of every service port, sorted by name. Cost: a pass over the flow tables, whose
    /// live flows are added up.
    #[must_use]
    pub fn service_stats(&self) -> Vec<ServiceStats> {
        let (mut census, mut services) = (self.census(), Vec::new());
        while let Some(page) = self.next_service_stats(&mut census, usize::MAX) {
            services.extend(page);
        }
        sort_service_stats(&mut services);
        services
    }

    /// The traffic of every backend at this moment, with which [`Engine::next_service_stats`]
    /// makes a list. Cost: a pass over the flow tables and the backends.
    #[must_use]
    pub fn census(&self) -> Census {
        let ledger = &self.shared.ledger;
        let mut totals: Vec<Traffic> =
            ledger.backends().iter().map(|record| record.ended).collect();
        let mut over = vec![0; totals.len()];
        add_live(&self.v4, &mut totals, &mut over);
        add_live(&self.v6, &mut totals, &mut over);
        let births = ledger.backends().iter().map(|record| record.birth).collect();
        Census { totals, over, births, next: 0 }
    }

    /// The counters of the next service ports, at most `budget` of them but one at least, in no
    /// order; `None` when there are no more. The engine may carry packets between two pages: what
    /// comes or goes then is in the list or not.
    pub fn next_service_stats(
        &self,
        census: &mut Census,
        budget: usize,
    ) -> Option<Vec<ServiceStats>> {
        let ledger = &self.shared.ledger;
        let mut page = Vec::new();
        for (number, record) in ledger.services_from(census.next).take(budget.max(1)) {
            census.next = number + 1;
            let backends: Vec<BackendStats> = record
                .all_backends()
                .map(|id| {
                    let backend = ledger.backend(id);
                    let inactive = ledger.inactive(id);
                    let over = census.over(id, backend.birth, inactive);
                    BackendStats {
                        address: backend.address,
                        active: ledger.flows(id) - over,
                        inactive: inactive - over,
                        over,
                        traffic: census.traffic(id, backend.birth),
                        connects: backend.connects.clone(),
                        is_gone: backend.standing != Standing::Listed,
                    }
                })
                .collect();
            let (mut traffic, mut connects) = (record.past, record.past_connects);
            for backend in &backends {
                traffic.add(&backend.traffic);
                if let Some(times) = &backend.connects {
                    connects.add(times);
                }
            }
            page.push(ServiceStats {
                name: record.service.name().to_owned(),
                family: record.service.family(),
                traffic,
                connects,
                refused: record.refused.clone(),
                backends,
            });
        }
        (!page.is_empty()).then_some(page)
    }

    /// How full the tables are. Cost: a pass over the backends towards which ports are leased.
    #[must_use]
    pub fn occupancy(&self) -> Occupancy {
        let (v4, v6) = (&self.v4.flows, &self.v6.flows);
        let flows = v4.len() + v6.len();
        Occupancy {
            flows,
            assured: flows - v4.unassured_flows() - v6.unassured_flows(),
            affinities: self.shared.affinity.len(),
            leased_ports: self.shared.leases.count(),
            most_leased_ports: self.shared.leases.most(),
            leasable_ports: self.shared.leases.limit(),
            held_fragments: self.v4.fragments.held() + self.v6.fragments.held(),
            expired: self.shared.counters.expired,
            evicted: self.shared.counters.evicted,
        }
    }

    /// Bytes that the tables of flows have used so far: the records that ever held a flow, and the
    /// indices. Memory that is reserved for more flows, and untouched, does not count.
    #[must_use]
    pub fn table_bytes(&self) -> usize {
        self.v4.flows.bytes() + self.v6.flows.bytes()
    }

    /// How source ports were given since the start.
    #[must_use]
    pub fn port_use(&self) -> PortUse {
        self.shared.leases.statistics()
    }

    /// The flows in these records that belong to a list.
    fn listing_ids<'a, A: Wire>(
        &'a self,
        family: &'a FamilyState<A>,
        records: Range<usize>,
        listing: &'a Listing,
    ) -> impl Iterator<Item = FlowId> + 'a {
        let now = self.shared.clock.tick();
        family
            .flows
            .iter_in(records)
            .filter(move |&(id, hot, cold)| {
                hot.is_alive(now)
                    && clock::between(cold.created, now) >= clock::between(listing.since, now)
                    && self.matches(family, id, hot, &listing.filter)
            })
            .map(|(id, ..)| id)
    }

    fn end_flows_in<A: EngineAddress>(
        &mut self,
        records: Range<usize>,
        listing: &Listing,
    ) -> usize {
        let ids: Vec<FlowId> = self.listing_ids(A::state_of(self), records, listing).collect();
        let (shared, family) = A::split(self);
        for &id in &ids {
            shared.orphan(family, id);
            shared.end_flow(family, id);
        }
        ids.len()
    }

    fn end_flow_in<A: EngineAddress>(
        &mut self,
        protocol: Protocol,
        from: SocketAddr,
        to: SocketAddr,
    ) -> bool {
        let (Some(src), Some(dst)) = (A::from_ip(from.ip()), A::from_ip(to.ip())) else {
            return false;
        };
        let ends = Ends { src, dst, sport: from.port(), dport: to.port() };
        let (shared, family) = A::split(self);
        let Some((id, Direction::Original)) = family.flows.find(&Tuple { ends, protocol }) else {
            return false;
        };
        let is_alive = family.flows.hot(id).is_alive(shared.clock.tick());
        shared.orphan(family, id);
        shared.end_flow(family, id);
        is_alive
    }

    fn event<A: Wire>(&self, seen: &Seen<A>) -> (EventKind, Flow) {
        (seen.kind, self.shown(&seen.hot, seen.packets, seen.created, seen.backend))
    }

    fn matches<A: Wire>(
        &self,
        family: &FamilyState<A>,
        id: FlowId,
        hot: &Hot<A>,
        filter: &Filter,
    ) -> bool {
        let [original, reply] = hot.ends.map(WireEnds::ends);
        let is = |wanted: Option<Cidr>, address: A| {
            wanted.is_none_or(|wanted| wanted.contains(address.into()))
        };
        let service = || self.service_name(family.flows.cold(id).backend);
        filter.protocol.is_none_or(|protocol| protocol == hot.protocol)
            && is(filter.source, original.src)
            && is(filter.destination, original.dst)
            && is(filter.backend, reply.src)
            && filter.state.as_deref().is_none_or(|state| hot.state.name() == Some(state))
            && filter.service.as_deref().is_none_or(|name| service() == name)
    }

    pub(crate) fn flow<A: Wire>(&self, family: &FamilyState<A>, id: FlowId) -> Flow {
        let (hot, cold) = (family.flows.hot(id), family.flows.cold(id));
        debug_assert!(hot.state != State::Free);
        self.shown(hot, family.flows.packets(id), cold.created, cold.backend)
    }

    fn shown<A: Wire>(&self, hot: &Hot<A>, packets: [u64; 2], created: Tick, backend: u32) -> Flow {
        let now = self.shared.clock.tick();
        let [original, reply] = hot.ends.map(WireEnds::ends);
        Flow {
            protocol: hot.protocol,
            state: hot.state.name(),
            assured: hot.has(Hot::<A>::ASSURED),
            replied: hot.has(Hot::<A>::REPLIED),
            source: original.source(),
            destination: original.destination(),
            reply_source: reply.source(),
            reply_destination: reply.destination(),
            service: self.service_name(backend).to_owned(),
            masquerade: hot.has(Hot::<A>::MASQUERADE) || reply.dst != original.src,
            packets,
            bytes: hot.bytes,
            age: clock::seconds(clock::between(created, now)),
            timeout: clock::seconds(hot.deadline.saturating_sub(now)),
        }
    }

    fn service_name(&self, backend: u32) -> &str {
        let ledger = &self.shared.ledger;
        ledger.service(ledger.backend(backend).service).map_or("", |record| record.service.name())
    }
}

/// Records that are looked at in one go.
const PAGE: usize = 4096;

fn add_live<A: Wire>(family: &FamilyState<A>, totals: &mut [Traffic], over: &mut [u32]) {
    for (id, hot, cold) in family.flows.iter() {
        if let Some(traffic) = totals.get_mut(cold.backend as usize) {
            traffic.carry(family.flows.packets(id), hot.bytes);
            over[cold.backend as usize] += u32::from(hot.state.is_over());
        }
    }
}

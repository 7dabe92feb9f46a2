//! First packets, and the flows that they open.
//!
//! A flow opens in this order, which is that of kube-proxy's chains:
//!
//! 1. `decide` says which list of the service port serves.
//! 2. `pick` chooses a backend of it: the one that the client's affinity names, or the balancer's.
//! 3. The affinity is noted, before anything can refuse the packet: kube-proxy's rules note it in
//!    the NAT chains, and its filter chains come behind them.
//! 4. `passage` looks at the translated packet as those filter chains do.
//! 5. `admit` finds room and the ends towards the backend. Nothing has changed so far but affinity
//!    and the balancer's state.
//! 6. Only a flow that is certain to be entered evicts another, takes its port and is counted.

use super::packet::Meta;
use super::state::{FamilyState, Shared};
use super::translate::{is_torn, opening_verdict, translate};
use crate::affinity::Sticky;
use crate::backend::Backend;
use crate::balance::{Loads, Request, Strategy, stable_hash_address, stable_hash_tuple};
use crate::clock::ticks;
use crate::conntrack::index::{Entry, IndexFull, Probe};
use crate::conntrack::ports::Remote;
use crate::conntrack::state::State;
use crate::conntrack::tcp::Tracking;
use crate::conntrack::{FlowId, Hot, InsertError};
use crate::decide::{self, Decision, Query, Serving, Silent, Trace, is_hairpin};
use crate::events::EventKind;
use crate::filtering::{Passage, is_unruled, passage};
use crate::hash::AddressKey;
use crate::rewrite;
use crate::rng::Rng;
use crate::tuple::{Direction, Ends, Protocol, Tuple};
use crate::verdict::{Action, Cause, Verdict};
use crate::wire::sctp::{self, Chunk};
use crate::wire::tcp::Segment;
use crate::wire::{Headers, Layer4, Wire};

impl Shared {
    /// A packet that belongs to no flow.
    #[inline(never)]
    pub(super) fn first_packet<A: Wire>(
        &mut self,
        family: &mut FamilyState<A>,
        headers: &Headers<A>,
        packet: &mut [u8],
        meta: Meta,
    ) -> Verdict {
        let query = query(headers, packet, meta);
        match decide::decide(&self.table, &query, self.config.midstream, &mut Silent) {
            Decision::Pass => Verdict::new(Action::Accept, Cause::NotOurs),
            Decision::Refuse { action, cause, service } => {
                if let Some(service) = service {
                    self.ledger.refuse(self.ledger.number(service), cause);
                }
                Verdict::new(action, cause)
            }
            Decision::Serve(serving) => {
                let number = self.ledger.number(serving.service);
                match self.open(family, headers, number, &serving, &query, packet) {
                    Ok(id) => {
                        let hot = family.flows.hot(id);
                        translate(hot, headers, Direction::Original, packet, meta);
                        opening_verdict(hot.has(Hot::<A>::MASQUERADE))
                    }
                    Err(verdict) => {
                        self.ledger.refuse(number, verdict.cause);
                        verdict
                    }
                }
            }
        }
    }

    /// Chooses a backend and enters the flow.
    #[allow(clippy::too_many_arguments)]
    fn open<A: Wire>(
        &mut self,
        family: &mut FamilyState<A>,
        headers: &Headers<A>,
        number: u32,
        serving: &Serving,
        query: &Query<A>,
        packet: &[u8],
    ) -> Result<FlowId, Verdict> {
        let now = self.clock.tick();
        let index = self
            .pick(number, serving, query, None, &mut Silent)
            .ok_or(Verdict::new(Action::Reject, Cause::NoEndpoints))?;
        let Some(service) = self.ledger.service(number) else {
            return Err(Verdict::drop(Cause::NoEndpoints));
        };
        let id = service.backends[serving.scope as usize][index];
        let backend = service.service.set(serving.scope).backends()[index];
        let affinity = service.service.spec().affinity;
        let Some(dst) = A::from_ip(backend.address.ip()) else {
            return Err(Verdict::drop(Cause::NoEndpoints));
        };
        let mut sent = to_backend(headers, dst, backend.address.port());
        // Most flows keep their source; where the answer's tuple belongs is fetched while there is
        // other work.
        let reply = family.flows.probe(&sent.reply().into(), headers.tuple.protocol);
        family.flows.prefetch_index(reply);
        if let Some(seconds) = affinity {
            let client = (number, query.source());
            let birth = self.ledger.backend(id).birth;
            let deadline = now.saturating_add(ticks(seconds.into()));
            self.affinity.put(Sticky { client, backend: (id, birth), deadline }, now);
        }
        // The client was remembered before this refusal: kube-proxy's `recent` rules stand in the
        // NAT chains, its refusals in the filter chains behind them.
        let masquerade = self.second_look(query, serving, id, &backend)?;
        // On a copy, so that a refused packet leaves the random sequence as it was.
        let mut rng = self.rng.clone();
        let binding =
            self.admit(family, headers, (&mut sent, reply), masquerade, None, &mut rng)?;
        self.rng = rng;
        // Only now, so that a flow that is refused costs no other its place.
        if let Some(victim) = binding.victim {
            self.end_flow(family, victim);
            self.counters.evicted += 1;
        }
        self.enter(family, headers, (id, &sent), &binding, packet)
    }

    /// Enters the flow that this packet opens to the backend with this record.
    #[inline(always)]
    fn enter<A: Wire>(
        &mut self,
        family: &mut FamilyState<A>,
        headers: &Headers<A>,
        (backend, sent): (u32, &Ends<A>),
        &Binding { is_leased, by_mark, reply, .. }: &Binding,
        packet: &[u8],
    ) -> Result<FlowId, Verdict> {
        let (now, Tuple { ends, protocol }) = (self.clock.tick(), headers.tuple);
        let (state, tracking) = opening::<A>(headers, packet);
        let (l3, l4) = rewrite::deltas(protocol, &ends, sent);
        let hot = Hot {
            ends: [ends.into(), sent.reply().into()],
            deadline: now.saturating_add(tracking.timeout(state, false, &self.config.timeouts)),
            generation: self.generation,
            l3,
            l4,
            protocol,
            state,
            flags: if by_mark { Hot::<A>::MASQUERADE } else { 0 }
                | if is_leased { Hot::<A>::LEASED } else { 0 },
            fast: 0,
            packets: [1, 0],
            bytes: [headers.end.into(), 0],
        };
        let flow = family.flows.insert_at(reply, hot, now, backend, tracking).map_err(|error| {
            Verdict::drop(match error {
                InsertError::Full => Cause::TableFull,
                InsertError::Chain(IndexFull) => Cause::HashChain,
            })
        })?;
        // Only now: the index may refuse the flow, and a lease without one would never end.
        if is_leased {
            self.leases.take(remote(protocol, sent), sent.sport);
        }
        if self.config.max_flows_per_source.is_some() {
            *family.sources.entry(AddressKey(ends.src)).or_default() += 1;
        }
        self.ledger.open_flow(backend);
        family.events.note(EventKind::New, &family.flows, flow);
        Ok(flow)
    }

    /// Whether the source is masqueraded on the way to this backend, of this record; or the verdict
    /// of the rules that the packet meets there.
    #[inline]
    fn second_look<A: Wire>(
        &mut self,
        query: &Query<A>,
        serving: &Serving,
        id: u32,
        backend: &Backend,
    ) -> Result<bool, Verdict> {
        if self.ledger.is_unruled(id) {
            return Ok(serving.masquerade || is_hairpin(query.source(), backend));
        }
        if is_unruled(&self.table, query.protocol, backend.address) {
            self.ledger.note_unruled(id);
        }
        match passage(&self.table, query, serving, backend, &mut Silent) {
            Passage::Open { masquerade } => Ok(masquerade),
            Passage::Closed(action, cause) => Err(Verdict::new(action, cause)),
        }
    }

    /// The chosen backend's position in its list. With `state` the choice is made on that copy and
    /// nothing is remembered.
    #[inline]
    pub(crate) fn pick<A: Wire>(
        &mut self,
        number: u32,
        serving: &Serving,
        query: &Query<A>,
        state: Option<&mut crate::balance::State>,
        trace: &mut impl Trace,
    ) -> Option<usize> {
        let (record, backends, active) = self.ledger.choosing(number)?;
        let ids = &record.backends[serving.scope as usize];
        let spec = record.service.spec();
        let remembered = spec
            .affinity
            .and_then(|_| self.affinity.get(&(number, query.source()), self.clock.tick()))
            .filter(|&(id, birth)| backends[id as usize].birth == birth)
            .and_then(|(id, _)| ids.iter().position(|&known| known == id));
        // Only choices that all nodes agree on are made by hash, and only by one of them.
        let by_source = || stable_hash_address(query.source(), CONSISTENT_SEED);
        let by_flow = || {
            let (from, to) = (query.ends.source(), query.destination());
            stable_hash_tuple(query.protocol.0, from, to, CONSISTENT_SEED)
        };
        let (source, flow) = match spec.strategy {
            Strategy::SourceHash => (by_source(), 0),
            strategy if serving.is_midstream || strategy.is_consistent() => (0, by_flow()),
            _ => (0, 0),
        };
        let request = Request { source, flow, loads: Loads { records: ids, active } };
        let state = state.unwrap_or(&mut record.states[serving.scope as usize]);
        decide::choose(&record.service, serving, remembered, &request, state, trace)
    }

    /// Whether there is room for one more flow of this source, under its limit; and which flow is
    /// to be evicted for it, if need be: the oldest unassured one.
    #[inline]
    fn find_room<A: Wire>(
        &self,
        family: &FamilyState<A>,
        source: A,
        leaving: Option<FlowId>,
    ) -> Result<Option<FlowId>, Verdict> {
        let leaving = leaving.map(|id| family.flows.hot(id));
        let counts = |is_counted: fn(&Hot<A>) -> bool| usize::from(leaving.is_some_and(is_counted));
        if let Some(limit) = self.config.max_flows_per_source
            && let Some(&flows) = family.sources.get(&AddressKey(source))
        {
            // A leaving flow of another source holds no place under this one's limit.
            let is_same = leaving.is_some_and(|hot| hot.ends(Direction::Original).src == source);
            if flows - u32::from(is_same) >= limit {
                return Err(Verdict::drop(Cause::SourceLimit));
            }
        }
        let flows = family.flows.len() - counts(|_| true);
        let unassured = family.flows.unassured_flows() - counts(|hot| !hot.has(Hot::<A>::ASSURED));
        if flows < self.config.max_flows && unassured < self.config.max_unassured {
            return Ok(None);
        }
        family.flows.eviction_candidate().map(Some).ok_or(Verdict::drop(Cause::TableFull))
    }

    /// Room and ends for one more flow, which changes nothing yet: `explain` asks the same. `sent`
    /// is what the backend gets if the source stays, and becomes what it does get: the source as it
    /// is, or masqueraded, or with another port. The look-up of its reply begins with `reply`.
    /// `leaving` is a flow that ends before: real packets have ended it by now, `explain` cannot.
    #[inline(always)]
    pub(crate) fn admit<A: Wire>(
        &self,
        family: &FamilyState<A>,
        headers: &Headers<A>,
        (sent, mut reply): (&mut Ends<A>, Probe),
        masquerade: bool,
        leaving: Option<FlowId>,
        rng: &mut Rng,
    ) -> Result<Binding, Verdict> {
        let victim = self.find_room(family, headers.tuple.ends.src, leaving)?;
        let snat = if masquerade {
            self.config.snat.iter().find_map(|&address| A::from_ip(address))
        } else {
            None
        };
        let by_mark = masquerade && snat.is_none();
        let (ends, protocol) = (sent.reply().into(), headers.tuple.protocol);
        let mut is_leased = false;
        let other = family.flows.entry_at(reply, &ends, protocol).map(Entry::flow);
        if snat.is_some() || other.is_some_and(|other| leaving != Some(other)) {
            sent.src = snat.unwrap_or(sent.src);
            is_leased = self.lease(family, headers, sent, leaving, rng)?;
            reply = family.flows.probe(&sent.reply().into(), protocol);
        }
        if is_torn(headers, sent) {
            return Err(Verdict::drop(Cause::FragmentRefused));
        }
        Ok(Binding { victim, is_leased, by_mark, reply })
    }

    /// Gives `sent` a source port that tells the backend's answers from those of another flow (F32,
    /// F35), and returns whether that port is a lease; a protocol without ports has none to give.
    #[inline(never)]
    fn lease<A: Wire>(
        &self,
        family: &FamilyState<A>,
        headers: &Headers<A>,
        sent: &mut Ends<A>,
        leaving: Option<FlowId>,
        rng: &mut Rng,
    ) -> Result<bool, Verdict> {
        let protocol = headers.tuple.protocol;
        let is_free = |port: u16| {
            let reply = Tuple { ends: Ends { sport: port, ..*sent }.reply(), protocol };
            family.flows.find(&reply).is_none_or(|(id, _)| leaving == Some(id))
        };
        let exhausted = Verdict::drop(Cause::PortsExhausted);
        if headers.layer4 == Layer4::Portless {
            return if is_free(0) { Ok(false) } else { Err(exhausted) };
        }
        let port = self.leases.find(&remote(protocol, sent), sent.sport, rng, is_free);
        sent.sport = port.ok_or(exhausted)?;
        Ok(true)
    }
}

/// The other end of the leases of a packet that leaves with these ends.
fn remote<A: Wire>(protocol: Protocol, sent: &Ends<A>) -> Remote {
    Remote { protocol, source: sent.src.into(), backend: sent.destination() }
}

/// What a new flow gets beside its ends.
pub(crate) struct Binding {
    /// The flow that gives way to it.
    pub(crate) victim: Option<FlowId>,
    /// Its source port is a lease.
    is_leased: bool,
    /// The sender masquerades the flow's packets, by their mark.
    pub(crate) by_mark: bool,
    /// Where the look-up of its reply begins.
    reply: Probe,
}

/// The ends of a packet on its way to a backend, its source as it is.
#[inline]
pub(crate) fn to_backend<A: Wire>(headers: &Headers<A>, dst: A, port: u16) -> Ends<A> {
    let ends = headers.tuple.ends;
    let has_port = !matches!(headers.layer4, Layer4::Portless | Layer4::EchoRequest);
    Ends { dst, dport: if has_port { port } else { ends.dport }, ..ends }
}

/// The fields of a first packet that a decision needs.
pub(crate) fn query<A: Wire>(headers: &Headers<A>, packet: &[u8], meta: Meta) -> Query<A> {
    Query {
        protocol: headers.tuple.protocol,
        ends: headers.tuple.ends,
        interface: meta.interface,
        flags: headers.tcp_flags(packet),
    }
}

/// State and tracking of a flow that begins with this packet.
#[inline]
fn opening<A: Wire>(headers: &Headers<A>, packet: &[u8]) -> (State, Tracking) {
    let chunk = match headers.layer4 {
        Layer4::Tcp => {
            if let Some(segment) = Segment::parse(headers.transport(packet)) {
                return Tracking::opening(&segment);
            }
            Chunk::Other
        }
        Layer4::Sctp => sctp::first_chunk(headers.transport(packet)),
        _ => Chunk::Other,
    };
    (State::opening::<A>(headers.layer4, chunk), Tracking::default())
}

/// Under which consistent strategies hash clients: the same on every node, so that all nodes agree.
const CONSISTENT_SEED: u64 = 0;

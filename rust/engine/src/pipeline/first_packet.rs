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
//! 7. The flight recorder remembers the decision; refusals before are remembered as well.

use std::net::SocketAddr;

use super::packet::Meta;
use super::state::{FamilyState, Shared};
use super::translate::{is_torn, opening_verdict};
use crate::affinity::Sticky;
use crate::balance::{Loads, Request, Strategy, stable_hash_address, stable_hash_tuple};
use crate::clock::{Stamp, ticks};
use crate::conntrack::index::{Entry, IndexFull, Probe};
use crate::conntrack::ports::{Claim, Cursor, Remote};
use crate::conntrack::state::State;
use crate::conntrack::tcp::Tracking;
use crate::conntrack::{FlowId, Hot, InsertError};
use crate::decide::{self, Query, Serving, Silent, Trace, Unserved, is_hairpin};
use crate::events::EventKind;
use crate::filtering::{Passage, is_unruled, passage};
use crate::hash::AddressKey;
use crate::recorder::Ruling;
use crate::rewrite;
use crate::tuple::{Direction, Ends, Tuple, WireEnds};
use crate::verdict::{Action, Cause, Outcome, Verdict};
use crate::wire::checksum::Delta;
use crate::wire::sctp::{self, Chunk};
use crate::wire::tcp::Segment;
use crate::wire::{Headers, Layer4, Wire};

impl Shared {
    /// A packet that belongs to no flow. The look-up of its ends begins with `probe`.
    #[inline(never)]
    pub(super) fn first_packet<A: Wire>(
        &mut self,
        family: &mut FamilyState<A>,
        headers: &Headers<A>,
        probe: Probe,
        packet: &mut [u8],
        meta: Meta,
    ) -> Verdict {
        self.begin(family, headers, probe, packet, meta)
    }

    /// The same, to be compiled into its caller.
    #[inline(always)]
    pub(super) fn begin<A: Wire>(
        &mut self,
        family: &mut FamilyState<A>,
        headers: &Headers<A>,
        probe: Probe,
        packet: &mut [u8],
        meta: Meta,
    ) -> Verdict {
        let query = query(headers, packet, meta);
        let serving = match decide::decide(&self.table, &query, self.config.midstream, &mut Silent)
        {
            Ok(serving) => serving,
            Err(unserved) => return self.leave_unserved(unserved, headers.tuple),
        };
        match self.open(family, headers, probe, (&serving, &query), packet) {
            Ok(Opening { to, deltas, by_mark }) => {
                rewrite::apply(packet, headers, &to, deltas, meta.checksum);
                opening_verdict(by_mark)
            }
            Err(verdict) => {
                self.refuse(headers.tuple, Some(serving.service), verdict);
                verdict
            }
        }
    }

    /// The verdict on a packet that no backend serves, counted where a service port refuses it.
    #[inline(never)]
    fn leave_unserved<A: Wire>(&mut self, unserved: Unserved, tuple: Tuple<A>) -> Verdict {
        match unserved {
            // It is none of our affairs, and may be any packet that the node forwards.
            Unserved::Pass => Verdict::new(Action::Pass, Cause::NotOurs),
            Unserved::Refuse { action, cause, service } => {
                let verdict = Verdict::new(action, cause);
                self.refuse(tuple, service, verdict);
                verdict
            }
        }
    }

    /// Counts and remembers that a packet is refused, by the service port in this slot of the table
    /// if there is one.
    #[inline(never)]
    fn refuse<A: Wire>(&mut self, tuple: Tuple<A>, service: Option<u32>, verdict: Verdict) {
        let number = service.map(|slot| self.ledger.number(slot));
        if let Some(number) = number {
            self.ledger.refuse(number, verdict.cause);
        }
        let ends: WireEnds<A> = tuple.ends.into();
        let ends = (&[ends, ends.reply()], tuple.protocol);
        let refusal = Ruling::refused(self.clock.tick(), ends, number, verdict);
        self.ledger.recorder.record(&refusal);
    }

    /// Chooses a backend and enters the flow.
    #[inline(always)]
    fn open<A: Wire>(
        &mut self,
        family: &mut FamilyState<A>,
        headers: &Headers<A>,
        original: Probe,
        (serving, query): (&Serving, &Query<A>),
        packet: &[u8],
    ) -> Result<Opening<A>, Verdict> {
        let choice = self
            .pick(serving, query, None, &mut Silent)
            .ok_or(Verdict::new(Action::Reject, Cause::NoEndpoints))?;
        // A service port has one family, so this holds always; the type does not say so.
        let dst = A::from_ip(choice.address.ip()).ok_or(Verdict::drop(Cause::NoEndpoints))?;
        let sent = to_backend(headers, dst, choice.address.port());
        // Most flows keep their source; where the answer's tuple belongs is fetched while there is
        // other work.
        let reply = family.flows.probe(&sent.reply().into(), headers.tuple.protocol);
        family.flows.prefetch_index(reply);
        if choice.is_sticky {
            self.remember(*serving, *query, choice.id);
        }
        // The client was remembered before this refusal: kube-proxy's `recent` rules stand in the
        // NAT chains, its refusals in the filter chains behind them.
        let masquerade = self.second_look(query, serving, &choice)?;
        let binding = self.admit(family, headers, (sent, reply), masquerade, None)?;
        // Only now, so that a flow that is refused costs no other its place.
        if let Some(victim) = binding.victim {
            self.end_flow(family, victim);
            self.counters.evicted += 1;
        }
        self.enter(family, headers, (original, &choice), binding, packet)
    }

    /// Enters the flow that this packet opens to the chosen backend.
    #[inline(always)]
    fn enter<A: Wire>(
        &mut self,
        family: &mut FamilyState<A>,
        headers: &Headers<A>,
        (original, choice): (Probe, &Choice),
        Binding { sent, reply, lease, by_mark, .. }: Binding<A>,
        packet: &[u8],
    ) -> Result<Opening<A>, Verdict> {
        let (now, Tuple { ends, protocol }) = (self.clock.tick(), headers.tuple);
        let (state, tracking) = opening::<A>(headers, packet, self.clock.stamp());
        let (from, to): (WireEnds<A>, WireEnds<A>) = (ends.into(), sent.into());
        let is_leased = lease.as_ref().is_some_and(|lease| lease.is_taken);
        let deltas = rewrite::deltas(protocol, &from, &to);
        let hot = Hot {
            ends: [from, to.reply()],
            deadline: now.saturating_add(tracking.timeout(state, false, &self.config.timeouts)),
            generation: self.generation,
            l3: deltas.0,
            l4: deltas.1,
            protocol,
            state,
            flags: if by_mark { Hot::<A>::MASQUERADE } else { 0 }
                | if is_leased { Hot::<A>::LEASED } else { 0 },
            fast: 0,
            packets: [1, 0],
            bytes: [headers.end.into(), 0],
        };
        let flow = family
            .flows
            .insert_at([original, reply], hot, now, choice.id, tracking)
            .map_err(|error| {
                Verdict::drop(match error {
                    InsertError::Full => Cause::TableFull,
                    InsertError::Chain(IndexFull) => Cause::HashChain,
                })
            })?;
        // Read from the flow's record: the ends stand side by side there, and fill no registers
        // while the index changes.
        let hot = family.flows.hot(flow);
        let (service, outcome) = (self.ledger.open_flow(choice.id, hot.state), choice.outcome);
        let ruling = Ruling::served(now, (&hot.ends, protocol), service, outcome);
        self.ledger.recorder.record(&ruling);
        // Only now: the index may refuse the flow, and a lease without one would never end.
        if let Some(lease) = lease {
            self.sign(lease, claim(headers, &sent));
        }
        if self.config.max_flows_per_source.is_some() {
            *family.sources.entry(AddressKey(ends.src)).or_default() += 1;
        }
        family.events.note(EventKind::New, &family.flows, flow);
        Ok(Opening { to, deltas, by_mark })
    }

    /// Takes a lease, with the step of the search that found it.
    #[inline(never)]
    fn sign(&mut self, lease: Lease, claim: Claim) {
        if lease.is_taken {
            self.leases.sign(&claim, lease.port, lease.cursor);
        }
    }

    /// Notes which backend the client has.
    #[inline(never)]
    fn remember<A: Wire>(&mut self, serving: Serving, query: Query<A>, id: u32) {
        let Some(seconds) = self.table.service(serving.service).spec().affinity else { return };
        let now = self.clock.tick();
        let client = (self.ledger.number(serving.service), query.source());
        let birth = self.ledger.backend(id).birth;
        let deadline = now.saturating_add(ticks(seconds.into()));
        self.affinity.put(Sticky { client, backend: (id, birth), deadline }, now);
    }

    /// Whether the source is masqueraded on the way to this backend; or the verdict of the rules
    /// that the packet meets there.
    #[inline(always)]
    fn second_look<A: Wire>(
        &mut self,
        query: &Query<A>,
        serving: &Serving,
        choice: &Choice,
    ) -> Result<bool, Verdict> {
        if self.ledger.is_unruled(choice.id) {
            Ok(serving.masquerade || choice.is_hairpin)
        } else {
            self.ask_rules(*query, *serving, choice.id, choice.index)
        }
    }

    /// The same by the rules themselves. `index` is the position of the backend in its list.
    #[inline(never)]
    fn ask_rules<A: Wire>(
        &mut self,
        query: Query<A>,
        serving: Serving,
        id: u32,
        index: usize,
    ) -> Result<bool, Verdict> {
        let port = self.table.service(serving.service);
        let backend = &port.set(serving.scope).backends()[index];
        if is_unruled(&self.table, query.protocol, backend.address) {
            self.ledger.note_unruled(id);
        }
        match passage(&self.table, &query, &serving, backend, &mut Silent) {
            Passage::Open { masquerade } => Ok(masquerade),
            Passage::Closed(action, cause) => Err(Verdict::new(action, cause)),
        }
    }

    /// Chooses a backend. With `state` the choice is made on that copy and nothing is remembered.
    #[inline(always)]
    pub(crate) fn pick<A: Wire>(
        &mut self,
        serving: &Serving,
        query: &Query<A>,
        state: Option<&mut crate::balance::State>,
        trace: &mut impl Trace,
    ) -> Option<Choice> {
        let number = self.ledger.number(serving.service);
        let (record, backends, loads) = self.ledger.choosing(number, self.clock.tick())?;
        let ids = &record.backends[serving.scope as usize];
        let spec = record.service.spec();
        let remembered = spec
            .affinity
            .and_then(|_| self.affinity.get(&(number, query.source()), self.clock.tick()))
            .filter(|&(id, birth)| backends[id as usize].birth == birth)
            .and_then(|(id, _)| ids.iter().position(|&known| known == id));
        // Few strategies go by a hash, and only by one of them.
        let by_source = || stable_hash_address(query.source(), CONSISTENT_SEED);
        let by_flow = || {
            let (from, to) = (query.ends.source(), query.destination());
            stable_hash_tuple(query.protocol.0, from, to, CONSISTENT_SEED)
        };
        let (source, flow) = match spec.strategy {
            Strategy::SourceHash => (by_source(), 0),
            strategy if serving.is_midstream || strategy.hashes_flows() => (0, by_flow()),
            _ => (0, 0),
        };
        let request = Request { source, flow, loads: Loads { records: ids, ..loads } };
        let state = state.unwrap_or(&mut record.states[serving.scope as usize]);
        let (index, outcome) =
            decide::choose(&record.service, serving, remembered, &request, state, trace)?;
        let backend = record.service.set(serving.scope).backends().get(index)?;
        let is_hairpin = is_hairpin(query.source(), backend);
        let is_sticky = spec.affinity.is_some();
        Some(Choice {
            index,
            id: *ids.get(index)?,
            address: backend.address,
            is_hairpin,
            is_sticky,
            outcome,
        })
    }

    /// Whether there is room for one more flow of this source, under its limit; and which flow is
    /// to be evicted for it, if need be: the oldest unassured one.
    #[inline(always)]
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
    /// is what the backend gets if the source stays. It gets the source as it is, or masqueraded,
    /// or with another port. The look-up of its reply begins with `reply`. `leaving` is a flow that
    /// ends before: real packets have ended it by now, `explain` cannot.
    #[inline(always)]
    pub(crate) fn admit<A: Wire>(
        &self,
        family: &FamilyState<A>,
        headers: &Headers<A>,
        (mut sent, mut reply): (Ends<A>, Probe),
        masquerade: bool,
        leaving: Option<FlowId>,
    ) -> Result<Binding<A>, Verdict> {
        // Room comes first: a full table refuses without a look at the leases.
        let victim = self.find_room(family, headers.tuple.ends.src, leaving)?;
        let snat = if masquerade {
            self.config.snat.iter().find_map(|&address| A::from_ip(address))
        } else {
            None
        };
        let by_mark = masquerade && snat.is_none();
        let (ends, protocol) = (sent.reply().into(), headers.tuple.protocol);
        let mut lease = None;
        let other = family.flows.entry_at(reply, &ends, protocol).map(Entry::flow);
        if snat.is_some() || other.is_some_and(|other| leaving != Some(other)) {
            sent.src = snat.unwrap_or(sent.src);
            let contract = self.lease(family, *headers, sent, leaving)?;
            sent.sport = contract.port;
            lease = Some(contract);
            reply = family.flows.probe(&sent.reply().into(), protocol);
        }
        if is_torn(headers, &sent) {
            return Err(Verdict::drop(Cause::FragmentRefused));
        }
        Ok(Binding { victim, sent, reply, lease, by_mark })
    }

    /// A source port for `sent` that tells the backend's answers from those of another flow (F32,
    /// F35).
    #[inline(never)]
    fn lease<A: Wire>(
        &self,
        family: &FamilyState<A>,
        headers: Headers<A>,
        sent: Ends<A>,
        leaving: Option<FlowId>,
    ) -> Result<Lease, Verdict> {
        let protocol = headers.tuple.protocol;
        let is_free = |port: u16| {
            let reply = Tuple { ends: Ends { sport: port, ..sent }.reply(), protocol };
            family.flows.find(&reply).is_none_or(|(id, _)| leaving == Some(id))
        };
        // On a copy, since nothing may change before the flow is certain to be entered.
        let mut cursor = self.leases.cursor();
        let is_taken = headers.layer4 != Layer4::Portless;
        let port = if is_taken {
            self.leases.find(&claim(&headers, &sent), &mut cursor, is_free)
        } else {
            is_free(0).then_some(sent.sport)
        };
        let port = port.ok_or(Verdict::drop(Cause::PortsExhausted))?;
        Ok(Lease { port, is_taken, cursor })
    }
}

/// The claim of a packet that leaves with these ends, its port aside.
fn claim<A: Wire>(headers: &Headers<A>, sent: &Ends<A>) -> Claim {
    let Tuple { ends, protocol } = headers.tuple;
    let remote = Remote { protocol, source: sent.src.into(), backend: sent.destination() };
    Claim { client: ends.source(), remote }
}

/// A backend that was chosen.
pub(crate) struct Choice {
    /// Its position in its list.
    pub(crate) index: usize,
    /// Its record in the ledger.
    id: u32,
    address: SocketAddr,
    /// It is the client itself, and so needs another source to answer to.
    is_hairpin: bool,
    /// The client keeps it for a while.
    is_sticky: bool,
    /// How it was chosen.
    outcome: Outcome,
}

/// A flow that was opened: what becomes of its first packet.
struct Opening<A> {
    /// The ends that the backend gets.
    to: WireEnds<A>,
    /// The changes to the checksums of IP header and transport.
    deltas: (Delta, Delta),
    /// The sender masquerades the packet, by its mark.
    by_mark: bool,
}

/// What a new flow gets beside its ends.
pub(crate) struct Binding<A> {
    /// The flow that gives way to it.
    pub(crate) victim: Option<FlowId>,
    /// The ends that the backend gets.
    pub(crate) sent: Ends<A>,
    /// Where the look-up of its reply begins.
    reply: Probe,
    /// How its source port was found, if it was looked for.
    lease: Option<Lease>,
    /// The sender masquerades the flow's packets, by their mark.
    pub(crate) by_mark: bool,
}

/// A source port that tells a backend's answers from those of other flows.
struct Lease {
    port: u16,
    /// It is taken from the leases; a protocol without ports has none.
    is_taken: bool,
    /// The place where the search ended. A packet that is refused leaves the last one in force.
    cursor: Cursor,
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
#[inline(always)]
fn opening<A: Wire>(headers: &Headers<A>, packet: &[u8], now: Stamp) -> (State, Tracking) {
    let chunk = match headers.layer4 {
        Layer4::Tcp => {
            if let Some(segment) = Segment::parse(headers.transport(packet)) {
                return Tracking::opening(&segment, now);
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

//! The path of one packet: fragments, ICMP errors, packets of known flows, first packets.
//!
//! A packet of a known flow costs a look-up and a rewrite in place; there is no decision on that path.

use std::collections::HashMap;
use std::sync::Arc;

use crate::affinity::{Affinity, Sticky};
use crate::backend::Backend;
use crate::balance::{Request, stable_hash_address, stable_hash_tuple};
use crate::clock::{Clock, Tick, ticks};
use crate::config::{Config, InvalidTcp};
use crate::conntrack::index::{Entry, IndexFull};
use crate::conntrack::ports::{Leases, Remote};
use crate::conntrack::state::{State, stream_age};
use crate::conntrack::tcp::{Progress, Tracking};
use crate::conntrack::{FlowId, FlowTable, Hot, InsertError};
use crate::decide::{self, Decision, Question, Serve, Silent, Trace};
use crate::fragment::{Admission, DatagramId, Fate, Fragments, Released};
use crate::hash::HashKey;
use crate::ledger::{Ledger, ListLoads};
use crate::rewrite::{self, ChecksumState, icmp_error};
use crate::rng::Rng;
use crate::service::ServiceTable;
use crate::tuple::{Direction, Ends, Protocol, Tuple};
use crate::verdict::{Action, Cause, Verdict};
use crate::wire::tcp::{Flags, Segment};
use crate::wire::{Headers, Layer4, Malformed, Wire, sctp, udp};

/// What the driver knows of a packet beside its bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Meta {
    /// Index of the device it came in by; 0 when the node itself made it.
    pub interface: u32,
    /// Whether its transport checksum is there.
    pub checksum: ChecksumState,
}

/// Flows and fragments of one family.
#[derive(Debug)]
pub(crate) struct Lane<A> {
    pub(crate) flows: FlowTable<A>,
    pub(crate) fragments: Fragments<A>,
    /// Flows by source address; kept only under a limit per source.
    pub(crate) sources: HashMap<A, u32, HashKey>,
}

impl<A: Wire> Lane<A> {
    pub(crate) fn new(config: &Config, key: HashKey) -> Self {
        Self {
            flows: FlowTable::new(config.max_flows, key),
            fragments: Fragments::new(config.max_fragments, key),
            sources: HashMap::with_hasher(key),
        }
    }
}

/// All that both families share.
#[derive(Debug)]
pub(crate) struct Core {
    pub(crate) config: Config,
    pub(crate) clock: Clock,
    pub(crate) table: Arc<ServiceTable>,
    /// Counts the tables.
    pub(crate) generation: u32,
    pub(crate) ledger: Ledger,
    pub(crate) affinity: Affinity,
    pub(crate) leases: Leases,
    pub(crate) rng: Rng,
    pub(crate) counters: Counters,
    pub(crate) released: Vec<Released>,
}

/// What happened so far.
#[derive(Clone, Debug)]
pub(crate) struct Counters {
    /// By action and cause, see [`Counters::place`].
    verdicts: [u64; 256],
    pub(crate) expired: u64,
    pub(crate) evicted: u64,
}

impl Default for Counters {
    fn default() -> Self {
        Self { verdicts: [0; 256], expired: 0, evicted: 0 }
    }
}

impl Counters {
    #[inline]
    pub(crate) fn count(&mut self, verdict: Verdict) {
        let count = &mut self.verdicts[Self::place(verdict.action, verdict.cause)];
        *count = count.wrapping_add(1);
    }

    /// Packets with this action and cause.
    pub(crate) fn of(&self, action: Action, cause: Cause) -> u64 {
        self.verdicts[Self::place(action, cause)]
    }

    /// Three bits of action, five of cause.
    #[inline(always)]
    fn place(action: Action, cause: Cause) -> usize {
        const { assert!(Action::ALL.len() <= 8 && Cause::COUNT <= 32) };
        usize::from((action as u8) << 5 | cause as u8)
    }
}

/// The verdict on bytes that are no packet.
#[cold]
pub(crate) fn malformed(why: Malformed) -> Verdict {
    Verdict::drop(match why {
        Malformed::SourceRoute => Cause::SourceRoute,
        Malformed::TinyFragment => Cause::FragmentTiny,
        _ => Cause::Malformed,
    })
}

/// The verdict on bytes that begin with the version of no IP. Empty ones stand for a frame without an IP packet, such as ARP in a capture:
/// it is nobody's.
#[cold]
pub(crate) fn versionless(packet: &[u8]) -> Verdict {
    if packet.is_empty() {
        Verdict::new(Action::Accept, Cause::NotOurs)
    } else {
        malformed(Malformed::Version)
    }
}

impl Core {
    /// The verdict of [`versionless`], counted.
    pub(crate) fn versionless(&mut self, packet: &[u8]) -> Verdict {
        let verdict = versionless(packet);
        self.counters.count(verdict);
        verdict
    }

    /// Decides about a packet, counts it and rewrites it. `plain` are its headers if [`Wire::plain`] knows them, and `guess` may say which
    /// flow it belongs to.
    #[inline(always)]
    pub(crate) fn process<A: Wire>(
        &mut self,
        lane: &mut Lane<A>,
        plain: Option<Headers<A>>,
        guess: Option<Entry>,
        packet: &mut [u8],
        meta: Meta,
    ) -> Verdict {
        if let Some(verdict) = self.steady(lane, plain, guess, packet, meta) {
            self.counters.count(verdict);
            return verdict;
        }
        let verdict = self.any(lane, packet, meta);
        self.counters.count(verdict);
        verdict
    }

    /// A short cut for what most packets of UDP are: plain, of a flow that is known, and nothing moves but its deadline; or plain and
    /// of no flow. `None`: it is something else, nothing was done, and [`Core::any`] does what is due.
    #[inline(always)]
    fn steady<A: Wire>(
        &mut self,
        lane: &mut Lane<A>,
        plain: Option<Headers<A>>,
        guess: Option<Entry>,
        packet: &mut [u8],
        meta: Meta,
    ) -> Option<Verdict> {
        let headers = plain.filter(|headers| headers.layer4 == Layer4::Udp)?;
        let udp: &[u8; udp::HEADER] = headers.transport(packet).first_chunk()?;
        let length = udp::length(udp);
        if length < udp::HEADER || length > (headers.end - u32::from(headers.l4)) as usize {
            return None;
        }
        let Some((hot, direction)) = lane.flows.find_mut(&headers.tuple, guess) else {
            return Some(self.first(lane, &headers, packet, meta));
        };
        let now = self.clock.tick();
        if hot.is_expired(now) || hot.generation != self.generation || !hot.is_steady(direction) {
            return None;
        }
        if !hot.count(direction, headers.end) {
            return None;
        }
        hot.deadline = now.saturating_add(self.config.timeouts.of(hot.state));
        Some(translate(hot, &headers, direction, Cause::Established, packet, meta))
    }

    /// Any packet at all.
    #[inline(never)]
    fn any<A: Wire>(&mut self, lane: &mut Lane<A>, packet: &mut [u8], meta: Meta) -> Verdict {
        match A::parse(packet) {
            Ok(headers) if headers.is_fragment => self.fragment(lane, &headers, packet, meta),
            Ok(headers) => self.datagram(lane, &headers, packet, meta),
            Err(why) => malformed(why),
        }
    }

    fn datagram<A: Wire>(
        &mut self,
        lane: &mut Lane<A>,
        headers: &Headers<A>,
        packet: &mut [u8],
        meta: Meta,
    ) -> Verdict {
        match headers.layer4 {
            Layer4::IcmpOther => return Verdict::new(Action::Accept, Cause::NotOurs),
            Layer4::IcmpError => return self.icmp_error(lane, headers, packet),
            _ => {}
        }
        let hash = lane.flows.hash(&headers.tuple);
        if let Some((id, direction)) = lane.flows.find(&headers.tuple, hash)
            && let Some(verdict) = self.known(lane, headers, id, direction, packet, meta)
        {
            return verdict;
        }
        self.first(lane, headers, packet, meta)
    }

    /// A packet of a flow in the table. `None`: the flow is over, and the packet opens another, or none.
    fn known<A: Wire>(
        &mut self,
        lane: &mut Lane<A>,
        headers: &Headers<A>,
        id: FlowId,
        direction: Direction,
        packet: &mut [u8],
        meta: Meta,
    ) -> Option<Verdict> {
        let hot = lane.flows.hot(id);
        if hot.is_expired(self.clock.tick()) || hot.generation != self.generation {
            match self.revise(lane, id, direction) {
                Revision::Keep => {}
                Revision::Anew => return None,
                Revision::Refuse(verdict) => return Some(verdict),
            }
        }
        if is_torn(headers, &lane.flows.hot(id).rewritten(direction)) {
            let flags = flow_flags(lane.flows.hot(id), direction);
            return Some(Verdict { flags, ..Verdict::drop(Cause::FragmentRefused) });
        }
        let Some(cause) = self.advance(lane, headers, id, direction, packet) else {
            self.end_flow(lane, id);
            return None;
        };
        let hot = lane.flows.hot_mut(id);
        let is_counted = hot.count(direction, headers.end);
        let verdict = if cause == Cause::Invalid && self.config.invalid == InvalidTcp::Drop {
            Verdict { flags: flow_flags(hot, direction), ..Verdict::drop(cause) }
        } else {
            translate(hot, headers, direction, cause, packet, meta)
        };
        if !is_counted {
            lane.flows.carry_packets(id, direction);
        }
        Some(verdict)
    }

    /// A flow whose time is over, or that was not looked at since the tables changed.
    #[cold]
    fn revise<A: Wire>(&mut self, lane: &mut Lane<A>, id: FlowId, direction: Direction) -> Revision {
        if lane.flows.hot(id).is_expired(self.clock.tick()) {
            self.end_flow(lane, id);
            self.counters.expired += 1;
            return Revision::Anew;
        }
        let is_gone = self.ledger.backend(lane.flows.cold(id).backend).is_gone;
        let hot = lane.flows.hot_mut(id);
        let is_tcp = hot.state.is_tcp();
        if !is_gone || (is_tcp && !hot.state.is_half_open()) {
            // Established TCP stays with its backend; deleting it would break graceful termination.
            hot.generation = self.generation;
            return Revision::Keep;
        }
        match (direction, is_tcp) {
            // Answers that are still under way are translated until the client's next packet.
            (Direction::Reply, false) => return Revision::Keep,
            (Direction::Reply, true) => self.end_flow(lane, id),
            (Direction::Original, _) => {
                self.end_flow(lane, id);
                return Revision::Anew;
            }
        }
        Revision::Refuse(Verdict::drop(Cause::BackendGone))
    }

    /// State and deadline after one more packet; `None` when it begins a new connection in the flow's place.
    fn advance<A: Wire>(
        &mut self,
        lane: &mut Lane<A>,
        headers: &Headers<A>,
        id: FlowId,
        direction: Direction,
        packet: &[u8],
    ) -> Option<Cause> {
        let now = self.clock.tick();
        let hot = lane.flows.hot_mut(id);
        if direction == Direction::Reply {
            hot.flags |= Hot::<A>::REPLIED;
        }
        if hot.state.is_tcp() {
            return self.advance_tcp(lane, headers, id, direction, packet);
        }
        let (before, is_replied) = (hot.state, hot.has(Hot::<A>::REPLIED));
        let state = match before {
            State::Udp if is_replied && now.saturating_sub(lane.flows.cold(id).created) >= stream_age() => {
                State::UdpStream
            }
            state if headers.layer4 == Layer4::Sctp => {
                state.after_chunk(sctp::first_chunk(headers.transport(packet)), direction)
            }
            state => state,
        };
        let is_assured = match state {
            State::Udp | State::Icmp | State::Icmpv6 => false,
            State::SctpEstablished | State::Generic => is_replied,
            _ => state == State::UdpStream,
        };
        self.move_to(lane, id, state, now.saturating_add(self.config.timeouts.of(state)), is_assured);
        Some(Cause::Established)
    }

    fn advance_tcp<A: Wire>(
        &mut self,
        lane: &mut Lane<A>,
        headers: &Headers<A>,
        id: FlowId,
        direction: Direction,
        packet: &[u8],
    ) -> Option<Cause> {
        let Some(segment) = Segment::parse(headers.transport(packet)) else { return Some(Cause::Invalid) };
        let (hot, cold) = lane.flows.both_mut(id);
        match cold.tracking.advance(hot.state, direction, &segment) {
            Progress::To(state) => {
                if headers.is_fragment {
                    cold.tracking.ignore_windows();
                }
                let deadline =
                    self.clock.tick().saturating_add(cold.tracking.timeout(state, &self.config.timeouts));
                let is_assured = state == State::TcpEstablished && hot.has(Hot::<A>::REPLIED);
                self.move_to(lane, id, state, deadline, is_assured);
                Some(Cause::Established)
            }
            Progress::Unmoved => Some(Cause::Established),
            Progress::Invalid => Some(Cause::Invalid),
            Progress::Reopened => None,
        }
    }

    #[inline]
    fn move_to<A: Wire>(
        &self,
        lane: &mut Lane<A>,
        id: FlowId,
        state: State,
        deadline: Tick,
        is_assured: bool,
    ) {
        if is_assured {
            lane.flows.assure(id);
        }
        let hot = lane.flows.hot_mut(id);
        let is_shorter = deadline < hot.deadline;
        hot.state = state;
        hot.deadline = deadline;
        if is_shorter {
            lane.flows.shortened(deadline);
        }
    }

    /// A packet that belongs to no flow.
    #[inline(never)]
    fn first<A: Wire>(
        &mut self,
        lane: &mut Lane<A>,
        headers: &Headers<A>,
        packet: &mut [u8],
        meta: Meta,
    ) -> Verdict {
        let question = question(headers, packet, meta);
        match decide::decide(&self.table, &question, self.config.midstream, &mut Silent) {
            Decision::Pass => Verdict::new(Action::Accept, Cause::NotOurs),
            Decision::Refuse { action, cause, service } => {
                if let Some(service) = service {
                    self.ledger.refuse(self.ledger.number(service), cause);
                }
                Verdict::new(action, cause)
            }
            Decision::Serve(serve) => {
                let number = self.ledger.number(serve.service);
                match self.open(lane, headers, number, &serve, &question, packet) {
                    Ok(id) => {
                        let verdict = translate(
                            lane.flows.hot(id),
                            headers,
                            Direction::Original,
                            Cause::New,
                            packet,
                            meta,
                        );
                        Verdict { flags: verdict.flags | Verdict::NEW, ..verdict }
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
        lane: &mut Lane<A>,
        headers: &Headers<A>,
        number: u32,
        serve: &Serve,
        question: &Question,
        packet: &[u8],
    ) -> Result<FlowId, Verdict> {
        let now = self.clock.tick();
        let client = (number, question.src.ip());
        let index = self
            .pick(number, serve, question, None, &mut Silent)
            .ok_or(Verdict::new(Action::Reject, Cause::NoEndpoints))?;
        let Some(service) = self.ledger.service(number) else {
            return Err(Verdict::drop(Cause::NoEndpoints));
        };
        let id = service.backends[serve.scope as usize][index];
        let backend = service.service.set(serve.scope).backends()[index];
        let affinity = service.service.spec().affinity;
        let masquerade = serve.masquerade || decide::is_hairpin(question.src.ip(), &backend);
        let ends = headers.tuple.ends;
        let sent = addressed(headers, &backend).ok_or(Verdict::drop(Cause::NoEndpoints))?;
        // Most flows keep their source; where the answer's tuple belongs is fetched while there is other work.
        let answer = Tuple { ends: sent.reply(), protocol: headers.tuple.protocol };
        lane.flows.prefetch_index(lane.flows.hash(&answer));
        if let Some(seconds) = affinity {
            let birth = self.ledger.backend(id).birth;
            let deadline = now.saturating_add(ticks(seconds.into()));
            self.affinity.put(Sticky { client, backend: (id, birth), deadline }, now);
        }
        let (state, tracking) = opening::<A>(headers, packet);
        let mut rng = self.rng.clone();
        let Place { victim, sent, leased, by_mark } =
            self.place(lane, headers, sent, masquerade, &mut rng)?;
        self.rng = rng;
        // Only now, so that a flow that is refused costs no other its place.
        if let Some(victim) = victim {
            self.end_flow(lane, victim);
            self.counters.evicted += 1;
        }
        let (l3, l4) = rewrite::deltas(headers.tuple.protocol, &ends, &sent);
        let hot = Hot {
            ends: [ends, sent.reply()],
            deadline: now.saturating_add(self.config.timeouts.of(state)),
            generation: self.generation,
            l3,
            l4,
            protocol: headers.tuple.protocol,
            state,
            flags: if by_mark { Hot::<A>::MASQUERADE } else { 0 }
                | if leased.is_some() { Hot::<A>::LEASED } else { 0 },
            packets: [1, 0],
            bytes: [headers.end.into(), 0],
        };
        let flow = lane.flows.insert(hot, now, id, tracking).map_err(|error| {
            Verdict::drop(match error {
                InsertError::Full => Cause::TableFull,
                InsertError::Chain(IndexFull) => Cause::HashChain,
            })
        })?;
        if let Some((remote, port)) = leased {
            self.leases.take(remote, port);
        }
        if self.config.max_flows_per_source.is_some() {
            *lane.sources.entry(ends.src).or_default() += 1;
        }
        self.ledger.open_flow(id);
        Ok(flow)
    }

    /// The chosen backend's position in its list. With `state` the choice is made on that copy and nothing is remembered.
    pub(crate) fn pick(
        &mut self,
        number: u32,
        serve: &Serve,
        question: &Question,
        state: Option<&mut crate::balance::State>,
        trace: &mut impl Trace,
    ) -> Option<usize> {
        let (record, backends) = self.ledger.choosing(number)?;
        let ids = &record.backends[serve.scope as usize];
        let spec = record.service.spec();
        let remembered = spec
            .affinity
            .and_then(|_| self.affinity.get(&(number, question.src.ip()), self.clock.tick()))
            .filter(|&(id, birth)| backends[id as usize].birth == birth)
            .and_then(|(id, _)| ids.iter().position(|&known| known == id));
        // Only choices that all nodes agree on are made by hash.
        let (source, flow) = if serve.is_midstream || spec.strategy.is_consistent() {
            (
                stable_hash_address(question.src.ip(), CONSISTENT_SEED),
                stable_hash_tuple(question.protocol.0, question.src, question.dst, CONSISTENT_SEED),
            )
        } else {
            (0, 0)
        };
        let request = Request { source, flow, loads: &ListLoads { ids, records: backends } };
        let state = state.unwrap_or(&mut record.states[serve.scope as usize]);
        decide::choose(&record.service, serve, remembered, &request, state, trace)
    }

    /// Whether there is room for one more flow of this source, under its limit; and which flow is to be evicted for it, if need be:
    /// the oldest unassured one.
    fn room<A: Wire>(&self, lane: &Lane<A>, source: A) -> Result<Option<FlowId>, Verdict> {
        if let Some(limit) = self.config.max_flows_per_source
            && lane.sources.get(&source).is_some_and(|&flows| flows >= limit)
        {
            return Err(Verdict::drop(Cause::SourceLimit));
        }
        if lane.flows.len() < self.config.max_flows && lane.flows.unassured() < self.config.max_unassured {
            return Ok(None);
        }
        lane.flows.oldest_unassured().map(Some).ok_or(Verdict::drop(Cause::TableFull))
    }

    /// Room and ends for one more flow, which changes nothing yet: `explain` asks the same. `sent` is what the backend gets if the source stays.
    pub(crate) fn place<A: Wire>(
        &self,
        lane: &Lane<A>,
        headers: &Headers<A>,
        sent: Ends<A>,
        masquerade: bool,
        rng: &mut Rng,
    ) -> Result<Place<A>, Verdict> {
        let victim = self.room(lane, headers.tuple.ends.src)?;
        let (sent, leased, by_mark) = self.source(lane, headers, sent, masquerade, rng)?;
        if is_torn(headers, &sent) {
            return Err(Verdict::drop(Cause::FragmentRefused));
        }
        Ok(Place { victim, sent, leased, by_mark })
    }

    /// The ends of the packet that the backend gets: the source as it is, or masqueraded, or with another port where the
    /// backend's answers could not be told from those of another flow (F32, F35). Also the lease, and whether the sender masquerades.
    #[allow(clippy::type_complexity)]
    fn source<A: Wire>(
        &self,
        lane: &Lane<A>,
        headers: &Headers<A>,
        sent: Ends<A>,
        masquerade: bool,
        rng: &mut Rng,
    ) -> Result<(Ends<A>, Option<(Remote, u16)>, bool), Verdict> {
        let snat =
            if masquerade { self.config.snat.iter().find_map(|&address| A::from_ip(address)) } else { None };
        let by_mark = masquerade && snat.is_none();
        let protocol = headers.tuple.protocol;
        let sent = Ends { src: snat.unwrap_or(sent.src), ..sent };
        let is_free = |port: u16| {
            let reply = Tuple { ends: Ends { sport: port, ..sent }.reply(), protocol };
            lane.flows.find(&reply, lane.flows.hash(&reply)).is_none()
        };
        if snat.is_none() && is_free(sent.sport) {
            return Ok((sent, None, by_mark));
        }
        let remote = Remote { protocol, source: sent.src.into(), backend: sent.destination() };
        let has_port = headers.layer4 != Layer4::Portless;
        if !has_port {
            return if is_free(0) {
                Ok((sent, None, by_mark))
            } else {
                Err(Verdict::drop(Cause::PortsExhausted))
            };
        }
        let port = self
            .leases
            .find(&remote, sent.sport, rng, is_free)
            .ok_or(Verdict::drop(Cause::PortsExhausted))?;
        Ok((Ends { sport: port, ..sent }, Some((remote, port)), by_mark))
    }

    /// Takes a flow out of all books.
    pub(crate) fn end_flow<A: Wire>(&mut self, lane: &mut Lane<A>, id: FlowId) {
        let (hot, cold) = (lane.flows.hot(id), lane.flows.cold(id));
        let client = hot.ends[Direction::Original as usize].src;
        self.ledger.close_flow(cold.backend, lane.flows.packets(id), hot.bytes);
        if hot.has(Hot::<A>::LEASED) {
            let reply = hot.ends[Direction::Reply as usize];
            let remote = Remote { protocol: hot.protocol, source: reply.dst.into(), backend: reply.source() };
            self.leases.give_back(&remote, reply.dport);
        }
        if self.config.max_flows_per_source.is_some()
            && let Some(flows) = lane.sources.get_mut(&client)
        {
            *flows -= 1;
            if *flows == 0 {
                lane.sources.remove(&client);
            }
        }
        lane.flows.remove(id);
    }

    #[inline(never)]
    fn icmp_error<A: Wire>(&mut self, lane: &Lane<A>, headers: &Headers<A>, packet: &mut [u8]) -> Verdict {
        match self.related(lane, headers, packet) {
            Related::To { quote, flow, direction } => {
                let hot = lane.flows.hot(flow);
                let sent = hot.ends[direction.opposite() as usize];
                icmp_error::apply(packet, headers, &quote, &sent);
                let reply = if direction == Direction::Reply { Verdict::REPLY } else { 0 };
                Verdict { flags: Verdict::FLOW | reply, ..Verdict::new(Action::Translate, Cause::Related) }
            }
            Related::Verdict(verdict) => verdict,
        }
    }

    /// Which flow an ICMP error is about, and the way the error travels. Changes nothing.
    pub(crate) fn related<A: Wire>(&self, lane: &Lane<A>, headers: &Headers<A>, packet: &[u8]) -> Related<A> {
        if !icmp_error::is_intact(packet, headers) {
            return Related::Verdict(Verdict::drop(Cause::BadIcmp));
        }
        let is_frontend = self.table.is_frontend(headers.tuple.ends.dst.into());
        let unmatched = if is_frontend {
            Verdict::drop(Cause::IcmpUnmatched)
        } else {
            Verdict::new(Action::Accept, Cause::NotOurs)
        };
        let Some(quote) = icmp_error::quoted(packet, headers).filter(icmp_error::is_translatable) else {
            return Related::Verdict(unmatched);
        };
        if quote.layer4 == Layer4::IcmpError {
            return Related::Verdict(Verdict::drop(Cause::BadIcmp));
        }
        let answer = quote.tuple.reply();
        let now = self.clock.tick();
        match lane.flows.find(&answer, lane.flows.hash(&answer)) {
            Some((flow, direction)) if !lane.flows.hot(flow).is_expired(now) => {
                // An error goes to who sent the quoted packet (RFC 5508, REQ-4 to 6).
                if headers.tuple.ends.dst != quote.tuple.ends.src {
                    return Related::Verdict(Verdict::drop(Cause::BadIcmp));
                }
                Related::To { quote, flow, direction }
            }
            _ => Related::Verdict(unmatched),
        }
    }

    #[inline(never)]
    fn fragment<A: Wire>(
        &mut self,
        lane: &mut Lane<A>,
        headers: &Headers<A>,
        packet: &mut [u8],
        meta: Meta,
    ) -> Verdict {
        let Some(fragment) = A::fragment(packet) else { return Verdict::drop(Cause::Malformed) };
        let id = DatagramId::new(headers, &fragment);
        let verdict = match lane.fragments.admit(id, &fragment, self.clock.tick()) {
            Admission::Follow(fate) => follow(fate, packet),
            Admission::Wait => match lane.fragments.hold(&id, packet) {
                Some(ticket) => Verdict { ticket, ..Verdict::new(Action::Hold, Cause::FragmentHeld) },
                None => Verdict::drop(Cause::FragmentLimit),
            },
            Admission::Decide => {
                let verdict = self.datagram(lane, headers, packet, meta);
                let fate = fate(headers, verdict, packet);
                for mut held in lane.fragments.settle(id, fate) {
                    let verdict = follow(fate, &mut held.packet);
                    self.release(held.ticket, verdict, held.packet);
                }
                verdict
            }
        };
        self.release_given_up(lane);
        verdict
    }

    /// Hands out the held fragments of datagrams that were given up.
    pub(crate) fn release_given_up<A: Wire>(&mut self, lane: &mut Lane<A>) {
        for (held, cause) in lane.fragments.take_given_up() {
            self.release(held.ticket, Verdict::drop(cause), held.packet);
        }
    }

    fn release(&mut self, ticket: u32, verdict: Verdict, packet: Vec<u8>) {
        self.counters.count(verdict);
        self.released.push(Released { ticket, verdict, packet });
    }
}

/// What a new flow gets.
pub(crate) struct Place<A> {
    /// The flow that gives way to it.
    pub(crate) victim: Option<FlowId>,
    /// The ends of the packet that the backend gets.
    pub(crate) sent: Ends<A>,
    leased: Option<(Remote, u16)>,
    by_mark: bool,
}

/// What becomes of a flow that is looked at again.
enum Revision {
    /// It goes on.
    Keep,
    /// It is over, and the packet opens another, or none.
    Anew,
    /// It is over, and so is the packet.
    Refuse(Verdict),
}

/// What an ICMP error is about.
pub(crate) enum Related<A> {
    /// A packet of this flow; the error travels in `direction`.
    To { quote: Headers<A>, flow: FlowId, direction: Direction },
    /// No flow.
    Verdict(Verdict),
}

/// The flags of a verdict on a packet of a flow.
#[inline(always)]
fn flow_flags<A: Wire>(hot: &Hot<A>, direction: Direction) -> u8 {
    match direction {
        Direction::Original if hot.has(Hot::<A>::MASQUERADE) => Verdict::FLOW | Verdict::MASQUERADE,
        Direction::Original => Verdict::FLOW,
        Direction::Reply => Verdict::FLOW | Verdict::REPLY,
    }
}

/// Gives a packet of a flow its new ends.
#[inline(always)]
fn translate<A: Wire>(
    hot: &Hot<A>,
    headers: &Headers<A>,
    direction: Direction,
    cause: Cause,
    packet: &mut [u8],
    meta: Meta,
) -> Verdict {
    let deltas = match direction {
        Direction::Original => (hot.l3, hot.l4),
        Direction::Reply => (hot.l3.inverse(), hot.l4.inverse()),
    };
    rewrite::apply(packet, headers, &hot.rewritten(direction), deltas, meta.checksum);
    Verdict { flags: flow_flags(hot, direction), ..Verdict::new(Action::Translate, cause) }
}

/// The ends of a packet on its way to a backend, its source as it is; `None` for a backend of the other family.
pub(crate) fn addressed<A: Wire>(headers: &Headers<A>, backend: &Backend) -> Option<Ends<A>> {
    let ends = headers.tuple.ends;
    let has_port = !matches!(headers.layer4, Layer4::Portless | Layer4::EchoRequest);
    let dport = if has_port { backend.address.port() } else { ends.dport };
    Some(Ends { dst: A::from_ip(backend.address.ip())?, dport, ..ends })
}

/// Whether this is a part of an SCTP packet that cannot be rewritten to `to`: the CRC lies over the whole packet, which is not here.
fn is_torn<A: Wire>(headers: &Headers<A>, to: &Ends<A>) -> bool {
    let ends = headers.tuple.ends;
    headers.is_fragment && headers.layer4 == Layer4::Sctp && (to.sport, to.dport) != (ends.sport, ends.dport)
}

/// What a first packet asks.
pub(crate) fn question<A: Wire>(headers: &Headers<A>, packet: &[u8], meta: Meta) -> Question {
    let ends = headers.tuple.ends;
    let flags = match headers.layer4 {
        Layer4::Tcp => headers.transport(packet).get(13).copied().map(Flags),
        _ => None,
    };
    Question {
        protocol: headers.tuple.protocol,
        src: ends.source(),
        dst: ends.destination(),
        interface: meta.interface,
        flags,
    }
}

/// State and tracking of a flow that begins with this packet.
fn opening<A: Wire>(headers: &Headers<A>, packet: &[u8]) -> (State, Tracking) {
    let bytes = headers.transport(packet);
    match (headers.layer4, Segment::parse(bytes)) {
        (Layer4::Tcp, Some(segment)) => Tracking::opening(&segment),
        (layer4, _) => (State::opening::<A>(layer4, sctp::first_chunk(bytes)), Tracking::default()),
    }
}

/// What the later fragments of a datagram get after its first one got `verdict`; `packet` is the first one, rewritten.
fn fate<A: Wire>(headers: &Headers<A>, verdict: Verdict, packet: &[u8]) -> Fate<A> {
    match (verdict.action, A::parse(packet)) {
        (Action::Translate, Ok(sent)) => {
            let (from, to) = (headers.tuple.ends, sent.tuple.ends);
            let (l3, _) = rewrite::deltas(Protocol::UDP, &from, &to);
            Fate::Translate { src: to.src, dst: to.dst, l3, flags: verdict.flags & !Verdict::NEW }
        }
        (Action::Accept, _) => Fate::Pass,
        _ => Fate::Refused(Cause::FragmentRefused),
    }
}

/// Gives a later fragment its datagram's fate.
fn follow<A: Wire>(fate: Fate<A>, packet: &mut [u8]) -> Verdict {
    match fate {
        Fate::Pass => Verdict::new(Action::Accept, Cause::NotOurs),
        Fate::Refused(cause) => Verdict::drop(cause),
        Fate::Translate { src, dst, l3, flags } => {
            A::write_addresses(packet, src, dst, l3);
            Verdict { flags, ..Verdict::new(Action::Translate, Cause::Fragment) }
        }
    }
}

/// Under which consistent strategies hash clients: the same on every node, so that all nodes agree.
const CONSISTENT_SEED: u64 = 0;

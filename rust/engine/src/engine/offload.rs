//! Offloaded flows: the engine decides about their first packet, the kernel translates the rest and
//! tells what becomes of them.
//!
//! An offloaded flow stands in the table like any other, so loads, counters and lists count it.
//! Four things keep the table and the kernel's in step:
//!
//! - Events of the kernel: [`Engine::note_begin`] for a flow that began, [`Engine::note_update`]
//!   for one that changed, [`Engine::note_end`] for one that ended. A look at the kernel's flows
//!   may overtake them: then those of a former flow with the same ends are still to come.
//! - Resyncs: every flow of the kernel is observed with a [`Resync`], which gathers the flows seen;
//!   then [`Engine::end_missing`] ends the others. Events may be lost, resyncs make up for it.
//! - Answers: the engine has seen the SYN, and events tell of the SYN-ACK
//!   ([`Engine::note_answer`]).
//! - Orphans: flows that end here first, because an operator or a table has ended them. The kernel
//!   is to end them as well ([`Engine::take_orphans`]).
//!
//! An engine that sees every packet has offloaded flows too when it takes over from another proxy:
//! those which the kernel carries since then. Their packets pass ([`OffloadedPackets::Pass`]), and
//! the kernel, whose turn comes later, translates them as before.
//!
//! Invariants: an offloaded flow has the generation [`STALE`], so each packet of it that comes to
//! the engine all the same is assessed. Unless such packets pass, it proves that the kernel has the
//! flow no more. No deadline ends
//! an offloaded flow, and no checkpoint holds one. A flow that the kernel was made to forget while
//! both ends were talking (`conntrack -F`) stays here for a minute as a forgotten one, so that the
//! next packet goes where the flow went.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::kernel_flow::{KernelFlow, is_half_open, state, was_taken_out};
use super::{Engine, EngineAddress};
use crate::clock::{Stamp, Tick, between, ticks, whole_ticks};
use crate::config::OffloadedPackets;
use crate::conntrack::tcp::Tracking;
use crate::conntrack::{FlowId, Hot, REMEMBERED, STALE};
use crate::decide::{self, Query};
use crate::events::EventKind;
use crate::hash::AddressKey;
use crate::ledger::Standing;
use crate::pipeline::{FamilyState, Shared};
use crate::rewrite;
use crate::tuple::{Address, Direction, Ends, Protocol, Tuple};
use crate::wire::Wire;

/// The action for a flow of the kernel.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub enum Outcome {
    /// It goes on.
    Keep,
    /// The kernel is to end it, so that what follows is decided anew: it does not go where its
    /// frontend leads, and nobody is connected.
    End,
}

/// Which flows a look at all of the kernel's has found.
#[derive(Debug, Default)]
pub struct Resync {
    v4: HashSet<FlowId>,
    v6: HashSet<FlowId>,
}

impl Engine {
    /// Takes note of a flow that the kernel has, whoever has decided about it; `resync` is the
    /// look at all flows that has found it, if that is why. As kube-proxy's `CleanStaleEntries`:
    /// datagrams go to an endpoint that serves, or are decided anew. A flow to no frontend is left
    /// alone. Cost: look-ups.
    pub fn observe(&mut self, now: u64, flow: &KernelFlow, resync: Option<&mut Resync>) -> Outcome {
        self.note(now, flow, resync, true)
    }

    /// Takes note of an event: a flow has begun in the kernel. As [`Engine::observe`], but that no
    /// flow is to end.
    pub fn note_begin(&mut self, now: u64, flow: &KernelFlow, resync: Option<&mut Resync>) {
        // A later look finds what does not go where its frontend leads.
        let _ = self.note(now, flow, resync, false);
    }

    /// Takes note that a flow has changed in the kernel. One that the engine does not know as the
    /// kernel's is left alone: it has ended here since, or never was ours. Cost: look-ups.
    pub fn note_update(&mut self, now: u64, flow: &KernelFlow) {
        if self.has_offloaded(flow) {
            // What does not go where its frontend leads is for resyncs to find.
            let _ = self.observe(now, flow, None);
        }
    }

    /// Takes note that the kernel has ended a flow. Returns whether somebody has made it do so
    /// (`conntrack -F`) while both ends were talking: packets that follow within a minute go
    /// where the flow went.
    pub fn note_end(&mut self, now: u64, flow: &KernelFlow) -> bool {
        let tick = self.shared.clock.advance(now);
        match flow.original.0 {
            SocketAddr::V4(_) => self.note_end_of::<Ipv4Addr>(tick, flow),
            SocketAddr::V6(_) => self.note_end_of::<Ipv6Addr>(tick, flow),
        }
    }

    /// Takes note that the kernel has seen the backend's SYN-ACK of a connection at `now`, in
    /// nanoseconds of the clock of [`Engine::process`]. Returns whether that gives its connect
    /// time: the engine has seen its first SYN, and no answer yet. Cost: a look-up.
    pub fn note_answer(&mut self, now: u64, flow: &KernelFlow) -> bool {
        match flow.original.0 {
            SocketAddr::V4(_) => self.note_answer_of::<Ipv4Addr>(now, flow),
            SocketAddr::V6(_) => self.note_answer_of::<Ipv6Addr>(now, flow),
        }
    }

    /// Whether the kernel carries this flow for us: it is the one that the engine has under these
    /// ends, to the same backend. Cost: a look-up.
    #[must_use]
    pub fn has_offloaded(&self, flow: &KernelFlow) -> bool {
        match flow.original.0 {
            SocketAddr::V4(_) => self.has_offloaded_of::<Ipv4Addr>(flow),
            SocketAddr::V6(_) => self.has_offloaded_of::<Ipv6Addr>(flow),
        }
    }

    /// Ends the offloaded flows that a complete look at the kernel's flows did not
    /// find; returns their number.
    #[allow(clippy::needless_pass_by_value)]
    pub fn end_missing(&mut self, resync: Resync) -> usize {
        self.end_missing_of::<Ipv4Addr>(&resync.v4) + self.end_missing_of::<Ipv6Addr>(&resync.v6)
    }

    /// Offloaded flows that were ended here and that the kernel is to end: protocol, client and
    /// frontend of each.
    pub fn take_orphans(&mut self) -> Vec<(Protocol, SocketAddr, SocketAddr)> {
        std::mem::take(&mut self.shared.orphans)
    }

    fn note(
        &mut self,
        now: u64,
        flow: &KernelFlow,
        resync: Option<&mut Resync>,
        is_look: bool,
    ) -> Outcome {
        let tick = self.shared.clock.advance(now);
        match flow.original.0 {
            SocketAddr::V4(_) => {
                let seen = resync.map(|resync| &mut resync.v4);
                self.note_in::<Ipv4Addr>(tick, flow, seen, is_look)
            }
            SocketAddr::V6(_) => {
                let seen = resync.map(|resync| &mut resync.v6);
                self.note_in::<Ipv6Addr>(tick, flow, seen, is_look)
            }
        }
    }

    fn note_in<A: EngineAddress>(
        &mut self,
        now: Tick,
        flow: &KernelFlow,
        resync: Option<&mut HashSet<FlowId>>,
        is_look: bool,
    ) -> Outcome {
        let (shared, family) = A::split(self);
        let (Some(original), Some(reply)) = (ends::<A>(flow.original), ends::<A>(flow.reply))
        else {
            return Outcome::Keep;
        };
        let entry = match shared.entry_of(family, now, flow, original, is_look) {
            Ok(entry) => entry,
            Err(outcome) => return outcome,
        };
        let served = shared
            .table
            .find(flow.protocol, flow.original.1)
            .map(|(place, _)| shared.ledger.number(place));
        let former = entry.map(|id| shared.ledger.backend(family.flows.cold(id).backend).service);
        // Neither is it served here, nor was it.
        let Some(number) = served.or(former) else { return Outcome::Keep };
        let standing = shared.ledger.standing(number, flow.reply.0);
        let is_translated = flow.reply.0 != flow.original.1;
        if entry.is_none() && !is_translated && standing == Standing::Gone {
            return if shared.is_older(flow) { Outcome::End } else { Outcome::Keep };
        }
        if flow.protocol == Protocol::UDP && standing == Standing::Gone {
            if let Some(id) = entry {
                shared.end_flow(family, id);
            }
            return Outcome::End;
        }
        let Some(id) = entry.or_else(|| shared.adopt(family, now, number, flow, original, reply))
        else {
            return Outcome::Keep;
        };
        if family.flows.hot(id).ends(Direction::Reply) != reply {
            readdress(family, id, original, reply);
        }
        shared.rehome(family, id, shared.home(family, id));
        let age = between(family.flows.cold(id).created, now);
        // An entry that is ended between SYN and ACK makes the ACK a stranger.
        if standing != Standing::Listed && is_half_open(flow) && age >= ticks(UNANSWERED) {
            shared.end_flow(family, id);
            return Outcome::End;
        }
        // After a look, what events tell next may be of a former flow.
        let is_ahead = is_look && entry.is_some() && is_awaited(family, now, id);
        let flag = if is_ahead { Hot::<A>::AHEAD } else { 0 };
        family.flows.hot_mut(id).set_flags(Hot::<A>::AHEAD, flag);
        shared.update(family, now, id, flow);
        if let Some(seen) = resync {
            seen.insert(id);
        }
        Outcome::Keep
    }

    fn note_end_of<A: EngineAddress>(&mut self, now: Tick, flow: &KernelFlow) -> bool {
        let (shared, family) = A::split(self);
        let Some(ends) = ends::<A>(flow.original) else { return false };
        let Some((id, Direction::Original)) =
            family.flows.find(&Tuple { ends, protocol: flow.protocol })
        else {
            return false;
        };
        let hot = family.flows.hot(id);
        // One that is not offloaded yet, or of which a look alone has told, is the next connection
        // between the same ends.
        let is_next = !hot.has(Hot::<A>::OFFLOADED) || hot.has(Hot::<A>::AHEAD);
        if is_next || hot.ends(Direction::Reply).source() != flow.reply.0 {
            return false;
        }
        // The entry of a datagram that came after another deletion has no answer yet.
        let is_replied = flow.is_replied || family.flows.hot(id).has(Hot::<A>::REPLIED);
        if !was_taken_out(&KernelFlow { is_replied, ..*flow }) {
            // The event has the last counters: with its entry the kernel forgets them.
            count(family, id, flow);
            shared.end_flow(family, id);
            return false;
        }
        // Its last state too: that it was established, perhaps no event has told.
        shared.update(family, now, id, flow);
        let deadline = now.saturating_add(ticks(REMEMBERED));
        let hot = family.flows.hot_mut(id);
        hot.set_flags(Hot::<A>::OFFLOADED, Hot::<A>::FORGOTTEN | Hot::<A>::REPLIED);
        (hot.generation, hot.deadline) = (STALE, deadline);
        family.flows.note_deadline(deadline);
        true
    }

    fn note_answer_of<A: EngineAddress>(&mut self, now: u64, flow: &KernelFlow) -> bool {
        let (shared, family) = A::split(self);
        let Some(ends) = ends::<A>(flow.original) else { return false };
        let tuple = Tuple { ends, protocol: flow.protocol };
        let Some((id, Direction::Original)) = family.flows.find(&tuple) else { return false };
        let (hot, cold) = family.flows.both_mut(id);
        // Another connection of the same ends may have had another backend.
        if hot.ends(Direction::Reply).source() != flow.reply.0 {
            return false;
        }
        let Some(syn) = cold.tracking.syn_time() else { return false };
        cold.tracking.forget_syn();
        let tick = shared.clock.at(now);
        shared.ledger.note_connect(cold.backend, tick, Stamp::at(now).since(syn));
        true
    }

    fn has_offloaded_of<A: EngineAddress>(&self, flow: &KernelFlow) -> bool {
        let flows = &A::state_of(self).flows;
        let tuple = ends::<A>(flow.original).map(|ends| Tuple { ends, protocol: flow.protocol });
        let Some((id, Direction::Original)) = tuple.and_then(|tuple| flows.find(&tuple)) else {
            return false;
        };
        let hot = flows.hot(id);
        hot.has(Hot::<A>::OFFLOADED) && hot.ends(Direction::Reply).source() == flow.reply.0
    }

    fn end_missing_of<A: EngineAddress>(&mut self, seen: &HashSet<FlowId>) -> usize {
        let (shared, family) = A::split(self);
        let missing: Vec<FlowId> = family
            .flows
            .iter()
            .filter(|(id, hot, _)| hot.has(Hot::<A>::OFFLOADED) && !seen.contains(id))
            .map(|(id, ..)| id)
            .collect();
        for &id in &missing {
            shared.end_flow(family, id);
        }
        missing.len()
    }
}

impl Shared {
    /// The engine's own entry for a flow of the kernel, if there is one; `Err` where the flow is
    /// none of its business. An entry that leads elsewhere ends, unless a look shows a
    /// former flow.
    fn entry_of<A: EngineAddress>(
        &mut self,
        family: &mut FamilyState<A>,
        now: Tick,
        flow: &KernelFlow,
        original: Ends<A>,
        is_look: bool,
    ) -> Result<Option<FlowId>, Outcome> {
        match family.flows.find(&Tuple { ends: original, protocol: flow.protocol }) {
            // The engine translates this one since; the kernel's is a former flow of the same ends.
            Some((id, _)) if self.translates_itself(family.flows.hot(id)) => Err(Outcome::Keep),
            Some((id, Direction::Original)) => {
                let is_same = family.flows.hot(id).ends(Direction::Reply).source() == flow.reply.0;
                if !is_same && is_look && is_awaited(family, now, id) {
                    return Err(Outcome::Keep);
                }
                if !is_same {
                    self.end_flow(family, id);
                }
                Ok(is_same.then_some(id))
            }
            // Another flow's answers would come from where this one's client is.
            Some((_, Direction::Reply)) => Err(Outcome::Keep),
            None => Ok(None),
        }
    }

    /// Whether the engine rewrites the packets of this flow, beside others that the kernel carries.
    fn translates_itself<A: Wire>(&self, hot: &Hot<A>) -> bool {
        self.config.offloaded == OffloadedPackets::Pass && !hot.has(Hot::<A>::OFFLOADED)
    }

    /// Whether an entry that the kernel does not translate, and that keeps it from ever asking us,
    /// is to go: it is older than its frontend, and nobody who is connected would miss it.
    fn is_older(&self, flow: &KernelFlow) -> bool {
        let (protocol, (src, dst)) = (flow.protocol, flow.original);
        let is_dispensable = protocol == Protocol::UDP || (is_half_open(flow) && !flow.is_replied);
        let is_reached = || match (src.ip(), dst.ip()) {
            (IpAddr::V4(_), IpAddr::V4(_)) => self.is_reached::<Ipv4Addr>(protocol, src, dst),
            _ => self.is_reached::<Ipv6Addr>(protocol, src, dst),
        };
        is_dispensable && is_reached()
    }

    fn is_reached<A: Address>(&self, protocol: Protocol, from: SocketAddr, to: SocketAddr) -> bool {
        let (Some(src), Some(dst)) = (A::from_ip(from.ip()), A::from_ip(to.ip())) else {
            return false;
        };
        let ends = Ends { src, dst, sport: from.port(), dport: to.port() };
        let query = Query { protocol, ends, interface: 0, flags: None };
        decide::is_reached(&self.table, &query)
    }

    /// Enters a flow that the kernel has, of this service port; `None` if there is no room.
    fn adopt<A: Wire>(
        &mut self,
        family: &mut FamilyState<A>,
        now: Tick,
        number: u32,
        flow: &KernelFlow,
        original: Ends<A>,
        reply: Ends<A>,
    ) -> Option<FlowId> {
        let protocol = flow.protocol;
        // One tuple leads to one flow: with two of them replies would go to the wrong client.
        if family.flows.find(&Tuple { ends: reply, protocol }).is_some() {
            return None;
        }
        let backend = self.ledger.backend_for(number, flow.reply.0);
        // It counts with its backend before it is entered, so that a refusal is taken back in the
        // same way as an end.
        self.ledger.open_flow(backend, state::<A>(flow));
        let (l3, l4) = rewrite::deltas(protocol, &original.into(), &reply.reply().into());
        let hot = Hot {
            ends: [original.into(), reply.into()],
            deadline: now,
            generation: self.generation,
            l3,
            l4,
            protocol,
            state: state::<A>(flow),
            flags: masquerade_flag(original, reply),
            fast: 0,
            packets: [0; 2],
            bytes: [0; 2],
        };
        let created = now.wrapping_sub(flow.age.map_or(0, whole_ticks));
        let Ok(id) = family.flows.insert(hot, created, backend, Tracking::default()) else {
            self.ledger.close_flow(backend, state::<A>(flow), [0; 2], [0; 2]);
            return None;
        };
        if self.config.max_flows_per_source.is_some() {
            *family.sources.entry(AddressKey(original.src)).or_default() += 1;
        }
        family.events.note(EventKind::New, &family.flows, id);
        Some(id)
    }

    /// Brings a flow up to date with what the kernel says of it.
    fn update<A: Wire>(
        &mut self,
        family: &mut FamilyState<A>,
        now: Tick,
        id: FlowId,
        flow: &KernelFlow,
    ) {
        let is_confirmed = flow.is_assured && !family.flows.hot(id).has(Hot::<A>::ASSURED);
        if flow.is_assured {
            family.flows.assure(id);
        }
        count(family, id, flow);
        let remaining = flow
            .timeout
            .map_or(self.config.timeouts.of(state::<A>(flow)), |seconds| ticks(seconds.into()));
        let (hot, cold) = family.flows.both_mut(id);
        let (former, state) = (hot.state, state::<A>(flow));
        self.ledger.move_flow(cold.backend, former, state);
        hot.set_state(state);
        let replied = if flow.is_replied { Hot::<A>::REPLIED } else { 0 };
        let is_answered = flow.is_replied && !hot.has(Hot::<A>::REPLIED);
        hot.set_flags(Hot::<A>::FORGOTTEN, Hot::<A>::OFFLOADED | replied);
        hot.deadline = now.saturating_add(remaining);
        // Every packet that comes to us is assessed, since the kernel should have translated it.
        hot.generation = STALE;
        if state != former || is_answered || is_confirmed {
            family.events.note(EventKind::Update, &family.flows, id);
        }
    }
}

/// Takes note of where a flow's answers go: from which port the kernel masquerades, our verdict did
/// not say.
fn readdress<A: Wire>(family: &mut FamilyState<A>, id: FlowId, original: Ends<A>, reply: Ends<A>) {
    if family.flows.readdress(id, reply.into()) {
        let hot = family.flows.hot_mut(id);
        (hot.l3, hot.l4) = rewrite::deltas(hot.protocol, &original.into(), &reply.reply().into());
        hot.set_flags(0, masquerade_flag(original, reply));
    }
}

fn masquerade_flag<A: Wire>(original: Ends<A>, reply: Ends<A>) -> u8 {
    if reply.dst == original.src { 0 } else { Hot::<A>::MASQUERADE }
}

/// Whether the kernel's event is yet to come of this flow, about which the engine has just decided.
fn is_awaited<A: Wire>(family: &FamilyState<A>, now: Tick, id: FlowId) -> bool {
    let hot = family.flows.hot(id);
    let is_untold = !hot.has(Hot::<A>::OFFLOADED) || hot.has(Hot::<A>::AHEAD);
    is_untold && between(family.flows.cold(id).created, now) < ticks(LATE)
}

/// Packets and bytes are the kernel's, where it counts them.
fn count<A: Wire>(family: &mut FamilyState<A>, id: FlowId, flow: &KernelFlow) {
    if let Some(counters) = flow.counters {
        let (hot, cold) = family.flows.both_mut(id);
        for (side, (packets, bytes)) in counters.into_iter().enumerate() {
            hot.packets[side] = packets as u32;
            cold.tracking.sides[side].packets_high = u8::try_from(packets >> 32).unwrap_or(u8::MAX);
            hot.bytes[side] = bytes;
        }
    }
}

/// `None` for ends of the other family.
fn ends<A: Wire>((src, dst): (SocketAddr, SocketAddr)) -> Option<Ends<A>> {
    let (sport, dport) = (src.port(), dst.port());
    Some(Ends { src: A::from_ip(src.ip())?, dst: A::from_ip(dst.ip())?, sport, dport })
}

/// Seconds within which a backend that is there has answered.
const UNANSWERED: f64 = 1.0;
/// Seconds by which events come late at most.
const LATE: f64 = 10.0;

//! The short cut for what most packets are: plain, of a flow that is known, and moving neither its
//! state nor its flags. That is a datagram of UDP, or an acknowledgement, with payload or without,
//! on an established connection of TCP.
//!
//! A packet takes the fast path under these conditions; any other takes the slow path, which does
//! the same with such packets, only in more steps (`equivalence` holds them against each other):
//!
//! - It is plain ([`Wire::plain`]), and its transport checksum is complete.
//! - The record that its hash led to has its ends and its protocol. The guess may be wrong: then
//!   the index is asked ([`fast_path_miss`]), and the packet tries again.
//! - The flow's record says that it may ([`Hot::fast_flags`]). Records of ended flows never do.
//! - The flow is not over, and its backend was found under the tables in force. An offloaded or
//!   forgotten flow has another generation.
//! - Its count of packets does not run over.
//! - Of TCP: it lies in both windows.
//!
//! First packets come in runs, too ([`FirstPackets`]). They take the same way as on the slow path
//! ([`Shared::begin`]); only what a plain packet of one protocol cannot be is not asked.
//!
//! Each run works out once what all its packets share ([`Moment`]). The loops call nothing, and
//! each is a function of its own ([`hint::dispatch`]), so all that a packet needs stays in
//! registers. A candidate is handed on by value, since the processor would wait for its fields if
//! they were written one by one and then read back as a whole.

use super::packet::{Packet, version};
use super::state::{FamilyState, Shared};
use crate::clock::Tick;
use crate::conntrack::index::{Entry, Probe};
use crate::conntrack::state::State;
use crate::conntrack::timeouts::Timeouts;
use crate::conntrack::{Cold, Hot};
use crate::hint::{self, Work};
use crate::rewrite::ChecksumState;
use crate::tuple::Protocol;
use crate::verdict::{Action, Cause, Verdict};
use crate::wire::{Headers, Wire};

/// Notes on a packet while the memory that its flow needs is fetched.
#[derive(Clone, Copy)]
pub(crate) struct Candidate {
    probe: Probe,
    guess: Entry,
    /// Where a plain packet ends.
    end: u16,
    /// TCP or UDP of a plain packet, or none that is known.
    protocol: Protocol,
}

impl Candidate {
    /// No plain packet.
    pub(crate) const OTHER: Self =
        Self { probe: Probe::NONE, guess: Entry::NONE, end: 0, protocol: Protocol(0) };

    /// Takes note of a plain packet; false: it is none, and nothing was noted. The fields are
    /// written one by one, since one value of all of them would be packed into integers first.
    #[inline(always)]
    pub(crate) fn note<A: Wire>(&mut self, family: &FamilyState<A>, packet: &[u8]) -> bool {
        let Some(plain) = A::plain(packet) else { return false };
        // The longest packets of IPv6 take the long way.
        let Ok(end) = u16::try_from(plain.end) else { return false };
        self.probe = family.flows.probe(&plain.ends, plain.protocol);
        self.end = end;
        self.protocol = plain.protocol;
        true
    }

    /// Takes notes on the packets of one family at the front, and fetches what they need; returns
    /// how many they are, at most as many as there are candidates.
    pub(crate) fn of_all<A: Wire>(
        family: &FamilyState<A>,
        packets: &[Packet<'_>],
        candidates: &mut [Self],
    ) -> usize {
        hint::dispatch(Notes { family, packets, candidates })
    }

    /// Whether this packet may take the fast path of a protocol.
    #[inline(always)]
    fn is_fast(&self, protocol: Protocol, packet: &Packet<'_>) -> bool {
        self.protocol == protocol && packet.meta.checksum == ChecksumState::Complete
    }

    /// Fetches the part of the index that leads to the flow.
    #[inline(always)]
    fn fetch_index<A: Wire>(&self, family: &FamilyState<A>) {
        family.flows.prefetch_index(self.probe);
    }

    /// Remembers which flow is probably meant.
    #[inline(always)]
    pub(crate) fn guess_flow<A: Wire>(&mut self, family: &FamilyState<A>) {
        self.guess = family.flows.guess(self.probe);
    }

    /// Fetches that flow.
    #[inline(always)]
    fn fetch_flow<A: Wire>(&self, family: &FamilyState<A>) {
        family.flows.prefetch_flow(self.guess, self.protocol == Protocol::TCP);
    }
}

/// Packets on which notes are to be taken.
struct Notes<'a, 'b, A> {
    family: &'a FamilyState<A>,
    packets: &'a [Packet<'b>],
    candidates: &'a mut [Candidate],
}

impl<A: Wire> Work for Notes<'_, '_, A> {
    type Output = usize;

    /// Two passes: the part of the index that one fetches is there in the other.
    #[inline(always)]
    fn run(self) -> usize {
        let Self { family, packets, candidates } = self;
        let mut run = 0;
        for (packet, candidate) in packets.iter().zip(&mut *candidates) {
            if candidate.note(family, packet.bytes) {
                candidate.fetch_index(family);
            } else if version(packet.bytes) != A::VERSION {
                break;
            }
            run += 1;
        }
        for candidate in &mut candidates[..run] {
            candidate.guess_flow(family);
            candidate.fetch_flow(family);
        }
        run
    }
}

/// The moment at which packets came in together: flows are compared with it, and get deadlines of
/// it.
struct Moment {
    now: Tick,
    generation: u32,
    /// The deadline of a flow in [`State::Udp`] that has a packet now.
    udp: Tick,
    /// The same in [`State::UdpStream`].
    udp_stream: Tick,
}

impl Moment {
    #[inline(always)]
    fn of(shared: &Shared) -> Self {
        let now = shared.clock.tick();
        let deadline = |state| now.saturating_add(shared.config.timeouts.of(state));
        Self {
            now,
            generation: shared.generation,
            udp: deadline(State::Udp),
            udp_stream: deadline(State::UdpStream),
        }
    }

    /// Whether packets of this flow need no review, and one more can be counted.
    #[inline(always)]
    fn admits<A: Wire>(&self, hot: &Hot<A>, side: usize) -> bool {
        !hot.is_expired(self.now)
            && hot.generation == self.generation
            && hot.packets[side] != u32::MAX
    }
}

/// The verdict on a packet of the fast path, but for its flags.
const FAST: Verdict =
    Verdict { action: Action::Translate, cause: Cause::Established, flags: 0, ticket: 0 };

/// Forwards a datagram. `None`: the fast path is not for it, and nothing was done.
#[inline(always)]
fn forward_datagram<A: Wire>(
    flows: &mut [Hot<A>],
    moment: &Moment,
    (entry, end): (Entry, u16),
    packet: &mut [u8],
) -> Option<Verdict> {
    let ends = A::plain_ends(packet)?;
    let hot = flows.get_mut(entry.flow() as usize)?;
    let (direction, side) = (entry.direction(), entry.direction() as usize);
    let flags = hot.fast_flags(direction);
    if hot.ends[side] != ends
        || hot.protocol != Protocol::UDP
        || flags == 0
        || !moment.admits(hot, side)
    {
        return None;
    }
    hot.bytes[side] = hot.bytes[side].wrapping_add(end.into());
    hot.packets[side] = hot.packets[side].wrapping_add(1);
    // Never an earlier one than before: the state is the same as for the packet before.
    hot.deadline = if hot.state == State::UdpStream { moment.udp_stream } else { moment.udp };
    let (l3, l4) = hot.deltas(direction);
    A::rewrite_plain_udp(packet, &hot.translation(direction), l3, l4);
    Some(Verdict { flags, ..FAST })
}

/// Forwards an acknowledgement. `None`: the fast path is not for it, and nothing was done.
/// `shortest` is lowered to a deadline that moves to an earlier moment.
#[inline(always)]
fn forward_acknowledgement<A: Wire>(
    (flows, colds): (&mut [Hot<A>], &mut [Cold]),
    (moment, timeouts): (&Moment, &Timeouts),
    (entry, end): (Entry, u16),
    packet: &mut [u8],
    shortest: &mut Tick,
) -> Option<Verdict> {
    let ends = A::plain_ends(packet)?;
    let segment = A::plain_ack(packet, end)?;
    let hot = flows.get_mut(entry.flow() as usize)?;
    let cold = colds.get_mut(entry.flow() as usize)?;
    let (direction, side) = (entry.direction(), entry.direction() as usize);
    let flags = hot.fast_flags(direction);
    // The windows come last: a segment that fits is noted.
    if hot.ends[side] != ends
        || hot.protocol != Protocol::TCP
        || flags == 0
        || !moment.admits(hot, side)
        || !cold.tracking.acknowledge(direction, &segment)
    {
        return None;
    }
    hot.bytes[side] = hot.bytes[side].wrapping_add(end.into());
    hot.packets[side] = hot.packets[side].wrapping_add(1);
    let timeout = cold.tracking.timeout(State::TcpEstablished, true, timeouts);
    let deadline = moment.now.saturating_add(timeout);
    // Unacknowledged data may shorten the life.
    if deadline < hot.deadline {
        *shortest = deadline.min(*shortest);
    }
    hot.deadline = deadline;
    let (l3, l4) = hot.deltas(direction);
    A::rewrite_plain_tcp(packet, &hot.translation(direction), l3, l4);
    Some(Verdict { flags, ..FAST })
}

/// Packets to be forwarded in their order.
struct Run<'a, 'b, A> {
    shared: &'a mut Shared,
    family: &'a mut FamilyState<A>,
    candidates: &'a [Candidate],
    packets: &'a mut [Packet<'b>],
    verdicts: &'a mut [Verdict],
}

impl<'b, A> Run<'_, 'b, A> {
    /// What is left behind so many packets.
    #[inline(always)]
    fn behind(&mut self, count: usize) -> Run<'_, 'b, A> {
        Run {
            shared: self.shared,
            family: self.family,
            candidates: &self.candidates[count..],
            packets: &mut self.packets[count..],
            verdicts: &mut self.verdicts[count..],
        }
    }
}

/// Forwards datagrams up to a packet that is none or is not fast; returns how many they were.
struct Datagrams<'a, 'b, A>(Run<'a, 'b, A>);

impl<A: Wire> Work for Datagrams<'_, '_, A> {
    type Output = usize;

    #[inline(always)]
    fn run(self) -> usize {
        let Run { shared, family, candidates, packets, verdicts } = self.0;
        let moment = Moment::of(shared);
        let (flows, _) = family.flows.slices_mut();
        let mut count = 0;
        for ((candidate, packet), place) in candidates.iter().zip(packets).zip(verdicts) {
            if !candidate.is_fast(Protocol::UDP, packet) {
                break;
            }
            let target = (candidate.guess, candidate.end);
            let Some(verdict) = forward_datagram(flows, &moment, target, packet.bytes) else {
                break;
            };
            *place = verdict;
            count += 1;
        }
        shared.counters.add(FAST, count);
        count
    }
}

/// As [`Datagrams`], for acknowledgements.
struct Acknowledgements<'a, 'b, A>(Run<'a, 'b, A>);

impl<A: Wire> Work for Acknowledgements<'_, '_, A> {
    type Output = usize;

    #[inline(always)]
    fn run(self) -> usize {
        let Run { shared, family, candidates, packets, verdicts } = self.0;
        let (moment, timeouts) = (Moment::of(shared), &shared.config.timeouts);
        let (flows, colds) = family.flows.slices_mut();
        let mut shortest = Tick::MAX;
        let mut count = 0;
        for ((candidate, packet), place) in candidates.iter().zip(packets).zip(verdicts) {
            if !candidate.is_fast(Protocol::TCP, packet) {
                break;
            }
            let Some(verdict) = forward_acknowledgement(
                (flows, colds),
                (&moment, timeouts),
                (candidate.guess, candidate.end),
                packet.bytes,
                &mut shortest,
            ) else {
                break;
            };
            *place = verdict;
            count += 1;
        }
        family.flows.note_deadline(shortest);
        shared.counters.add(FAST, count);
        count
    }
}

/// As [`Datagrams`] and [`Acknowledgements`], for packets of one protocol that belong to no flow:
/// each opens one, or is not served. Compiled for each protocol, so that nothing is left of the
/// questions that it answers.
struct FirstPackets<'a, 'b, A, const PROTOCOL: u8>(Run<'a, 'b, A>);

impl<A: Wire, const PROTOCOL: u8> Work for FirstPackets<'_, '_, A, PROTOCOL> {
    type Output = usize;

    #[inline(always)]
    fn run(self) -> usize {
        let Run { shared, family, candidates, packets, verdicts } = self.0;
        let mut count = 0;
        for ((candidate, packet), place) in candidates.iter().zip(packets).zip(verdicts) {
            let protocol = Protocol(PROTOCOL);
            if !candidate.is_fast(protocol, packet) {
                break;
            }
            // A packet of this run may have opened the flow.
            let Some(ends) = A::plain_ends(packet.bytes) else { break };
            if family.flows.entry_at(candidate.probe, &ends, protocol).is_some() {
                break;
            }
            let Packet { bytes, meta } = packet;
            let Some(headers) = Headers::of_plain(protocol, &ends, candidate.end, bytes) else {
                break;
            };
            *place = shared.begin(family, &headers, candidate.probe, bytes, *meta);
            shared.counters.count(*place);
            count += 1;
        }
        count
    }
}

/// Takes packets from a first one that the fast path is not for, or whose guess was wrong; returns
/// how many. Behind the first packet of a flow there is often that of another one.
#[inline(never)]
fn fast_path_miss<A: Wire>(mut run: Run<'_, '_, A>) -> usize {
    let Candidate { probe, guess, protocol, .. } = run.candidates[0];
    let entry = match A::plain_ends(run.packets[0].bytes) {
        Some(ends) if protocol != Candidate::OTHER.protocol => {
            run.family.flows.entry_at(probe, &ends, protocol)
        }
        _ => None,
    };
    if entry.is_none() {
        let opened = match protocol {
            Protocol::UDP => hint::dispatch(FirstPackets::<A, { Protocol::UDP.0 }>(run.behind(0))),
            Protocol::TCP => hint::dispatch(FirstPackets::<A, { Protocol::TCP.0 }>(run.behind(0))),
            _ => 0,
        };
        if opened > 0 {
            return opened;
        }
    }
    let Run { shared, family, candidates, packets, verdicts } = run;
    let packet = &mut packets[0];
    verdicts[0] = entry
        // A right guess was tried before.
        .filter(|&entry| entry != guess)
        .and_then(|entry| shared.fast_path(family, candidates[0], entry, packet))
        .unwrap_or_else(|| {
            shared.slow_path(family, entry.unwrap_or(guess), packet.bytes, packet.meta)
        });
    1
}

impl Shared {
    /// Decides about a packet, counts it and rewrites it.
    #[inline(always)]
    pub(crate) fn process<A: Wire>(
        &mut self,
        family: &mut FamilyState<A>,
        candidate: Candidate,
        packet: &mut Packet<'_>,
    ) -> Verdict {
        if let Some(verdict) = self.fast_path(family, candidate, candidate.guess, packet) {
            return verdict;
        }
        let mut verdict = FAST;
        fast_path_miss(Run {
            shared: self,
            family,
            candidates: &[candidate],
            packets: std::slice::from_mut(packet),
            verdicts: std::slice::from_mut(&mut verdict),
        });
        verdict
    }

    /// Decides about packets of one family in their order, of which `candidates` tells.
    pub(crate) fn process_all<A: Wire>(
        &mut self,
        family: &mut FamilyState<A>,
        candidates: &[Candidate],
        packets: &mut [Packet<'_>],
        verdicts: &mut [Verdict],
    ) {
        let mut done = 0;
        while let Some(first) = candidates.get(done) {
            let mut run = Run {
                shared: self,
                family,
                candidates: &candidates[done..],
                packets: &mut packets[done..],
                verdicts: &mut verdicts[done..],
            };
            let forwarded = match first.protocol {
                Protocol::UDP => hint::dispatch(Datagrams(run.behind(0))),
                Protocol::TCP => hint::dispatch(Acknowledgements(run.behind(0))),
                _ => 0,
            };
            done += forwarded;
            // The run has ended at a packet of another protocol, or at one that is not fast.
            if candidates.get(done).is_some_and(|next| next.protocol == first.protocol) {
                done += fast_path_miss(run.behind(forwarded));
            }
        }
    }

    /// Forwards a packet whose flow is `entry`'s and counts it. `None`: the fast path is not for
    /// it, and nothing was done.
    #[inline(always)]
    fn fast_path<A: Wire>(
        &mut self,
        family: &mut FamilyState<A>,
        candidate: Candidate,
        entry: Entry,
        packet: &mut Packet<'_>,
    ) -> Option<Verdict> {
        let moment = Moment::of(self);
        let target = (entry, candidate.end);
        let verdict = if candidate.is_fast(Protocol::UDP, packet) {
            forward_datagram(family.flows.slices_mut().0, &moment, target, packet.bytes)?
        } else if candidate.is_fast(Protocol::TCP, packet) {
            let mut shortest = Tick::MAX;
            let flows = family.flows.slices_mut();
            let constants = (&moment, &self.config.timeouts);
            let verdict =
                forward_acknowledgement(flows, constants, target, packet.bytes, &mut shortest)?;
            family.flows.note_deadline(shortest);
            verdict
        } else {
            return None;
        };
        self.counters.count(verdict);
        Some(verdict)
    }
}

#[cfg(test)]
mod equivalence;

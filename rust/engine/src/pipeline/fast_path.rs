//! The short cut for what most packets of UDP are: plain, of a flow that is known, and nothing
//! moves but its deadline.

use super::packet::{Packet, malformed};
use super::state::{FamilyState, Shared};
use super::translate::flow_flags;
use crate::conntrack::index::{Entry, Probe};
use crate::rewrite::ChecksumState;
use crate::tuple::{Protocol, WireEnds};
use crate::verdict::{Action, Cause, Verdict};
use crate::wire::Wire;

/// A packet on its way to its flow: what is remembered of it while memory is fetched.
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

    /// Fetches the part of the index that leads to the flow.
    #[inline(always)]
    pub(crate) fn fetch_index<A: Wire>(&self, family: &FamilyState<A>) {
        family.flows.prefetch_index(self.probe);
    }

    /// Remembers which flow is probably meant.
    #[inline(always)]
    pub(crate) fn guess_flow<A: Wire>(&mut self, family: &FamilyState<A>) {
        self.guess = family.flows.guess(self.probe);
    }

    /// Fetches that flow.
    #[inline(always)]
    pub(crate) fn fetch_flow<A: Wire>(&self, family: &FamilyState<A>) {
        family.flows.prefetch_flow(self.guess, self.protocol == Protocol::TCP);
    }
}

impl Shared {
    /// Decides about a packet, counts it and rewrites it.
    #[inline(always)]
    pub(crate) fn process<A: Wire>(
        &mut self,
        family: &mut FamilyState<A>,
        candidate: &Candidate,
        packet: &mut Packet<'_>,
    ) -> Verdict {
        if candidate.protocol != Protocol::UDP || packet.meta.checksum != ChecksumState::Complete {
            return self.slow_path(family, candidate.guess, packet.bytes, packet.meta);
        }
        match self.fast_path(family, candidate.guess, candidate.end, packet.bytes) {
            Some(verdict) => verdict,
            None => self.fast_path_miss(family, candidate, packet),
        }
    }

    /// A plain UDP packet of a steady flow. `None`: it is not, or not of this one, and nothing was
    /// done.
    #[inline(always)]
    fn fast_path<A: Wire>(
        &mut self,
        family: &mut FamilyState<A>,
        entry: Entry,
        end: u16,
        packet: &mut [u8],
    ) -> Option<Verdict> {
        let ends = A::plain_ends(packet)?;
        let hot = family.flows.meant_mut(entry, &ends, Protocol::UDP)?;
        let (now, direction) = (self.clock.tick(), entry.direction());
        if hot.is_expired(now) || hot.generation != self.generation || !hot.is_steady(direction) {
            return None;
        }
        let is_counted = hot.count(direction, end.into());
        hot.deadline = now.saturating_add(self.config.timeouts.of(hot.state));
        let (l3, l4) = hot.deltas(direction);
        A::rewrite_plain_udp(packet, &hot.translation(direction), l3, l4);
        let flags = flow_flags(hot, direction);
        let verdict = Verdict::new(Action::Translate, Cause::Established);
        self.counters.count(verdict);
        if !is_counted {
            family.flows.carry_packets(entry.flow(), direction);
        }
        Some(Verdict { flags, ..verdict })
    }

    /// A plain UDP packet for which the guess was wrong, or whose flow is not steady, or unknown.
    #[inline(never)]
    fn fast_path_miss<A: Wire>(
        &mut self,
        family: &mut FamilyState<A>,
        candidate: &Candidate,
        packet: &mut Packet<'_>,
    ) -> Verdict {
        let ends: Option<WireEnds<A>> = A::plain_ends(packet.bytes);
        match ends.and_then(|ends| family.flows.entry(&ends, Protocol::UDP)) {
            Some(entry) if entry != candidate.guess => self
                .fast_path(family, entry, candidate.end, packet.bytes)
                .unwrap_or_else(|| self.slow_path(family, entry, packet.bytes, packet.meta)),
            Some(entry) => self.slow_path(family, entry, packet.bytes, packet.meta),
            None => {
                let verdict = match A::parse(packet.bytes) {
                    Ok(headers) => self.first_packet(family, &headers, packet.bytes, packet.meta),
                    Err(why) => malformed(why),
                };
                self.counters.count(verdict);
                verdict
            }
        }
    }
}

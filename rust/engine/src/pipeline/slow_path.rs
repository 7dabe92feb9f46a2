//! The way of any packet: its kind, and the file that decides about it.

use super::fragments::{fate, follow};
use super::packet::{Meta, malformed, versionless};
use super::state::{FamilyState, Shared};
use crate::conntrack::index::Entry;
use crate::fragment::{Admission, DatagramId};
use crate::verdict::{Action, Cause, Verdict};
use crate::wire::{Headers, Layer4, Wire};

impl Shared {
    /// The verdict of [`versionless`], counted.
    pub(crate) fn versionless(&mut self, packet: &[u8], meta: Meta) -> Verdict {
        let verdict = versionless(packet, meta);
        self.counters.count(verdict);
        verdict
    }

    /// Any packet at all: decides about it, counts it and rewrites it.
    #[inline(never)]
    pub(super) fn slow_path<A: Wire>(
        &mut self,
        family: &mut FamilyState<A>,
        guess: Entry,
        packet: &mut [u8],
        meta: Meta,
    ) -> Verdict {
        let verdict = match meta.parse::<A>(packet) {
            Ok(headers) if headers.is_fragment => self.fragment(family, &headers, packet, meta),
            Ok(headers) => self.datagram(family, guess, &headers, packet, meta),
            Err(why) => malformed(why),
        };
        self.counters.count(verdict);
        verdict
    }

    fn datagram<A: Wire>(
        &mut self,
        family: &mut FamilyState<A>,
        guess: Entry,
        headers: &Headers<A>,
        packet: &mut [u8],
        meta: Meta,
    ) -> Verdict {
        match headers.layer4 {
            Layer4::IcmpOther => return Verdict::new(Action::Pass, Cause::NotOurs),
            Layer4::IcmpError => return self.icmp_error(family, headers, packet),
            _ => {}
        }
        if let Some(flow) = family.flows.find_near(guess, &headers.tuple)
            && let Some(verdict) = self.next_packet(family, headers, flow, packet, meta)
        {
            return verdict;
        }
        // Nobody has asked: the kernel calls such an answer INVALID, and translates it no more.
        if headers.layer4 == Layer4::EchoReply {
            return Verdict::new(Action::Pass, Cause::NotOurs);
        }
        let probe = family.flows.probe(&headers.tuple.ends.into(), headers.tuple.protocol);
        self.first_packet(family, headers, probe, packet, meta)
    }

    #[inline(never)]
    fn fragment<A: Wire>(
        &mut self,
        family: &mut FamilyState<A>,
        headers: &Headers<A>,
        packet: &mut [u8],
        meta: Meta,
    ) -> Verdict {
        let Some(fragment) = A::fragment(packet) else { return Verdict::drop(Cause::Malformed) };
        let id = DatagramId::new(headers, &fragment);
        let verdict = match family.fragments.admit(id, &fragment, self.clock.tick()) {
            Admission::Follow(fate) => follow(fate, packet),
            Admission::Wait => match family.fragments.hold(&id, packet) {
                Some(ticket) => {
                    Verdict { ticket, ..Verdict::new(Action::Hold, Cause::FragmentHeld) }
                }
                None => Verdict::drop(Cause::FragmentLimit),
            },
            Admission::Decide => {
                let verdict = self.datagram(family, Entry::NONE, headers, packet, meta);
                let fate = fate(headers, verdict, packet);
                for mut held in family.fragments.settle(id, fate) {
                    let verdict = follow(fate, &mut held.packet);
                    self.release(held.ticket, verdict, held.packet);
                }
                verdict
            }
        };
        self.release_given_up(family);
        verdict
    }
}

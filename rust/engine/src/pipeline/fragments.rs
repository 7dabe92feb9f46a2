//! Fragments: the first one of a datagram is decided like a whole packet, the others follow it (F78
//! to F80).

use super::state::{FamilyState, Shared};
use crate::fragment::{DatagramFate, Released};
use crate::rewrite;
use crate::tuple::Protocol;
use crate::verdict::{Action, Cause, Verdict};
use crate::wire::{Headers, Wire};

impl Shared {
    /// Hands out the held fragments of datagrams that were given up.
    pub(crate) fn release_given_up<A: Wire>(&mut self, family: &mut FamilyState<A>) {
        for (held, cause) in family.fragments.take_given_up() {
            self.release(held.ticket, Verdict::drop(cause), held.packet);
        }
    }

    pub(super) fn release(&mut self, ticket: u32, verdict: Verdict, packet: Vec<u8>) {
        self.counters.count(verdict);
        self.released.push(Released { ticket, verdict, packet });
    }
}

/// The fate of a datagram's later fragments after its first one got `verdict`; `packet` is the
/// first one, rewritten.
pub(super) fn fate<A: Wire>(
    headers: &Headers<A>,
    verdict: Verdict,
    packet: &[u8],
) -> DatagramFate<A> {
    match (verdict.action, A::parse(packet)) {
        (Action::Translate, Ok(sent)) => {
            let (from, to) = (headers.tuple.ends, sent.tuple.ends);
            let (l3, _) = rewrite::deltas(Protocol::UDP, &from.into(), &to.into());
            DatagramFate::Translate {
                src: to.src,
                dst: to.dst,
                l3,
                flags: verdict.flags & !Verdict::NEW,
            }
        }
        (Action::Pass, _) => DatagramFate::Pass,
        _ => DatagramFate::Refused(Cause::FragmentRefused),
    }
}

/// Gives a later fragment its datagram's fate.
pub(super) fn follow<A: Wire>(fate: DatagramFate<A>, packet: &mut [u8]) -> Verdict {
    if let DatagramFate::Translate { src, dst, l3, .. } = fate {
        A::write_addresses(packet, src, dst, l3);
    }
    fate.verdict()
}

//! ICMP errors: they belong to the flow of the packet that they quote, and neither open nor refresh
//! one.

use super::state::{FamilyState, Shared};
use crate::conntrack::FlowId;
use crate::rewrite::icmp_error;
use crate::tuple::Direction;
use crate::verdict::{Action, Cause, Verdict};
use crate::wire::{Headers, Layer4, Wire};

impl Shared {
    #[inline(never)]
    pub(super) fn icmp_error<A: Wire>(
        &mut self,
        family: &FamilyState<A>,
        headers: &Headers<A>,
        packet: &mut [u8],
    ) -> Verdict {
        let related = self.relate(family, headers, packet);
        if let Related::To { quote, flow, direction } = &related {
            let sent = family.flows.hot(*flow).ends(direction.opposite());
            icmp_error::apply(packet, headers, quote, &sent);
        }
        related.verdict()
    }

    /// Which flow an ICMP error is about, and the way the error travels. Changes nothing.
    pub(crate) fn relate<A: Wire>(
        &self,
        family: &FamilyState<A>,
        headers: &Headers<A>,
        packet: &[u8],
    ) -> Related<A> {
        if !icmp_error::is_intact(packet, headers) {
            return Related::Verdict(Verdict::drop(Cause::BadIcmp));
        }
        let to = headers.tuple.ends.dst.into();
        // At a cluster IP nobody else can be meant. External addresses may be those of hosts, which
        // have connections of their own, and this node's refusals reach them as such errors.
        let unmatched = if self.table.is_cluster_ip(to) && !self.table.is_node(to) {
            Verdict::drop(Cause::IcmpUnmatched)
        } else {
            Verdict::new(Action::Pass, Cause::NotOurs)
        };
        let Some(quote) = icmp_error::quote(packet, headers).filter(icmp_error::is_translatable)
        else {
            return Related::Verdict(unmatched);
        };
        if quote.layer4 == Layer4::IcmpError {
            return Related::Verdict(Verdict::drop(Cause::BadIcmp));
        }
        let answer = quote.tuple.reply();
        let now = self.clock.tick();
        match family.flows.find(&answer) {
            // The kernel translates the error with the flow.
            Some((flow, _)) if self.passes(family.flows.hot(flow)) => {
                Related::Verdict(Verdict::new(Action::Pass, Cause::Related))
            }
            Some((flow, direction)) if !family.flows.hot(flow).is_expired(now) => {
                // An error goes to who sent the quoted packet (RFC 5508, REQ-4 to 6).
                if headers.tuple.ends.dst != quote.tuple.ends.src {
                    return Related::Verdict(Verdict::drop(Cause::BadIcmp));
                }
                Related::To { quote, flow, direction }
            }
            _ => Related::Verdict(unmatched),
        }
    }
}

/// The subject of an ICMP error.
pub(crate) enum Related<A> {
    /// A packet of this flow; the error travels in `direction`.
    To { quote: Headers<A>, flow: FlowId, direction: Direction },
    /// No flow.
    Verdict(Verdict),
}

impl<A> Related<A> {
    /// The verdict on the error. The kernel masquerades errors with the flow that they quote, so
    /// the flag for that is never set.
    pub(crate) fn verdict(&self) -> Verdict {
        match self {
            Self::Verdict(verdict) => *verdict,
            Self::To { direction, .. } => {
                let reply = if *direction == Direction::Reply { Verdict::REPLY } else { 0 };
                let flags = Verdict::FLOW | reply;
                Verdict { flags, ..Verdict::new(Action::Translate, Cause::Related) }
            }
        }
    }
}

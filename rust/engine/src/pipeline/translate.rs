//! Packets of flows get their new ends, and their verdicts the flags of the flow.

use super::packet::Meta;
use crate::conntrack::Hot;
use crate::rewrite;
use crate::tuple::{Direction, Ends};
use crate::verdict::{Action, Cause, Verdict};
use crate::wire::{Headers, Layer4, Wire};

/// The flags of a verdict on a packet of a flow. The sender masquerades originals only: a reply
/// reaches the client by the reverse of that.
#[inline(always)]
pub(crate) fn flow_flags<A: Wire>(hot: &Hot<A>, direction: Direction) -> u8 {
    match direction {
        Direction::Original if hot.has(Hot::<A>::MASQUERADE) => Verdict::FLOW | Verdict::MASQUERADE,
        Direction::Original => Verdict::FLOW,
        Direction::Reply => Verdict::FLOW | Verdict::REPLY,
    }
}

/// The verdict on the packet that opens a flow.
#[inline]
pub(crate) fn opening_verdict(is_masqueraded: bool) -> Verdict {
    let masquerade = if is_masqueraded { Verdict::MASQUERADE } else { 0 };
    let flags = Verdict::FLOW | Verdict::NEW | masquerade;
    Verdict { flags, ..Verdict::new(Action::Translate, Cause::New) }
}

/// Gives a packet of a flow its new ends.
#[inline(always)]
pub(super) fn translate<A: Wire>(
    hot: &Hot<A>,
    headers: &Headers<A>,
    direction: Direction,
    packet: &mut [u8],
    meta: Meta,
) {
    let to = hot.translation(direction);
    rewrite::apply(packet, headers, &to, hot.deltas(direction), meta.checksum);
}

/// Whether this is a part of an SCTP packet that cannot be rewritten to `to`: the CRC lies over the
/// whole packet, which is not here.
#[inline(always)]
pub(super) fn is_torn<A: Wire>(headers: &Headers<A>, to: &Ends<A>) -> bool {
    let ends = headers.tuple.ends;
    headers.is_fragment
        && headers.layer4 == Layer4::Sctp
        && (to.sport, to.dport) != (ends.sport, ends.dport)
}

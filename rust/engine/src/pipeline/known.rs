//! Packets of flows that are in the table.

use super::first_packet::query;
use super::packet::Meta;
use super::state::{FamilyState, Shared};
use super::translate::{flow_flags, is_torn, translate};
use crate::config::InvalidTcp;
use crate::conntrack::state::{State, stream_age};
use crate::conntrack::tcp::Progress;
use crate::conntrack::{FlowId, Hot, STALE};
use crate::ledger::Standing;
use crate::tuple::{Direction, Protocol};
use crate::verdict::{Cause, Verdict};
use crate::wire::tcp::{Flags, Segment};
use crate::wire::{Headers, Layer4, Wire, sctp};

impl Shared {
    /// A packet of a flow in the table. `None`: the flow is over, and the packet opens another, or
    /// none.
    pub(super) fn known<A: Wire>(
        &mut self,
        family: &mut FamilyState<A>,
        headers: &Headers<A>,
        id: FlowId,
        direction: Direction,
        packet: &mut [u8],
        meta: Meta,
    ) -> Option<Verdict> {
        let hot = family.flows.hot(id);
        if hot.is_expired(self.clock.tick()) || hot.generation != self.generation {
            match self.revise(family, id, direction) {
                Revision::Keep => {}
                Revision::Anew => return None,
                Revision::Refuse(verdict) => return Some(verdict),
            }
            if family.flows.hot(id).has(Hot::<A>::FORGOTTEN) {
                return self.resume(family, headers, id, direction, packet, meta);
            }
        }
        if is_torn(headers, &family.flows.hot(id).rewritten(direction).ends()) {
            let flags = flow_flags(family.flows.hot(id), direction);
            return Some(Verdict { flags, ..Verdict::drop(Cause::FragmentRefused) });
        }
        let Some(cause) = self.advance(family, headers, id, direction, packet) else {
            self.end_flow(family, id);
            return None;
        };
        let hot = family.flows.hot_mut(id);
        let is_counted = hot.count(direction, headers.end);
        let verdict = if cause == Cause::Invalid && self.config.invalid == InvalidTcp::Drop {
            Verdict { flags: flow_flags(hot, direction), ..Verdict::drop(cause) }
        } else {
            translate(hot, headers, direction, cause, packet, meta)
        };
        if !is_counted {
            family.flows.carry_packets(id, direction);
        }
        Some(verdict)
    }

    /// A packet of a flow that somebody has taken out of the kernel's table: until the kernel
    /// carries it again, nothing is known of its end. `None`: it begins another connection.
    #[cold]
    fn resume<A: Wire>(
        &mut self,
        family: &mut FamilyState<A>,
        headers: &Headers<A>,
        id: FlowId,
        direction: Direction,
        packet: &mut [u8],
        meta: Meta,
    ) -> Option<Verdict> {
        if query(headers, packet, meta).flags.is_some_and(Flags::is_opening) {
            self.end_flow(family, id);
            return None;
        }
        let hot = family.flows.hot_mut(id);
        hot.generation = STALE;
        Some(translate(hot, headers, direction, Cause::Established, packet, meta))
    }

    /// A flow whose time is over, or that was not looked at since the tables changed.
    #[cold]
    fn revise<A: Wire>(
        &mut self,
        family: &mut FamilyState<A>,
        id: FlowId,
        direction: Direction,
    ) -> Revision {
        if family.flows.is_forgotten(id, self.clock.tick()) {
            self.end_flow(family, id);
            return Revision::Anew;
        }
        if family.flows.hot(id).is_expired(self.clock.tick()) {
            self.end_flow(family, id);
            self.counters.expired += 1;
            return Revision::Anew;
        }
        self.rehome(family, id);
        let standing = self.ledger.backend(family.flows.cold(id).backend).standing;
        let hot = family.flows.hot_mut(id);
        if stays(hot, standing) {
            hot.generation = self.generation;
            return Revision::Keep;
        }
        match (direction, is_connection(hot)) {
            // Answers that are still under way are translated until the client's next packet.
            (Direction::Reply, false) => return Revision::Keep,
            (Direction::Reply, true) => self.end_flow(family, id),
            (Direction::Original, _) => {
                self.end_flow(family, id);
                return Revision::Anew;
            }
        }
        Revision::Refuse(Verdict::drop(Cause::BackendGone))
    }

    /// State and deadline after one more packet; `None` when it begins a new connection in the
    /// flow's place.
    fn advance<A: Wire>(
        &mut self,
        family: &mut FamilyState<A>,
        headers: &Headers<A>,
        id: FlowId,
        direction: Direction,
        packet: &[u8],
    ) -> Option<Cause> {
        let now = self.clock.tick();
        let hot = family.flows.hot_mut(id);
        if direction == Direction::Reply {
            hot.flags |= Hot::<A>::REPLIED;
        }
        if hot.state.is_tcp() {
            return self.advance_tcp(family, headers, id, direction, packet);
        }
        let (before, is_replied) = (hot.state, hot.has(Hot::<A>::REPLIED));
        let state = match before {
            State::Udp
                if is_replied
                    && now.saturating_sub(family.flows.cold(id).created) >= stream_age() =>
            {
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
        self.transition(
            family,
            id,
            state,
            now.saturating_add(self.config.timeouts.of(state)),
            is_assured,
        );
        Some(Cause::Established)
    }

    fn advance_tcp<A: Wire>(
        &mut self,
        family: &mut FamilyState<A>,
        headers: &Headers<A>,
        id: FlowId,
        direction: Direction,
        packet: &[u8],
    ) -> Option<Cause> {
        let Some(segment) = Segment::parse(headers.transport(packet)) else {
            return Some(Cause::Invalid);
        };
        let (hot, cold) = family.flows.both_mut(id);
        match cold.tracking.advance(hot.state, direction, &segment) {
            Progress::To(state) => {
                if headers.is_fragment {
                    cold.tracking.ignore_windows();
                }
                let is_replied = hot.has(Hot::<A>::REPLIED);
                let timeout = cold.tracking.timeout(state, is_replied, &self.config.timeouts);
                let deadline = self.clock.tick().saturating_add(timeout);
                let is_assured = state == State::TcpEstablished && is_replied;
                self.transition(family, id, state, deadline, is_assured);
                Some(Cause::Established)
            }
            Progress::Unmoved => Some(Cause::Established),
            Progress::Invalid => Some(Cause::Invalid),
            Progress::Reopened => None,
        }
    }
}

/// Whether a flow goes on with a backend of this standing. A connection that was answered does in
/// any case; deleting it would break graceful termination.
pub(crate) fn stays<A: Wire>(hot: &Hot<A>, standing: Standing) -> bool {
    let is_answered =
        if hot.state.is_tcp() { !hot.state.is_unanswered() } else { hot.has(Hot::<A>::REPLIED) };
    match standing {
        Standing::Listed => true,
        Standing::Serving => !is_connection(hot) || is_answered,
        Standing::Gone => is_connection(hot) && is_answered,
    }
}

/// Whether the ends have agreed on a connection, which no other backend could go on with.
pub(crate) fn is_connection<A: Wire>(hot: &Hot<A>) -> bool {
    matches!(hot.protocol, Protocol::TCP | Protocol::SCTP)
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

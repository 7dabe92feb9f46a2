//! The fate of a packet of a flow that is in the table, and of the flow: pure, as
//! [`crate::decide`] is for first packets.
//!
//! [`Shared::next_packet`] does what [`Shared::assess`] says, and `explain` prints it; neither
//! decides anything beside it. An assessment asks in this order:
//!
//! 1. Is the flow still to be used? Only flows that are expired or whose generation is not that of
//!    the tables in force are reviewed, so this costs most packets two comparisons.
//! 2. Does the kernel translate the flow behind the engine? Then its packets pass.
//! 3. Was the kernel made to forget an offloaded flow? Then its packets go where they went, and
//!    nothing is learnt from them: the windows that the kernel knew are not known here. A packet
//!    may be quicker than the event which says so. Where the kernel masquerades, packets wait for
//!    the entry that it gets back: without that it would take another source port.
//! 4. Can the packet be rewritten at all?
//! 5. Which step of its protocol's states does the packet take?
//!
//! The answer holds a copy of what TCP tracks, 32 bytes, so that nothing has to be taken back.

use super::state::{FamilyState, Shared};
use super::translate::is_torn;
use crate::clock::{Tick, between};
use crate::config::{InvalidTcp, OffloadedPackets};
use crate::conntrack::state::{State, stream_age};
use crate::conntrack::tcp::{Progress, Tracking};
use crate::conntrack::{Cold, FlowId, Hot};
use crate::ledger::Standing;
use crate::tuple::{Direction, Protocol};
use crate::verdict::{Action, Cause, Verdict};
use crate::wire::tcp::{Flags, Segment};
use crate::wire::{Headers, Layer4, Wire, sctp};

/// The fate of a packet of a flow in the table. A review is there if one was due.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Fate {
    /// The flow is over.
    Over(Ending),
    /// The packet is translated, and the flow stays as it is until the kernel has it again.
    Resume(Review),
    /// The packet is dropped, and the flow stays as it is until the kernel has it again, soon. The
    /// kernel would give the flow another source now, which its backend does not know.
    Await(Review),
    /// The packet passes untouched, and the kernel translates it behind the engine.
    Pass,
    /// The packet is dropped, and the flow goes on: a part of an SCTP packet cannot be rewritten.
    Torn(Option<Review>),
    /// The packet is one more of its flow.
    Step(Option<Review>, Step),
}

/// Why a flow is over when its next packet comes. The packet opens another flow, or none.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Ending {
    /// Its time is over.
    Expired,
    /// The kernel has it no more.
    LeftKernel,
    /// Its backend may not have it any more.
    BackendGone,
    /// As before, but the packet is dropped: it is an answer on a connection, with which no other
    /// backend can go on.
    Cut,
    /// The packet begins a new connection in its place.
    Reopened,
}

/// The result of a look at a flow's backend.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Review {
    /// The flow stays with its backend as long as these tables are in force. If not, its backend is
    /// gone: answers that are still under way are translated, until the client's next packet.
    pub(crate) stays: bool,
    /// The service port that has the flow's frontend now, if the flow is in another one's books.
    pub(super) home: Option<u32>,
}

/// The effect of one more packet on its flow.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Step {
    /// Why the packet is translated: [`Cause::Established`], or [`Cause::Invalid`].
    pub(crate) cause: Cause,
    /// State and deadline that it gives the flow; `None`: both stay.
    pub(crate) change: Option<Change>,
    /// TCP's record of both sides, this packet included.
    pub(crate) tracking: Option<Tracking>,
}

/// A flow's next state.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Change {
    pub(crate) state: State,
    pub(crate) deadline: Tick,
    pub(crate) is_assured: bool,
}

impl Fate {
    /// The verdict on the packet, `flags` being those of its flow. `None`: the flow is over, and
    /// the packet opens another, or none.
    #[inline(always)]
    pub(crate) fn verdict(&self, flags: u8, invalid: InvalidTcp) -> Option<Verdict> {
        let verdict = match self {
            Self::Step(_, step) if step.cause == Cause::Invalid && invalid == InvalidTcp::Drop => {
                Verdict::drop(Cause::Invalid)
            }
            Self::Step(_, step) => Verdict::new(Action::Translate, step.cause),
            Self::Resume(_) => Verdict::new(Action::Translate, Cause::Established),
            Self::Await(_) => Verdict::drop(Cause::Forgotten),
            // The flags are for packets and answers that the engine translates.
            Self::Pass => return Some(Verdict::new(Action::Pass, Cause::Established)),
            Self::Torn(_) => Verdict::drop(Cause::FragmentRefused),
            // The packet belongs to no flow by now.
            Self::Over(Ending::Cut) => return Some(Verdict::drop(Cause::BackendGone)),
            Self::Over(_) => return None,
        };
        Some(Verdict { flags, ..verdict })
    }
}

impl Shared {
    /// Assesses a packet of this flow. Cost: constant; if a review is due, a look-up of its
    /// frontend.
    #[inline(always)]
    pub(crate) fn assess<A: Wire>(
        &self,
        family: &FamilyState<A>,
        headers: &Headers<A>,
        (id, direction): (FlowId, Direction),
        packet: &[u8],
    ) -> Fate {
        let (hot, cold) = family.flows.both(id);
        let mut review = None;
        if hot.is_expired(self.clock.tick()) || hot.generation != self.generation {
            // An offloaded flow's generation is stale too.
            if self.passes(hot) {
                let is_opening = headers.tcp_flags(packet).is_some_and(Flags::is_opening);
                // As the kernel takes a SYN. On a connection that is open or opening, it is one of
                // that connection.
                let is_over = matches!(hot.state, State::TcpTimeWait | State::TcpClose);
                let is_reopened = is_opening && is_over;
                return if is_reopened { Fate::Over(Ending::Reopened) } else { Fate::Pass };
            }
            let is_opening = headers.tcp_flags(packet).is_some_and(Flags::is_opening);
            let has_left = family.flows.has_left_kernel(id, self.clock.tick());
            // The event that the kernel was made to forget a flow may be on its way still.
            let goes_on = has_left && !is_opening && self.was_deleted(hot);
            if has_left && !goes_on {
                return Fate::Over(Ending::LeftKernel);
            }
            // Who goes on with a connection has had an answer.
            let due = match self.review(family, id, direction, goes_on || is_answered(hot)) {
                Ok(due) => due,
                Err(ending) => return Fate::Over(ending),
            };
            // A forgotten flow's generation is stale, so no other place need ask this.
            if goes_on || hot.has(Hot::<A>::FORGOTTEN) {
                let is_coming_back = family.flows.is_coming_back(id, self.clock.tick());
                return match (is_opening, is_coming_back) {
                    (true, _) => Fate::Over(Ending::Reopened),
                    (false, true) => Fate::Await(due),
                    (false, false) => Fate::Resume(due),
                };
            }
            review = Some(due);
        }
        if is_torn(headers, &hot.translation(direction).ends()) {
            return Fate::Torn(review);
        }
        let is_replied = hot.has(Hot::<A>::REPLIED) || direction == Direction::Reply;
        if hot.state.is_tcp() {
            self.tcp_step(headers, hot.state, cold, direction, is_replied, packet)
                .map_or(Fate::Over(Ending::Reopened), |step| Fate::Step(review, step))
        } else {
            Fate::Step(
                review,
                self.plain_step(headers, hot.state, cold, direction, is_replied, packet),
            )
        }
    }

    /// Whether the kernel translates the packets of a flow behind the engine.
    #[inline]
    pub(crate) fn passes<A: Wire>(&self, hot: &Hot<A>) -> bool {
        hot.has(Hot::<A>::OFFLOADED) && self.config.offloaded == OffloadedPackets::Pass
    }

    /// Whether somebody has deleted an offloaded flow that the kernel has no more: it has not ended
    /// by itself.
    #[inline]
    fn was_deleted<A: Wire>(&self, hot: &Hot<A>) -> bool {
        match hot.protocol {
            // Nothing tells when the kernel enters another state than the first. That one's timeout
            // is longer than a handshake takes, so until then a connection may well be open. The
            // others are of connections that close, with short timeouts.
            Protocol::TCP if hot.state.is_half_open() => !hot.is_expired(self.clock.tick()),
            Protocol::TCP => hot.state == State::TcpEstablished,
            // Each datagram renews the kernel's timeout, so it ends no flow before the time that it
            // last said. Whether there were answers since then is not known here.
            Protocol::UDP => !hot.is_expired(self.clock.tick()),
            _ => false,
        }
    }

    /// Whether a flow goes on that is expired, or whose backend was last found under other tables.
    /// `is_answered`: its client knows that the backend is there.
    #[inline(never)]
    fn review<A: Wire>(
        &self,
        family: &FamilyState<A>,
        id: FlowId,
        direction: Direction,
        is_answered: bool,
    ) -> Result<Review, Ending> {
        let (hot, now) = (family.flows.hot(id), self.clock.tick());
        // No deadline ends a flow that the kernel carries.
        if hot.is_expired(now) && !hot.has(Hot::<A>::OFFLOADED) {
            return Err(Ending::Expired);
        }
        // The frontend may have moved to another service port under the new tables; that one's list
        // says then whether the backend may keep the flow.
        let home = self.home(family, id);
        let is_connection = matches!(hot.protocol, Protocol::TCP | Protocol::SCTP);
        let stays = stays(is_connection, is_answered, self.standing(family, id, home));
        // Replies of UDP under way are worth passing on: no other backend would send them again.
        match direction {
            Direction::Reply if !stays && is_connection => Err(Ending::Cut),
            Direction::Original if !stays => Err(Ending::BackendGone),
            _ => Ok(Review { stays, home }),
        }
    }

    /// The step of a TCP segment; `None` when it begins a new connection in the flow's place.
    #[inline(always)]
    fn tcp_step<A: Wire>(
        &self,
        headers: &Headers<A>,
        state: State,
        cold: &Cold,
        direction: Direction,
        is_replied: bool,
        packet: &[u8],
    ) -> Option<Step> {
        let Some(segment) = Segment::parse(headers.transport(packet)) else {
            return Some(Step { cause: Cause::Invalid, change: None, tracking: None });
        };
        // A copy: `explain` comes through here as well and must leave the flow as it is.
        let mut tracking = cold.tracking;
        let (cause, next) = match tracking.advance(state, direction, &segment) {
            Progress::To(next) => (Cause::Established, Some(next)),
            Progress::Unmoved => (Cause::Established, None),
            Progress::Invalid => (Cause::Invalid, None),
            Progress::Reopened => return None,
        };
        let change = next.map(|state| {
            // The rest of the segment is in fragments that do not come through here.
            if headers.is_fragment {
                tracking.ignore_windows();
            }
            let timeout = tracking.timeout(state, is_replied, &self.config.timeouts);
            let deadline = self.clock.tick().saturating_add(timeout);
            Change { state, deadline, is_assured: state == State::TcpEstablished && is_replied }
        });
        Some(Step { cause, change, tracking: Some(tracking) })
    }

    /// The step of a packet of a protocol without windows.
    #[inline(always)]
    fn plain_step<A: Wire>(
        &self,
        headers: &Headers<A>,
        state: State,
        cold: &Cold,
        direction: Direction,
        is_replied: bool,
        packet: &[u8],
    ) -> Step {
        let now = self.clock.tick();
        let state = match state {
            State::Udp if is_replied && between(cold.created, now) >= stream_age() => {
                State::UdpStream
            }
            state if headers.layer4 == Layer4::Sctp => {
                state.after_chunk(sctp::first_chunk(headers.transport(packet)), direction)
            }
            state => state,
        };
        // As the kernel: ICMP is never assured, UDP only as a stream, which takes two seconds of
        // traffic both ways, so a flood of single answers stays evictable.
        let is_assured = match state {
            State::Udp | State::Icmp | State::Icmpv6 => false,
            State::SctpEstablished | State::Generic => is_replied,
            _ => state == State::UdpStream,
        };
        let deadline = now.saturating_add(self.config.timeouts.of(state));
        let change = Some(Change { state, deadline, is_assured });
        Step { cause: Cause::Established, change, tracking: None }
    }
}

/// Whether a flow goes on with a backend of this standing. A connection that was answered does in
/// any case; deleting it would break graceful termination.
fn stays(is_connection: bool, is_answered: bool, standing: Standing) -> bool {
    match standing {
        Standing::Listed => true,
        Standing::Serving => !is_connection || is_answered,
        Standing::Gone => is_connection && is_answered,
    }
}

fn is_answered<A: Wire>(hot: &Hot<A>) -> bool {
    if hot.state.is_tcp() { !hot.state.is_unanswered() } else { hot.has(Hot::<A>::REPLIED) }
}

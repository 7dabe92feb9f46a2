//! Packets of flows that are in the table: carries out what the assessment says.

use super::assess::{Change, Ending, Fate, Review, Step};
use super::packet::Meta;
use super::state::{FamilyState, Shared};
use super::translate::{flow_flags, translate};
use crate::conntrack::state::State;
use crate::conntrack::{FlowId, Hot};
use crate::events::EventKind;
use crate::ledger::Ledger;
use crate::tuple::Direction;
use crate::verdict::{Action, Verdict};
use crate::wire::{Headers, Wire};

impl Shared {
    /// A packet of a flow in the table. `None`: the flow is over, and the packet opens another, or
    /// none.
    pub(super) fn next_packet<A: Wire>(
        &mut self,
        family: &mut FamilyState<A>,
        headers: &Headers<A>,
        (id, direction): (FlowId, Direction),
        packet: &mut [u8],
        meta: Meta,
    ) -> Option<Verdict> {
        let fate = self.assess(family, headers, (id, direction), packet);
        let flags = flow_flags(family.flows.hot(id), direction);
        let verdict = fate.verdict(flags, self.config.invalid);
        match fate {
            Fate::Step(review, mut step) => {
                if let Some(review) = review {
                    self.confirm(family, id, review);
                }
                if direction == Direction::Reply {
                    self.note_connect(family, id, &mut step);
                }
                advance(&mut self.ledger, family, (id, direction), &step, headers.end);
            }
            Fate::Resume(review) | Fate::Await(review) => self.rehome(family, id, review.home),
            Fate::Torn(Some(review)) => self.confirm(family, id, review),
            Fate::Torn(None) | Fate::Pass => {}
            Fate::Over(ending) => self.finish(family, id, ending),
        }
        // Only now: a rewrite of a packet that is refused could not be taken back.
        if let Some(Verdict { action: Action::Translate, .. }) = verdict {
            translate(family.flows.hot(id), headers, direction, packet, meta);
        }
        verdict
    }

    /// Measures how long the backend took to answer the client's SYN, if this step is of its first
    /// segment and that is a SYN-ACK.
    #[inline]
    fn note_connect<A: Wire>(&mut self, family: &FamilyState<A>, id: FlowId, step: &mut Step) {
        // A segment that does not fit moves nothing, and the answer may come yet.
        let (Some(tracking), Some(change)) = (&mut step.tracking, step.change) else { return };
        // As it was before the step, which has taken the place of the moment.
        let cold = family.flows.cold(id);
        let Some(syn) = cold.tracking.syn_time() else { return };
        tracking.forget_syn();
        if change.state == State::TcpSynRecv {
            let waited = self.clock.stamp().since(syn);
            self.ledger.note_connect(cold.backend, self.clock.tick(), waited);
        }
    }

    /// Ends a flow when its next packet comes.
    #[cold]
    fn finish<A: Wire>(&mut self, family: &mut FamilyState<A>, id: FlowId, ending: Ending) {
        match ending {
            Ending::Expired => self.counters.expired += 1,
            Ending::LeftKernel => {}
            // It ends in the books of the service port that it leads to now.
            Ending::BackendGone | Ending::Cut | Ending::Reopened => {
                self.rehome(family, id, self.home(family, id));
            }
        }
        // The kernel is to forget the connection that a new one of ours follows: the ends that both
        // have behind the engine would be those of one entry.
        if self.passes(family.flows.hot(id)) {
            self.orphan(family, id);
        }
        self.end_flow(family, id);
    }

    /// Notes what a review has come to.
    #[inline]
    fn confirm<A: Wire>(&mut self, family: &mut FamilyState<A>, id: FlowId, review: Review) {
        if review.home.is_some() {
            self.rehome(family, id, review.home);
        }
        // Otherwise the generation stays old, so that the client's next packet is reviewed again.
        if review.stays {
            family.flows.hot_mut(id).generation = self.generation;
        }
    }
}

/// Takes a step into its flow: TCP's record, state and deadline, and the counters.
#[inline(always)]
fn advance<A: Wire>(
    ledger: &mut Ledger,
    family: &mut FamilyState<A>,
    (id, direction): (FlowId, Direction),
    step: &Step,
    bytes: u32,
) {
    let (hot, cold) = family.flows.both_mut(id);
    if direction == Direction::Reply {
        hot.set_flags(0, Hot::<A>::REPLIED);
    }
    if let Some(tracking) = step.tracking {
        cold.tracking = tracking;
    }
    if let Some(change) = step.change {
        transition(ledger, family, id, &change);
    }
    if !family.flows.hot_mut(id).count(direction, bytes) {
        family.flows.carry_packets(id, direction);
    }
}

#[inline]
fn transition<A: Wire>(
    ledger: &mut Ledger,
    family: &mut FamilyState<A>,
    id: FlowId,
    change: &Change,
) {
    if change.is_assured {
        family.flows.assure(id);
    }
    let (hot, cold) = family.flows.both_mut(id);
    let is_shorter = change.deadline < hot.deadline;
    let is_changed = hot.state != change.state;
    ledger.move_flow(cold.backend, hot.state, change.state);
    hot.set_state(change.state);
    hot.deadline = change.deadline;
    // The sweep's bound must not be later than any deadline; most packets move them to later.
    if is_shorter {
        family.flows.note_deadline(change.deadline);
    }
    if is_changed {
        family.events.note(EventKind::Update, &family.flows, id);
    }
}

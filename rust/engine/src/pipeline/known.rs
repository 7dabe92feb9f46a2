//! Packets of flows that are in the table: what their assessment says is done.

use super::assess::{Change, Ending, Fate, Review};
use super::packet::Meta;
use super::state::{FamilyState, Shared};
use super::translate::{flow_flags, translate};
use crate::config::InvalidTcp;
use crate::conntrack::{FlowId, Hot};
use crate::events::EventKind;
use crate::tuple::Direction;
use crate::verdict::{Cause, Verdict};
use crate::wire::{Headers, Wire};

impl Shared {
    /// A packet of a flow in the table. `None`: the flow is over, and the packet opens another, or
    /// none.
    pub(super) fn known<A: Wire>(
        &mut self,
        family: &mut FamilyState<A>,
        headers: &Headers<A>,
        (id, direction): (FlowId, Direction),
        packet: &mut [u8],
        meta: Meta,
    ) -> Option<Verdict> {
        let step = match self.assess(family, headers, (id, direction), packet) {
            Fate::Step(None, step) => step,
            Fate::Step(Some(review), step) => {
                self.confirm(family, id, review);
                step
            }
            Fate::Over(ending) => {
                self.end_known(family, id, ending);
                return (ending == Ending::Cut).then_some(Verdict::drop(Cause::BackendGone));
            }
            Fate::Resume(review) => {
                self.rehome(family, id, review.home);
                let hot = family.flows.hot(id);
                return Some(translate(hot, headers, direction, Cause::Established, packet, meta));
            }
            Fate::Torn(review) => {
                if let Some(review) = review {
                    self.confirm(family, id, review);
                }
                let flags = flow_flags(family.flows.hot(id), direction);
                return Some(Verdict { flags, ..Verdict::drop(Cause::FragmentRefused) });
            }
        };
        let (hot, cold) = family.flows.both_mut(id);
        if direction == Direction::Reply {
            hot.set_flags(0, Hot::<A>::REPLIED);
        }
        if let Some(tracking) = step.tracking {
            cold.tracking = tracking;
        }
        if let Some(change) = step.change {
            transition(family, id, &change);
        }
        let hot = family.flows.hot_mut(id);
        let is_counted = hot.count(direction, headers.end);
        let verdict = if step.cause == Cause::Invalid && self.config.invalid == InvalidTcp::Drop {
            Verdict { flags: flow_flags(hot, direction), ..Verdict::drop(step.cause) }
        } else {
            translate(hot, headers, direction, step.cause, packet, meta)
        };
        if !is_counted {
            family.flows.carry_packets(id, direction);
        }
        Some(verdict)
    }

    /// Ends a flow when its next packet comes.
    #[cold]
    fn end_known<A: Wire>(&mut self, family: &mut FamilyState<A>, id: FlowId, ending: Ending) {
        match ending {
            Ending::Expired => self.counters.expired += 1,
            Ending::LeftKernel => {}
            // It ends in the books of the service port that it leads to now.
            Ending::BackendGone | Ending::Cut | Ending::Reopened => {
                self.rehome(family, id, self.home(family, id));
            }
        }
        self.end_flow(family, id);
    }

    /// Notes what a review has come to.
    #[inline]
    fn confirm<A: Wire>(&mut self, family: &mut FamilyState<A>, id: FlowId, review: Review) {
        if review.home.is_some() {
            self.rehome(family, id, review.home);
        }
        if review.stays {
            family.flows.hot_mut(id).generation = self.generation;
        }
    }
}

#[inline]
fn transition<A: Wire>(family: &mut FamilyState<A>, id: FlowId, change: &Change) {
    if change.is_assured {
        family.flows.assure(id);
    }
    let hot = family.flows.hot_mut(id);
    let is_shorter = change.deadline < hot.deadline;
    let is_changed = hot.state != change.state;
    hot.set_state(change.state);
    hot.deadline = change.deadline;
    if is_shorter {
        family.flows.note_deadline(change.deadline);
    }
    if is_changed {
        family.events.note(EventKind::Update, &family.flows, id);
    }
}

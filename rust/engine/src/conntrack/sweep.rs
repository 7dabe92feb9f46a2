//! The sweep: it finds expired flows without timers, and says when it has to run next.
//!
//! Flows do not stand in the order of their deadlines, since every packet moves one. The sweep
//! passes over all records with a cursor instead, in steps bounded by a budget, as often as needed
//! and no more. Two bounds make that possible:
//!
//! - `earliest` is a lower bound of the deadlines that the running pass has seen, and of those that
//!   were set since. Packets mostly move deadlines to later moments, which costs nothing here: the
//!   bound becomes too early, never too late. A deadline that moves to an earlier moment must be
//!   noted ([`Sweep::note`]).
//! - `before` is the same bound of the former pass. It covers the records that the running pass has
//!   not seen yet.
//!
//! Invariant: the smaller of both is never later than the first end of a flow, so a driver may
//! sleep until then. A new pass begins when the former one is complete and the bound has passed; a
//! pass that finds nothing thus only corrects a bound that traffic has overtaken.
//!
//! Offloaded flows are exempt: the kernel counts their packets and reports their end, so their
//! deadlines here say nothing.

use super::index::FlowId;
use crate::clock::Tick;

/// Where the sweep stands.
#[derive(Debug)]
pub(super) struct Sweep {
    cursor: usize,
    /// No flow that the running pass has seen, or that was noted since, ends before this.
    earliest: Tick,
    /// The same for the flows that the running pass has not yet seen.
    before: Tick,
}

/// The result of a look at one record.
pub(super) enum Look {
    /// It holds no flow that the sweep could end.
    Exempt,
    /// Its flow lives, at least until this moment.
    Until(Tick),
    /// Its flow is over.
    Over,
}

impl Default for Sweep {
    fn default() -> Self {
        Self { cursor: 0, earliest: Tick::MAX, before: Tick::MAX }
    }
}

impl Sweep {
    /// Takes a deadline into the bound: of a new flow, or one that moved to an earlier moment.
    #[inline]
    pub(super) fn note(&mut self, deadline: Tick) {
        self.earliest = self.earliest.min(deadline);
    }

    /// A moment before which none of the flows in `records` records ends.
    pub(super) fn earliest_deadline(&self, records: usize) -> Tick {
        // A complete pass has seen every record, so the former pass's bound covers nothing more.
        if self.is_complete(records) { self.earliest } else { self.earliest.min(self.before) }
    }

    /// Looks at the next of `records` records until one is over, and returns it. Takes the number
    /// of records looked at from the budget. `None` when the budget is spent, or when no flow can
    /// be over. Cost: one look for each record.
    pub(super) fn next(
        &mut self,
        now: Tick,
        has_flows: bool,
        records: usize,
        budget: &mut usize,
        mut look: impl FnMut(usize) -> Look,
    ) -> Option<FlowId> {
        while *budget > 0 {
            if self.is_complete(records) {
                if !has_flows || now <= self.earliest {
                    return None;
                }
                // The bound of the complete pass covers the new one until its cursor has passed.
                *self = Self { before: self.earliest, ..Self::default() };
            }
            let start = self.cursor;
            let over = self.run(records.min(start.saturating_add(*budget)), &mut look);
            // A step without records costs something, too, or it would repeat for ever.
            *budget = budget.saturating_sub((self.cursor - start).max(1));
            if over.is_some() {
                return over;
            }
        }
        None
    }

    /// Runs up to the record `end`, or behind the first one that is over.
    fn run(&mut self, end: usize, look: &mut impl FnMut(usize) -> Look) -> Option<FlowId> {
        while self.cursor < end {
            let record = self.cursor;
            self.cursor += 1;
            match look(record) {
                Look::Exempt => {}
                Look::Until(deadline) => self.note(deadline),
                Look::Over => return Some(record as FlowId),
            }
        }
        None
    }

    /// Whether the running pass has seen every record.
    fn is_complete(&self, records: usize) -> bool {
        self.cursor >= records
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The flows that one sweep with this budget ends, from their deadlines.
    fn sweep(sweep: &mut Sweep, now: Tick, deadlines: &[Tick], mut budget: usize) -> Vec<FlowId> {
        let mut over = Vec::new();
        let look = |record: usize| match deadlines[record] {
            deadline if deadline < now => Look::Over,
            deadline => Look::Until(deadline),
        };
        while let Some(id) = sweep.next(now, true, deadlines.len(), &mut budget, look) {
            over.push(id);
        }
        over
    }

    #[test]
    fn no_pass_begins_before_the_bound() {
        let mut state = Sweep::default();
        state.note(10);
        assert_eq!(sweep(&mut state, 5, &[10, 20], 100), []);
        assert_eq!(sweep(&mut state, 11, &[30, 20], 100), []);
        assert_eq!(state.earliest_deadline(2), 20, "the pass has corrected the bound");
        assert_eq!(sweep(&mut state, 21, &[30, 20], 100), [1]);
    }

    #[test]
    fn the_former_bound_covers_records_that_a_pass_has_not_seen() {
        let mut state = Sweep::default();
        assert_eq!(sweep(&mut state, 5, &[10, 40, 10], 3), []);
        assert_eq!(sweep(&mut state, 11, &[50, 40, 10], 2), []);
        assert_eq!(state.earliest_deadline(3), 10, "the third record is not seen yet");
        assert_eq!(sweep(&mut state, 11, &[50, 40, 10], 1), [2]);
        assert_eq!(state.earliest_deadline(3), 40);
    }

    #[test]
    fn exempt_records_do_not_bound_the_next_pass() {
        let mut state = Sweep::default();
        state.note(0);
        let mut budget = 10;
        assert_eq!(state.next(1, true, 3, &mut budget, |_| Look::Exempt), None);
        assert_eq!((state.earliest_deadline(3), budget), (Tick::MAX, 4), "two passes");
    }
}

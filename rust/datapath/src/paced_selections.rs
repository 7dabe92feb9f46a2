//! Selections of flows that are resynced now and then, whatever the number of changes.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use kbe_nat_netlink::conntrack::Selection;

/// Selections to resync: each soon, and once more after [`REPEAT`].
///
/// A flood of changes would let the kernel pass over its table without a pause. So after a resync
/// comes a rest that is [`REST`] times as long, and the next one takes all that has come meanwhile.
pub(crate) struct PacedSelections {
    waiting: Vec<Selection>,
    /// With the time of each. All wait equally long, so the oldest stand first.
    repeats: VecDeque<(Instant, Vec<Selection>)>,
    /// The end of the rest.
    next: Instant,
}

impl PacedSelections {
    pub(crate) fn new(now: Instant) -> Self {
        Self { waiting: Vec::new(), repeats: VecDeque::new(), next: now }
    }

    pub(crate) fn add(&mut self, selections: Vec<Selection>, now: Instant) {
        if !selections.is_empty() {
            self.waiting.extend(&selections);
            self.repeats.push_back((now + REPEAT, selections));
        }
    }

    /// The selections to resync now; none during a rest.
    pub(crate) fn take_due(&mut self, now: Instant) -> Vec<Selection> {
        let due = self.repeats.iter().take_while(|(when, _)| *when <= now).count();
        self.waiting.extend(self.repeats.drain(..due).flat_map(|(_, selections)| selections));
        if now < self.next { Vec::new() } else { std::mem::take(&mut self.waiting) }
    }

    /// Notes that a resync is over for which the thread has run so long.
    pub(crate) fn rest(&mut self, now: Instant, took: Duration) {
        self.next = now + (took * REST).min(LONGEST_REST);
    }

    /// How long the next selections can wait.
    pub(crate) fn patience(&self, now: Instant) -> Duration {
        if self.waiting.is_empty() {
            return PATIENCE;
        }
        self.next.saturating_duration_since(now).min(PATIENCE)
    }
}

/// The longest wait for events. Shorter waits cost others: with 20 ms, bulk TCP that needed all
/// processors lost a twentieth.
pub(crate) const PATIENCE: Duration = Duration::from_millis(200);
/// A resync of frontends is repeated after this time, which is longer than the engine gives a
/// handshake.
const REPEAT: Duration = Duration::from_millis(1500);
/// A resync of frontends takes at most a tenth of a processor, unless the kernel's table is so
/// large that flows to removed backends would wait longer than [`LONGEST_REST`].
const REST: u32 = 9;
const LONGEST_REST: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use kbe_nat_netlink::Family;

    use super::*;

    #[test]
    fn a_flood_of_changes_is_resynced_with_rests() {
        let start = Instant::now();
        let at = |milliseconds: u64| start + Duration::from_millis(milliseconds);
        let selection =
            |protocol: u8| vec![Selection { protocol, family: Family::V4, destination: None }];
        let mut frontends = PacedSelections::new(start);
        assert_eq!(frontends.patience(start), PATIENCE, "nothing waits");
        frontends.add(selection(1), start);
        assert_eq!(frontends.take_due(start), selection(1), "the first change after quiet");
        frontends.rest(at(10), Duration::from_millis(10));
        frontends.add(selection(2), at(11));
        frontends.add(selection(3), at(12));
        assert_eq!(frontends.take_due(at(99)), [], "a rest of nine times 10 ms");
        assert_eq!(frontends.patience(at(40)), Duration::from_millis(60));
        assert_eq!(frontends.take_due(at(100)), [selection(2), selection(3)].concat());
        frontends.rest(at(1100), Duration::from_secs(1));
        assert_eq!(frontends.take_due(at(1600)), [], "the longest rest");
        // What was resynced is repeated, each change once.
        assert_eq!(frontends.take_due(at(2100)), [1, 2, 3].map(selection).concat());
        assert_eq!(frontends.take_due(at(9000)), []);
    }
}

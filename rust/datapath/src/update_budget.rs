//! How many of the kernel's events about changes of flows are listened to.
//!
//! The kernel makes about five for a connection of TCP, for all flows of the namespace, and each
//! wakes a listener. So a listener that can do without some leaves the kernel's group once it has
//! had its share of a second, until that second is over.

use std::time::{Duration, Instant};

/// The events of one second.
pub(crate) struct Budget {
    limit: usize,
    begun: Instant,
    spent: usize,
}

impl Budget {
    /// A second that begins now, with so many events.
    pub(crate) fn new(now: Instant, limit: usize) -> Self {
        Self { limit, begun: now, spent: 0 }
    }

    /// How long to listen no more, if this second's events are used up. Begins another second.
    pub(crate) fn pause(&mut self, now: Instant) -> Option<Duration> {
        let remaining = SECOND.saturating_sub(now.duration_since(self.begun));
        if remaining.is_zero() {
            *self = Self::new(now, self.limit);
        }
        (self.spent >= self.limit).then_some(remaining)
    }

    /// Counts events; whether these use up the second's.
    pub(crate) fn spend(&mut self, events: usize) -> bool {
        let before = self.spent;
        self.spent += events;
        before < self.limit && self.spent >= self.limit
    }
}

const SECOND: Duration = Duration::from_secs(1);
/// Events a second that are listened to: those of 800 to 1,000 connections. They took this thread
/// 5 to 20 ms on a busy machine; what the kernel takes to make them was lost in the noise.
pub(crate) const UPDATES: usize = 5000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_has_its_budget_and_the_next_one_another() {
        let start = Instant::now();
        let at = |milliseconds| start + Duration::from_millis(milliseconds);
        let mut budget = Budget::new(start, UPDATES);
        assert!(!budget.spend(UPDATES - 1));
        assert_eq!(budget.pause(at(100)), None);
        assert!(budget.spend(16), "used up");
        assert!(!budget.spend(16), "once");
        assert_eq!(budget.pause(at(300)), Some(Duration::from_millis(700)));
        assert_eq!(budget.pause(at(1000)), None, "the next second");
        assert!(!budget.spend(1));
        assert_eq!(budget.pause(at(5000)), None);
    }
}

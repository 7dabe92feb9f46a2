//! Counters of packets by verdict and of flows, since the start.

use crate::verdict::{Action, Cause, Verdict};

/// Packets by action and cause, and flows that ended, since the start.
#[derive(Clone, Debug)]
pub(crate) struct Counters {
    /// By action and cause, see [`Counters::place`].
    verdicts: [u64; 256],
    pub(crate) expired: u64,
    pub(crate) evicted: u64,
}

impl Default for Counters {
    fn default() -> Self {
        Self { verdicts: [0; 256], expired: 0, evicted: 0 }
    }
}

impl Counters {
    #[inline]
    pub(crate) fn count(&mut self, verdict: Verdict) {
        self.add(verdict, 1);
    }

    /// Counts packets that have got verdicts with the action and cause of this one.
    #[inline]
    pub(crate) fn add(&mut self, verdict: Verdict, packets: usize) {
        let count = &mut self.verdicts[Self::place(verdict.action, verdict.cause)];
        *count = count.wrapping_add(packets as u64);
    }

    /// Packets with this action and cause.
    pub(crate) fn of(&self, action: Action, cause: Cause) -> u64 {
        self.verdicts[Self::place(action, cause)]
    }

    /// Three bits of action, five of cause.
    #[inline(always)]
    fn place(action: Action, cause: Cause) -> usize {
        const { assert!(Action::ALL.len() <= 8 && Cause::COUNT <= 32) };
        usize::from((action as u8) << 5 | cause as u8)
    }
}

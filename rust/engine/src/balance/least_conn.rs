//! `lc` and `wlc`: the backend with the fewest live flows.
//!
//! As in IPVS, a flow that is closing counts for 1/256 of others: TIME_WAIT lasts for two minutes,
//! and short connections would hide the long ones behind them.
//! Equals take turns, so that idle backends share the flows that come; IPVS gives them all to the
//! first.

use super::{Balancer, Candidate, Loads, Request, State, candidates};
use crate::backend::Backend;

/// Least connections, plain or relative to weight. O(N) to pick.
#[derive(Debug)]
pub struct LeastConn {
    candidates: Vec<Candidate>,
    /// Whether all have one weight, so that flows compare without it.
    is_even: bool,
}

impl LeastConn {
    /// `lc`: the fewest flows win; of weights only 0 matters.
    #[must_use]
    pub fn new(backends: &[Backend]) -> Self {
        let mut balancer = Self::weighted(backends);
        for candidate in &mut balancer.candidates {
            candidate.weight = 1;
        }
        Self { is_even: true, ..balancer }
    }

    /// `wlc`: the fewest flows per weight win.
    #[must_use]
    pub fn weighted(backends: &[Backend]) -> Self {
        let candidates = candidates(backends);
        let is_even = candidates.windows(2).all(|pair| pair[0].weight == pair[1].weight);
        Self { candidates, is_even }
    }

    /// The turn of the least loaded candidate, the first of equals from `start` on.
    #[inline(always)]
    fn least(
        &self,
        start: usize,
        loads: &Loads<'_>,
        is_lighter: impl Fn(&Candidate, u64, &Candidate, u64) -> bool,
    ) -> Option<usize> {
        let mut least = self.candidates.get(start)?;
        let (mut turn, mut load) = (start, loads.overhead(least.index));
        for turns in [start + 1..self.candidates.len(), 0..start] {
            let others = turns.clone().zip(&self.candidates[turns]);
            for (other, candidate) in others {
                let overhead = loads.overhead(candidate.index);
                if is_lighter(candidate, overhead, least, load) {
                    (turn, least, load) = (other, candidate, overhead);
                }
            }
        }
        Some(turn)
    }
}

impl Balancer for LeastConn {
    fn pick(&self, request: &Request<'_>, state: &mut State) -> Option<usize> {
        let count = self.candidates.len() as u64;
        // A cursor that this list has left is no higher than its length, and only the highest one
        // wraps: a division for each pick would be wasted.
        let start =
            if state.cursor < count { state.cursor } else { state.cursor.checked_rem(count)? };
        let turn = if self.is_even {
            self.least(start as usize, &request.loads, |_, overhead, _, load| overhead < load)
        } else {
            self.least(start as usize, &request.loads, |candidate, overhead, least, load| {
                candidate.is_lighter(overhead, least, load)
            })
        }?;
        // The next turn starts behind the chosen one. A cursor that merely counted would favour
        // backends behind a busy one: they would win its turns as well as their own.
        state.cursor = turn as u64 + 1;
        Some(self.candidates[turn].index)
    }

    fn memory_bytes(&self) -> Option<usize> {
        Some(size_of_val(&self.candidates[..]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::balance::fixture::{backends, loads, picks, request};
    use proptest::prelude::*;

    /// Every flow stays: the counts after `total` picks.
    fn fill(balancer: &LeastConn, mut counts: Vec<u32>, total: usize) -> Vec<u32> {
        let mut state = State::new(0);
        for _ in 0..total {
            let index = balancer.pick(&request(0, loads(&counts)), &mut state).unwrap();
            counts[index] += 1;
        }
        counts
    }

    #[test]
    fn idle_backends_share() {
        assert_eq!(picks(&LeastConn::new(&backends(&[1, 9, 0, 1])), 6), [0, 1, 3, 0, 1, 3]);
    }

    #[test]
    fn equals_behind_a_busy_one_are_not_favoured() {
        let balancer = LeastConn::new(&backends(&[1; 4]));
        let busy = loads(&[0, 0, 0, 5]);
        let mut state = State::new(0);
        let picks: Vec<_> =
            (0..6).filter_map(|_| balancer.pick(&request(0, busy), &mut state)).collect();
        assert_eq!(picks, [0, 1, 2, 0, 1, 2]);
    }

    #[test]
    fn f67_long_flows_settle_by_weight() {
        assert_eq!(fill(&LeastConn::new(&backends(&[1, 2, 7])), vec![0; 3], 300), [100, 100, 100]);
        assert_eq!(
            fill(&LeastConn::weighted(&backends(&[1, 2, 7])), vec![0; 3], 1000),
            [100, 200, 700]
        );
        assert_eq!(
            fill(&LeastConn::weighted(&backends(&[1, 0, 1])), vec![9, 0, 0], 11),
            [10, 0, 10]
        );
    }

    proptest! {
        #[test]
        fn no_other_has_less(
            pairs in prop::collection::vec((any::<u32>(), any::<u32>()), 1..20),
            cursor: u64,
        ) {
            let (weights, counts): (Vec<u32>, Vec<u32>) = pairs.into_iter().unzip();
            let loads = loads(&counts);
            let mut state = State::new(0);
            state.cursor = cursor;
            let plain = LeastConn::new(&backends(&weights));
            if let Some(chosen) = plain.pick(&request(0, loads), &mut state) {
                let is_least =
                    |other: usize| weights[other] == 0 || counts[chosen] <= counts[other];
                prop_assert!((0..weights.len()).all(is_least));
            }
            let weighted = LeastConn::weighted(&backends(&weights));
            if let Some(chosen) = weighted.pick(&request(0, loads), &mut state) {
                let ratio = |index: usize| f64::from(counts[index]) / f64::from(weights[index]);
                let is_least = |other: usize| {
                    weights[other] == 0 || ratio(chosen) <= ratio(other) * (1.0 + 1e-12)
                };
                prop_assert!((0..weights.len()).all(is_least));
            }
        }
    }
}

//! `wrr`: weighted round robin that spreads the turns of a heavy backend, as nginx does.

use super::{Balancer, Request, State};
use crate::backend::Backend;

/// Smooth weighted round robin. Each choice raises every backend's current weight by its weight,
/// takes the largest (the first of equals) and lowers that by the total: weights 5, 1, 1 give a a b
/// a c a a, and never five in a row.
///
/// Shares are exact over a cycle of total / gcd choices. O(N) to pick.
#[derive(Debug)]
pub struct SmoothWeighted {
    weights: Vec<i64>,
    total: i64,
    /// Current weights beyond this are not from this list.
    limit: u64,
}

impl SmoothWeighted {
    /// The turns for these weights.
    #[must_use]
    pub fn new(backends: &[Backend]) -> Self {
        let weights: Vec<i64> = backends.iter().map(|backend| i64::from(backend.weight)).collect();
        let total: i64 = weights.iter().sum();
        // Current weights add up to 0 and none falls to -total, so none reaches total * N. The
        // other bound leaves room for adding a weight.
        let limit = total.unsigned_abs().saturating_mul(weights.len() as u64).min(1 << 62);
        Self { weights, total, limit }
    }

    /// Raises the current weights, and returns the position of the largest. `None`: they cannot
    /// have come from this list, and mean nothing any more. The rest of an earlier list would
    /// distort the turns for as long as it took to work off, which has no bound when weights had
    /// been large.
    #[inline]
    fn raise(&self, current: &mut [i64]) -> Option<usize> {
        let weights = &self.weights[..];
        if current.len() != weights.len() {
            return None;
        }
        let (mut best, mut largest, mut is_ours) = (0, i64::MIN, true);
        // By index: the compiler keeps this loop in registers, and iterators of both not.
        for index in 0..weights.len() {
            let (value, weight) = (current[index], weights[index]);
            is_ours &= value.unsigned_abs() <= self.limit;
            let raised = value.wrapping_add(weight);
            current[index] = raised;
            if weight > 0 && raised > largest {
                (best, largest) = (index, raised);
            }
        }
        is_ours.then_some(best)
    }
}

impl Balancer for SmoothWeighted {
    fn pick(&self, _: &Request<'_>, state: &mut State) -> Option<usize> {
        if self.total == 0 {
            return None;
        }
        let index = self.raise(&mut state.current).or_else(|| {
            state.current.clear();
            state.current.resize(self.weights.len(), 0);
            self.raise(&mut state.current)
        })?;
        state.current[index] -= self.total;
        Some(index)
    }

    fn memory_bytes(&self) -> Option<usize> {
        Some(size_of_val(&self.weights[..]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::balance::fixture::{IDLE, backends, picks, tally};

    #[test]
    fn spreads_the_turns_of_the_heavy() {
        assert_eq!(picks(&SmoothWeighted::new(&backends(&[5, 1, 1])), 7), [0, 0, 1, 0, 2, 0, 0]);
        assert_eq!(picks(&SmoothWeighted::new(&backends(&[0, 2, 1])), 6), [1, 2, 1, 1, 2, 1]);
    }

    #[test]
    fn f67_shares_are_exact_in_each_cycle() {
        for weights in [
            &[1, 2, 7][..],
            &[1, 1, 1],
            &[5],
            &[0, 3, 0, 1],
            &[10, 20, 70],
            &[13, 8, 21, 1, 34, 55],
        ] {
            let balancer = SmoothWeighted::new(&backends(weights));
            let cycle: u32 = weights.iter().sum();
            let mut state = State::new(0);
            for _ in 0..5 {
                let mut counts = vec![0; weights.len()];
                for _ in 0..cycle {
                    counts[balancer.pick(&IDLE, &mut state).unwrap()] += 1;
                }
                assert_eq!(counts, weights);
                assert!(state.current.iter().all(|&value| value == 0));
            }
        }
    }

    #[test]
    fn a_stale_state_does_not_starve_anyone() {
        let balancer = SmoothWeighted::new(&backends(&[1, 1]));
        for current in [vec![-500_000, 500_000], vec![i64::MAX, i64::MIN], vec![9; 5], vec![-4, 4]]
        {
            let mut state = State::new(0);
            state.current = current;
            let firsts = (0..20).filter(|_| balancer.pick(&IDLE, &mut state) == Some(0)).count();
            assert!((8..=12).contains(&firsts), "{firsts}");
        }
    }

    #[test]
    fn the_largest_weights_fit() {
        assert_eq!(tally(&SmoothWeighted::new(&backends(&[u32::MAX; 7])), 7, 700), [100; 7]);
    }
}

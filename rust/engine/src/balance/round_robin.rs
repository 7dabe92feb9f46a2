//! `rr`: backends take turns, as in IPVS.

use super::{Balancer, Request, State, candidates};
use crate::backend::Backend;

/// Equal turns for every backend with weight, in list order. O(1) to pick.
#[derive(Debug)]
pub struct RoundRobin {
    /// Positions of the backends with weight.
    turns: Vec<usize>,
}

impl RoundRobin {
    /// The turns of these backends.
    #[must_use]
    pub fn new(backends: &[Backend]) -> Self {
        let turns = candidates(backends).iter().map(|candidate| candidate.index).collect();
        Self { turns }
    }
}

impl Balancer for RoundRobin {
    fn pick(&self, _: &Request<'_>, state: &mut State) -> Option<usize> {
        let turn = state.cursor.checked_rem(self.turns.len() as u64)?;
        state.cursor = state.cursor.wrapping_add(1);
        self.turns.get(turn as usize).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::balance::fixture::{IDLE, backends, picks, tally};

    #[test]
    fn turns_are_equal_whatever_the_weights() {
        let balancer = RoundRobin::new(&backends(&[1, 0, u32::MAX, 2]));
        assert_eq!(picks(&balancer, 7), [0, 2, 3, 0, 2, 3, 0]);
        assert_eq!(tally(&balancer, 4, 300), [100, 0, 100, 100]);
    }

    #[test]
    fn the_last_cursor_wraps() {
        let balancer = RoundRobin::new(&backends(&[1, 1]));
        let mut state = State::new(0);
        state.cursor = u64::MAX;
        assert_eq!(balancer.pick(&IDLE, &mut state), Some(1));
        assert_eq!(balancer.pick(&IDLE, &mut state), Some(0));
    }
}

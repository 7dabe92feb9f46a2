//! `rr`: backends take turns, as in IPVS.

use super::{Balancer, Request, State, candidates};
use crate::backend::Backend;
use crate::rng::scale;

/// Equal turns for every backend with weight, in list order. O(1) to pick.
#[derive(Debug)]
pub struct RoundRobin {
    /// Positions of the backends with weight.
    turns: Vec<usize>,
    /// 2^64 / turns, rounded up, in the place of a division by their number.
    reciprocal: u64,
}

impl RoundRobin {
    /// The turns of these backends.
    #[must_use]
    pub fn new(backends: &[Backend]) -> Self {
        let turns: Vec<usize> =
            candidates(backends).iter().map(|candidate| candidate.index).collect();
        let reciprocal = u64::MAX.checked_div(turns.len() as u64).unwrap_or(0).wrapping_add(1);
        Self { turns, reciprocal }
    }

    /// `cursor` modulo the number of turns. Below 2^32 the fraction that the reciprocal leaves is
    /// exact enough (Lemire, Kaser and Kurz, "Faster remainder by direct computation", 2019).
    #[inline]
    fn turn(&self, cursor: u64) -> Option<u64> {
        let count = self.turns.len() as u64;
        if count == 0 || cursor > u64::from(u32::MAX) {
            return cursor.checked_rem(count);
        }
        Some(scale(self.reciprocal.wrapping_mul(cursor), count))
    }
}

impl Balancer for RoundRobin {
    fn pick(&self, _: &Request<'_>, state: &mut State) -> Option<usize> {
        let turn = self.turn(state.cursor)?;
        state.cursor = state.cursor.wrapping_add(1);
        self.turns.get(turn as usize).copied()
    }

    fn memory_bytes(&self) -> Option<usize> {
        Some(size_of_val(&self.turns[..]))
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
    fn the_reciprocal_divides_exactly() {
        for count in (1..70).chain([1000, 65_535, 65_536]) {
            let balancer = RoundRobin::new(&backends(&vec![1; count]));
            let count = count as u64;
            let multiples = [1, 2, 3, 1000, (1 << 32) / count, (1 << 33) / count, u64::MAX / count];
            for cursor in multiples.map(|multiple| multiple * count) {
                for cursor in [cursor - 1, cursor, cursor.saturating_add(1)] {
                    assert_eq!(balancer.turn(cursor), Some(cursor % count), "{cursor} of {count}");
                }
            }
        }
    }

    #[test]
    fn an_empty_list_takes_no_turn() {
        let mut state = State::new(0);
        assert_eq!(RoundRobin::new(&backends(&[0, 0])).pick(&IDLE, &mut state), None);
        assert_eq!(state.cursor, 0);
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

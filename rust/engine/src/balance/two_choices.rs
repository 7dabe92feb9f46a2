//! `p2c`: draw two, take the one with less to do (Mitzenmacher's power of two choices).

use super::{Balancer, Candidate, Request, State, candidates};
use crate::backend::Backend;

/// Two different weighted draws, of which the one with fewer live flows per weight wins, or else
/// the first.
///
/// Nearly as even as least connections, at O(log N) to pick, and without the herd that all nodes
/// together send to the one backend that has least.
#[derive(Debug)]
pub struct TwoChoices {
    candidates: Vec<Candidate>,
    /// Where each candidate's stretch ends when all weights are laid end to end.
    ends: Vec<u64>,
    /// By the high bits of a point, the first stretch that may hold it: two or more cells for each
    /// stretch on average, so that a search begins next to where it ends.
    cells: Vec<u32>,
    /// Low bits of a point, which do not choose the cell.
    shift: u32,
}

impl TwoChoices {
    /// Lays the weights end to end.
    #[must_use]
    pub fn new(backends: &[Backend]) -> Self {
        let candidates = candidates(backends);
        let ends: Vec<u64> = candidates
            .iter()
            .scan(0, |end, candidate| {
                *end += u64::from(candidate.weight);
                Some(*end)
            })
            .collect();
        let total = ends.last().copied().unwrap_or(0);
        let wanted = 2 * (ends.len() as u64).next_power_of_two();
        let shift = (total / wanted).checked_ilog2().map_or(0, |bits| bits + 1);
        let mut cells = Vec::with_capacity((total >> shift) as usize + 1);
        // Both cells and stretches are in order, so one walk over them fills all.
        for (stretch, &end) in (0..).zip(&ends) {
            while (cells.len() as u64) << shift < end {
                cells.push(stretch);
            }
        }
        Self { candidates, ends, cells, shift }
    }

    /// Whose stretch a point lies in; one behind the last for a point behind its end.
    #[inline]
    fn at(&self, point: u64) -> usize {
        let cell = (point >> self.shift) as usize;
        let Some(&first) = self.cells.get(cell) else { return self.ends.len() };
        let first = first as usize;
        // A cell may hold many short stretches, beside a long one.
        let last = self.cells.get(cell + 1).map_or(self.ends.len(), |&next| next as usize);
        first + self.ends[first..last].partition_point(|&end| end <= point)
    }
}

impl Balancer for TwoChoices {
    fn pick(&self, request: &Request<'_>, state: &mut State) -> Option<usize> {
        let total = *self.ends.last()?;
        let turn = self.at(state.rng.below_u64(total));
        let first = self.candidates.get(turn)?;
        // The second draw is from what remains once the first one's stretch is cut out. Drawing
        // again until it differs would have no bound when one backend has nearly all the weight.
        let stretch = u64::from(first.weight);
        let mut point = state.rng.below_u64(total - stretch);
        if point >= self.ends[turn] - stretch {
            point += stretch;
        }
        // A single backend leaves nothing to draw from: the point is then behind its end.
        let Some(second) = self.candidates.get(self.at(point)) else {
            return Some(first.index);
        };
        let (first_active, second_active) =
            (request.loads.active(first.index), request.loads.active(second.index));
        let is_second = second.is_lighter(second_active, first, first_active);
        Some(if is_second { second.index } else { first.index })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::balance::fixture::{assert_shares, backends, loads, request, tally};

    #[test]
    fn f67_idle_shares_follow_weights() {
        for weights in [&[1, 2, 7][..], &[5], &[0, 3, 0, 1]] {
            assert_shares(
                &tally(&TwoChoices::new(&backends(weights)), weights.len(), 1_000_000),
                weights,
            );
        }
    }

    #[test]
    fn cells_lead_to_the_stretch_of_each_point() {
        for weights in [&[1, 2, 7][..], &[5], &[0, 3, 0, 1], &[1; 33], &[900, 1, 1, 1, 1, 40]] {
            let balancer = TwoChoices::new(&backends(weights));
            let total = weights.iter().sum::<u32>().into();
            for point in 0..total {
                let stretch = balancer.ends.partition_point(|&end| end <= point);
                assert_eq!(balancer.at(point), stretch, "{weights:?} {point}");
            }
            assert_eq!(balancer.at(total), balancer.ends.len());
        }
    }

    /// The heavy one is drawn nearly always, and always meets a rival with less to do.
    #[test]
    fn the_most_loaded_is_never_taken() {
        let balancer = TwoChoices::new(&backends(&[1, u32::MAX, 1]));
        let mut state = State::new(1);
        let busy = loads(&[0, 1, 0]);
        for _ in 0..1000 {
            assert_ne!(balancer.pick(&request(0, busy), &mut state), Some(1));
        }
    }

    /// Long flows over 100 backends: the fullest is at most 3 above the mean, where plain random
    /// has about 30.
    #[test]
    fn loads_stay_level() {
        let balancer = TwoChoices::new(&backends(&[1; 100]));
        let mut state = State::new(1);
        let mut counts = [0; 100];
        for _ in 0..10_000 {
            let chosen = balancer.pick(&request(0, loads(&counts)), &mut state).unwrap();
            counts[chosen] += 1;
        }
        assert!(counts.iter().all(|&count| count <= 103), "{counts:?}");
    }
}

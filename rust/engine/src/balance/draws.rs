//! Two different weighted draws, for the strategies that compare two backends.

use super::{Candidate, candidates};
use crate::backend::Backend;
use crate::rng::Rng;

/// All weights, laid end to end. O(log N) to draw, and next to nothing where weights are alike.
#[derive(Debug)]
pub(super) struct Draws {
    candidates: Vec<Candidate>,
    /// Where each candidate's stretch ends when all weights are laid end to end.
    ends: Vec<u64>,
    /// By the high bits of a point, the first stretch that may hold it: two or more cells for each
    /// stretch on average, so that a search begins next to where it ends.
    cells: Vec<u32>,
    /// Low bits of a point, which do not choose the cell.
    shift: u32,
}

impl Draws {
    /// Lays the weights end to end.
    pub(super) fn new(backends: &[Backend]) -> Self {
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

    /// Bytes of all of them.
    pub(super) fn memory_bytes(&self) -> usize {
        let Self { candidates, ends, cells, shift: _ } = self;
        size_of_val(&candidates[..]) + size_of_val(&ends[..]) + size_of_val(&cells[..])
    }

    /// What a candidate weighs in the mean, rounded down; at least 1.
    pub(super) fn mean_weight(&self) -> u64 {
        let total = self.ends.last().copied().unwrap_or(0);
        total.checked_div(self.ends.len() as u64).unwrap_or(0).max(1)
    }

    /// Two candidates; the second is missing where there is a single one.
    #[inline]
    pub(super) fn pair(&self, rng: &mut Rng) -> Option<(&Candidate, Option<&Candidate>)> {
        let total = *self.ends.last()?;
        let turn = self.at(rng.below_u64(total));
        let first = self.candidates.get(turn)?;
        // The second draw is from what remains once the first one's stretch is cut out. Drawing
        // again until it differs would have no bound when one backend has nearly all the weight.
        let stretch = u64::from(first.weight);
        let mut point = rng.below_u64(total - stretch);
        if point >= self.ends[turn] - stretch {
            point += stretch;
        }
        // A single backend leaves nothing to draw from: the point is then behind its end.
        Some((first, self.candidates.get(self.at(point))))
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::balance::fixture::backends;

    #[test]
    fn cells_lead_to_the_stretch_of_each_point() {
        for weights in [&[1, 2, 7][..], &[5], &[0, 3, 0, 1], &[1; 33], &[900, 1, 1, 1, 1, 40]] {
            let draws = Draws::new(&backends(weights));
            let total = weights.iter().sum::<u32>().into();
            for point in 0..total {
                let stretch = draws.ends.partition_point(|&end| end <= point);
                assert_eq!(draws.at(point), stretch, "{weights:?} {point}");
            }
            assert_eq!(draws.at(total), draws.ends.len());
        }
    }
}

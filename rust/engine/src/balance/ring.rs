//! `ring`: consistent hashing on a circle with virtual nodes (Karger et al. 1997).
//!
//! Each backend has points on a circle, and serves the flows between its points and those before.
//! When a backend leaves only its flows move; they go to the owners of the next points, which are
//! many. Imbalance falls with the root of the points: with 100 for each backend, shares differ by
//! about a tenth. [`super::Maglev`] is more even with less memory, and moves a few flows more;
//! [`super::Rendezvous`] is exact, at O(N) to pick.

use std::num::NonZeroU32;

use super::{Balancer, Request, State, candidates_by_address, stable_hash_endpoint};
use crate::backend::Backend;
use crate::rng::mix64;

/// Points of the backends on a circle; a flow goes to the next one. O(1) to pick.
///
/// Building is O(P log P) for P points. Memory is 8 bytes per point, and 2 to 4 for the cells.
#[derive(Debug)]
pub struct Ring {
    /// In the order of their places.
    points: Vec<Point>,
    /// By the high bits of a place, the first point that is not before them: one or two points for
    /// each cell on average, so that a search begins next to where it ends.
    cells: Vec<u32>,
    /// Low bits of a place, which do not choose the cell.
    shift: u32,
}

#[derive(Clone, Copy, Debug)]
struct Point {
    /// High half of a hash.
    place: u32,
    /// Its owner's position in the list of backends.
    index: u32,
}

impl Ring {
    /// Points of a backend of weight 1, unless it is said.
    // No zero: else this does not compile.
    pub const VIRTUAL_NODES: NonZeroU32 = NonZeroU32::new(100).unwrap();
    /// The largest circle: 50 MB, and half a second to build.
    pub const MAX_POINTS: u64 = 1 << 22;

    /// Gives each backend so many points for each unit of its weight.
    ///
    /// A circle holds as many points as weights of 16 in the mean take, and [`Ring::MAX_POINTS`],
    /// at most. Beyond that all backends have half as many, or a quarter, and so on: other
    /// fractions would be others after each change of a weight, and move flows between backends
    /// that stay.
    #[must_use]
    pub fn new(backends: &[Backend], virtual_nodes: Option<NonZeroU32>) -> Self {
        let candidates = candidates_by_address(backends);
        let virtual_nodes = u64::from(virtual_nodes.unwrap_or(Self::VIRTUAL_NODES).get());
        let wanted = |weight: u32| virtual_nodes * u64::from(weight);
        let total: u128 = candidates.iter().map(|each| u128::from(wanted(each.weight))).sum();
        let limit = virtual_nodes.saturating_mul(MEAN_WEIGHT * candidates.len() as u64);
        let limit = u128::from(limit.min(Self::MAX_POINTS));
        let halvings = (0..u128::BITS).find(|&halvings| total >> halvings <= limit).unwrap_or(0);
        // A point's place above its owner's rank: sorted as one number, the order of equal places
        // is that of addresses on every node.
        let mut points = Vec::new();
        for (rank, candidate) in (0..).zip(&candidates) {
            let key = stable_hash_endpoint(backends[candidate.index].address, SEED);
            // The first points stay when their number changes.
            let count = (wanted(candidate.weight) >> halvings).max(1);
            let places = (1..=count).map(|number| mix64(key ^ mix64(number)) >> u32::BITS);
            points.extend(places.map(|place| place << u32::BITS | rank));
        }
        points.sort_unstable();
        let index = |point: u64| candidates[point as u32 as usize].index as u32;
        let point =
            |&point: &u64| Point { place: (point >> u32::BITS) as u32, index: index(point) };
        Self::with_cells(points.iter().map(point).collect())
    }

    fn with_cells(points: Vec<Point>) -> Self {
        let shift = u32::BITS - points.len().checked_ilog2().unwrap_or(0);
        let mut cells = Vec::with_capacity(1 << (u32::BITS - shift));
        // Both cells and points are in order, so one walk over them fills all.
        for (number, point) in (0..).zip(&points) {
            while (cells.len() as u64) << shift <= u64::from(point.place) {
                cells.push(number);
            }
        }
        // No point follows: the circle closes.
        cells.resize(1 << (u32::BITS - shift), points.len() as u32);
        Self { points, cells, shift }
    }

    /// The owners of all points from a flow's place on, once around; some more than once.
    #[inline]
    pub(super) fn walk(&self, flow: u64) -> impl Iterator<Item = usize> + '_ {
        let (before, after) = self.points.split_at(self.next(flow));
        after.iter().chain(before).map(|point| point.index as usize)
    }

    /// The first point at a flow's place or behind, by number; their count where there is none.
    #[inline]
    fn next(&self, flow: u64) -> usize {
        let place = (flow >> u32::BITS) as u32;
        let first = self.cells[(u64::from(place) >> self.shift) as usize] as usize;
        let behind = self.points[first..].iter().position(|point| point.place >= place);
        behind.map_or(self.points.len(), |steps| first + steps)
    }
}

impl Balancer for Ring {
    fn pick(&self, request: &Request<'_>, _: &mut State) -> Option<usize> {
        let next = self.points.get(self.next(request.flow)).or(self.points.first())?;
        Some(next.index as usize)
    }

    fn reason(&self, _: &Request<'_>, _: usize) -> Option<String> {
        Some("a point of its own follows the connection's on the ring".to_owned())
    }

    fn memory_bytes(&self) -> Option<usize> {
        Some(size_of_val(&self.points[..]) + size_of_val(&self.cells[..]))
    }
}

/// Weight in the mean up to which each unit has all of its points.
const MEAN_WEIGHT: u64 = 16;
/// Part of the agreement between nodes, as the hash functions are. Not that of Maglev or
/// rendezvous: strategies side by side should not resemble each other.
const SEED: u64 = 2;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::balance::fixture::{IDLE, backends, request, tally};

    fn owner(ring: &Ring, flow: u64) -> Option<usize> {
        ring.pick(&request(mix64(flow), IDLE.loads), &mut State::new(0))
    }

    fn counts(ring: &Ring, backends: usize) -> Vec<usize> {
        let mut counts = vec![0; backends];
        ring.points.iter().for_each(|point| counts[point.index as usize] += 1);
        counts
    }

    #[test]
    fn cells_lead_to_the_next_point() {
        for weights in [&[1; 40][..], &[1], &[0, 3, 0, 1], &[900, 1, 1, 1, 1, 40]] {
            let ring = Ring::new(&backends(weights), None);
            for flow in (0..10_000).map(mix64).chain([0, u64::MAX]) {
                let place = (flow >> 32) as u32;
                let next = ring.points.partition_point(|point| point.place < place);
                assert_eq!(ring.next(flow), next, "{weights:?}");
                let around = ring.points[next % ring.points.len()].index as usize;
                assert_eq!(ring.walk(flow).next(), Some(around));
                assert_eq!(ring.pick(&request(flow, IDLE.loads), &mut State::new(0)), Some(around));
            }
        }
        let few = Ring::new(&backends(&[1, 1]), NonZeroU32::new(1));
        assert_eq!(few.walk(u64::MAX).count(), 2, "around the end");
    }

    #[test]
    fn points_follow_weights() {
        let ten = NonZeroU32::new(10);
        assert_eq!(counts(&Ring::new(&backends(&[1, 2, 0, 7]), ten), 4), [10, 20, 0, 70]);
        // 10 x 120 on average is more than 16 x 10 can be halved into three times.
        assert_eq!(counts(&Ring::new(&backends(&[100, 140]), ten), 2), [125, 175]);
        let lopsided = counts(&Ring::new(&backends(&[u32::MAX, 1, u32::MAX / 2]), None), 3);
        assert_eq!(lopsided[1], 1, "never none");
        assert!(lopsided.iter().sum::<usize>() <= 3 * 1600 + 3);
        let most = NonZeroU32::new(u32::MAX);
        let points = Ring::new(&backends(&[u32::MAX; 3]), most).points.len() as u64;
        assert!((Ring::MAX_POINTS / 2..=Ring::MAX_POINTS).contains(&points));
    }

    #[test]
    fn f67_shares_follow_weights() {
        let weights = [1, 2, 0, 7];
        let balancer = Ring::new(&backends(&weights), NonZeroU32::new(10_000));
        for (count, weight) in tally(&balancer, 4, 1_000_000).into_iter().zip(weights) {
            let share = f64::from(count) / 1e6;
            assert!((share - f64::from(weight) / 10.0).abs() < 0.01, "{weight}: {share}");
        }
    }

    #[test]
    fn only_flows_of_the_leaver_move() {
        let mut list = backends(&[1, 2, 7, 3, 1]);
        let before = Ring::new(&list, None);
        for leaver in 0..list.len() {
            let weight = std::mem::take(&mut list[leaver].weight);
            let after = Ring::new(&list, None);
            for flow in 0..20_000 {
                let (old, new) = (owner(&before, flow), owner(&after, flow));
                assert!(old == new || old == Some(leaver));
            }
            list[leaver].weight = weight;
        }
    }

    #[test]
    fn a_change_of_weight_moves_flows_one_way() {
        let before = Ring::new(&backends(&[1, 2, 7]), None);
        let after = Ring::new(&backends(&[1, 3, 7]), None);
        for flow in 0..20_000 {
            let new = owner(&after, flow);
            assert!(new == owner(&before, flow) || new == Some(1));
        }
    }

    #[test]
    fn order_does_not_matter() {
        let mut list = backends(&[3, 1, 0, 1, 2]);
        list.push(list[1]);
        let reversed: Vec<Backend> = list.iter().rev().copied().collect();
        let (here, elsewhere) = (Ring::new(&list, None), Ring::new(&reversed, None));
        for flow in 0..20_000 {
            let address =
                |list: &[Backend], ring: &Ring| owner(ring, flow).map(|i| list[i].address);
            assert_eq!(address(&list, &here), address(&reversed, &elsewhere));
        }
    }
}

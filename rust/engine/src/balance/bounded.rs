//! `bounded`: consistent hashing with bounded loads (Mirrokni, Thorup and Zadimoghaddam 2018).
//!
//! A flow goes to the first backend of its [`Ring`] that has room. No choice lifts a backend above
//! `1 + epsilon` times its share of the flows alive, rounded up. Few flows move when a backend
//! comes or goes, and none is overloaded by a popular place on the ring.
//!
//! Loads are those of this node, so nodes agree only on flows that meet no full backend. A packet
//! in mid-stream goes by the ring alone, as while nobody has a load: most flows are there.

use std::num::NonZeroU32;

use super::{Balancer, Candidate, Request, Ring, State, candidates_by_address};
use crate::backend::Backend;

/// A ring whose backends may be full. At most `(1 + epsilon) / epsilon` points to pick in the mean,
/// since the others have room, and a sum over the loads of all: O(N).
#[derive(Debug)]
pub struct Bounded {
    ring: Ring,
    candidates: Vec<Candidate>,
    /// By position in the list; of equal addresses the first has the weight of all.
    weights: Vec<u32>,
    total_weight: u64,
    /// One and epsilon, in millionths.
    factor: u64,
}

impl Bounded {
    /// Millionths of its share by which a backend may have more, unless it is said.
    // No zero: else this does not compile.
    pub const EPSILON: NonZeroU32 = NonZeroU32::new(250_000).unwrap();

    /// Over a ring with so many virtual nodes; `epsilon` is in millionths.
    #[must_use]
    pub fn new(
        backends: &[Backend],
        virtual_nodes: Option<NonZeroU32>,
        epsilon: Option<NonZeroU32>,
    ) -> Self {
        let candidates = candidates_by_address(backends);
        let mut weights = vec![0; backends.len()];
        candidates.iter().for_each(|candidate| weights[candidate.index] = candidate.weight);
        let total_weight = candidates.iter().map(|candidate| u64::from(candidate.weight)).sum();
        Self {
            ring: Ring::new(backends, virtual_nodes),
            candidates,
            weights,
            total_weight,
            factor: MILLION + u64::from(epsilon.unwrap_or(Self::EPSILON).get()),
        }
    }

    /// Flows alive with the new one, times the factor. Flows on drained backends stand beside the
    /// bound: the others cannot take them.
    fn sum(&self, request: &Request<'_>) -> u128 {
        let loads = self.candidates.iter().map(|each| u64::from(request.loads.active(each.index)));
        u128::from(self.factor) * u128::from(1 + loads.sum::<u64>())
    }

    /// Whether one more flow stays within the bound. In whole numbers `load + 1 <= ceil(share)` is
    /// `load < share`, and crosswise it needs no division.
    fn has_room(&self, index: usize, load: u32, sum: u128) -> bool {
        let share = sum * u128::from(self.weights[index]);
        u128::from(load) * u128::from(MILLION) * u128::from(self.total_weight) < share
    }

    /// Flows that a backend may have, the new one included.
    fn bound(&self, index: usize, sum: u128) -> u128 {
        let unit = u128::from(MILLION) * u128::from(self.total_weight);
        (sum * u128::from(self.weights[index])).div_ceil(unit.max(1))
    }
}

impl Balancer for Bounded {
    fn pick(&self, request: &Request<'_>, _: &mut State) -> Option<usize> {
        let sum = self.sum(request);
        // Bounds add up to more than all flows, so there always is room.
        self.ring
            .walk(request.flow)
            .find(|&index| self.has_room(index, request.loads.active(index), sum))
    }

    fn reason(&self, request: &Request<'_>, index: usize) -> Option<String> {
        let sum = self.sum(request);
        let full: std::collections::BTreeSet<usize> =
            self.ring.walk(request.flow).take_while(|&before| before != index).collect();
        let place = match full.len() {
            0 => "the first on its ring".to_owned(),
            count => format!("behind {count} on its ring that may have no more"),
        };
        let (load, bound) = (request.loads.active(index), self.bound(index, sum));
        Some(format!("{place}, with {load} connections of at most {bound}"))
    }

    fn memory_bytes(&self) -> Option<usize> {
        let lists = size_of_val(&self.candidates[..]) + size_of_val(&self.weights[..]);
        Some(lists + self.ring.memory_bytes()?)
    }
}

const MILLION: u64 = 1_000_000;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::balance::fixture::{IDLE, backends, loads, request};
    use crate::rng::mix64;
    use proptest::prelude::*;

    fn epsilon(millionths: u32) -> Option<NonZeroU32> {
        NonZeroU32::new(millionths)
    }

    fn pick(balancer: &dyn Balancer, flow: u64, counts: &[u32]) -> Option<usize> {
        balancer.pick(&request(flow, loads(counts)), &mut State::new(0))
    }

    #[test]
    fn idle_it_is_the_ring() {
        let list = backends(&[1, 2, 0, 7]);
        let (bounded, ring) = (Bounded::new(&list, None, None), Ring::new(&list, None));
        for flow in (0..10_000).map(mix64) {
            let request = request(flow, IDLE.loads);
            let mut state = State::new(0);
            assert_eq!(bounded.pick(&request, &mut state), ring.pick(&request, &mut state));
        }
    }

    /// The next on the ring takes what the first may not.
    #[test]
    fn a_full_one_passes_flows_on() {
        let balancer = Bounded::new(&backends(&[1, 1, 1]), None, epsilon(1));
        let first = pick(&balancer, 7, &[0, 0, 0]).unwrap();
        let mut counts = [1, 1, 1];
        counts[first] = 2;
        // Five with the new one: at most two each, rounded up.
        let second = pick(&balancer, 7, &counts).unwrap();
        assert_ne!(second, first);
        let next = balancer.ring.walk(7).find(|&index| index != first);
        assert_eq!(Some(second), next);
        let reason = balancer.reason(&request(7, loads(&counts)), second);
        let expected =
            "behind 1 on its ring that may have no more, with 1 connections of at most 2";
        assert_eq!(reason.as_deref(), Some(expected));
    }

    #[test]
    fn flows_on_drained_backends_do_not_count() {
        let balancer = Bounded::new(&backends(&[1, 0, 1]), None, epsilon(1));
        let counts = [3, 1000, 3];
        let first = pick(&balancer, 7, &counts).unwrap();
        let mut fuller = counts;
        fuller[first] += 2;
        assert_ne!(pick(&balancer, 7, &fuller), Some(first));
    }

    proptest! {
        /// Whatever the weights, loads and epsilon: no choice lifts a load above its bound.
        #[test]
        fn no_choice_passes_the_bound(
            pairs in prop::collection::vec((0..20u32, 0..50u32), 1..20),
            millionths in 1..3_000_000u32,
            flow: u64,
        ) {
            let (weights, mut counts): (Vec<u32>, Vec<u32>) = pairs.into_iter().unzip();
            let balancer = Bounded::new(&backends(&weights), epsilon(20), epsilon(millionths));
            let total: u64 = weights.iter().map(|&weight| u64::from(weight)).sum();
            for number in 0..200 {
                let alive: u64 = 1 + counts.iter().zip(&weights)
                    .filter(|&(_, &weight)| weight > 0)
                    .map(|(&count, _)| u64::from(count))
                    .sum::<u64>();
                let Some(index) = pick(&balancer, mix64(flow ^ number), &counts) else {
                    prop_assert_eq!(total, 0);
                    break;
                };
                counts[index] += 1;
                // In exact numbers: count <= ceil((1 + epsilon) * alive * weight / total).
                let share = u128::from(1_000_000 + millionths)
                    * u128::from(alive) * u128::from(weights[index]);
                let bound = share.div_ceil(1_000_000 * u128::from(total));
                prop_assert!(u128::from(counts[index]) <= bound, "{} of {}", counts[index], bound);
            }
        }
    }
}

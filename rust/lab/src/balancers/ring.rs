//! `ring`: consistent hashing on a ring with virtual nodes (Karger et al. 1997).

use kbe_nat_engine::Backend;
use kbe_nat_engine::balance::{Balancer, Request, State, stable_hash_endpoint};
use kbe_nat_engine::rng::mix64;

use super::by_address;

/// Each backend has `virtual_nodes` points on the ring for each unit of its weight, and serves the
/// flows between its points and those before. Only flows of a backend that leaves move. Imbalance
/// falls with the root of the points. O(log points) to pick.
#[derive(Debug)]
pub struct Ring {
    /// Sorted points with the backend's position.
    points: Vec<(u64, u32)>,
}

impl Ring {
    /// The ring of these backends.
    #[must_use]
    pub fn new(backends: &[Backend], virtual_nodes: u32) -> Self {
        let mut points = Vec::new();
        for index in by_address(backends) {
            let backend = &backends[index];
            let key = stable_hash_endpoint(backend.address, SEED);
            let count = u64::from(virtual_nodes) * u64::from(backend.weight);
            points.extend((0..count).map(|n| (mix64(key ^ mix64(n + 1)), index as u32)));
        }
        // By addresses where two points collide: the order of the list does not count.
        points.sort_by_key(|&(point, index)| (point, backends[index as usize].address));
        Self { points }
    }

    /// The backends from a flow's place on, once around the ring, some more than once.
    pub(super) fn walk(&self, flow: u64) -> impl Iterator<Item = usize> + '_ {
        let start = self.points.partition_point(|&(point, _)| point < flow);
        let (before, after) = self.points.split_at(start);
        after.iter().chain(before).map(|&(_, index)| index as usize)
    }
}

impl Balancer for Ring {
    fn pick(&self, request: &Request<'_>, _: &mut State) -> Option<usize> {
        self.walk(request.flow).next()
    }
}

pub(super) const VIRTUAL_NODES: u32 = 100;
/// Not that of Maglev or rendezvous: strategies side by side should not resemble each other.
const SEED: u64 = 2;

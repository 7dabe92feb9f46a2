//! `bounded`: consistent hashing with bounded loads (Mirrokni, Thorup and Zadimoghaddam 2018).

use kbe_nat_engine::Backend;
use kbe_nat_engine::balance::{Balancer, Request, State};

use super::ring::Ring;

/// No backend gets a connection that would lift it above `1 + epsilon` times its share of the
/// connections alive, rounded up; a flow goes on along the ring to the next one with room. O(1 /
/// epsilon^2) points in the mean to pick, and a sum over the backends' loads.
#[derive(Debug)]
pub struct Bounded {
    ring: Ring,
    weights: Vec<u32>,
    total_weight: f64,
    epsilon: f64,
}

impl Bounded {
    /// Over a ring with so many virtual nodes for each unit of weight.
    #[must_use]
    pub fn new(backends: &[Backend], virtual_nodes: u32, epsilon: f64) -> Self {
        let weights: Vec<u32> = backends.iter().map(|backend| backend.weight).collect();
        let total_weight = weights.iter().map(|&weight| f64::from(weight)).sum();
        Self { ring: Ring::new(backends, virtual_nodes), weights, total_weight, epsilon }
    }

    /// Connections that a backend of this weight may have when `total` are alive, the new one
    /// included.
    fn bound(&self, weight: u32, total: f64) -> f64 {
        libm::ceil((1.0 + self.epsilon) * total * f64::from(weight) / self.total_weight)
    }
}

impl Balancer for Bounded {
    fn pick(&self, request: &Request<'_>, _: &mut State) -> Option<usize> {
        let load = |index| f64::from(request.loads.active(index));
        // Connections on drained backends stand beside the bound: the others cannot take them.
        let total = 1.0
            + (0..self.weights.len())
                .filter(|&index| self.weights[index] > 0)
                .map(load)
                .sum::<f64>();
        let mut walk = self.ring.walk(request.flow).peekable();
        let first = walk.peek().copied();
        walk.find(|&index| load(index) + 1.0 <= self.bound(self.weights[index], total)).or(first)
    }
}

pub(super) const EPSILON: f64 = 0.25;

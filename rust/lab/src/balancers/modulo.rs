//! `modulo`: the flow's hash modulo the backends; the strawman of the literature.

use kbe_nat_engine::Backend;
use kbe_nat_engine::balance::{Balancer, Request, State};

use super::units;

/// When the number of backends changes from N to M, a flow stays with a chance of about 1 / max(N,
/// M). O(1) to pick.
#[derive(Debug)]
pub struct Modulo(Vec<u32>);

impl Modulo {
    /// Over units of weight.
    ///
    /// # Errors
    /// In words, when there are too many units.
    pub fn new(backends: &[Backend]) -> Result<Self, String> {
        Ok(Self(units(backends)?.iter().map(|&(index, _)| index as u32).collect()))
    }
}

impl Balancer for Modulo {
    fn pick(&self, request: &Request<'_>, _: &mut State) -> Option<usize> {
        let place = request.flow.checked_rem(self.0.len() as u64)?;
        self.0.get(place as usize).map(|&index| index as usize)
    }

    fn memory_bytes(&self) -> Option<usize> {
        Some(size_of_val(&self.0[..]))
    }
}

//! `lcd`: the least loaded of d backends drawn at random (Mitzenmacher 2001).

use kbe_nat_engine::Backend;
use kbe_nat_engine::balance::{Balancer, Request, State};

/// Draws are even and with replacement; loads compare by weight, and the first of equals wins. With
/// one draw the largest of n loads is about ln n / ln ln n, with d about ln ln n / ln d. O(d) to
/// pick.
#[derive(Debug)]
pub struct LeastOf {
    backends: Vec<(usize, u32)>,
    draws: u32,
}

impl LeastOf {
    /// With so many draws for a choice.
    #[must_use]
    pub fn new(backends: &[Backend], draws: u32) -> Self {
        let weights = backends.iter().map(|backend| backend.weight).enumerate();
        Self { backends: weights.filter(|&(_, weight)| weight > 0).collect(), draws }
    }
}

impl Balancer for LeastOf {
    fn pick(&self, request: &Request<'_>, state: &mut State) -> Option<usize> {
        let count = u32::try_from(self.backends.len()).ok().filter(|&count| count > 0)?;
        let mut best: Option<(usize, u128, u128)> = None;
        for _ in 0..self.draws {
            let (index, weight) = self.backends[state.rng.below(count) as usize];
            let (load, weight) = (u128::from(request.loads.overhead(index)), u128::from(weight));
            // load / weight < least / least_weight, without the division.
            if best.is_none_or(|(_, least, least_weight)| load * least_weight < least * weight) {
                best = Some((index, load, weight));
            }
        }
        best.map(|(index, ..)| index)
    }

    fn memory_bytes(&self) -> Option<usize> {
        Some(size_of_val(&self.backends[..]))
    }
}

pub(super) const DRAWS: u32 = 2;

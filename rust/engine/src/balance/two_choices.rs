//! `p2c`: draw two, take the one with less to do (Mitzenmacher's power of two choices).

use super::draws::Draws;
use super::{Balancer, Request, State};
use crate::backend::Backend;

/// Two different weighted draws, of which the one with fewer live flows per weight wins, or else
/// the first.
///
/// Nearly as even as least connections, at O(log N) to pick, and without the herd that all nodes
/// together send to the one backend that has least.
#[derive(Debug)]
pub struct TwoChoices(Draws);

impl TwoChoices {
    /// Lays the weights end to end.
    #[must_use]
    pub fn new(backends: &[Backend]) -> Self {
        Self(Draws::new(backends))
    }
}

impl Balancer for TwoChoices {
    fn pick(&self, request: &Request<'_>, state: &mut State) -> Option<usize> {
        let (first, second) = self.0.pair(&mut state.rng)?;
        let Some(second) = second else { return Some(first.index) };
        let [here, there] = [first, second].map(|each| request.loads.overhead(each.index));
        let is_second = second.is_lighter(there, first, here);
        Some(if is_second { second.index } else { first.index })
    }

    fn memory_bytes(&self) -> Option<usize> {
        Some(self.0.memory_bytes())
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

//! `peak-ewma`: of two drawn, the one that answers sooner and has less to do (Finagle, linkerd).
//!
//! The latency is a backend's connect time, from the client's SYN to its SYN-ACK, as a decaying
//! peak ([`super::latency`]); its cost is that times its live flows and the new one. A flow counts
//! for less on a backend of more weight than the mean, and idle backends that answer equally soon
//! share by weight. Where either of the two has not answered yet the flows alone decide, as in
//! [`super::TwoChoices`]. So a new backend neither starves nor is flooded, and one that never
//! answers has as many flows as the others. Datagrams have no connect time: for UDP and SCTP this
//! is `p2c`.
//!
//! Latencies are those that this node has measured, so nodes do not agree.

use std::num::NonZeroU32;

use super::draws::Draws;
use super::latency::{DECAY, HalfLife};
use super::{Balancer, Candidate, Loads, Request, State};
use crate::backend::Backend;

/// Two different weighted draws, of which the one that costs less wins, or else the first. O(log N)
/// to pick.
#[derive(Debug)]
pub struct PeakEwma {
    draws: Draws,
    mean_weight: u64,
    half_life: HalfLife,
}

impl PeakEwma {
    /// Milliseconds in which a latency fades to 1/e, unless it is said.
    pub const DECAY: NonZeroU32 = DECAY;

    /// Lays the weights end to end; `decay` is in milliseconds.
    #[must_use]
    pub fn new(backends: &[Backend], decay: Option<NonZeroU32>) -> Self {
        let draws = Draws::new(backends);
        Self { mean_weight: draws.mean_weight(), draws, half_life: HalfLife::of(decay) }
    }

    fn latency(&self, loads: &Loads<'_>, index: usize) -> Option<u32> {
        loads.latency(index).rest(loads.now, self.half_life)
    }
}

impl PeakEwma {
    /// Latency times one and the flows, each of which counts for the mean weight by its own; before
    /// the division by weight.
    fn cost(&self, loads: &Loads<'_>, candidate: &Candidate, latency: u32) -> u128 {
        let flows = u128::from(loads.active(candidate.index)) * u128::from(self.mean_weight);
        u128::from(latency).saturating_mul(u128::from(candidate.weight) + flows)
    }
}

impl Balancer for PeakEwma {
    fn pick(&self, request: &Request<'_>, state: &mut State) -> Option<usize> {
        let (first, second) = self.draws.pair(&mut state.rng)?;
        let Some(second) = second else { return Some(first.index) };
        let loads = &request.loads;
        let latencies = [first, second].map(|candidate| self.latency(loads, candidate.index));
        let is_second = if let [Some(here), Some(there)] = latencies {
            // cost / weight < other / other weight, without the division.
            let crosswise = |cost: u128, weight| cost.saturating_mul(u128::from(weight));
            crosswise(self.cost(loads, second, there), first.weight)
                < crosswise(self.cost(loads, first, here), second.weight)
        } else {
            let [here, there] = [first, second].map(|each| loads.overhead(each.index));
            second.is_lighter(there, first, here)
        };
        Some(if is_second { second.index } else { first.index })
    }

    fn reason(&self, request: &Request<'_>, index: usize) -> Option<String> {
        let flows = request.loads.active(index);
        Some(match self.latency(&request.loads, index) {
            Some(nanoseconds) => {
                let milliseconds = f64::from(nanoseconds) / 1e6;
                format!(
                    "of two drawn; its connect time counts for {milliseconds:.3} ms, and it has \
                     {flows} connections"
                )
            }
            None => {
                format!("of two drawn; it has {flows} connections, and no connect time is known")
            }
        })
    }

    fn memory_bytes(&self) -> Option<usize> {
        Some(self.draws.memory_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::balance::fixture::{assert_shares, backends, loads, request, tally};
    use crate::balance::latency::Latency;
    use crate::clock::ticks;

    /// Latencies in milliseconds that were noted at the start; 0: none.
    fn latencies(milliseconds: &[u64]) -> Vec<Latency> {
        let note = |&milliseconds: &u64| match milliseconds {
            0 => Latency::default(),
            _ => Latency::default().note(milliseconds * 1_000_000, 0, HalfLife::of(None)),
        };
        milliseconds.iter().map(note).collect()
    }

    fn shares(milliseconds: &[u64], counts: &[u32], seconds: f64) -> Vec<u32> {
        let balancer = PeakEwma::new(&backends(&vec![1; counts.len()]), None);
        let latencies = latencies(milliseconds);
        let loads = Loads { latencies: &latencies, now: ticks(seconds), ..loads(counts) };
        let (mut state, mut shares) = (State::new(1), vec![0; counts.len()]);
        for _ in 0..1000 {
            shares[balancer.pick(&request(0, loads), &mut state).unwrap()] += 1;
        }
        shares
    }

    #[test]
    fn f67_idle_shares_follow_weights() {
        for weights in [&[1, 2, 7][..], &[5], &[0, 3, 0, 1]] {
            let balancer = PeakEwma::new(&backends(weights), None);
            assert_shares(&tally(&balancer, weights.len(), 1_000_000), weights);
        }
    }

    #[test]
    fn the_slow_one_is_never_taken_before_the_others() {
        let shares = shares(&[1, 60, 1, 1], &[0; 4], 0.0);
        assert_eq!(shares[1], 0, "{shares:?}");
    }

    /// 60 ms are worth 60 flows at 1 ms each.
    #[test]
    fn flows_weigh_against_latency() {
        assert_eq!(shares(&[1, 60], &[58, 0], 0.0), [1000, 0]);
        assert_eq!(shares(&[1, 60], &[60, 0], 0.0), [0, 1000]);
        let balancer = PeakEwma::new(&backends(&[100, 1]), None);
        let latencies = latencies(&[60, 1]);
        let pick = |flows: u32| {
            let counts = [flows; 2];
            let loads = Loads { latencies: &latencies, ..loads(&counts) };
            balancer.pick(&request(0, loads), &mut State::new(0))
        };
        // A flow counts for 50 / 100, or for 50: 60 * (1 + flows / 2) against 1 + 50 * flows.
        assert_eq!([0, 2, 4].map(pick), [Some(1), Some(1), Some(0)]);
    }

    #[test]
    fn without_an_answer_flows_alone_decide() {
        assert_eq!(shares(&[60, 0], &[0, 1], 0.0), [1000, 0]);
        assert_eq!(shares(&[60, 0], &[1, 0], 0.0), [0, 1000]);
        assert_eq!(shares(&[0, 0], &[1, 0], 0.0), [0, 1000]);
    }

    /// The others were heard of meanwhile.
    #[test]
    fn the_slow_one_is_tried_again() {
        let balancer = PeakEwma::new(&backends(&[1, 1]), None);
        let half_life = HalfLife::of(None);
        let pick = |seconds: f64| {
            let slow = Latency::default().note(60_000_000, 0, half_life);
            let fast = Latency::default().note(1_000_000, ticks(seconds), half_life);
            let latencies = [slow, fast];
            let loads = Loads { latencies: &latencies, now: ticks(seconds), ..loads(&[0, 0]) };
            balancer.pick(&request(0, loads), &mut State::new(0))
        };
        // ln 60 is 4.1.
        assert_eq!((pick(40.0), pick(42.0)), (Some(1), Some(0)));
    }

    #[test]
    fn it_says_why() {
        let balancer = PeakEwma::new(&backends(&[1, 1]), None);
        let latencies = latencies(&[3, 0]);
        let loads = Loads { latencies: &latencies, ..loads(&[2, 1]) };
        let reason = |index| balancer.reason(&request(0, loads), index).unwrap();
        let measured =
            "of two drawn; its connect time counts for 3.000 ms, and it has 2 connections";
        assert_eq!(reason(0), measured);
        assert!(reason(1).ends_with("no connect time is known"));
    }
}

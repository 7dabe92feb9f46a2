//! `rendezvous`: consistent hashing by highest random weight (Thaler and Ravishankar 1998).

use super::logarithm::{at_least, last_equal, neg_log2};
use super::{Balancer, Request, State, candidates_by_address, stable_hash_endpoint};
use crate::backend::Backend;
use crate::rng::mix64;

/// Each backend draws a lot from its address and the flow's hash; the best one wins.
///
/// Disruption is the least there can be: when a backend leaves only its flows move, and when its
/// weight changes flows move only to or from it. O(N) to pick, some nanoseconds per backend.
#[derive(Debug)]
pub struct Rendezvous {
    /// In the order of addresses, so that the winner among equal lots is the same on every node.
    contenders: Vec<Contender>,
    /// Whether all have one weight, so that lots compare without their logarithms.
    is_even: bool,
}

#[derive(Debug)]
struct Contender {
    index: usize,
    weight: u32,
    key: u64,
}

impl Contender {
    /// Whether `time` here, relative to weight, is before `other_time` of `other`.
    #[inline]
    fn is_earlier(&self, time: u64, other: &Self, other_time: u64) -> bool {
        u128::from(time) * u128::from(other.weight)
            < u128::from(other_time) * u128::from(self.weight)
    }
}

impl Rendezvous {
    /// Gives each backend with weight its key.
    #[must_use]
    pub fn new(backends: &[Backend]) -> Self {
        let contenders: Vec<Contender> = (candidates_by_address(backends).iter())
            .map(|candidate| Contender {
                index: candidate.index,
                weight: candidate.weight,
                key: stable_hash_endpoint(backends[candidate.index].address, SEED),
            })
            .collect();
        let is_even = contenders.windows(2).all(|pair| pair[0].weight == pair[1].weight);
        Self { contenders, is_even }
    }

    /// The winner for a stable hash.
    ///
    /// With `u` even in (0, 1), `-ln(u) / weight` is the time to the first event at rate `weight`,
    /// and the first among several such clocks is each with probability in proportion to its rate.
    /// The base of the logarithm does not matter, and comparing crosswise saves the division. Most
    /// contenders are late by [`at_least`] already, and need no logarithm.
    pub(super) fn winner(&self, hash: u64) -> Option<usize> {
        if self.is_even {
            return self.highest(hash);
        }
        let (mut first, others) = self.contenders.split_first()?;
        let mut earliest = neg_log2(mix64(hash ^ first.key));
        for contender in others {
            let lot = mix64(hash ^ contender.key);
            if contender.is_earlier(at_least(lot), first, earliest) {
                let time = neg_log2(lot);
                if contender.is_earlier(time, first, earliest) {
                    (first, earliest) = (contender, time);
                }
            }
        }
        Some(first.index)
    }

    /// The winner among equal weights: the first of those whose lots have the least logarithm.
    fn highest(&self, hash: u64) -> Option<usize> {
        let (mut first, others) = self.contenders.split_first()?;
        let mut equal = last_equal(mix64(hash ^ first.key));
        for contender in others {
            let lot = mix64(hash ^ contender.key);
            if lot > equal {
                (first, equal) = (contender, last_equal(lot));
            }
        }
        Some(first.index)
    }
}

impl Balancer for Rendezvous {
    fn pick(&self, request: &Request<'_>, _: &mut State) -> Option<usize> {
        self.winner(request.flow)
    }

    fn memory_bytes(&self) -> Option<usize> {
        Some(size_of_val(&self.contenders[..]))
    }
}

/// Part of the agreement between nodes, as the hash functions are. Not the seed of the Maglev
/// tables, for no reason but that two strategies side by side should not resemble each other.
const SEED: u64 = 1;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::balance::fixture::{assert_shares, backends, tally};

    fn hashes() -> impl Iterator<Item = u64> {
        (0..50_000).map(|flow| mix64(flow + 1))
    }

    #[test]
    fn f67_shares_follow_weights() {
        for weights in [&[1, 2, 7][..], &[1, 1, 1], &[5], &[0, 3, 0, 1], &[1000, 1, 0, 999]] {
            assert_shares(
                &tally(&Rendezvous::new(&backends(weights)), weights.len(), 1_000_000),
                weights,
            );
        }
    }

    /// The bound that saves logarithms changes no winner.
    #[test]
    fn the_earliest_of_all_times_wins() {
        for weights in [&[1; 16][..], &[1, 2, 7], &[u32::MAX, 1, u32::MAX / 3, 9], &[5]] {
            let balancer = Rendezvous::new(&backends(weights));
            for hash in hashes() {
                let time = |contender: &Contender| {
                    (neg_log2(mix64(hash ^ contender.key)), contender.weight)
                };
                let earliest = balancer.contenders.iter().reduce(|first, next| {
                    let ((earliest, weight), (other, other_weight)) = (time(first), time(next));
                    let is_before = u128::from(other) * u128::from(weight)
                        < u128::from(earliest) * u128::from(other_weight);
                    if is_before { next } else { first }
                });
                assert_eq!(balancer.winner(hash), earliest.map(|first| first.index));
            }
        }
    }

    #[test]
    fn only_flows_of_the_leaver_move() {
        let mut list = backends(&[1, 2, 7, u32::MAX / 1000, 3]);
        let before = Rendezvous::new(&list);
        for leaver in 0..list.len() {
            let weight = std::mem::take(&mut list[leaver].weight);
            let after = Rendezvous::new(&list);
            for hash in hashes() {
                let (old, new) = (before.winner(hash), after.winner(hash));
                assert!(old == new || old == Some(leaver));
            }
            list[leaver].weight = weight;
        }
    }

    #[test]
    fn a_change_of_weight_moves_flows_one_way() {
        let before = Rendezvous::new(&backends(&[1, 2, 7]));
        let after = Rendezvous::new(&backends(&[1, 3, 7]));
        assert!(hashes().all(|hash| {
            let new = after.winner(hash);
            new == before.winner(hash) || new == Some(1)
        }));
    }

    #[test]
    fn order_does_not_matter() {
        let list = backends(&[3, 1, 0, 1, 2]);
        let reversed: Vec<Backend> = list.iter().rev().copied().collect();
        let (one, other) = (Rendezvous::new(&list), Rendezvous::new(&reversed));
        assert!(
            hashes()
                .all(|hash| one.winner(hash)
                    == other.winner(hash).map(|index| list.len() - 1 - index))
        );
    }
}

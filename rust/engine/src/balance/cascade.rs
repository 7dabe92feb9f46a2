//! `cascade`: the chain of `statistic --mode random --probability p` rules that kube-proxy writes
//! for iptables.
//!
//! Rule after rule is tried until one matches; the last one has no condition. The chain is played
//! rule by rule, a draw for each, as the kernel does: O(N) to pick, N / 2 draws on average. Its
//! purpose is comparison: [`super::Random`] has the same shares in one draw.

use super::{Balancer, Request, State, candidates};
use crate::backend::Backend;

/// kube-proxy's random choice, with its probabilities to the last bit; weights generalise them.
#[derive(Debug)]
pub struct Cascade {
    /// One per rule but the last: the rule matches a random number of 31 bits that is smaller.
    thresholds: Vec<u32>,
    /// The backend of each rule, by position.
    targets: Vec<usize>,
}

impl Cascade {
    /// Writes the rules. Backends without weight get none.
    #[must_use]
    pub fn new(backends: &[Backend]) -> Self {
        let candidates = candidates(backends);
        let mut rest: u64 = candidates.iter().map(|candidate| u64::from(candidate.weight)).sum();
        let mut thresholds = Vec::with_capacity(candidates.len().saturating_sub(1));
        for candidate in candidates.split_last().map_or(&[][..], |(_, conditional)| conditional) {
            thresholds.push(threshold(candidate.weight, rest));
            rest -= u64::from(candidate.weight);
        }
        let targets = candidates.iter().map(|candidate| candidate.index).collect();
        Self { thresholds, targets }
    }

    /// The thresholds of the rules in order, without the last rule, which is unconditional. Divided
    /// by 2^31 they are the probabilities that `iptables-save` prints.
    #[must_use]
    pub fn thresholds(&self) -> &[u32] {
        &self.thresholds
    }
}

impl Balancer for Cascade {
    fn pick(&self, _: &Request<'_>, state: &mut State) -> Option<usize> {
        let conditional = self.thresholds.iter();
        let matching =
            conditional.take_while(|&&threshold| (state.rng.next_u64() >> 33) as u32 >= threshold);
        self.targets.get(matching.count()).copied()
    }

    fn memory_bytes(&self) -> Option<usize> {
        Some(size_of_val(&self.thresholds[..]) + size_of_val(&self.targets[..]))
    }
}

/// The number that the kernel holds for probability `weight / rest`: kube-proxy writes it with
/// `%0.10f` and iptables reads that text into `lround(p * 2^31)`. Going through the text is the
/// point: every rounding happens where theirs does. (Division and conversion are exact to the last
/// bit by IEEE 754, so this is as portable as integers.)
fn threshold(weight: u32, rest: u64) -> u32 {
    let text = format!("{:.10}", f64::from(weight) / rest as f64);
    // Invariant: text was printed from a number. 0 would only mean a rule that never matches.
    let probability: f64 = text.parse().unwrap_or(0.0);
    (probability * f64::from(1u32 << 31)).round() as u32
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::balance::fixture::{assert_shares, backends, chi_square, tally};

    fn print(threshold: u32) -> String {
        format!("{:.11}", f64::from(threshold) / f64::from(1u32 << 31))
    }

    /// The probability that `iptables-save` shows for the first of n endpoints.
    #[test]
    fn probabilities_are_those_of_kube_proxy() {
        for (count, expected) in [
            (2, "0.50000000000"),
            (3, "0.33333333349"),
            (5, "0.20000000019"),
            (6, "0.16666666651"),
            (7, "0.14285714272"),
            (10, "0.10000000009"),
        ] {
            let cascade = Cascade::new(&backends(&vec![1; count]));
            assert_eq!(print(cascade.thresholds()[0]), expected, "1 of {count}");
            assert_eq!(cascade.thresholds().len(), count - 1);
            assert_eq!(cascade.thresholds()[count - 2], 1 << 30);
        }
    }

    /// Texts as C and Go print them: exact ties go to the even digit.
    #[test]
    fn text_rounds_as_printf() {
        assert_eq!(threshold(1, 2048), (0.0004882812 * 2f64.powi(31)).round() as u32);
        assert_eq!(threshold(1, 100_001), (0.0000099999 * 2f64.powi(31)).round() as u32);
        assert_eq!(threshold(u32::MAX, u64::from(u32::MAX)), 1 << 31);
    }

    /// The chance of each rule is its own threshold after all earlier ones failed.
    #[test]
    fn picks_follow_the_analytic_distribution() {
        for weights in [&[1, 1, 1][..], &[1, 2, 7], &[3, 0, 1, 1, 5, 1, 2]] {
            let cascade = Cascade::new(&backends(weights));
            let mut expected = vec![0.0; weights.len()];
            let mut reached = 1.0;
            for (rule, &target) in cascade.targets.iter().enumerate() {
                let p = cascade.thresholds.get(rule).map_or(1.0, |&t| f64::from(t) / 2f64.powi(31));
                expected[target] = reached * p;
                reached *= 1.0 - p;
            }
            chi_square(&tally(&cascade, weights.len(), 1_000_000), &expected);
        }
    }

    #[test]
    fn f67_shares_follow_weights() {
        for weights in [&[1, 2, 7][..], &[5], &[0, 3, 0, 1]] {
            assert_shares(
                &tally(&Cascade::new(&backends(weights)), weights.len(), 1_000_000),
                weights,
            );
        }
    }

    #[test]
    fn a_single_backend_takes_no_draw() {
        let cascade = Cascade::new(&backends(&[0, 4]));
        assert!(cascade.thresholds().is_empty());
        assert_eq!(tally(&cascade, 2, 10), [0, 10]);
    }
}

//! `random`: every new flow is an independent weighted draw, as with nftables' `numgen random`.

use super::{Balancer, Request, State};
use crate::backend::Backend;

/// Weighted random choice by Vose's alias method: O(N) to build, O(1) and one draw to pick.
///
/// Shares are exact to 2^-32: of weights 1 and `u32::MAX` the first still gets its turn.
#[derive(Debug)]
pub struct Random {
    /// One column per backend, all equally likely.
    columns: Vec<Column>,
}

/// A column belongs to its own backend up to `keep` of 2^32, and to `alias` above.
#[derive(Clone, Copy, Debug)]
struct Column {
    keep: u32,
    alias: u32,
}

impl Random {
    /// Builds the columns for these weights.
    #[must_use]
    pub fn new(backends: &[Backend]) -> Self {
        let total: u64 = backends.iter().map(|backend| u64::from(backend.weight)).sum();
        if total == 0 {
            return Self { columns: Vec::new() };
        }
        // In units of 1 / N of a weight, a column holds `total`, and what is left to place is
        // always a whole number of columns: the integers come out even.
        let count = backends.len() as u64;
        let mut rest: Vec<u64> =
            backends.iter().map(|backend| u64::from(backend.weight) * count).collect();
        let mut columns: Vec<Column> = (0..backends.len() as u32)
            .map(|index| Column { keep: u32::MAX, alias: index })
            .collect();
        let (mut small, mut large): (Vec<usize>, Vec<usize>) =
            (0..backends.len()).partition(|&index| rest[index] < total);
        while let (Some(poor), Some(&rich)) = (small.pop(), large.last()) {
            columns[poor] = Column {
                keep: ((u128::from(rest[poor]) << 32) / u128::from(total)) as u32,
                alias: rich as u32,
            };
            rest[rich] -= total - rest[poor];
            if rest[rich] < total {
                small.extend(large.pop());
            }
        }
        Self { columns }
    }
}

impl Balancer for Random {
    fn pick(&self, _: &Request<'_>, state: &mut State) -> Option<usize> {
        let draw = state.rng.next_u64();
        let (high, low) = (draw >> 32, draw as u32);
        let index = ((high * self.columns.len() as u64) >> 32) as usize;
        let column = self.columns.get(index)?;
        Some(if low < column.keep { index } else { column.alias as usize })
    }

    fn memory_bytes(&self) -> Option<usize> {
        Some(size_of_val(&self.columns[..]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::balance::fixture::{assert_shares, backends, tally};

    #[test]
    fn f67_shares_follow_weights() {
        for weights in [&[1, 2, 7][..], &[1, 1, 1], &[5], &[0, 3, 0, 1], &[100, 1, 1, 1, 1, 1, 1]] {
            let balancer = Random::new(&backends(weights));
            assert_shares(&tally(&balancer, weights.len(), 1_000_000), weights);
        }
    }

    /// The columns add up to the weights: `keep` and `alias` hand out the shares that the
    /// weights ask for, to 2^-32 per column.
    #[test]
    fn columns_hold_the_exact_shares() {
        for weights in [&[1, 2, 7][..], &[u32::MAX, 1, 0, u32::MAX], &[3, 1, 4, 1, 5, 9, 2, 6]] {
            let columns = Random::new(&backends(weights)).columns;
            let mut shares = vec![0u64; weights.len()];
            for (index, column) in columns.iter().enumerate() {
                shares[index] += u64::from(column.keep);
                shares[column.alias as usize] += (1 << 32) - u64::from(column.keep);
            }
            let total: u64 = weights.iter().map(|&weight| u64::from(weight)).sum();
            for (share, &weight) in shares.iter().zip(weights) {
                let exact = (u128::from(weight) * weights.len() as u128) << 32;
                let error = exact.abs_diff(u128::from(*share) * u128::from(total));
                assert!(
                    error <= u128::from(total) * weights.len() as u128,
                    "{weights:?}: {shares:?}"
                );
            }
        }
    }
}

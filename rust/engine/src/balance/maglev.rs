//! `mh`: consistent hashing by lookup table (Eisenbud et al., "Maglev", NSDI 2016, section 3.4).
//!
//! Nodes with the same backends build the same table, so a flow that moves to another node, or a
//! node that lost its flow table, meets the same backend. It picks in O(1), where
//! [`super::Rendezvous`] takes O(N).
//!
//! The price is that when a backend leaves, slots of others move as well. With the default size,
//! all that move are 1.2 times its own slots for 10 backends, 2.4 times for 100 and 4.2 times for
//! 1000 (0.4 % of the table): a backend that claims a slot early leaves its last one to others,
//! which in the last rounds all step aside for each other. The surplus shrinks with the root of the
//! table's size.

use super::{Balancer, Candidate, Request, State, candidates_by_address, stable_hash_endpoint};
use crate::backend::Backend;
use crate::rng::{mix64, scale};

/// A table of slots, each owned by a backend; a flow's hash picks the slot.
///
/// Building is O(M log M) for M slots, however large the weights. Memory is 2 bytes per slot, 4
/// from 65,536 backends on.
#[derive(Debug)]
pub struct Maglev {
    slots: Slots,
}

/// Why a table cannot have the size that was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SizeError {
    /// Only in a table of prime size does every permutation reach every slot.
    #[error("Maglev table size {size} is not prime")]
    NotPrime {
        /// The size that was asked for.
        size: u32,
    },
    /// Some backends would get no slot.
    #[error("Maglev table size {size} is less than the number of backends with weight, {backends}")]
    TooSmall {
        /// The size that was asked for, or the largest there is.
        size: u32,
        /// Backends with weight.
        backends: usize,
    },
    /// Refused to keep memory bounded.
    #[error("Maglev table size {size} is more than {}", Maglev::MAX_SIZE)]
    TooLarge {
        /// The size that was asked for.
        size: u32,
    },
}

/// Positions of backends, as narrow as they fit: the table is read once per flow, at random, and
/// should stay in cache.
#[derive(Debug)]
enum Slots {
    Narrow(Box<[u16]>),
    Wide(Box<[u32]>),
}

impl Maglev {
    /// The largest table: the last prime below 2^22, 16 MiB and about half a second to build.
    pub const MAX_SIZE: u32 = 4_194_301;

    /// Builds the table. `size` must be a prime not above [`Maglev::MAX_SIZE`]; without one it is
    /// chosen to keep imbalance within 1 %.
    ///
    /// # Errors
    ///
    /// [`SizeError`] if `size` is not such a prime, or smaller than the number of backends with
    /// weight.
    pub fn new(backends: &[Backend], size: Option<u32>) -> Result<Self, SizeError> {
        let candidates = candidates_by_address(backends);
        let size = match size {
            None => default_size(candidates.len()),
            Some(size) if size > Self::MAX_SIZE => return Err(SizeError::TooLarge { size }),
            Some(size) if !is_prime(size) => return Err(SizeError::NotPrime { size }),
            Some(size) => size,
        };
        if candidates.len() > size as usize {
            return Err(SizeError::TooSmall { size, backends: candidates.len() });
        }
        let key = |index: usize| stable_hash_endpoint(backends[index].address, SEED);
        let table = fill(&candidates, key, size);
        let slots = if backends.len() <= usize::from(u16::MAX) {
            Slots::Narrow(table.iter().map(|&index| index as u16).collect())
        } else {
            Slots::Wide(table.into())
        };
        Ok(Self { slots })
    }

    /// The owner of each slot, by position in the list of backends; empty if none has weight.
    pub fn slots(&self) -> impl Iterator<Item = usize> + '_ {
        (0..self.size()).filter_map(|slot| self.owner(slot))
    }

    fn size(&self) -> usize {
        match &self.slots {
            Slots::Narrow(slots) => slots.len(),
            Slots::Wide(slots) => slots.len(),
        }
    }

    fn owner(&self, slot: usize) -> Option<usize> {
        match &self.slots {
            Slots::Narrow(slots) => slots.get(slot).map(|&index| usize::from(index)),
            Slots::Wide(slots) => slots.get(slot).map(|&index| index as usize),
        }
    }
}

impl Balancer for Maglev {
    fn pick(&self, request: &Request<'_>, _: &mut State) -> Option<usize> {
        self.owner(scale(request.flow, self.size() as u64) as usize)
    }

    fn memory_bytes(&self) -> Option<usize> {
        Some(match &self.slots {
            Slots::Narrow(slots) => size_of_val(&slots[..]),
            Slots::Wide(slots) => size_of_val(&slots[..]),
        })
    }
}

/// The first size of the ladder with 100 slots for each backend, as the paper advises.
///
/// Another size is another table altogether, in which every flow moves, so sizes are few: a Service
/// that grows one by one meets a new one at 21, 164, 656 and 6,554 backends. A table that kept its
/// size as backends come and go would move none, but then nodes that saw another history would
/// disagree. The first size keeps 10,000 Services within 41 MB.
fn default_size(backends: usize) -> u32 {
    let is_enough = |size: &u32| *size as usize / 100 >= backends;
    SIZES.into_iter().find(is_enough).unwrap_or(Maglev::MAX_SIZE)
}

/// Primes; the paper has the third and the fourth.
const SIZES: [u32; 4] = [2_039, 16_381, 65_537, 655_373];

/// By trial division: 1,000 steps at most, for numbers up to [`Maglev::MAX_SIZE`].
fn is_prime(number: u32) -> bool {
    let mut divisors = (2..).take_while(|divisor| divisor * divisor <= number);
    number >= 2 && divisors.all(|divisor| !number.is_multiple_of(divisor))
}

/// A backend's walk through its permutation of the slots, and the turns it has saved up.
struct Walk {
    index: u32,
    weight: u64,
    credit: u64,
    slot: u32,
    skip: u32,
}

/// Lets the backends claim slots in turn, each the next free one of its permutation, until none is
/// free.
///
/// A round has N turns on average, and gives each backend its share of them by weight, with the
/// fraction carried over to the next round. Equal weights thus have one turn each, as in the paper.
/// (`weight` turns per round, the usual extension, would let one backend of weight 1000 fill the
/// table before the next has a turn.) Half a turn of credit at the start makes shares round to the
/// nearest slot; less than half a slot may be none.
fn fill(candidates: &[Candidate], key: impl Fn(usize) -> u64, size: u32) -> Vec<u32> {
    let count = candidates.len() as u64;
    let total: u64 = candidates.iter().map(|candidate| u64::from(candidate.weight)).sum();
    let mut walks: Vec<Walk> = (candidates.iter())
        .map(|candidate| {
            let key = key(candidate.index);
            Walk {
                index: candidate.index as u32,
                weight: u64::from(candidate.weight),
                credit: total / 2,
                slot: scale(key, u64::from(size)) as u32,
                skip: 1 + scale(mix64(!key), u64::from(size - 1)) as u32,
            }
        })
        .collect();
    if walks.is_empty() {
        return Vec::new();
    }
    let mut table = vec![0; size as usize];
    let mut slots = Taken::of(size);
    let mut free = size;
    loop {
        for walk in &mut walks {
            walk.credit += walk.weight * count;
            while walk.credit >= total {
                walk.credit -= total;
                table[walk.claim(&mut slots)] = walk.index;
                free -= 1;
                if free == 0 {
                    return table;
                }
            }
        }
    }
}

impl Walk {
    /// Takes the next free slot. There is one ahead while any is free: slots behind were taken when
    /// this walk met them.
    fn claim(&mut self, slots: &mut Taken) -> usize {
        loop {
            let slot = self.slot;
            self.slot += self.skip;
            if self.slot >= slots.size {
                self.slot -= slots.size;
            }
            if slots.take(slot) {
                return slot as usize;
            }
        }
    }
}

/// Which slots have an owner, as one bit each. The last slots are found by millions of looks at
/// random places: these stay in the processor's cache, where a table of owners would not.
struct Taken {
    bits: Vec<u64>,
    size: u32,
}

impl Taken {
    fn of(size: u32) -> Self {
        Self { bits: vec![0; size.div_ceil(u64::BITS) as usize], size }
    }

    /// Whether the slot was free; now it is not.
    fn take(&mut self, slot: u32) -> bool {
        let word = &mut self.bits[(slot / u64::BITS) as usize];
        let bit = 1 << (slot % u64::BITS);
        let was_free = *word & bit == 0;
        *word |= bit;
        was_free
    }
}

/// Part of the agreement between nodes, as the hash functions are.
const SEED: u64 = 0;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::balance::fixture::{assert_shares, backends, tally};
    use std::net::SocketAddr;

    fn owners(backends: &[Backend], size: Option<u32>) -> Vec<SocketAddr> {
        let maglev = Maglev::new(backends, size).unwrap();
        maglev.slots().map(|index| backends[index].address).collect()
    }

    fn slot_counts(weights: &[u32], size: Option<u32>) -> Vec<u32> {
        let mut counts = vec![0; weights.len()];
        for index in Maglev::new(&backends(weights), size).unwrap().slots() {
            counts[index] += 1;
        }
        counts
    }

    #[test]
    fn default_sizes_are_primes_that_stay() {
        for (backends, expected) in [
            (0, SIZES[0]),
            (1, SIZES[0]),
            (20, SIZES[0]),
            (21, SIZES[1]),
            (163, SIZES[1]),
            (164, SIZES[2]),
            (655, SIZES[2]),
            (656, SIZES[3]),
            (6_553, SIZES[3]),
            (6_554, Maglev::MAX_SIZE),
            (usize::MAX, Maglev::MAX_SIZE),
        ] {
            assert_eq!(default_size(backends), expected, "{backends}");
        }
        assert!(SIZES.into_iter().chain([Maglev::MAX_SIZE]).all(is_prime));
        assert_eq!(
            (0..20).filter(|&n| is_prime(n)).collect::<Vec<_>>(),
            [2, 3, 5, 7, 11, 13, 17, 19]
        );
    }

    #[test]
    fn sizes_are_checked() {
        let three = backends(&[1, 1, 0, 1]);
        for (size, expected) in [
            (0, SizeError::NotPrime { size: 0 }),
            (1, SizeError::NotPrime { size: 1 }),
            (1000, SizeError::NotPrime { size: 1000 }),
            (2, SizeError::TooSmall { size: 2, backends: 3 }),
            (4_194_319, SizeError::TooLarge { size: 4_194_319 }),
            (u32::MAX, SizeError::TooLarge { size: u32::MAX }),
        ] {
            assert_eq!(Maglev::new(&three, Some(size)).unwrap_err(), expected);
        }
        assert_eq!(slot_counts(&[1, 1, 0, 1], Some(3)), [1, 1, 0, 1]);
        assert_eq!(slot_counts(&[1], Some(2)), [2]);
    }

    #[test]
    fn balance_is_within_one_percent() {
        for count in [3, 10, 100, 1000] {
            let counts = slot_counts(&vec![1; count], None);
            let mean = f64::from(counts.iter().sum::<u32>()) / count as f64;
            let max = f64::from(*counts.iter().max().unwrap());
            assert!(max / mean <= 1.01, "{count}: {max} / {mean}");
        }
    }

    #[test]
    fn slots_follow_weights() {
        for weights in [
            &[1, 2, 7][..],
            &[1000, 1001, 1003],
            &[u32::MAX, 0, u32::MAX / 2, 1],
            &[50, 1, 1, 1, 1, 1],
        ] {
            let counts = slot_counts(weights, None);
            let total: f64 = weights.iter().map(|&weight| f64::from(weight)).sum();
            let size = f64::from(counts.iter().sum::<u32>());
            for (&count, &weight) in counts.iter().zip(weights) {
                let exact = size * f64::from(weight) / total;
                assert!(
                    (f64::from(count) - exact).abs() <= 1.0 + exact * 0.01,
                    "{weights:?}: {counts:?}"
                );
                assert!(weight > 0 || count == 0);
            }
        }
    }

    #[test]
    fn f67_flows_follow_slots() {
        for weights in [&[1, 2, 7][..], &[5], &[0, 3, 0, 1]] {
            let backends = backends(weights);
            let counts = slot_counts(weights, Some(65_537));
            let balancer = Maglev::new(&backends, Some(65_537)).unwrap();
            assert_shares(&tally(&balancer, weights.len(), 1_000_000), &counts);
        }
    }

    /// One more backend comes: how many slots move, in multiples of those that it gets. Where the
    /// size changes nearly all do.
    #[test]
    fn growth_by_one_moves_few() {
        let numbers = (1..20).chain((21..163).step_by(20)).chain([163, 164, 300, 500, 654]);
        for count in numbers.filter(|&count| default_size(count) == default_size(count + 1)) {
            let all = backends(&vec![1; count + 1]);
            let (before, after) = (owners(&all[..count], None), owners(&all, None));
            let moved = before.iter().zip(&after).filter(|(old, new)| old != new).count();
            let gained = after.iter().filter(|&&owner| owner == all[count].address).count();
            let ratio = moved as f64 / gained as f64;
            let limit = [1.7, 3.6, 6.5][(count > 20) as usize + (count > 163) as usize];
            assert!(ratio <= limit, "{count}: {ratio}");
        }
    }

    /// One of N backends leaves: how many slots move, in multiples of its own.
    #[test]
    fn disruption_is_small() {
        for (count, size, limit) in [
            (3, default_size(3), 1.5),
            (10, default_size(10), 1.5),
            (20, default_size(20), 1.6),
            (100, default_size(100), 2.5),
            (100, 65_537, 2.0),
            (1000, default_size(1000), 4.5),
        ] {
            let all = backends(&vec![1; count]);
            let before = owners(&all, Some(size));
            let (mut moved, mut orphans) = (0, 0);
            for leaver in (0..count).step_by(count.div_ceil(5)) {
                let mut rest = all.clone();
                let removed = rest.remove(leaver).address;
                let after = owners(&rest, Some(size));
                moved += before.iter().zip(&after).filter(|(old, new)| old != new).count();
                orphans += before.iter().filter(|&&owner| owner == removed).count();
            }
            let ratio = moved as f64 / orphans as f64;
            assert!(ratio <= limit, "{count} backends, {size} slots: {ratio}");
        }
    }

    #[test]
    fn duplicates_are_one_backend() {
        let mut doubled = backends(&[1, 1, 1]);
        doubled.push(doubled[0]);
        let merged = backends(&[2, 1, 1]);
        assert_eq!(owners(&doubled, Some(401)), owners(&merged, Some(401)));
        // Thousands of them are no more work than one.
        assert_eq!(owners(&vec![doubled[0]; 30_000], None).len(), SIZES[0] as usize);
    }

    #[test]
    fn order_does_not_matter() {
        let mut list = backends(&[3, 1, 0, 1, 2, 2, 1]);
        let before = owners(&list, None);
        list.reverse();
        assert_eq!(owners(&list, None), before);
        list.swap(1, 4);
        assert_eq!(owners(&list, None), before);
    }

    #[test]
    fn wide_tables_reach_every_position() {
        let mut weights = vec![0; 70_000];
        weights[69_999] = 1;
        weights[3] = 1;
        let maglev = Maglev::new(&backends(&weights), None).unwrap();
        assert!(matches!(maglev.slots, Slots::Wide(_)));
        assert!(maglev.slots().all(|index| index == 3 || index == 69_999));
    }
}

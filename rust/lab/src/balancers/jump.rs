//! `jump`: jump consistent hash (Lamping and Veach 2014).

use kbe_nat_engine::Backend;
use kbe_nat_engine::balance::{Balancer, Request, State};

use super::units;

/// Even to the limit and without a table. Buckets are numbered, so only the last one may come or
/// leave with the least moves: a backend in the middle of the addresses renumbers those behind it.
/// O(log N) to pick.
#[derive(Debug)]
pub struct Jump(Vec<u32>);

impl Jump {
    /// A bucket for each unit of weight.
    ///
    /// # Errors
    /// In words, when there are too many units.
    pub fn new(backends: &[Backend]) -> Result<Self, String> {
        Ok(Self(units(backends)?.iter().map(|&(index, _)| index as u32).collect()))
    }
}

impl Balancer for Jump {
    fn pick(&self, request: &Request<'_>, _: &mut State) -> Option<usize> {
        let bucket = bucket(request.flow, self.0.len() as u64)?;
        self.0.get(bucket as usize).map(|&index| index as usize)
    }

    fn memory_bytes(&self) -> Option<usize> {
        Some(size_of_val(&self.0[..]))
    }
}

/// Where the paper's function puts a key among `count` buckets.
fn bucket(mut key: u64, count: u64) -> Option<u64> {
    let (mut bucket, mut next) = (None, 0);
    while next < count {
        bucket = Some(next);
        key = key.wrapping_mul(2_862_933_555_777_941_757).wrapping_add(1);
        let draw = ((key >> 33) + 1) as f64;
        next = ((next + 1) as f64 * ((1u64 << 31) as f64 / draw)) as u64;
    }
    bucket
}

#[cfg(test)]
mod tests {
    use super::bucket;

    /// Values of the paper's C++ function, as other implementations' tests list them.
    #[test]
    fn matches_the_published_function() {
        let rows = [(1, 1, 0), (42, 57, 43), (0xDEAD_10CC, 1, 0), (0xDEAD_10CC, 666, 361)];
        for (key, count, expected) in rows.into_iter().chain([(256, 1024, 520)]) {
            assert_eq!(bucket(key, count), Some(expected), "{key} among {count}");
        }
        assert_eq!(bucket(1, 0), None);
    }
}

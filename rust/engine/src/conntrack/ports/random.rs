//! A random port each time.

use super::allocator::{PortAllocator, Wish};
use super::candidates::{Candidates, Cursor};

/// Draws ports until one is free (RFC 6056, algorithm 2): one that is taken does not make its
/// neighbour more likely. Where few are left, the last draw is where a pass over all begins.
#[derive(Clone, Copy, Debug)]
pub(super) struct Random;

impl PortAllocator for Random {
    fn find<F: Fn(u16) -> bool>(
        &self,
        _: &Wish<'_>,
        candidates: &Candidates<'_, F>,
        cursor: &mut Cursor,
    ) -> Option<u16> {
        let range = candidates.range;
        let count = range.count() as u32;
        if count == 0 {
            return None;
        }
        let mut last = 0;
        for _ in 0..DRAWS {
            last = cursor.rng.below(count);
            if candidates.has(range.port(last)) {
                return Some(range.port(last));
            }
        }
        candidates.first_from(last, 0..count)
    }
}

/// With nine of ten ports taken, one flow in 29 needs the pass.
const DRAWS: u32 = 32;

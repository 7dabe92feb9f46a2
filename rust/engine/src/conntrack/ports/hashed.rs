//! One port after the other, from a place that depends on the remote.

use super::allocator::{PortAllocator, Wish};
use super::candidates::{Candidates, Cursor};
use super::sequential::next_behind;

/// RFC 6056, algorithm 3: one counter for all remotes, and to it the hash of the ends that are told
/// apart, keyed by a secret. An observer of the ports towards one remote can guess the next one
/// there, but none towards another. The hash is that of the engine's tables, which is keyed and not
/// cryptographic: it shows its lowest bits alone, modulo the ports.
#[derive(Clone, Copy, Debug)]
pub(super) struct Hashed;

impl PortAllocator for Hashed {
    fn find<F: Fn(u16) -> bool>(
        &self,
        wish: &Wish<'_>,
        candidates: &Candidates<'_, F>,
        cursor: &mut Cursor,
    ) -> Option<u16> {
        let offset = (wish.hash)().checked_rem(candidates.range.count() as u64)?;
        next_behind(offset as u32, candidates, cursor)
    }
}

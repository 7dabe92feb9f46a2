//! The client's own port where it is free.

use super::allocator::{PortAllocator, Wish};
use super::candidates::{Candidates, Cursor};

/// Keeps the port if it may be leased and is free; else gives the first free one behind a random
/// place. Knowing one client's port does not tell the next one's then.
#[derive(Clone, Copy, Debug)]
pub(super) struct Preserve;

impl Preserve {
    pub(super) fn search<F: Fn(u16) -> bool>(
        self,
        port: u16,
        candidates: &Candidates<'_, F>,
        cursor: &mut Cursor,
    ) -> Option<u16> {
        if candidates.has(port) {
            return Some(port);
        }
        let count = candidates.range.count() as u32;
        if count == 0 {
            return None;
        }
        // Of the range alone: a draw beyond it would fall on its ends, one port for many draws.
        candidates.first_from(cursor.rng.below(count), 0..count)
    }
}

impl PortAllocator for Preserve {
    fn find<F: Fn(u16) -> bool>(
        &self,
        wish: &Wish<'_>,
        candidates: &Candidates<'_, F>,
        cursor: &mut Cursor,
    ) -> Option<u16> {
        self.search(wish.client.port(), candidates, cursor)
    }
}

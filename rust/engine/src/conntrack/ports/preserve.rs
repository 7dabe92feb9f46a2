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
        let start = cursor.rng.below(1 << 16) as u16;
        candidates.first_from(start, candidates.range.ports)
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

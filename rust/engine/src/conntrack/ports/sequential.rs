//! One port after the other.

use super::allocator::{PortAllocator, Wish};
use super::candidates::{Candidates, Cursor};

/// Gives the port behind the last one, over all remotes. It is the longest until a port is used
/// again, and the easiest to guess.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sequential;

impl PortAllocator for Sequential {
    fn find<F: Fn(u16) -> bool>(
        &self,
        _: &Wish<'_>,
        candidates: &Candidates<'_, F>,
        cursor: &mut Cursor,
    ) -> Option<u16> {
        next_behind(0, candidates, cursor)
    }
}

/// The first free port from `offset` and the cursor on; the cursor goes on behind it.
pub(super) fn next_behind<F: Fn(u16) -> bool>(
    offset: u32,
    candidates: &Candidates<'_, F>,
    cursor: &mut Cursor,
) -> Option<u16> {
    let range = candidates.range;
    let count = range.count() as u32;
    // A range of reserved ports alone has no position.
    let start = (offset + cursor.next).checked_rem(count)?;
    let port = candidates.first_from(start, 0..count)?;
    // Ports that were passed over are not looked at again until the turn comes round.
    let passed = (range.position(port) + count - start) % count;
    cursor.next = (cursor.next + passed + 1) % count;
    Some(port)
}

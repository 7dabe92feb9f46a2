//! The ports of a pool during one search: which are free, and how many were looked at.

use std::cell::Cell;

use super::range::PortRange;
use super::taken::Taken;
use crate::rng::Rng;

/// Where the next search begins. A search changes a copy, so that a packet that is refused leaves
/// it as it was.
#[derive(Clone, Debug)]
pub(crate) struct Cursor {
    pub(super) rng: Rng,
    /// Ports that were given in turn.
    pub(super) next: u32,
    /// Of the last search: the ports that were looked at, and whether the first was not free.
    pub(super) probes: u32,
    pub(super) is_collision: bool,
}

impl Cursor {
    pub(super) fn new(rng: Rng, next: u32) -> Self {
        Self { rng, next, probes: 0, is_collision: false }
    }
}

/// The ports that a search may give.
pub(super) struct Candidates<'a, F> {
    pub(super) range: PortRange,
    leases: Option<&'a Taken>,
    is_free: F,
    probes: Cell<u32>,
    is_collision: Cell<bool>,
}

impl<'a, F: Fn(u16) -> bool> Candidates<'a, F> {
    pub(super) fn new(range: PortRange, leases: Option<&'a Taken>, is_free: F) -> Self {
        let (probes, is_collision) = (Cell::new(0), Cell::new(false));
        Self { range, leases, is_free, probes, is_collision }
    }

    /// Ports that were looked at, and whether the first of them was taken.
    pub(super) fn statistics(&self) -> (u32, bool) {
        (self.probes.get(), self.is_collision.get())
    }

    /// Whether a port can be given.
    pub(super) fn has(&self, port: u16) -> bool {
        if !self.range.contains(port) {
            return false;
        }
        let is_free = self.leases.is_none_or(|leases| !leases.has(port)) && (self.is_free)(port);
        if self.probes.get() == 0 {
            self.is_collision.set(!is_free);
        }
        self.probes.set(self.probes.get() + 1);
        is_free
    }

    /// The first free port of `low..=high` from `start` on, and then from `low` on. Whole words of
    /// 64 ports that are taken cost one comparison.
    pub(super) fn first_from(&self, start: u16, (low, high): (u16, u16)) -> Option<u16> {
        let start = start.clamp(low, high.max(low));
        let before = || self.first_in(low, start.checked_sub(1)?);
        self.first_in(start, high).or_else(before)
    }

    fn first_in(&self, low: u16, high: u16) -> Option<u16> {
        let words = usize::from(low) / 64..=usize::from(high) / 64;
        words
            .flat_map(|word| self.free_in(word))
            .find(|&port| (low..=high).contains(&port) && self.has(port))
    }

    /// The ports of one word that no bit says are taken.
    fn free_in(&self, word: usize) -> impl Iterator<Item = u16> + use<F> {
        let used = self.leases.map_or(0, |leases| leases.word(word));
        let bits = if used == u64::MAX { 0..0 } else { 0..64 };
        bits.filter(move |bit| used >> bit & 1 == 0).map(move |bit| (word * 64 + bit) as u16)
    }
}

//! The ports of a pool during one search: which are free, and how many were looked at.
//!
//! A search looks at ports in an order that its way says, and each look counts, at the same port
//! again too. Ports that a word of bits passes over together are counted by their positions, which
//! is exact and costs nothing for each.

use std::cell::Cell;
use std::ops::Range;

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
    /// Of the last search: the ports that were looked at, and whether the first could not be given.
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

    /// Ports that were looked at, and whether the first of them could not be given.
    pub(super) fn statistics(&self) -> (u32, bool) {
        (self.probes.get(), self.is_collision.get())
    }

    /// Looks at a port, of the range or not: whether it can be given.
    pub(super) fn has(&self, port: u16) -> bool {
        let can_be_given = self.is_available(port);
        self.note(1, can_be_given);
        can_be_given
    }

    /// The first free port at one of these positions, from `start` on and then from the first on.
    /// Whole words of 64 ports that are taken cost one comparison.
    pub(super) fn first_from(&self, start: u32, positions: Range<u32>) -> Option<u16> {
        let port =
            self.first_in(start..positions.end).or_else(|| self.first_in(positions.start..start));
        let count = positions.end - positions.start;
        let passed =
            port.map_or(count - 1, |port| (self.range.position(port) + count - start) % count);
        self.note(passed + 1, port.is_some() && passed == 0);
        port
    }

    fn first_in(&self, positions: Range<u32>) -> Option<u16> {
        let low = self.range.port(positions.start);
        let high = self.range.port(positions.end.checked_sub(1).filter(|_| !positions.is_empty())?);
        let words = usize::from(low) / 64..=usize::from(high) / 64;
        words
            .flat_map(|word| self.free_in(word))
            .find(|&port| (low..=high).contains(&port) && self.is_available(port))
    }

    fn is_available(&self, port: u16) -> bool {
        self.range.contains(port)
            && self.leases.is_none_or(|leases| !leases.has(port))
            && (self.is_free)(port)
    }

    /// Ports were looked at; whether the first of these could be given.
    fn note(&self, looks: u32, is_first_free: bool) {
        if self.probes.get() == 0 {
            self.is_collision.set(!is_first_free);
        }
        self.probes.set(self.probes.get() + looks);
    }

    /// The ports of one word that no bit says are taken.
    fn free_in(&self, word: usize) -> impl Iterator<Item = u16> + use<F> {
        let used = self.leases.map_or(0, |leases| leases.word(word));
        let bits = if used == u64::MAX { 0..0 } else { 0..64 };
        bits.filter(move |bit| used >> bit & 1 == 0).map(move |bit| (word * 64 + bit) as u16)
    }
}

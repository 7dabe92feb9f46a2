//! The index of a flow table: from a hash to the flows that may be meant.
//!
//! Buckets of one cache line hold twelve entries: an 8-bit tag of the hash, and flow number and
//! direction. A full bucket spills into those behind it and notes how far, so a look-up reads on
//! only as far as it must. The number of buckets is fixed, so there is no rehash and no stall;
//! probes are bounded, so crafted tuples cost their sender and not the table (F28).

use crate::hint;
use crate::tuple::Direction;

/// Number of a flow in its table; reused after the flow has ended.
pub(crate) type FlowId = u32;

/// Entries of a bucket.
const WAYS: usize = 12;
/// Buckets that an entry may be away from its own.
const REACH: usize = 32;
/// Entries for which there are so many buckets in a table that is full: 8.25 each. More, and too
/// many entries spill.
const LOAD: (usize, usize) = (33, 4);

/// One entry: flow number and direction.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Entry(u32);

impl Entry {
    /// No flow has this number.
    pub(crate) const NONE: Self = Self(u32::MAX);

    fn new(flow: FlowId, direction: Direction) -> Self {
        Self(flow << 1 | direction as u32)
    }

    #[inline]
    pub(crate) fn flow(self) -> FlowId {
        self.0 >> 1
    }

    #[inline]
    pub(crate) fn direction(self) -> Direction {
        if self.0 & 1 == 0 { Direction::Original } else { Direction::Reply }
    }
}

#[derive(Clone, Copy, Debug, Default)]
#[repr(C, align(64))]
struct Bucket {
    /// 0 is an empty way.
    tags: [u8; WAYS],
    /// Entries that belong here and stand behind.
    spilled: u16,
    /// How many buckets behind the furthest of them stands, since there are any.
    reach: u16,
    entries: [Entry; WAYS],
}

impl Bucket {
    #[inline(always)]
    fn find(&self, tag: u8, is_meant: &mut impl FnMut(Entry) -> bool) -> Option<Entry> {
        let mut marks = self.matches(tag);
        while marks != 0 {
            let way = first_way(marks);
            let entry = *self.entries.get(way)?;
            // A way that was freed, and seems taken behind a real match, holds a number that is
            // another flow's by now.
            if is_meant(entry) && self.tags.get(way) == Some(&tag) {
                return Some(entry);
            }
            marks &= marks - 1;
        }
        None
    }

    /// The entry of the first way whose tag is `tag`, or any. Without branches: which way that is,
    /// is random.
    #[inline(always)]
    fn first(&self, tag: u8) -> Entry {
        self.entries.get(first_way(self.matches(tag))).copied().unwrap_or(Entry::NONE)
    }

    /// A way that is free.
    #[inline(always)]
    fn free(&self) -> Option<usize> {
        Some(self.matches(0)).filter(|&marks| marks != 0).map(first_way)
    }

    /// Marks the ways whose tag is `tag`: way `n` by bit `8 n`, and from the eighth on by bit `8 (n
    /// - 8) + 4`. The first mark is right, one behind it may be wrong.
    #[inline(always)]
    fn matches(&self, tag: u8) -> u64 {
        const ONES: u64 = 0x0101_0101_0101_0101;
        let t = &self.tags;
        let low = u64::from_le_bytes([t[0], t[1], t[2], t[3], t[4], t[5], t[6], t[7]]);
        let high = u64::from(u32::from_le_bytes([t[8], t[9], t[10], t[11]]));
        let wanted = ONES.wrapping_mul(u64::from(tag));
        // The classic test for zero bytes; a carry out of a match may mark the byte behind it.
        let zeroes = |word: u64| word.wrapping_sub(ONES) & !word & (ONES << 7);
        // Only the lower half of `high` holds tags.
        zeroes(low ^ wanted) >> 7 | (zeroes(high ^ wanted) & 0xffff_ffff) >> 3
    }
}

/// The way of the first mark; any way without one.
#[inline(always)]
fn first_way(marks: u64) -> usize {
    let bit = marks.trailing_zeros();
    (bit / 8 + (bit & 4) * 2) as usize
}

/// No place near enough to where an entry belongs is free.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct IndexFull;

/// See the module documentation.
#[derive(Debug, Default)]
pub(crate) struct Index {
    /// A table without buckets holds nothing; [`REACH`] more stand behind the last, so nothing
    /// wraps.
    buckets: Vec<Bucket>,
    homes: u64,
}

impl Index {
    /// An index for `entries`.
    pub(crate) fn new(entries: usize) -> Self {
        let homes = entries.div_ceil(LOAD.0).max(1) * LOAD.1;
        let mut buckets = hint::reserve(homes + REACH);
        buckets.resize(homes + REACH, Bucket::default());
        Self { buckets, homes: homes as u64 }
    }

    #[inline]
    fn home(&self, hash: u64) -> usize {
        // The high half of the product: a number below `homes`.
        ((u128::from(hash) * u128::from(self.homes)) >> 64) as usize
    }

    #[inline]
    pub(crate) fn prefetch(&self, hash: u64) {
        hint::prefetch(&self.buckets, self.home(hash));
    }

    /// The first entry with the tag of `hash` for which `is_meant` holds. Cost: one cache line,
    /// rarely more, never more than [`REACH`].
    #[inline(always)]
    pub(crate) fn find(&self, hash: u64, mut is_meant: impl FnMut(Entry) -> bool) -> Option<Entry> {
        let home = self.home(hash);
        let bucket = self.buckets.get(home)?;
        let tag = tag(hash);
        let found = bucket.find(tag, &mut is_meant);
        if found.is_none() && bucket.reach > 0 {
            self.find_behind(home, tag, is_meant)
        } else {
            found
        }
    }

    #[inline(never)]
    fn find_behind(
        &self,
        home: usize,
        tag: u8,
        mut is_meant: impl FnMut(Entry) -> bool,
    ) -> Option<Entry> {
        let reach = usize::from(self.buckets[home].reach);
        self.buckets[home + 1..=home + reach]
            .iter()
            .find_map(|bucket| bucket.find(tag, &mut is_meant))
    }

    /// The first entry with the tag of `hash` in the bucket where it belongs: nearly always the one
    /// that is meant, if any is. Cost: one cache line, no branches.
    #[inline(always)]
    pub(crate) fn guess(&self, hash: u64) -> Entry {
        self.buckets.get(self.home(hash)).map_or(Entry::NONE, |bucket| bucket.first(tag(hash)))
    }

    pub(crate) fn insert(
        &mut self,
        hash: u64,
        flow: FlowId,
        direction: Direction,
    ) -> Result<(), IndexFull> {
        let home = self.home(hash);
        let near = self.buckets.get_mut(home..home + REACH).ok_or(IndexFull)?;
        let (distance, way) = near
            .iter()
            .enumerate()
            .find_map(|(distance, bucket)| Some((distance, bucket.free()?)))
            .ok_or(IndexFull)?;
        near[distance].tags[way] = tag(hash);
        near[distance].entries[way] = Entry::new(flow, direction);
        if distance > 0 {
            near[0].spilled += 1;
            near[0].reach = near[0].reach.max(distance as u16);
        }
        Ok(())
    }

    pub(crate) fn remove(&mut self, hash: u64, flow: FlowId, direction: Direction) {
        let (home, entry) = (self.home(hash), Entry::new(flow, direction));
        let near = self.buckets.get_mut(home..home + REACH).unwrap_or_default();
        let found = near.iter().enumerate().find_map(|(distance, bucket)| {
            let mut ways = bucket.tags.iter().zip(&bucket.entries);
            Some((distance, ways.position(|(&tag, &known)| tag != 0 && known == entry)?))
        });
        if let Some((distance, way)) = found {
            near[distance].tags[way] = 0;
            if distance > 0 {
                near[0].spilled -= 1;
                near[0].reach = if near[0].spilled == 0 { 0 } else { near[0].reach };
            }
        }
    }
}

/// The tag of a hash, never 0; from bits that do not choose the bucket.
#[inline]
fn tag(hash: u64) -> u8 {
    (hash as u8).max(1)
}

const _: () = assert!(size_of::<Bucket>() == 64, "one cache line");

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Rng;

    #[test]
    fn every_entry_is_found_until_it_is_removed() {
        let mut index = Index::new(20_000);
        let mut rng = Rng::new(7);
        let hashes: Vec<u64> = (0..20_000).map(|_| rng.next_u64()).collect();
        for (flow, &hash) in hashes.iter().enumerate() {
            index
                .insert(hash, flow as u32, Direction::Reply)
                .expect("a table at its load has room");
        }
        let found = |index: &Index, flow: usize| {
            index
                .find(hashes[flow], |entry| entry == Entry::new(flow as u32, Direction::Reply))
                .is_some()
        };
        assert!((0..20_000).all(|flow| found(&index, flow)));
        for flow in (0..20_000).step_by(2) {
            index.remove(hashes[flow], flow as u32, Direction::Reply);
        }
        assert!((0..20_000).all(|flow| found(&index, flow) == (flow % 2 == 1)));
        for flow in (1..20_000).step_by(2) {
            index.remove(hashes[flow], flow as u32, Direction::Reply);
        }
        assert!(index.buckets.iter().all(|bucket| bucket.spilled == 0 && bucket.tags == [0; WAYS]));
    }

    #[test]
    fn no_matching_tag_is_missed() {
        let mut rng = Rng::new(3);
        for _ in 0..10_000 {
            let bucket =
                Bucket { tags: std::array::from_fn(|_| rng.below(4) as u8), ..Bucket::default() };
            let bucket = Bucket { entries: std::array::from_fn(|way| Entry(way as u32)), ..bucket };
            for tag in 1..5 {
                let by_hand: Vec<usize> =
                    (0..WAYS).filter(|&way| bucket.tags[way] == tag).collect();
                let mut found = Vec::new();
                bucket.find(tag, &mut |entry| {
                    found.push(entry.0 as usize);
                    false
                });
                assert!(
                    (0..WAYS).all(|way| {
                        let is_found =
                            bucket.find(tag, &mut |entry| entry.0 as usize == way).is_some();
                        is_found == by_hand.contains(&way)
                    }),
                    "{by_hand:?}"
                );
                // Behind a match another way may be looked at in vain.
                assert!(by_hand.iter().all(|way| found.contains(way)), "{by_hand:?} {found:?}");
                assert!(
                    by_hand.is_empty() || by_hand.contains(&(bucket.first(tag).0 as usize)),
                    "{by_hand:?}"
                );
            }
        }
    }

    #[test]
    fn f28_equal_hashes_are_refused_after_a_bounded_chain() {
        let mut index = Index::new(100_000);
        let taken =
            (0..1000).filter(|&flow| index.insert(42, flow, Direction::Original).is_ok()).count();
        assert_eq!(taken, WAYS * REACH);
        let mut looked_at = 0;
        index.find(42, |_| {
            looked_at += 1;
            false
        });
        assert_eq!(looked_at, WAYS * REACH);
        assert_eq!(index.insert(u64::MAX, 1, Direction::Original), Ok(()));
    }

    #[test]
    fn an_index_without_room_is_empty() {
        let index = Index::default();
        assert_eq!(index.find(1, |_| true), None);
        index.prefetch(1);
    }
}

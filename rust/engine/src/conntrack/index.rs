//! The index of a flow table: from a hash to the flows that may be meant.
//!
//! Buckets of one cache line hold twelve entries: an 8-bit tag of the hash, and flow number and direction. A full bucket spills into
//! those behind it and notes how far, so a look-up reads on only as far as it must. The number of buckets is fixed, so
//! there is no rehash and no stall; probes are bounded, so crafted tuples cost their sender and not the table (F28).

use super::FlowId;
use crate::hint;
use crate::tuple::Direction;

/// Entries of a bucket.
const WAYS: usize = 12;
/// Buckets that an entry may be away from its own.
const REACH: usize = 32;
/// Entries per bucket, on average, in a table that is full: three quarters.
const LOAD: usize = 9;

/// One entry: flow number and direction.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Entry(u32);

impl Entry {
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
        let mut ways = self.matches(tag);
        while ways != 0 {
            // The mask has no bit at or above WAYS.
            let entry = self.entries[ways.trailing_zeros() as usize % WAYS];
            if is_meant(entry) {
                return Some(entry);
            }
            ways &= ways - 1;
        }
        None
    }

    /// The ways whose tag is `tag` as a bit mask; perhaps one more behind a match. Without branches: which way matches is random.
    #[inline(always)]
    fn matches(&self, tag: u8) -> u32 {
        const ONES: u64 = 0x0101_0101_0101_0101;
        const HIGHS: u64 = ONES << 7;
        let t = &self.tags;
        let low = u64::from_le_bytes([t[0], t[1], t[2], t[3], t[4], t[5], t[6], t[7]]);
        let high = u64::from(u32::from_le_bytes([t[8], t[9], t[10], t[11]]));
        // A byte is zero where the tag is equal (the classic zero-byte test); the multiplication gathers the marks of eight bytes.
        let zeroes = |word: u64| {
            let word = word ^ ONES.wrapping_mul(u64::from(tag));
            (word.wrapping_sub(ONES) & !word & HIGHS) >> 7
        };
        let gather = |marks: u64| marks.wrapping_mul(0x0102_0408_1020_4080) >> 56;
        (gather(zeroes(low)) | gather(zeroes(high) & 0xffff_ffff) << 8) as u32
    }
}

/// No place near enough to where an entry belongs is free.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct IndexFull;

/// See the module documentation.
#[derive(Debug, Default)]
pub(crate) struct Index {
    /// A table without buckets holds nothing; [`REACH`] more stand behind the last, so nothing wraps.
    buckets: Vec<Bucket>,
    homes: u64,
}

impl Index {
    /// An index for `entries`.
    pub(crate) fn new(entries: usize) -> Self {
        let homes = entries.div_ceil(LOAD).max(1);
        let mut buckets = hint::reserve(homes + REACH);
        buckets.resize(homes + REACH, Bucket::default());
        Self { buckets, homes: homes as u64 }
    }

    #[inline]
    fn home(&self, hash: u64) -> usize {
        ((u128::from(hash) * u128::from(self.homes)) >> 64) as usize
    }

    #[inline]
    pub(crate) fn prefetch(&self, hash: u64) {
        if let Some(bucket) = self.buckets.get(self.home(hash)) {
            hint::prefetch(bucket);
        }
    }

    /// The first entry with the tag of `hash` for which `is_meant` holds. Cost: one cache line, rarely more, never more than [`REACH`].
    #[inline(always)]
    pub(crate) fn find(&self, hash: u64, mut is_meant: impl FnMut(Entry) -> bool) -> Option<Entry> {
        let home = self.home(hash);
        let bucket = self.buckets.get(home)?;
        let tag = tag(hash);
        let found = bucket.find(tag, &mut is_meant);
        if found.is_none() && bucket.reach > 0 { self.find_behind(home, tag, is_meant) } else { found }
    }

    #[inline(never)]
    fn find_behind(&self, home: usize, tag: u8, mut is_meant: impl FnMut(Entry) -> bool) -> Option<Entry> {
        let reach = usize::from(self.buckets[home].reach);
        self.buckets[home + 1..=home + reach].iter().find_map(|bucket| bucket.find(tag, &mut is_meant))
    }

    /// The first entry in the place where `hash` belongs: most often the one that it means.
    #[inline]
    pub(crate) fn guess(&self, hash: u64) -> Option<Entry> {
        self.buckets.get(self.home(hash))?.find(tag(hash), &mut |_| true)
    }

    pub(crate) fn insert(&mut self, hash: u64, flow: FlowId, direction: Direction) -> Result<(), IndexFull> {
        let home = self.home(hash);
        let near = self.buckets.get_mut(home..home + REACH).ok_or(IndexFull)?;
        let (distance, way) = near
            .iter()
            .enumerate()
            .find_map(|(distance, bucket)| Some((distance, bucket.tags.iter().position(|&tag| tag == 0)?)))
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
            index.insert(hash, flow as u32, Direction::Reply).expect("a table at its load has room");
        }
        let found = |index: &Index, flow: usize| {
            index.find(hashes[flow], |entry| entry == Entry::new(flow as u32, Direction::Reply)).is_some()
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
    fn f28_equal_hashes_are_refused_after_a_bounded_chain() {
        let mut index = Index::new(100_000);
        let taken = (0..1000).filter(|&flow| index.insert(42, flow, Direction::Original).is_ok()).count();
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

//! The index of a flow table: from a hash to the flows that may be meant.
//!
//! Buckets of one cache line hold twelve entries: an 8-bit tag of the hash, and flow number and direction. A full bucket spills into
//! those behind it and counts what it has spilled, so a look-up reads on only where it must. The number of buckets is fixed, so
//! there is no rehash and no stall; probes are bounded, so crafted tuples cost their sender and not the table (F28).

use super::FlowId;
use crate::hint;
use crate::tuple::Direction;

/// Entries of a bucket.
const WAYS: usize = 12;
/// Buckets that an entry may be away from its own.
const REACH: usize = 8;
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
    spilled: u32,
    entries: [Entry; WAYS],
}

impl Bucket {
    /// The ways whose tag is `tag`, as set bits (8 apart), and perhaps one more behind a match.
    #[inline]
    fn matches(&self, tag: u8) -> (u64, u32) {
        let t = &self.tags;
        let low = u64::from_le_bytes([t[0], t[1], t[2], t[3], t[4], t[5], t[6], t[7]]);
        let high = u32::from_le_bytes([t[8], t[9], t[10], t[11]]);
        const ONES: u64 = 0x0101_0101_0101_0101;
        let (low, high) = (low ^ (ONES * u64::from(tag)), high ^ (ONES as u32).wrapping_mul(u32::from(tag)));
        // A byte is zero where the tag is equal (the classic exact-first zero-byte test).
        (
            low.wrapping_sub(ONES) & !low & (ONES << 7),
            high.wrapping_sub(ONES as u32) & !high & ((ONES << 7) as u32),
        )
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

    /// The entries whose tag is that of `hash`. Cost: one cache line, rarely more, never more than [`REACH`].
    #[inline]
    pub(crate) fn candidates(&self, hash: u64) -> Candidates<'_> {
        let home = self.home(hash);
        let mut buckets = self.buckets.get(home..).unwrap_or_default().iter();
        let first = buckets.next();
        let reach = first.map_or(0, |bucket| if bucket.spilled > 0 { REACH - 1 } else { 0 });
        let tag = tag(hash);
        let (low, high) = first.map_or((0, 0), |bucket| bucket.matches(tag));
        Candidates { bucket: first, rest: buckets, reach, tag, low, high }
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
        near[0].spilled += u32::from(distance > 0);
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
            near[0].spilled -= u32::from(distance > 0);
        }
    }
}

/// Iterator over the entries that a hash may mean.
pub(crate) struct Candidates<'a> {
    bucket: Option<&'a Bucket>,
    rest: std::slice::Iter<'a, Bucket>,
    reach: usize,
    tag: u8,
    low: u64,
    high: u32,
}

impl Iterator for Candidates<'_> {
    type Item = Entry;

    #[inline]
    fn next(&mut self) -> Option<Entry> {
        loop {
            let bucket = self.bucket?;
            if self.low != 0 {
                let way = self.low.trailing_zeros() as usize / 8;
                self.low &= self.low - 1;
                return Some(bucket.entries[way]);
            }
            if self.high != 0 {
                let way = 8 + self.high.trailing_zeros() as usize / 8;
                self.high &= self.high - 1;
                return bucket.entries.get(way).copied();
            }
            if self.reach == 0 {
                return None;
            }
            self.reach -= 1;
            self.bucket = self.rest.next();
            (self.low, self.high) = self.bucket?.matches(self.tag);
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
            index.candidates(hashes[flow]).any(|entry| entry == Entry::new(flow as u32, Direction::Reply))
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
        assert_eq!(index.candidates(42).count(), WAYS * REACH);
        assert_eq!(index.insert(u64::MAX, 1, Direction::Original), Ok(()));
    }

    #[test]
    fn an_index_without_room_is_empty() {
        let index = Index::default();
        assert_eq!(index.candidates(1).count(), 0);
        index.prefetch(1);
    }
}

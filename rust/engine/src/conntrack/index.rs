//! The index of a flow table: from a hash to the flows that may be meant.
//!
//! Buckets of one cache line hold twelve entries: an 8-bit tag of the hash, and flow number and
//! direction. A full bucket spills into those behind it and notes how far, so a look-up reads on
//! only as far as it must. The number of buckets is fixed, so there is no rehash and no stall;
//! probes are bounded, so crafted tuples cost their sender and not the table (F28).
//!
//! A packet's look-up has two steps that a batch takes apart: [`Index::probe`] says where it
//! begins, so that the bucket can be fetched, and [`Index::guess`] reads that bucket. One
//! comparison of sixteen bytes finds the ways with the tag ([`hint::mark_bytes`]).

use crate::hint;
use crate::tuple::Direction;

/// Number of a flow in its table; reused after the flow has ended.
pub(crate) type FlowId = u32;

/// Entries of a bucket.
const WAYS: usize = 12;
/// Buckets that an entry may be away from its own.
const REACH: usize = 32;
/// Entries for each bucket in a table that is full, half of what fits. With 8.25 each, one look-up
/// in twenty began with a wrong guess, since an entry had spilled or another had its tag; with 6 it
/// is one in eighty.
const LOAD: usize = 6;

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
    /// A tag for each way, 0 if that is empty; then [`Bucket::overflow`] and [`Bucket::reach`].
    head: [u8; 16],
    entries: [Entry; WAYS],
}

impl Bucket {
    fn tags(&self) -> &[u8] {
        &self.head[..WAYS]
    }

    /// Entries that belong here and stand behind.
    fn overflow(&self) -> u16 {
        u16::from_ne_bytes([self.head[WAYS], self.head[WAYS + 1]])
    }

    /// How many buckets behind the furthest of them stands, since there are any.
    #[inline(always)]
    fn reach(&self) -> u16 {
        u16::from_ne_bytes([self.head[WAYS + 2], self.head[WAYS + 3]])
    }

    fn set_overflow(&mut self, overflow: u16, reach: u16) {
        self.head[WAYS..WAYS + 2].copy_from_slice(&overflow.to_ne_bytes());
        self.head[WAYS + 2..].copy_from_slice(&reach.to_ne_bytes());
    }

    #[inline(always)]
    fn find(&self, tag: u8, is_meant: &mut impl FnMut(Entry) -> bool) -> Option<Entry> {
        let mut marks = self.matches(tag);
        while marks != 0 {
            let entry = *self.entries.get(marks.trailing_zeros() as usize)?;
            if is_meant(entry) {
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
        // With the last way marked, one always is.
        self.entries[(self.matches(tag) | 1 << (WAYS - 1)).trailing_zeros() as usize]
    }

    #[inline(always)]
    fn put(&mut self, way: usize, tag: u8, entry: Entry) {
        // A way is below both lengths, which spares the second check.
        if let Some(place) = self.entries.get_mut(way) {
            *place = entry;
            self.head[way] = tag;
        }
    }

    /// A way that is free.
    #[inline(always)]
    fn free(&self) -> Option<usize> {
        let marks = self.matches(0);
        (marks != 0).then(|| marks.trailing_zeros() as usize)
    }

    /// A bit for each way whose tag is `tag`, the first way's lowest.
    #[inline(always)]
    fn matches(&self, tag: u8) -> u32 {
        hint::mark_bytes(&self.head, tag) & ((1 << WAYS) - 1)
    }
}

/// Where the look-up of a hash begins, and the tag it looks for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Probe {
    /// 32 bits are enough: flow numbers have no more.
    bucket: u32,
    tag: u8,
}

impl Probe {
    /// No bucket.
    pub(crate) const NONE: Self = Self { bucket: u32::MAX, tag: 1 };
}

/// No place near enough to where an entry belongs is free.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct IndexFull;

/// See the module documentation.
#[derive(Debug)]
pub(crate) struct Index {
    /// An index without buckets holds nothing; [`REACH`] more stand behind the last, so nothing
    /// wraps.
    buckets: Vec<Bucket>,
    homes: u64,
}

impl Index {
    /// An index for `entries`, without memory: [`Index::reserve`] takes that. Probes are the same
    /// before and after.
    pub(crate) fn new(entries: usize) -> Self {
        Self { buckets: Vec::new(), homes: entries.div_ceil(LOAD).max(1) as u64 }
    }

    /// Takes the memory of an index that has none.
    pub(crate) fn reserve(&mut self) {
        let buckets = self.homes as usize + REACH;
        self.buckets = hint::reserve(buckets);
        self.buckets.resize(buckets, Bucket::default());
    }

    /// The memory that it has taken.
    pub(crate) fn bytes(&self) -> usize {
        size_of_val(&*self.buckets)
    }

    #[inline(always)]
    pub(crate) fn probe(&self, hash: u64) -> Probe {
        // The high half of the product: a number below `homes`.
        let bucket = ((u128::from(hash) * u128::from(self.homes)) >> 64) as u32;
        // From bits that do not choose the bucket, and never that of an empty way.
        Probe { bucket, tag: (hash as u8).max(1) }
    }

    #[inline(always)]
    pub(crate) fn prefetch(&self, probe: Probe) {
        hint::prefetch(&self.buckets, probe.bucket as usize);
    }

    /// The first entry with the probe's tag for which `is_meant` holds. Cost: one cache line,
    /// rarely more, never more than [`REACH`].
    #[inline(always)]
    pub(crate) fn find(
        &self,
        probe: Probe,
        mut is_meant: impl FnMut(Entry) -> bool,
    ) -> Option<Entry> {
        let bucket = self.buckets.get(probe.bucket as usize)?;
        let entry = bucket.find(probe.tag, &mut is_meant);
        if entry.is_none() && bucket.reach() > 0 {
            self.find_behind(probe, is_meant)
        } else {
            entry
        }
    }

    #[inline(never)]
    fn find_behind(&self, probe: Probe, mut is_meant: impl FnMut(Entry) -> bool) -> Option<Entry> {
        let home = probe.bucket as usize;
        let reach = usize::from(self.buckets[home].reach());
        self.buckets[home + 1..=home + reach]
            .iter()
            .find_map(|bucket| bucket.find(probe.tag, &mut is_meant))
    }

    /// The first entry with the probe's tag in the bucket where it belongs: nearly always the one
    /// that is meant, if any is. Cost: one cache line, no branches.
    #[inline(always)]
    pub(crate) fn guess(&self, probe: Probe) -> Entry {
        let bucket = self.buckets.get(probe.bucket as usize);
        bucket.map_or(Entry::NONE, |bucket| bucket.first(probe.tag))
    }

    /// Enters a flow where its look-up begins, or in the next bucket behind that has a way free.
    #[inline(always)]
    pub(crate) fn insert(
        &mut self,
        probe: Probe,
        flow: FlowId,
        direction: Direction,
    ) -> Result<(), IndexFull> {
        let entry = Entry::new(flow, direction);
        let Some(home) = self.buckets.get_mut(probe.bucket as usize) else { return Err(IndexFull) };
        match home.free() {
            Some(way) => {
                home.put(way, probe.tag, entry);
                Ok(())
            }
            None => self.insert_behind(probe, entry),
        }
    }

    #[inline(never)]
    fn insert_behind(&mut self, probe: Probe, entry: Entry) -> Result<(), IndexFull> {
        let home = probe.bucket as usize;
        let near = self.buckets.get_mut(home..home + REACH).ok_or(IndexFull)?;
        let (distance, way) = near
            .iter()
            .enumerate()
            .find_map(|(distance, bucket)| Some((distance, bucket.free()?)))
            .ok_or(IndexFull)?;
        near[distance].put(way, probe.tag, entry);
        let (overflow, reach) = (near[0].overflow(), near[0].reach());
        near[0].set_overflow(overflow + 1, reach.max(distance as u16));
        Ok(())
    }

    pub(crate) fn remove(&mut self, probe: Probe, flow: FlowId, direction: Direction) {
        let home = probe.bucket as usize;
        let wanted = Entry::new(flow, direction);
        let near = self.buckets.get_mut(home..home + REACH).unwrap_or_default();
        let place = near.iter().enumerate().find_map(|(distance, bucket)| {
            let mut ways = bucket.tags().iter().zip(&bucket.entries);
            Some((distance, ways.position(|(&tag, &entry)| tag != 0 && entry == wanted)?))
        });
        if let Some((distance, way)) = place {
            near[distance].head[way] = 0;
            if distance > 0 {
                let (overflow, reach) = (near[0].overflow() - 1, near[0].reach());
                near[0].set_overflow(overflow, if overflow == 0 { 0 } else { reach });
            }
        }
    }
}

const _: () = assert!(size_of::<Bucket>() == 64, "one cache line");

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Rng;

    fn reserved(entries: usize) -> Index {
        let mut index = Index::new(entries);
        index.reserve();
        index
    }

    #[test]
    fn every_entry_is_found_until_it_is_removed() {
        let mut index = reserved(20_000);
        let mut rng = Rng::new(7);
        let hashes: Vec<u64> = (0..20_000).map(|_| rng.next_u64()).collect();
        for (flow, &hash) in hashes.iter().enumerate() {
            index
                .insert(index.probe(hash), flow as u32, Direction::Reply)
                .expect("a table at its load has room");
        }
        let holds = |index: &Index, flow: usize| {
            index
                .find(index.probe(hashes[flow]), |entry| {
                    entry == Entry::new(flow as u32, Direction::Reply)
                })
                .is_some()
        };
        assert!((0..20_000).all(|flow| holds(&index, flow)));
        for flow in (0..20_000).step_by(2) {
            index.remove(index.probe(hashes[flow]), flow as u32, Direction::Reply);
        }
        assert!((0..20_000).all(|flow| holds(&index, flow) == (flow % 2 == 1)));
        for flow in (1..20_000).step_by(2) {
            index.remove(index.probe(hashes[flow]), flow as u32, Direction::Reply);
        }
        assert!(index.buckets.iter().all(|bucket| bucket.head == [0; 16]));
    }

    #[test]
    fn no_matching_tag_is_missed() {
        let mut rng = Rng::new(3);
        for _ in 0..10_000 {
            // The bytes behind the tags may look like tags.
            let bucket = Bucket {
                head: std::array::from_fn(|_| rng.below(4) as u8),
                entries: std::array::from_fn(|way| Entry(way as u32)),
            };
            for tag in 1..5 {
                let by_hand: Vec<usize> =
                    (0..WAYS).filter(|&way| bucket.tags()[way] == tag).collect();
                let mut ways = Vec::new();
                bucket.find(tag, &mut |entry| {
                    ways.push(entry.0 as usize);
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
                assert_eq!(ways, by_hand);
                let first = by_hand.first().copied().unwrap_or(WAYS - 1);
                assert_eq!(bucket.first(tag).0 as usize, first);
                assert_eq!(bucket.free(), bucket.tags().iter().position(|&tag| tag == 0));
            }
        }
    }

    #[test]
    fn f28_equal_hashes_are_refused_after_a_bounded_chain() {
        let mut index = reserved(100_000);
        let probe = index.probe(42);
        let entries = (0..1000)
            .filter(|&flow| index.insert(probe, flow, Direction::Original).is_ok())
            .count();
        assert_eq!(entries, WAYS * REACH);
        let mut looks = 0;
        index.find(probe, |_| {
            looks += 1;
            false
        });
        assert_eq!(looks, WAYS * REACH);
        assert_eq!(index.insert(index.probe(u64::MAX), 1, Direction::Original), Ok(()));
    }

    #[test]
    fn an_index_without_room_is_empty() {
        let mut index = Index::new(100);
        let probe = index.probe(1 << 63);
        assert_eq!(index.find(probe, |_| true), None);
        assert_eq!(index.insert(probe, 1, Direction::Reply), Err(IndexFull));
        assert_eq!(index.guess(probe), Entry::NONE);
        index.prefetch(Probe::NONE);
        index.reserve();
        assert_eq!(index.insert(probe, 1, Direction::Reply), Ok(()));
        let entry = Entry::new(1, Direction::Reply);
        assert_eq!(index.guess(index.probe(1 << 63)), entry, "its place is the same as before");
    }
}

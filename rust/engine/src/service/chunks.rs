//! Tables that share what did not change with the tables that they were cloned from.
//!
//! A table is a tree of fixed depth. The root has 32 branches, each branch 32 leaves, each leaf one
//! chunk of entries; every level is behind an [`Arc`]. A clone copies the root alone. The first
//! change to an entry after that copies the branch and the chunk that the entry is in
//! ([`Arc::make_mut`]); further changes to the same chunk are made in place, since nobody else has
//! it. So one change costs 32 + 32 reference counts and one chunk, of about 100 entries where the
//! table has 100,000, and building a table from nothing copies nothing at all.
//!
//! The tree does not grow: a chunk does. That keeps the worst change as cheap as the average one (a
//! table that doubles its spine has a change that costs all entries), and a look-up at a constant
//! number of loads, of which only the last one, the entry, is not in a near cache.
//!
//! [`ChunkTable`] finds entries by hash, [`Slots`] by number. Readers need no lock: whoever has a
//! table has all of its chunks, whatever becomes of its clones.

use std::sync::Arc;

/// The tree above the chunks.
#[derive(Debug)]
struct Spine<L> {
    branches: [Arc<[L; FANOUT]>; FANOUT],
}

impl<L> Clone for Spine<L> {
    fn clone(&self) -> Self {
        Self { branches: self.branches.clone() }
    }
}

impl<L: Clone + Default> Default for Spine<L> {
    fn default() -> Self {
        let branch: Arc<[L; FANOUT]> = Arc::new(std::array::from_fn(|_| L::default()));
        Self { branches: std::array::from_fn(|_| branch.clone()) }
    }
}

impl<L: Clone> Spine<L> {
    /// The leaf of this number, of which the lowest bits count.
    #[inline]
    fn leaf(&self, number: usize) -> &L {
        &self.branches[number / FANOUT % FANOUT][number % FANOUT]
    }

    /// The same, to be written to. Cost: what is shared on the way is copied.
    fn leaf_mut(&mut self, number: usize) -> &mut L {
        &mut Arc::make_mut(&mut self.branches[number / FANOUT % FANOUT])[number % FANOUT]
    }

    /// Numbers of the leaves that may differ from those of `former`: whole branches that are shared
    /// are passed over.
    fn unshared<'a>(&'a self, former: &'a Self) -> impl Iterator<Item = usize> + 'a {
        let branches = self.branches.iter().zip(&former.branches).enumerate();
        branches
            .filter(|(_, (branch, former))| !Arc::ptr_eq(branch, former))
            .flat_map(|(number, _)| number * FANOUT..(number + 1) * FANOUT)
    }
}

/// Entries that are found by a hash, of which the caller knows how it follows from an entry: the
/// lowest bits choose the chunk, the highest the place in it.
///
/// A chunk is an open-addressed table with linear probing. At most three of four places are taken,
/// so a search always meets an empty one.
#[derive(Clone, Debug)]
pub(super) struct ChunkTable<T> {
    spine: Spine<Chunk<T>>,
}

impl<T> Default for ChunkTable<T>
where
    T: Clone,
{
    fn default() -> Self {
        Self { spine: Spine::default() }
    }
}

impl<T: Clone> ChunkTable<T> {
    /// The entry with this hash that is the one. Cost: one cache miss, and two more loads.
    #[inline]
    pub(super) fn find(&self, hash: u64, is_it: impl Fn(&T) -> bool) -> Option<&T> {
        self.spine.leaf(hash as usize).find(hash, is_it).map(|(_, entry)| entry)
    }

    /// Enters what is not in the table yet.
    pub(super) fn insert(&mut self, entry: T, hash_of: impl Fn(&T) -> u64) {
        let chunk = self.spine.leaf_mut(hash_of(&entry) as usize);
        if (chunk.taken + 1) * 4 > chunk.places.len() * 3 {
            chunk.resize((chunk.taken + 1) * 2, &hash_of);
        }
        chunk.insert(entry, &hash_of);
    }

    /// The entry, to be changed; not in what its hash follows from.
    pub(super) fn find_mut(&mut self, hash: u64, is_it: impl Fn(&T) -> bool) -> Option<&mut T> {
        // Without an entry nothing is to be copied.
        self.find(hash, &is_it)?;
        let chunk = self.spine.leaf_mut(hash as usize);
        let (place, _) = chunk.find(hash, is_it)?;
        Arc::make_mut(&mut chunk.places)[place].as_mut()
    }

    /// Takes an entry out.
    pub(super) fn remove(
        &mut self,
        hash: u64,
        is_it: impl Fn(&T) -> bool,
        hash_of: impl Fn(&T) -> u64,
    ) -> Option<T> {
        self.find(hash, &is_it)?;
        let chunk = self.spine.leaf_mut(hash as usize);
        let (place, _) = chunk.find(hash, is_it)?;
        let entry = chunk.remove(place, &hash_of);
        // Places are given back when few are in use.
        if chunk.taken * 4 < chunk.places.len() {
            chunk.resize(chunk.taken * 2, &hash_of);
        }
        entry
    }
}

/// One leaf of a [`ChunkTable`].
#[derive(Debug)]
struct Chunk<T> {
    places: Arc<[Option<T>]>,
    taken: usize,
}

impl<T> Clone for Chunk<T> {
    fn clone(&self) -> Self {
        Self { places: self.places.clone(), taken: self.taken }
    }
}

impl<T> Default for Chunk<T> {
    fn default() -> Self {
        Self { places: Arc::default(), taken: 0 }
    }
}

impl<T: Clone> Chunk<T> {
    /// The place of an entry, and the entry.
    #[inline]
    fn find(&self, hash: u64, is_it: impl Fn(&T) -> bool) -> Option<(usize, &T)> {
        let places = &*self.places;
        let mut place = home(hash, places.len());
        // A chunk without places has no first one either.
        while let Some(entry) = places.get(place)?.as_ref() {
            if is_it(entry) {
                return Some((place, entry));
            }
            place = next(place, places.len());
        }
        None
    }

    /// Puts an entry into the first empty place from its home on. There must be one.
    fn insert(&mut self, entry: T, hash_of: &impl Fn(&T) -> u64) {
        let places = Arc::make_mut(&mut self.places);
        let mut place = home(hash_of(&entry), places.len());
        while places[place].is_some() {
            place = next(place, places.len());
        }
        places[place] = Some(entry);
        self.taken += 1;
    }

    /// Empties a place, and moves entries behind it up, which a search from their home would
    /// otherwise not reach any more.
    fn remove(&mut self, place: usize, hash_of: &impl Fn(&T) -> u64) -> Option<T> {
        let places = Arc::make_mut(&mut self.places);
        let length = places.len();
        let entry = places[place].take();
        let (mut hole, mut place) = (place, next(place, length));
        while let Some(entry) = &places[place] {
            let distance = |from: usize| (place + length - from) % length;
            // Its home is at the hole, or before it.
            if distance(home(hash_of(entry), length)) >= distance(hole) {
                places.swap(hole, place);
                hole = place;
            }
            place = next(place, length);
        }
        self.taken -= 1;
        entry
    }

    /// Gives the chunk another number of places, of which it needs more than it has entries.
    fn resize(&mut self, length: usize, hash_of: &impl Fn(&T) -> u64) {
        let former = std::mem::take(self);
        if length > 0 {
            self.places = std::iter::repeat_n(None, length).collect();
            for entry in former.places.iter().flatten() {
                self.insert(entry.clone(), hash_of);
            }
        }
    }
}

/// The place at which the search for a hash begins: its highest bits as a fraction of the places,
/// so that any number of places will do.
#[inline]
fn home(hash: u64, places: usize) -> usize {
    (((hash >> 32) * places as u64) >> 32) as usize
}

#[inline]
fn next(place: usize, places: usize) -> usize {
    if place + 1 == places { 0 } else { place + 1 }
}

/// Values by number. A number that is given up is given out again.
#[derive(Debug)]
pub(super) struct Slots<T> {
    /// The lowest bits of a number choose the leaf, so that all leaves grow evenly.
    spine: Spine<Arc<[Option<Arc<T>>]>>,
    /// One more than the highest number that was ever given out.
    end: u32,
    free: Arc<Vec<u32>>,
}

impl<T> Clone for Slots<T> {
    fn clone(&self) -> Self {
        Self { spine: self.spine.clone(), end: self.end, free: self.free.clone() }
    }
}

impl<T> Default for Slots<T> {
    fn default() -> Self {
        Self { spine: Spine::default(), end: 0, free: Arc::default() }
    }
}

impl<T> Slots<T> {
    #[inline]
    pub(super) fn get(&self, slot: u32) -> Option<&Arc<T>> {
        let slot = slot as usize;
        self.spine.leaf(slot).get(slot / LEAVES)?.as_ref()
    }

    /// One more than the highest number in use, or a higher one.
    pub(super) fn end(&self) -> u32 {
        self.end
    }

    /// Gives a value a number.
    pub(super) fn insert(&mut self, value: Arc<T>) -> u32 {
        let slot = if self.free.is_empty() { None } else { Arc::make_mut(&mut self.free).pop() };
        let slot = slot.unwrap_or_else(|| {
            self.end += 1;
            self.end - 1
        });
        self.set(slot, Some(value));
        slot
    }

    /// Puts another value in the place of one.
    pub(super) fn replace(&mut self, slot: u32, value: Arc<T>) {
        self.set(slot, Some(value));
    }

    /// Gives up a number.
    pub(super) fn remove(&mut self, slot: u32) {
        self.set(slot, None);
        Arc::make_mut(&mut self.free).push(slot);
    }

    /// All numbers that have another value than in `former`, or one where the other has none, in
    /// order. Cost: a comparison for each branch, and for each number of the branches that differ.
    pub(super) fn changed_since(&self, former: &Self) -> Vec<u32> {
        let mut changed = Vec::new();
        for leaf in self.spine.unshared(&former.spine) {
            let (values, formers) = (self.spine.leaf(leaf), former.spine.leaf(leaf));
            if Arc::ptr_eq(values, formers) {
                continue;
            }
            for place in 0..values.len().max(formers.len()) {
                let pair = [values, formers].map(|leaf| leaf.get(place).and_then(Option::as_ref));
                if pair[0].map(Arc::as_ptr) != pair[1].map(Arc::as_ptr) {
                    changed.push((place * LEAVES + leaf) as u32);
                }
            }
        }
        changed.sort_unstable();
        changed
    }

    fn set(&mut self, slot: u32, value: Option<Arc<T>>) {
        let slot = slot as usize;
        let (leaf, place) = (self.spine.leaf_mut(slot), slot / LEAVES);
        if place >= leaf.len() {
            let room = (place + 1).next_power_of_two() - leaf.len();
            *leaf = leaf.iter().cloned().chain(std::iter::repeat_n(None, room)).collect();
        }
        Arc::make_mut(leaf)[place] = value;
    }
}

/// Branches of the root, and leaves of a branch.
const FANOUT: usize = 32;
const LEAVES: usize = FANOUT * FANOUT;

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, HashMap};

    use proptest::prelude::*;

    use super::*;
    use crate::rng::mix64;

    /// Keys are few, so that they meet again, and some hashes fall together.
    fn hash(key: u32) -> u64 {
        if key.is_multiple_of(5) { u64::from(key % 7) << 61 } else { mix64(key.into()) & !0x3fc }
    }

    fn hash_of(entry: &(u32, u32)) -> u64 {
        hash(entry.0)
    }

    fn put(table: &mut ChunkTable<(u32, u32)>, key: u32, value: u32) {
        match table.find_mut(hash(key), |entry| entry.0 == key) {
            Some(entry) => entry.1 = value,
            None => table.insert((key, value), hash_of),
        }
    }

    fn assert_same(table: &ChunkTable<(u32, u32)>, model: &HashMap<u32, u32>) {
        for key in 0..KEYS {
            let entry = table.find(hash(key), |entry| entry.0 == key);
            assert_eq!(entry.map(|entry| entry.1), model.get(&key).copied(), "{key}");
        }
    }

    const KEYS: u32 = 300;

    proptest! {
        #[test]
        fn a_table_is_a_map_and_its_clones_stay_as_they_were(
            edits in proptest::collection::vec((0..KEYS, 0u32..4, any::<bool>()), 0..600),
        ) {
            let (mut table, mut model) = (ChunkTable::default(), HashMap::new());
            let mut clones = Vec::new();
            for (turn, &(key, edit, is_cloned)) in edits.iter().enumerate() {
                if is_cloned && clones.len() < 8 {
                    clones.push((table.clone(), model.clone()));
                }
                if edit == 0 {
                    let removed = table.remove(hash(key), |entry| entry.0 == key, hash_of);
                    prop_assert_eq!(removed.map(|entry| entry.1), model.remove(&key));
                } else {
                    put(&mut table, key, turn as u32);
                    model.insert(key, turn as u32);
                }
            }
            assert_same(&table, &model);
            for (table, model) in &clones {
                assert_same(table, model);
            }
        }

        #[test]
        fn slots_keep_their_values_and_tell_what_changed(
            edits in proptest::collection::vec((0usize..40, 0u32..4), 0..200),
            start in 0usize..3000,
        ) {
            let mut slots = Slots::default();
            let mut model: BTreeMap<u32, Arc<usize>> = BTreeMap::new();
            for value in 0..start {
                let value = Arc::new(value);
                model.insert(slots.insert(value.clone()), value);
            }
            let former = (slots.clone(), model.clone());
            for (turn, &(place, edit)) in edits.iter().enumerate() {
                let slot = model.keys().copied().nth(place * 77 % (model.len() + 1));
                let value = Arc::new(turn);
                match (slot, edit) {
                    (Some(slot), 0 | 1) => {
                        slots.remove(slot);
                        model.remove(&slot);
                    }
                    (Some(slot), 2) => {
                        slots.replace(slot, value.clone());
                        model.insert(slot, value);
                    }
                    _ => {
                        let slot = slots.insert(value.clone());
                        prop_assert_eq!(model.insert(slot, value), None);
                    }
                }
            }
            let pointer = |model: &BTreeMap<u32, Arc<usize>>, slot| model.get(&slot).map(Arc::as_ptr);
            let changed: Vec<u32> = (0..slots.end())
                .filter(|slot| pointer(&model, *slot) != pointer(&former.1, *slot))
                .collect();
            prop_assert_eq!(slots.changed_since(&former.0), changed);
            for (slots, model) in [(&slots, &model), (&former.0, &former.1)] {
                for slot in 0..slots.end() {
                    prop_assert_eq!(slots.get(slot).map(Arc::as_ptr), pointer(model, slot));
                }
            }
        }
    }

    #[test]
    fn a_change_copies_one_branch_and_one_chunk() {
        let mut table = ChunkTable::default();
        for key in 0..100_000_u32 {
            table.insert((key, 0), |entry| mix64(entry.0.into()));
        }
        let former = table.clone();
        table.find_mut(mix64(77), |entry| entry.0 == 77).expect("it is there").1 = 1;
        let branches = table.spine.branches.iter().zip(&former.spine.branches);
        assert_eq!(branches.filter(|(a, b)| !Arc::ptr_eq(a, b)).count(), 1);
        let leaves = (0..LEAVES).map(|leaf| (table.spine.leaf(leaf), former.spine.leaf(leaf)));
        assert_eq!(leaves.filter(|(a, b)| !Arc::ptr_eq(&a.places, &b.places)).count(), 1);
    }

    #[test]
    fn places_follow_the_entries() {
        let mut table = ChunkTable::default();
        let places = |table: &ChunkTable<(u32, u32)>| -> usize {
            (0..LEAVES).map(|leaf| table.spine.leaf(leaf).places.len()).sum()
        };
        for key in 0..50_000_u32 {
            table.insert((key, 0), |entry| mix64(entry.0.into()));
        }
        assert!(places(&table) < 50_000 * 2, "{}", places(&table));
        for key in 0..50_000_u32 {
            let hash_of = |entry: &(u32, u32)| mix64(entry.0.into());
            table.remove(mix64(key.into()), |entry| entry.0 == key, hash_of).expect("it is there");
        }
        assert_eq!(places(&table), 0);
    }
}

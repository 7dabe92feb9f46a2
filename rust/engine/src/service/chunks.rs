//! Tables that share what did not change with the tables that they were cloned from.
//!
//! A table is a tree of fixed depth: a root of branches, branches of leaves, and each leaf one
//! chunk of entries; every level is behind an [`Arc`]. A clone copies the root alone. The first
//! change to an entry after that copies the branch and the chunk that the entry is in
//! ([`Arc::make_mut`]); further changes to the same chunk are made in place, since no other table
//! has it. So one change costs two dozen reference counts and one chunk, and building a table from
//! nothing copies nothing at all.
//!
//! The tree does not grow: a chunk does. That keeps the worst change as cheap as the average one (a
//! table that doubles its spine has a change that costs all entries), and a look-up at a constant
//! number of loads, of which only the last one, the entry, is not in a near cache.
//!
//! [`ChunkTable`] finds values by hash, [`Slots`] by number. Readers need no lock: a table keeps
//! all of its chunks, whatever becomes of its clones.

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

    /// The same, to be written to. Cost: copies a branch that others share.
    fn leaf_mut(&mut self, number: usize) -> &mut L {
        &mut Arc::make_mut(&mut self.branches[number / FANOUT % FANOUT])[number % FANOUT]
    }

    /// Numbers of the leaves that may differ from those of `former`: whole branches that are shared
    /// are passed over.
    fn differing_leaves<'a>(&'a self, former: &'a Self) -> impl Iterator<Item = usize> + 'a {
        let branches = self.branches.iter().zip(&former.branches).enumerate();
        branches
            .filter(|(_, (branch, former))| !Arc::ptr_eq(branch, former))
            .flat_map(|(number, _)| number * FANOUT..(number + 1) * FANOUT)
    }
}

/// Values that are found by a hash: the lowest bits choose the chunk, the highest ones are the
/// value's tag in it.
#[derive(Clone, Debug)]
pub(super) struct ChunkTable<T> {
    spine: Spine<Chunk<T>>,
}

impl<T: Clone> Default for ChunkTable<T> {
    fn default() -> Self {
        Self { spine: Spine::default() }
    }
}

impl<T: Clone> ChunkTable<T> {
    /// The value with this hash for which `is_it` holds. Cost: one cache miss, and two more loads.
    #[inline]
    pub(super) fn find(&self, hash: u64, is_it: impl Fn(&T) -> bool) -> Option<&T> {
        self.spine.leaf(hash as usize).find(tag(hash), is_it).map(|(_, value)| value)
    }

    /// Enters a value that is not in the table yet.
    pub(super) fn insert(&mut self, hash: u64, value: T) {
        self.spine.leaf_mut(hash as usize).insert(Entry { tag: tag(hash), value });
    }

    /// The value, to be changed; not in what its hash follows from.
    pub(super) fn find_mut(&mut self, hash: u64, is_it: impl Fn(&T) -> bool) -> Option<&mut T> {
        // Without a value nothing is to be copied.
        let (place, _) = self.spine.leaf(hash as usize).find(tag(hash), is_it)?;
        let chunk = self.spine.leaf_mut(hash as usize);
        Arc::make_mut(&mut chunk.places)[place].as_mut().map(|entry| &mut entry.value)
    }

    /// Takes a value out.
    pub(super) fn remove(&mut self, hash: u64, is_it: impl Fn(&T) -> bool) -> Option<T> {
        let (place, _) = self.spine.leaf(hash as usize).find(tag(hash), is_it)?;
        self.spine.leaf_mut(hash as usize).remove(place)
    }
}

/// One leaf of a [`ChunkTable`]: an open-addressed table with linear probing, in the order of tags.
///
/// An entry stands at its home or behind it, with no empty place and no higher tag between. So a
/// search ends at the first empty place or higher tag, after one or two entries on average whether
/// the value is there or not. Homes are a prefix of the places: a run may
/// go on behind the last home, and never wraps around.
#[derive(Debug)]
struct Chunk<T> {
    places: Arc<[Option<Entry<T>>]>,
    homes: u32,
    taken: u32,
}

#[derive(Clone, Debug)]
struct Entry<T> {
    tag: u32,
    value: T,
}

impl<T> Clone for Chunk<T> {
    fn clone(&self) -> Self {
        Self { places: self.places.clone(), ..*self }
    }
}

impl<T> Default for Chunk<T> {
    fn default() -> Self {
        Self { places: Arc::default(), homes: 0, taken: 0 }
    }
}

impl<T: Clone> Chunk<T> {
    /// A value and its place.
    #[inline]
    fn find(&self, tag: u32, is_it: impl Fn(&T) -> bool) -> Option<(usize, &T)> {
        let mut place = home(tag, self.homes);
        loop {
            let entry = self.places.get(place)?.as_ref()?;
            if entry.tag == tag && is_it(&entry.value) {
                return Some((place, &entry.value));
            }
            // Entries are in the order of tags, so nothing behind a higher one can match.
            if entry.tag > tag {
                return None;
            }
            place += 1;
        }
    }

    fn insert(&mut self, entry: Entry<T>) {
        // At half full a search ends after an entry or two. A third leaves room for half as many
        // insertions again, which spreads the cost of a layout over them.
        if (self.taken + 1) * 2 > self.homes {
            self.lay_out((self.taken + 1) * 3);
        }
        let is_before =
            |place: &&Option<Entry<T>>| place.as_ref().is_some_and(|other| other.tag <= entry.tag);
        let home = home(entry.tag, self.homes);
        let place = home + self.places[home..].iter().take_while(is_before).count();
        let run = self.places[place..].iter().take_while(|place| place.is_some()).count();
        if place + run == self.places.len() {
            // The run has reached the end of the places, which a new layout moves.
            self.lay_out(self.homes);
        }
        // The layout is the same up to there: it follows from the entries' order alone.
        let places = Arc::make_mut(&mut self.places);
        places[place..=place + run].rotate_right(1);
        places[place] = Some(entry);
        self.taken += 1;
    }

    fn remove(&mut self, place: usize) -> Option<T> {
        let homes = self.homes;
        let places = Arc::make_mut(&mut self.places);
        let entry = places[place].take();
        // Each entry behind its home moves one up.
        let is_moved = |(place, entry): &(usize, &Option<Entry<T>>)| {
            entry.as_ref().is_some_and(|entry| home(entry.tag, homes) < *place)
        };
        let run = (place + 1..).zip(&places[place + 1..]).take_while(is_moved).count();
        places[place..=place + run].rotate_left(1);
        self.taken -= 1;
        // Places are given back when few are in use.
        if self.taken * 6 < self.homes {
            self.lay_out(self.taken * 3);
        }
        entry.map(|entry| entry.value)
    }

    /// Moves all entries to where they belong among this many homes.
    fn lay_out(&mut self, homes: u32) {
        let mut places = Vec::with_capacity(homes as usize + SPARE);
        for entry in self.places.iter().flatten() {
            let home = home(entry.tag, homes);
            // At its home, or behind the last entry: in the order of tags no other place is right.
            places.resize(home.max(places.len()), None);
            places.push(Some(entry.clone()));
        }
        let length = (homes as usize).max(places.len());
        places.resize(if homes == 0 { 0 } else { length + SPARE }, None);
        *self = Self { places: places.into(), homes, taken: self.taken };
    }
}

/// The part of a hash that says where in its chunk a value stands.
fn tag(hash: u64) -> u32 {
    (hash >> 32) as u32
}

/// The place at which the search for a tag begins: the tag as a fraction of the homes, so that any
/// number of them will do, and their order is that of the tags.
#[inline]
fn home(tag: u32, homes: u32) -> usize {
    ((u64::from(tag) * u64::from(homes)) >> 32) as usize
}

/// Places behind the last one that is needed.
const SPARE: usize = 2;

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
        for leaf in self.spine.differing_leaves(&former.spine) {
            let (values, formers) = (self.spine.leaf(leaf), former.spine.leaf(leaf));
            // A leaf that both tables share was not written to since the clone.
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
            // Growth by powers of two keeps the cost of a table that is built from nothing linear.
            let room = (place + 1).next_power_of_two() - leaf.len();
            *leaf = leaf.iter().cloned().chain(std::iter::repeat_n(None, room)).collect();
        }
        Arc::make_mut(leaf)[place] = value;
    }
}

/// Branches of the root, and leaves of a branch: few enough for what is above the chunks to stay in
/// a near cache, and enough for a chunk of a large table to be copied in microseconds.
const FANOUT: usize = 16;
const LEAVES: usize = FANOUT * FANOUT;

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, HashMap};

    use proptest::prelude::*;

    use super::*;
    use crate::rng::mix64;

    /// Keys are few, so that they meet again, and some hashes fall together.
    fn hash(key: u32) -> u64 {
        if key.is_multiple_of(5) { u64::from(key % 7) << 61 } else { mix64(key.into()) & !0xfc }
    }

    fn put(table: &mut ChunkTable<(u32, u32)>, key: u32, value: u32) {
        match table.find_mut(hash(key), |entry| entry.0 == key) {
            Some(entry) => entry.1 = value,
            None => table.insert(hash(key), (key, value)),
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
            let (mut table, mut model) = (ChunkTable::<(u32, u32)>::default(), HashMap::new());
            let mut clones = Vec::new();
            for (turn, &(key, edit, is_cloned)) in edits.iter().enumerate() {
                if is_cloned && clones.len() < 8 {
                    clones.push((table.clone(), model.clone()));
                }
                if edit == 0 {
                    let removed = table.remove(hash(key), |entry| entry.0 == key);
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
            let mut most = model.len();
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
                most = most.max(model.len());
            }
            let pointer =
                |model: &BTreeMap<u32, Arc<usize>>, slot| model.get(&slot).map(Arc::as_ptr);
            let changed: Vec<u32> = (0..slots.end())
                .filter(|slot| pointer(&model, *slot) != pointer(&former.1, *slot))
                .collect();
            prop_assert_eq!(slots.changed_since(&former.0), changed);
            prop_assert_eq!(slots.end() as usize, most);
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
            table.insert(mix64(key.into()), (key, 0));
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
            table.insert(mix64(key.into()), (key, 0));
        }
        assert!(places(&table) < 50_000 * 3, "{}", places(&table));
        for key in 0..50_000_u32 {
            table.remove(mix64(key.into()), |entry| entry.0 == key).expect("it is there");
        }
        assert_eq!(places(&table), 0);
    }
}

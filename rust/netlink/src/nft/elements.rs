//! Elements of sets and maps, as the kernel lays them out, and their fingerprints.

use std::hash::{DefaultHasher, Hasher};
use std::sync::Arc;

use super::uapi::{
    NFTA_DATA_VALUE, NFTA_LIST_ELEM, NFTA_SET_ELEM_DATA, NFTA_SET_ELEM_KEY, VALUE_MAXLEN,
};
use crate::attribute::{put, put_nest};

/// Elements of a set or map, one behind the other. A clone does not copy them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Elements {
    key_length: usize,
    /// Of a key and its value.
    element_length: usize,
    bytes: Arc<[u8]>,
}

impl Elements {
    /// Keys with their values; a set has values of no length. `None` when `bytes` has no whole
    /// number of elements, or a key or value is longer than the kernel allows (64 bytes).
    #[must_use]
    pub fn new(key_length: usize, value_length: usize, bytes: &[u8]) -> Option<Self> {
        let element_length = key_length.checked_add(value_length)?;
        // One byte too many would shift every element behind it.
        let is_sound = (1..=VALUE_MAXLEN).contains(&key_length)
            && value_length <= VALUE_MAXLEN
            && bytes.len().is_multiple_of(element_length);
        is_sound.then(|| Self { key_length, element_length, bytes: bytes.into() })
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.bytes.len() / self.element_length
    }

    /// A sum over all elements, whatever their order, so that the sums of several can be added and
    /// subtracted. Two sets with the same sum hold the same, but for one chance in 2^64.
    #[must_use]
    pub fn fingerprint(&self) -> u64 {
        // The kernel dumps elements in the order of its hash table, so order must not count.
        let elements = self.bytes.chunks(self.element_length);
        elements
            .map(|element| element.split_at(self.key_length))
            .fold(0, |sum, (key, value)| sum.wrapping_add(fingerprint(key, value)))
    }

    /// At most `count` of them at a time, each with its key and its value.
    pub(super) fn chunks(
        &self,
        count: usize,
    ) -> impl Iterator<Item = impl Iterator<Item = (&[u8], &[u8])>> {
        self.bytes.chunks(self.element_length * count).map(|chunk| {
            chunk.chunks(self.element_length).map(|element| element.split_at(self.key_length))
        })
    }
}

/// One element's part of a sum.
pub(super) fn fingerprint(key: &[u8], value: &[u8]) -> u64 {
    // Its keys are fixed, so that fingerprints of two runs can be compared.
    let mut hasher = DefaultHasher::new();
    hasher.write(key);
    hasher.write(value);
    hasher.finish()
}

/// Appends an element to a list of elements; `value` is empty for one of a set, and for one that is
/// to be removed.
pub(super) fn put_element(bytes: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    put_nest(bytes, NFTA_LIST_ELEM, |bytes| {
        put_nest(bytes, NFTA_SET_ELEM_KEY, |bytes| put(bytes, NFTA_DATA_VALUE, key));
        if !value.is_empty() {
            put_nest(bytes, NFTA_SET_ELEM_DATA, |bytes| put(bytes, NFTA_DATA_VALUE, value));
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_are_whole() {
        assert_eq!(Elements::new(4, 8, &[0; 24]).map(|elements| elements.count()), Some(2));
        assert_eq!(Elements::new(4, 0, &[]).map(|elements| elements.count()), Some(0));
        for (key, value, length) in [(4, 8, 23), (0, 8, 8), (65, 0, 65), (4, 65, 69)] {
            assert_eq!(Elements::new(key, value, &vec![0; length]), None, "{key} {value} {length}");
        }
        assert_eq!(Elements::new(usize::MAX, 1, &[]), None);
    }

    #[test]
    fn a_fingerprint_is_a_sum() {
        let sum = |bytes: &[u8]| Elements::new(1, 1, bytes).expect("whole").fingerprint();
        assert_eq!(sum(&[1, 2, 3, 4]), sum(&[3, 4, 1, 2]));
        assert_eq!(sum(&[1, 2, 3, 4]), sum(&[1, 2]).wrapping_add(sum(&[3, 4])));
        assert_ne!(sum(&[1, 2]), sum(&[2, 1]));
        assert_eq!(sum(&[]), 0);
    }
}

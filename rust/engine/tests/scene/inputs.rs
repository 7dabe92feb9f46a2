//! Inputs of properties.

use proptest::prelude::{Just, any, prop, prop_oneof};
use proptest::strategy::Strategy;

use super::Family;

pub(crate) fn any_family() -> impl Strategy<Value = Family> {
    prop_oneof![Just(Family::V4), Just(Family::V6)]
}

pub(crate) fn any_bytes(most: usize) -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(any::<u8>(), 0..most)
}

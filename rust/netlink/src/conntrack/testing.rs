//! Messages about flows, for tests.

use super::entry::{Ends, put_tuple};
use super::uapi::{CTA_TUPLE_REPLY, SUBSYSTEM};
use crate::attribute::{Head, close, open};

/// A message with these attributes.
pub(super) fn message(fill: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut bytes = Vec::new();
    let start = open(&mut bytes, Head { subsystem: SUBSYSTEM, ..Head::default() });
    fill(&mut bytes);
    close(&mut bytes, start, 0);
    bytes
}

/// A tuple.
pub(super) fn put_ends(bytes: &mut Vec<u8>, protocol: u8, ends: Ends) {
    put_tuple(bytes, protocol, Some(ends.src), Some(ends.dst));
}

/// A tuple in the place of the reply's.
pub(super) fn put_reply(bytes: &mut Vec<u8>, protocol: u8, reply: Ends) {
    let start = bytes.len();
    put_ends(bytes, protocol, reply);
    bytes[start + 2] = CTA_TUPLE_REPLY as u8;
}

//! The path of one packet: fragments, ICMP errors, packets of known flows, first packets.
//!
//! A packet of a known flow costs a look-up and a rewrite in place; there is no decision on that
//! path.

mod assess;
mod fast_path;
mod first_packet;
mod fragments;
mod known;
mod packet;
mod related;
mod slow_path;
mod state;
mod translate;

pub(crate) use assess::{Ending, Fate, Review, Step};
pub(crate) use fast_path::Candidate;
pub(crate) use first_packet::{Binding, query, to_backend};
pub use packet::{Meta, Packet};
pub(crate) use packet::{malformed, versionless};
pub(crate) use related::Related;
pub(crate) use state::{FamilyState, Shared};

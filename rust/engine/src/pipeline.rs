//! The path of one packet.
//!
//! ```text
//! process --- moves no state ----> fast_path                    look-up, rewrite in place
//!    |                                 |
//!    |                                 +--- plain, no flow ----> first_packet
//!    +------> slow_path --- ICMP error --> related              the flow that the error quotes
//!               |   |
//!               |   +------ fragment ----> fragments            later ones follow the first one
//!               |                            |
//!               +-- datagram <---------------+
//!                     |
//!                     +---- flow known --> known                assess, then do what that says
//!                     +---- none, or over > first_packet        decide, choose, admit, translate
//! ```
//!
//! The files use each other in one direction only: `packet`, `state`, `translate`, then `assess`,
//! `fragments`, `first_packet`, `related`, then `known`, `slow_path`, `fast_path`.
//!
//! Invariants:
//!
//! - A packet gets exactly one verdict, and exactly one place counts it: `fast_path`, `slow_path`
//!   or what releases held fragments.
//! - Only a verdict to translate changes bytes.
//! - Decisions are pure ([`crate::decide`], [`Shared::assess`], [`Shared::admit`]), so `explain`
//!   prints what packets get. The changes that follow from a decision are made after it, in one
//!   place.
//! - A flow is in the table, in the ledger, in its client's count and in the leases, or in none of
//!   them: `first_packet` enters it, and [`Shared::end_flow`] is the only way out.

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
pub(crate) use packet::{malformed, version, versionless};
pub(crate) use related::Related;
pub(crate) use state::{FamilyState, Shared};
pub(crate) use translate::{flow_flags, opening_verdict};

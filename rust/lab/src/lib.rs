//! kbe-nat-lab: balancing strategies on seeded traffic, offline.
//!
//! A cell is one strategy with one memory of connections under one seed ([`spec`]). [`Cell`] runs
//! it: sources of traffic begin connections, whose packets go through nodes with the real engine,
//! and books are kept of where they went. The caller drives the clock, and takes rows as they come,
//! so that memory depends on connections alive, backends and clients, never on the run's length.
//!
//! | module | what it knows |
//! |---|---|
//! | [`spec`], [`rows`] | what goes in, and what comes out |
//! | [`random`] | seeded streams and distributions |
//! | [`balancers`] | strategies that the engine does not have |
//! | [`Assignment`] | a strategy by itself: keys in, backends out |
//! | [`balance`] | fair shares, and indices of balance |
//! | `packets`, `connections`, `traffic` | bytes, stages of a connection's life, when they begin |
//! | `services` | backends over time, and what a change does to a mapping |
//! | `dataplane` | engines behind routers; nodes without memory; JET |
//! | `source_nat` | masqueraded clients, and an observer of their ports |
//! | `measures` | outcomes and balance |
//! | `cell`, `timeline`, `run` | the fates of packets, events, and the queue of steps |
//!
//! The traffic is made here and not in Python because a connection is some ten packets, each of
//! which depends on the fate of the one before: no vectors, but a queue, of which a step costs less
//! than the call that would bring it over from Python.

mod assignment;
pub mod balance;
pub mod balancers;
mod cell;
mod connections;
mod dataplane;
mod measures;
mod packets;
pub mod random;
pub mod rows;
mod run;
mod services;
mod source_nat;
pub mod spec;
mod timeline;
mod traffic;

pub use assignment::Assignment;
pub use cell::Cell;

use std::sync::Arc;

use crate::balancers::Foreign;
use crate::spec::LabError;

impl Cell {
    /// A cell from its description in JSON.
    ///
    /// # Errors
    /// As of [`Cell::new`], and [`LabError::Format`].
    pub fn from_json(spec: &[u8], foreign: Option<Arc<dyn Foreign>>) -> Result<Self, LabError> {
        Self::new(serde_json::from_slice(spec)?, foreign)
    }
}

impl Assignment {
    /// An assignment from its strategy in JSON.
    ///
    /// # Errors
    /// As of [`Assignment::new`], and [`LabError::Format`].
    pub fn from_json(
        spec: &[u8],
        seed: u64,
        foreign: Option<&dyn Foreign>,
    ) -> Result<Self, LabError> {
        Self::new(&serde_json::from_slice(spec)?, seed, foreign)
    }
}

/// Rows in JSON.
///
/// # Errors
/// [`LabError::Format`], which does not happen.
pub fn json(rows: &impl serde::Serialize) -> Result<Vec<u8>, LabError> {
    Ok(serde_json::to_vec(rows)?)
}

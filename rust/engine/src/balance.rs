//! Choosing a backend for a new flow.
//!
//! A [`Balancer`] is built once from a list of backends and is immutable; what changes from choice to choice (cursor,
//! random sequence) is a [`State`] that the caller owns. `explain` clones the state, so looking changes nothing.

use crate::backend::Backend;
use crate::rng::Rng;

/// What a balancer may look at when it chooses.
pub struct Request<'a> {
    /// Stable hash of the client's address: equal on every node.
    pub source: u64,
    /// Stable hash of protocol, both addresses and both ports: equal on every node.
    pub flow: u64,
    /// Live flows of each backend.
    pub loads: &'a dyn Loads,
}

/// Live flows per backend, by position in the list that the balancer was built from.
pub trait Loads {
    /// Flows that are alive on backend `index`.
    fn active(&self, index: usize) -> u32;
}

/// What a balancer remembers between choices.
#[derive(Clone, Debug)]
pub struct State {
    /// The seeded sequence of the random strategies.
    pub rng: Rng,
    /// The turn of the round-robin strategies.
    pub cursor: u64,
    /// Current weights of smooth weighted round robin, by position; empty until first used.
    pub current: Vec<i64>,
}

/// A strategy that picks one of the backends it was built from.
pub trait Balancer: Send + Sync + std::fmt::Debug {
    /// The position of the chosen backend; `None` when no backend has weight.
    fn pick(&self, request: &Request<'_>, state: &mut State) -> Option<usize>;
}

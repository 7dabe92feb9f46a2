//! Choosing a backend for a new flow.
//!
//! A [`Balancer`] is built once from a list of backends and is immutable; the part that changes
//! from choice to choice (cursor, random sequence) is a [`State`] that the caller owns. `explain`
//! clones the state, so looking changes nothing.
//!
//! [`Strategy`] names the balancers and builds them; each has a file of its own. They share four
//! rules:
//!
//! - Weight 0 gets nothing; a list without weight gives `None`.
//! - Choices follow from backends, request and state alone, in integer (or exactly specified)
//!   arithmetic: the same on every run and platform.
//! - The consistent strategies know a backend by address and port, not by its place in the list,
//!   and so agree between nodes that list the same backends in another order.
//! - A state that served another list is welcome: at worst a turn is lost.

mod bounded;
mod cascade;
mod draws;
mod hash;
mod latency;
mod least_conn;
mod logarithm;
mod maglev;
mod parameters;
mod peak_ewma;
mod random;
mod rendezvous;
mod ring;
mod round_robin;
mod smooth_weighted;
mod source_hash;
mod strategy;
mod two_choices;

#[cfg(test)]
mod fixture;

pub use bounded::Bounded;
pub use cascade::Cascade;
pub use hash::{stable_hash_address, stable_hash_endpoint, stable_hash_tuple};
pub(crate) use latency::HalfLife;
pub use latency::Latency;
pub use least_conn::LeastConn;
pub use maglev::{Maglev, SizeError};
pub use parameters::{ParameterError, Parameters};
pub use peak_ewma::PeakEwma;
pub use random::Random;
pub use rendezvous::Rendezvous;
pub use ring::Ring;
pub use round_robin::RoundRobin;
pub use smooth_weighted::SmoothWeighted;
pub use source_hash::SourceHash;
pub use strategy::{Strategy, UnknownStrategy};
pub use two_choices::TwoChoices;

use crate::backend::Backend;
use crate::rng::Rng;

/// The facts by which a balancer chooses.
pub struct Request<'a> {
    /// Stable hash of the client's address: equal on every node.
    pub source: u64,
    /// Stable hash of protocol, both addresses and both ports: equal on every node.
    pub flow: u64,
    /// Live flows of each backend.
    pub loads: Loads<'a>,
}

/// Live flows and connect times per backend, where the engine's books have them: a look at one is
/// two loads from memory.
#[derive(Clone, Copy, Debug, Default)]
pub struct Loads<'a> {
    /// The record of each backend, by position in the list that the balancer was built from.
    pub records: &'a [u32],
    /// Live flows by record, in which the backend has work.
    pub active: &'a [u32],
    /// Live flows by record, in which it has none: those that are closing.
    pub inactive: &'a [u32],
    /// Connect times by record, as far as there are any.
    pub latencies: &'a [Latency],
    /// When the choice is made, in the engine's ticks of 2^26 ns.
    pub now: u32,
}

impl Loads<'_> {
    /// Flows in which backend `index` has work; a backend without a record has none.
    #[inline]
    #[must_use]
    pub fn active(&self, index: usize) -> u32 {
        let record = self.records.get(index);
        record.and_then(|&record| self.active.get(record as usize)).copied().unwrap_or(0)
    }

    /// The load of backend `index` as IPVS has it: 256 for each flow in which it has work, and 1
    /// for each other.
    #[inline]
    #[must_use]
    pub fn overhead(&self, index: usize) -> u64 {
        let Some(&record) = self.records.get(index) else { return 0 };
        let [active, inactive] = [self.active, self.inactive]
            .map(|flows| u64::from(flows.get(record as usize).copied().unwrap_or(0)));
        (active << 8) + inactive
    }

    /// The connect time of backend `index`.
    #[inline]
    fn latency(&self, index: usize) -> Latency {
        let record = self.records.get(index);
        record.and_then(|&record| self.latencies.get(record as usize)).copied().unwrap_or_default()
    }
}

/// A balancer's memory between choices.
#[derive(Clone, Debug)]
pub struct State {
    /// The seeded sequence of the random strategies.
    pub rng: Rng,
    /// The turn of the round-robin strategies.
    pub cursor: u64,
    /// Current weights of smooth weighted round robin, by position; empty until first used.
    pub current: Vec<i64>,
}

impl State {
    /// The state before the first choice. All later choices follow from `seed`.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self { rng: Rng::new(seed), cursor: 0, current: Vec::new() }
    }
}

/// A strategy that picks one of the backends it was built from.
pub trait Balancer: Send + Sync + std::fmt::Debug {
    /// The position of the chosen backend; `None` when no backend has weight.
    fn pick(&self, request: &Request<'_>, state: &mut State) -> Option<usize>;

    /// Why it is backend `index` that a request gets, for a reader of `explain`; `None` where the
    /// strategy's name says it.
    fn reason(&self, request: &Request<'_>, index: usize) -> Option<String> {
        let _ = (request, index);
        None
    }

    /// Bytes of its tables; `None` where they cannot be known, as those of a program in Python.
    /// What it remembers between choices is the caller's [`State`], and no part of them.
    fn memory_bytes(&self) -> Option<usize> {
        None
    }
}

/// A backend that may be chosen: its weight is not 0.
#[derive(Clone, Copy, Debug)]
struct Candidate {
    /// Position in the list that the balancer was built from.
    index: usize,
    weight: u32,
}

impl Candidate {
    /// Whether `overhead` here is a lighter load, relative to weight, than `other_overhead` on
    /// `other`.
    fn is_lighter(&self, overhead: u64, other: &Self, other_overhead: u64) -> bool {
        // overhead / weight < other_overhead / other.weight, without the division.
        u128::from(overhead) * u128::from(other.weight)
            < u128::from(other_overhead) * u128::from(self.weight)
    }
}

/// The backends with weight, in list order.
fn candidates(backends: &[Backend]) -> Vec<Candidate> {
    (backends.iter().enumerate())
        .filter(|(_, backend)| backend.weight > 0)
        .map(|(index, &Backend { weight, .. })| Candidate { index, weight })
        .collect()
}

/// The backends with weight, in the order of their addresses: the same for every order of the list.
/// Backends with one address are one candidate with the weight of all, since whoever goes by
/// address cannot tell them apart.
fn candidates_by_address(backends: &[Backend]) -> Vec<Candidate> {
    let address = |candidate: &Candidate| backends[candidate.index].address;
    let mut candidates = candidates(backends);
    candidates.sort_by_key(address);
    candidates.dedup_by(|next, kept| {
        let is_same = address(next) == address(kept);
        if is_same {
            kept.weight = kept.weight.saturating_add(next.weight);
        }
        is_same
    });
    candidates
}

//! The ways to choose a free port, and the choice among them.

use super::allocator::{PortAllocator, Wish};
use super::blocks::Blocks;
use super::candidates::{Candidates, Cursor};
use super::claim::Claim;
use super::deterministic::Deterministic;
use super::hashed::Hashed;
use super::preserve::Preserve;
use super::random::Random;
use super::range::PortRange;
use super::sequential::Sequential;
use crate::cidr::Cidr;
use crate::hash::HashKey;

/// How a masqueraded flow's source port is chosen.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum Allocation {
    /// The client's own port while it is free, else the first free one behind a random place, as
    /// the kernel's MASQUERADE does.
    #[default]
    Preserve,
    /// A random one each time, as the kernel's `--random-fully` does (RFC 6056, algorithm 2).
    Random,
    /// One after the other.
    Sequential,
    /// One after the other from a place that a keyed hash of the remote says (RFC 6056, algorithm
    /// 3).
    Hashed,
    /// A random one of the blocks that the client has for itself while it has flows (RFC 6888).
    Blocks {
        /// Ports of a block.
        size: u16,
        /// Blocks of one client at most.
        per_client: u16,
    },
    /// A random one of the block that the client's position in these networks says: the logs of
    /// such a translation are empty (RFC 7422).
    Deterministic {
        /// Ports of a block.
        size: u16,
        /// The clients' networks. Networks of one family count on from each other.
        clients: Vec<Cidr>,
    },
}

impl Allocation {
    /// Its name in settings.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Preserve => "preserve",
            Self::Random => "random",
            Self::Sequential => "sequential",
            Self::Hashed => "hashed",
            Self::Blocks { .. } => "blocks",
            Self::Deterministic { .. } => "deterministic",
        }
    }
}

/// One of them, by a branch and not by a table of functions: the whole search is compiled into its
/// caller.
#[derive(Clone, Debug)]
pub(super) enum Allocator {
    Preserve(Preserve),
    Random(Random),
    Sequential(Sequential),
    Hashed(Hashed),
    Blocks(Blocks),
    Deterministic(Deterministic),
}

impl Allocator {
    pub(super) fn new(allocation: &Allocation, range: PortRange, key: HashKey) -> Self {
        match *allocation {
            Allocation::Preserve => Self::Preserve(Preserve),
            Allocation::Random => Self::Random(Random),
            Allocation::Sequential => Self::Sequential(Sequential),
            Allocation::Hashed => Self::Hashed(Hashed),
            Allocation::Blocks { size, per_client } => {
                Self::Blocks(Blocks::new(range, size, per_client, key))
            }
            Allocation::Deterministic { size, ref clients } => {
                Self::Deterministic(Deterministic::new(range, size, clients))
            }
        }
    }
}

/// Calls the same method of whichever it is.
macro_rules! each {
    ($allocator:expr, $it:ident => $call:expr) => {
        match $allocator {
            Allocator::Preserve($it) => $call,
            Allocator::Random($it) => $call,
            Allocator::Sequential($it) => $call,
            Allocator::Hashed($it) => $call,
            Allocator::Blocks($it) => $call,
            Allocator::Deterministic($it) => $call,
        }
    };
}

impl PortAllocator for Allocator {
    fn find<F: Fn(u16) -> bool>(
        &self,
        wish: &Wish<'_>,
        candidates: &Candidates<'_, F>,
        cursor: &mut Cursor,
    ) -> Option<u16> {
        each!(self, it => it.find(wish, candidates, cursor))
    }

    fn take(&mut self, claim: &Claim, port: u16) -> u64 {
        each!(self, it => it.take(claim, port))
    }

    fn give_back(&mut self, claim: &Claim, port: u16) -> u64 {
        each!(self, it => it.give_back(claim, port))
    }
}

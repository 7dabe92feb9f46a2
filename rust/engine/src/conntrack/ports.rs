//! Leased source ports: no two flows that answer to one address use the same port towards the same
//! backend (F31, F32).
//!
//! A flow needs a lease when its source is replaced by an address of ours, or when its own port
//! would make the backend's answers those of another flow. Three questions are kept apart:
//!
//! - [`taken`]: which ports of a pool are leased. A pool is one [`Remote`] where mappings depend on
//!   their endpoint, so the same port may serve any number of backends at a time; it is one of our
//!   addresses where they do not.
//! - [`mapping`]: whether a client's port keeps its mapping towards other backends (RFC 4787).
//! - [`allocator`]: which free port a new mapping gets. [`allocation`] names the ways; each has a
//!   file.
//!
//! Invariants: a port is given only if no flow has the tuple, which the caller's `is_free` says;
//! pools and blocks only narrow that choice, so flows of a checkpoint that was written under other
//! settings may stand outside of them. A port is first sought and only later taken, because the
//! search is also what `explain` does; between both nothing else happens. The search changes a copy
//! of the [`Cursor`] alone, which comes into force with the port. A flow whose source stays its own
//! has the default ways, whatever the settings are.

mod allocation;
mod allocator;
mod blocks;
mod candidates;
mod claim;
mod deterministic;
mod hashed;
mod mapping;
mod preserve;
mod random;
mod range;
mod sequential;
mod taken;

use std::collections::HashMap;
use std::hash::BuildHasher;

pub use self::allocation::Allocation;
use self::allocation::Allocator;
use self::allocator::{PortAllocator, Wish};
use self::candidates::Candidates;
pub(crate) use self::candidates::Cursor;
pub(crate) use self::claim::{Claim, Remote};
pub use self::mapping::Mapping;
use self::mapping::Mappings;
use self::preserve::Preserve;
pub use self::range::PortRange;
use self::taken::Taken;
use crate::hash::HashKey;
use crate::rng::Rng;

/// Leases since the start.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct PortUse {
    /// Flows that got a port.
    pub allocations: u64,
    /// Of these, flows whose first choice of a port was not free, or none that may be leased.
    pub collisions: u64,
    /// Ports that were looked at for them, up to those that they got.
    pub probes: u64,
    /// Lines that a log of the translation needs, by which a client is found again (RFC 6888,
    /// REQ-12): one when a mapping or a block begins, and one when it ends.
    pub log_lines: u64,
}

/// All leases.
#[derive(Clone, Debug)]
pub(crate) struct Leases {
    range: PortRange,
    /// Ports of the range.
    limit: usize,
    key: HashKey,
    /// A bit per port; an entry goes when its last lease does. 8 kB each, and only for remotes with
    /// more than a few leases.
    taken: HashMap<Remote, Taken, HashKey>,
    allocator: Allocator,
    /// Of clients' ports, where mappings do not depend on their endpoint.
    mappings: Option<Mappings>,
    leased: usize,
    cursor: Cursor,
    statistics: PortUse,
}

impl Leases {
    pub(crate) fn new(
        range: PortRange,
        allocation: &Allocation,
        mapping: Mapping,
        key: HashKey,
        mut rng: Rng,
    ) -> Self {
        let limit = range.count();
        // Another start after each restart (RFC 6056). Ways that do not count leave the random
        // sequence as it was.
        let next = match allocation {
            Allocation::Sequential | Allocation::Hashed => rng.below(limit as u32),
            _ => 0,
        };
        Self {
            range,
            limit,
            key,
            taken: HashMap::with_hasher(key),
            allocator: Allocator::new(allocation, range, key),
            mappings: (mapping == Mapping::EndpointIndependent).then(|| Mappings::new(key)),
            leased: 0,
            cursor: Cursor::new(rng, next),
            statistics: PortUse::default(),
        }
    }

    /// Ports that are taken, of all remotes.
    pub(crate) fn count(&self) -> usize {
        self.leased
    }

    /// Ports of the remote that has most. Cost: a pass over the remotes.
    pub(crate) fn most(&self) -> usize {
        self.taken.values().map(Taken::count).max().unwrap_or(0)
    }

    /// Ports that one remote can have.
    pub(crate) fn limit(&self) -> usize {
        self.limit
    }

    pub(crate) fn statistics(&self) -> PortUse {
        self.statistics
    }

    /// Where the next search begins.
    pub(crate) fn cursor(&self) -> Cursor {
        self.cursor.clone()
    }

    /// The mappings that the claim goes by, if it does not go by its endpoint alone.
    fn mappings(&self, claim: &Claim) -> Option<&Mappings> {
        self.mappings.as_ref().filter(|_| claim.is_masqueraded())
    }

    /// A port for a flow. A port is free if no lease and, by `is_free`, no flow without lease has
    /// it. Nothing is taken yet. Cost: at most one pass over 1,024 words, and `is_free` for ports
    /// that are not leased.
    pub(crate) fn find(
        &self,
        claim: &Claim,
        cursor: &mut Cursor,
        is_free: impl Fn(u16) -> bool,
    ) -> Option<u16> {
        let mappings = self.mappings(claim);
        // The client's port keeps its mapping, unless the same client has reached this backend by
        // another frontend: then the tuple is taken, and the flow needs a mapping of its own.
        let leased = mappings.map_or(&[][..], |mappings| mappings.ports(claim));
        if let Some(&(port, _)) = leased.iter().find(|&&(port, _)| is_free(port)) {
            (cursor.probes, cursor.is_collision) = (1, false);
            return Some(port);
        }
        let pool = if mappings.is_some() { claim.remote.of_address() } else { claim.remote };
        let leases = self.taken.get(&pool);
        let candidates = Candidates::new(self.range, leases, is_free);
        let port = if claim.is_masqueraded() {
            let hash = || self.key.hash_one(claim.remote);
            let wish = Wish { client: claim.client, source: claim.remote.source, hash: &hash };
            self.allocator.find(&wish, &candidates, cursor)
        } else {
            Preserve.search(claim.client.port(), &candidates, cursor)
        };
        (cursor.probes, cursor.is_collision) = candidates.statistics();
        port
    }

    /// Takes a port that [`Leases::find`] returned, and leaves the cursor where that search did.
    pub(crate) fn sign(&mut self, claim: &Claim, port: u16, cursor: Cursor) {
        let statistics = &mut self.statistics;
        statistics.allocations += 1;
        statistics.collisions += u64::from(cursor.is_collision);
        statistics.probes += u64::from(cursor.probes);
        self.cursor = cursor;
        self.take(claim, port);
    }

    /// Takes a port.
    pub(crate) fn take(&mut self, claim: &Claim, port: u16) {
        let mut pool = claim.remote;
        if claim.is_masqueraded()
            && let Some(mappings) = &mut self.mappings
        {
            pool = pool.of_address();
            // Flows of one mapping have one lease together.
            if !mappings.join(claim, port) {
                return;
            }
        }
        let leases = self.taken.entry(pool).or_default();
        if !leases.insert(port) {
            return;
        }
        self.leased += 1;
        if claim.is_masqueraded() {
            self.statistics.log_lines += self.allocator.take(claim, port);
        }
    }

    /// Returns a port; one that was not leased is ignored.
    pub(crate) fn give_back(&mut self, claim: &Claim, port: u16) {
        let mut pool = claim.remote;
        if claim.is_masqueraded()
            && let Some(mappings) = &mut self.mappings
        {
            pool = pool.of_address();
            if !mappings.leave(claim, port) {
                return;
            }
        }
        let Some(leases) = self.taken.get_mut(&pool) else { return };
        if !leases.remove(port) {
            return;
        }
        self.leased -= 1;
        if leases.count() == 0 {
            self.taken.remove(&pool);
        }
        if claim.is_masqueraded() {
            self.statistics.log_lines += self.allocator.give_back(claim, port);
        }
    }
}

#[cfg(test)]
mod tests;

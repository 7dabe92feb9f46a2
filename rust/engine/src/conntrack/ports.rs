//! Leased source ports: no two flows that answer to one address use the same port towards the same
//! backend (F31, F32).
//!
//! A flow needs a lease when its source is replaced by an address of ours, or when its own port
//! would make the backend's answers those of another flow. Ports are leased per `Remote`: the
//! same port may serve any number of backends at a time. Most remotes have a handful of flows, and
//! a list of ports is enough for those; from `FEW` on a remote gets a bit per port, 8 kB, so that
//! the search for a free one stays a pass over words. A port is first sought and only later taken,
//! because the search is also what `explain` does; between both nothing else happens.

use std::collections::HashMap;
use std::hash::{Hash, Hasher};
use std::net::{IpAddr, SocketAddr};

use crate::hash::{AddressKey, HashKey, hash_address};
use crate::rng::Rng;
use crate::tuple::Protocol;

/// The ports that may be leased.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PortRange {
    /// Lowest and highest port.
    pub ports: (u16, u16),
    /// Lowest and highest port that is never leased: the cluster's node ports, which would shadow
    /// it (F33).
    pub reserved: (u16, u16),
}

impl Default for PortRange {
    fn default() -> Self {
        Self { ports: (1024, u16::MAX), reserved: (30_000, 32_767) }
    }
}

impl PortRange {
    fn contains(&self, port: u16) -> bool {
        let within = |(low, high): (u16, u16)| (low..=high).contains(&port);
        within(self.ports) && !within(self.reserved)
    }

    /// How many they are.
    fn count(&self) -> usize {
        (0..=u16::MAX).filter(|&port| self.contains(port)).count()
    }
}

/// Whose answers must be told apart: protocol, the address that is answered to, and the backend
/// that answers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Remote {
    pub(crate) protocol: Protocol,
    pub(crate) source: IpAddr,
    pub(crate) backend: SocketAddr,
}

impl Hash for Remote {
    /// As numbers: the standard library would mix each field, variant and length by itself.
    #[inline]
    fn hash<H: Hasher>(&self, state: &mut H) {
        let rest = u32::from(self.backend.port()) << 8 | u32::from(self.protocol.0);
        AddressKey(self.source).hash(state);
        match self.backend.ip() {
            IpAddr::V4(address) => hash_address(address, rest, state),
            IpAddr::V6(address) => hash_address(address, rest, state),
        }
    }
}

/// All leases.
#[derive(Debug)]
pub(crate) struct Leases {
    range: PortRange,
    /// Ports of the range.
    limit: usize,
    /// A bit per port; an entry goes when its last lease does. 8 kB each, and only for remotes with
    /// more than a few leases.
    taken: HashMap<Remote, Taken, HashKey>,
    leased: usize,
}

#[derive(Debug)]
enum Taken {
    Few(Vec<u16>),
    Many { bits: Box<[u64; WORDS]>, count: u32 },
}

impl Leases {
    pub(crate) fn new(range: PortRange, key: HashKey) -> Self {
        Self { range, limit: range.count(), taken: HashMap::with_hasher(key), leased: 0 }
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

    /// A port for a flow that has `wanted`: that one if it may be leased and is free, else the
    /// first free one behind a random place. A port is free if no lease and, by `is_free`, no flow
    /// without lease has it. Nothing is taken yet. Cost: at most one pass over 1,024 words, and
    /// `is_free` for ports that are not leased.
    pub(crate) fn find(
        &self,
        remote: &Remote,
        wanted: u16,
        rng: &mut Rng,
        is_free: impl Fn(u16) -> bool,
    ) -> Option<u16> {
        let leases = self.taken.get(remote);
        let is_leasable = |port: &u16| {
            self.range.contains(*port)
                && leases.is_none_or(|leases| !leases.has(*port))
                && is_free(*port)
        };
        if is_leasable(&wanted) {
            return Some(wanted);
        }
        let start = rng.below(1 << 16) as u16;
        let (low, high) = self.range.ports;
        let start = start.clamp(low, high.max(low));
        let behind = (usize::from(start) / 64..WORDS).flat_map(|word| self.free_in(leases, word));
        let before = (0..=usize::from(start) / 64).flat_map(|word| self.free_in(leases, word));
        behind
            .filter(|&port| port >= start)
            .find(is_leasable)
            .or_else(|| before.filter(|&port| port < start).find(is_leasable))
    }

    /// Takes a port that [`Leases::find`] returned.
    pub(crate) fn take(&mut self, remote: Remote, port: u16) {
        let leases = self.taken.entry(remote).or_insert_with(|| Taken::Few(Vec::new()));
        self.leased += usize::from(leases.insert(port));
    }

    /// Returns a port; one that was not leased is ignored.
    pub(crate) fn give_back(&mut self, remote: &Remote, port: u16) {
        let Some(leases) = self.taken.get_mut(remote) else { return };
        if leases.remove(port) {
            self.leased -= 1;
            if leases.count() == 0 {
                self.taken.remove(remote);
            }
        }
    }

    /// The ports of one word of 64 that are not taken; whole words that are taken cost one
    /// comparison.
    fn free_in(&self, leases: Option<&Taken>, word: usize) -> impl Iterator<Item = u16> {
        let used = match leases {
            Some(Taken::Many { bits, .. }) => bits[word],
            _ => 0,
        };
        let bits = if used == u64::MAX { 0..0 } else { 0..64 };
        bits.filter(move |bit| used >> bit & 1 == 0).map(move |bit| (word * 64 + bit) as u16)
    }
}

impl Taken {
    fn has(&self, port: u16) -> bool {
        match self {
            Self::Few(ports) => ports.contains(&port),
            Self::Many { bits, .. } => bits[usize::from(port) / 64] >> (port % 64) & 1 == 1,
        }
    }

    /// Whether it was not taken before.
    fn insert(&mut self, port: u16) -> bool {
        if self.has(port) {
            return false;
        }
        if let Self::Few(ports) = self {
            if ports.len() < FEW {
                ports.push(port);
                return true;
            }
            let mut bits = Box::new([0; WORDS]);
            for &port in ports.iter() {
                bits[usize::from(port) / 64] |= 1 << (port % 64);
            }
            *self = Self::Many { bits, count: FEW as u32 };
        }
        if let Self::Many { bits, count } = self {
            bits[usize::from(port) / 64] |= 1 << (port % 64);
            *count += 1;
        }
        true
    }

    /// Whether it was taken.
    fn remove(&mut self, port: u16) -> bool {
        if !self.has(port) {
            return false;
        }
        match self {
            Self::Few(ports) => ports.retain(|&leased| leased != port),
            Self::Many { bits, count } => {
                bits[usize::from(port) / 64] &= !(1 << (port % 64));
                *count -= 1;
            }
        }
        true
    }

    fn count(&self) -> usize {
        match self {
            Self::Few(ports) => ports.len(),
            Self::Many { count, .. } => *count as usize,
        }
    }
}

const WORDS: usize = 1 << 10;
/// Leases that are kept as a list; a bitmap costs as much as a list of 4,096.
const FEW: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    fn leases(ports: (u16, u16)) -> (Leases, Remote) {
        let range = PortRange { ports, ..PortRange::default() };
        let backend = SocketAddr::from(([172, 17, 0, 3], 9876));
        let remote = Remote { protocol: Protocol::TCP, source: [10, 0, 2, 15].into(), backend };
        (Leases::new(range, HashKey::new(1)), remote)
    }

    #[test]
    fn f31_every_port_is_leased_once_and_then_none() {
        let (mut leases, remote) = leases((1024, 65_535));
        let mut rng = Rng::new(3);
        let mut seen = std::collections::BTreeSet::new();
        while let Some(port) = leases.find(&remote, 40_000, &mut rng, |_| true) {
            assert!(seen.insert(port), "{port} twice");
            leases.take(remote, port);
        }
        assert_eq!(seen.len(), 65_536 - 1024 - 2768);
        assert_eq!((leases.count(), leases.most(), leases.limit()), (seen.len(), 61_744, 61_744));
        let other = Remote { protocol: Protocol::UDP, ..remote };
        leases.take(other, 1024);
        assert_eq!((leases.count(), leases.most()), (61_745, 61_744), "one remote's");
        leases.give_back(&other, 1024);
        assert!(!seen.iter().any(|port| (30_000..=32_767).contains(port)), "F33: a node port");
        leases.give_back(&remote, 50_000);
        assert_eq!(leases.find(&remote, 40_000, &mut rng, |_| true), Some(50_000));
        for port in seen {
            leases.give_back(&remote, port);
        }
        assert!(leases.taken.is_empty());
    }

    #[test]
    fn f32_the_original_port_is_kept_while_free() {
        let (mut leases, remote) = leases((1024, 65_535));
        let mut rng = Rng::new(3);
        assert_eq!(leases.find(&remote, 5555, &mut rng, |_| true), Some(5555));
        leases.take(remote, 5555);
        let other = leases.find(&remote, 5555, &mut rng, |_| true).expect("ports are free");
        assert_ne!(other, 5555);
        let elsewhere = Remote { protocol: Protocol::UDP, ..remote };
        assert_eq!(leases.find(&elsewhere, 5555, &mut rng, |_| true), Some(5555));
        assert_ne!(leases.find(&elsewhere, 5555, &mut rng, |port| port != 5555), Some(5555));
        assert_ne!(
            leases.find(&remote, 31_000, &mut rng, |_| true),
            Some(31_000),
            "F33: a node port"
        );
        assert_ne!(leases.find(&remote, 80, &mut rng, |_| true), Some(80), "below the range");
    }
}

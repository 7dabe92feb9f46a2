//! Where the service ports of one family are reached.
//!
//! Entries are small, 16 bytes each for frontends and addresses of IPv4, because most look-ups of
//! first packets (is the source a cluster IP, has the backend's address rules) find nothing: four
//! entries share a cache line, and a search that fails looks at one or two.

use std::hash::{BuildHasher, Hash, Hasher};
use std::num::NonZeroU32;

use super::chunks::ChunkTable;
use super::frontend::FrontendKind;
use crate::hash::{AddressKey, HashKey, hash_address};
use crate::tuple::{Address, Protocol};

/// The slot of a service port, and how the frontend is meant that it has there.
pub(super) type Claim = (u32, FrontendKind);

/// Frontends, node ports and addresses of one family.
#[derive(Clone, Debug)]
pub(super) struct Index<A> {
    key: HashKey,
    frontends: ChunkTable<FrontendEntry<A>>,
    node_ports: ChunkTable<NodePortEntry>,
    addresses: ChunkTable<AddressEntry<A>>,
    /// The lowest and the highest cluster IP that was ever claimed: a first packet's source is
    /// hardly ever between them, and needs no look-up then.
    cluster_ips: Option<(A, A)>,
}

/// Where a frontend with an address is found: no two service ports have one of the same key.
#[derive(Clone, Copy)]
pub(super) struct FrontendKey<A> {
    pub(super) protocol: Protocol,
    pub(super) address: A,
    pub(super) port: u16,
}

#[derive(Clone, Copy, Debug)]
struct FrontendEntry<A> {
    address: A,
    port: u16,
    protocol: Protocol,
    kind: FrontendKind,
    slot: u32,
}

#[derive(Clone, Copy, Debug)]
struct NodePortEntry {
    protocol: Protocol,
    port: u16,
    slot: u32,
}

/// How many frontends have an address.
#[derive(Clone, Copy, Debug)]
struct AddressEntry<A> {
    address: A,
    frontends: NonZeroU32,
    /// Of these, those that are cluster IPs.
    cluster_ips: u32,
}

impl<A: Address> Index<A> {
    pub(super) fn new(key: HashKey) -> Self {
        Self {
            key,
            frontends: ChunkTable::default(),
            node_ports: ChunkTable::default(),
            addresses: ChunkTable::default(),
            cluster_ips: None,
        }
    }

    #[inline]
    pub(super) fn frontend(&self, key: &FrontendKey<A>) -> Option<Claim> {
        let entry = self.frontends.find(self.key.hash_one(key), |entry| key.is_of(entry))?;
        Some((entry.slot, entry.kind))
    }

    /// The slot that has a node port.
    pub(super) fn node_port(&self, protocol: Protocol, port: u16) -> Option<u32> {
        let is_it = |entry: &NodePortEntry| (entry.protocol, entry.port) == (protocol, port);
        Some(self.node_ports.find(self.node_port_hash(protocol, port), is_it)?.slot)
    }

    /// Whether an address is a cluster IP.
    #[inline(always)]
    pub(super) fn is_cluster_ip(&self, address: A) -> bool {
        self.cluster_ips.is_some_and(|(first, last)| {
            (first.number()..=last.number()).contains(&address.number())
        }) && self.role(address) == Some(true)
    }

    /// Whether an address is a cluster IP; `None` if it is not that of any frontend.
    pub(super) fn role(&self, address: A) -> Option<bool> {
        let hash = self.key.hash_one(AddressKey(address));
        let entry = self.addresses.find(hash, |entry| entry.address == address)?;
        Some(entry.cluster_ips > 0)
    }

    /// Claims a frontend for a slot, and returns the slot that has it now. The first of two
    /// frontends of one service port with one key is the one that counts.
    pub(super) fn claim(&mut self, key: &FrontendKey<A>, kind: FrontendKind, slot: u32) -> u32 {
        match self.frontend(key) {
            Some((owner, _)) if owner != slot => return owner,
            Some(_) => {}
            None => {
                let FrontendKey { protocol, address, port } = *key;
                let entry = FrontendEntry { address, port, protocol, kind, slot };
                self.frontends.insert(self.key.hash_one(key), entry);
            }
        }
        self.count(key.address, kind);
        slot
    }

    /// Claims a node port for a slot, and returns the slot that has it now.
    pub(super) fn claim_node_port(&mut self, protocol: Protocol, port: u16, slot: u32) -> u32 {
        if let Some(owner) = self.node_port(protocol, port) {
            return owner;
        }
        let hash = self.node_port_hash(protocol, port);
        self.node_ports.insert(hash, NodePortEntry { protocol, port, slot });
        slot
    }

    /// Gives up a frontend that was claimed.
    pub(super) fn give_up(&mut self, key: &FrontendKey<A>, kind: FrontendKind) {
        self.frontends.remove(self.key.hash_one(key), |entry| key.is_of(entry));
        self.uncount(key.address, kind);
    }

    /// Gives up a node port that was claimed.
    pub(super) fn give_up_node_port(&mut self, protocol: Protocol, port: u16) {
        let is_it = |entry: &NodePortEntry| (entry.protocol, entry.port) == (protocol, port);
        self.node_ports.remove(self.node_port_hash(protocol, port), is_it);
    }

    fn count(&mut self, address: A, kind: FrontendKind) {
        let hash = self.key.hash_one(AddressKey(address));
        let more = u32::from(kind == FrontendKind::ClusterIp);
        // It stays when the address is given up: a span too wide costs a look-up, one too narrow
        // a packet.
        if kind == FrontendKind::ClusterIp {
            let (first, last) = self.cluster_ips.unwrap_or((address, address));
            self.cluster_ips = Some((first.min(address), last.max(address)));
        }
        match self.addresses.find_mut(hash, |entry| entry.address == address) {
            Some(entry) => {
                entry.frontends = entry.frontends.saturating_add(1);
                entry.cluster_ips += more;
            }
            None => {
                let frontends = NonZeroU32::MIN;
                self.addresses.insert(hash, AddressEntry { address, frontends, cluster_ips: more });
            }
        }
    }

    fn uncount(&mut self, address: A, kind: FrontendKind) {
        let hash = self.key.hash_one(AddressKey(address));
        let is_it = |entry: &AddressEntry<A>| entry.address == address;
        let Some(entry) = self.addresses.find_mut(hash, is_it) else { return };
        entry.cluster_ips -= u32::from(kind == FrontendKind::ClusterIp);
        match NonZeroU32::new(entry.frontends.get() - 1) {
            Some(frontends) => entry.frontends = frontends,
            None => {
                self.addresses.remove(hash, is_it);
            }
        }
    }

    fn node_port_hash(&self, protocol: Protocol, port: u16) -> u64 {
        self.key.hash_one(u32::from(port) << 8 | u32::from(protocol.0))
    }
}

impl<A: Address> FrontendKey<A> {
    #[inline]
    fn is_of(&self, entry: &FrontendEntry<A>) -> bool {
        entry.address == self.address && entry.port == self.port && entry.protocol == self.protocol
    }
}

impl<A: Address> Hash for FrontendKey<A> {
    #[inline]
    fn hash<H: Hasher>(&self, state: &mut H) {
        let rest = u32::from(self.port) << 8 | u32::from(self.protocol.0);
        hash_address(self.address, rest, state);
    }
}

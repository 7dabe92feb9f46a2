//! The node that the engine works for.

use std::collections::HashMap;
use std::net::IpAddr;

use super::frontend::FrontendKind;
use crate::cidr::Cidr;
use crate::hash::{AddressKey, HashKey};
use crate::tuple::Family;

/// Which of kube-proxy's modes is followed where they differ (pkg/proxy/iptables,
/// pkg/proxy/nftables).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Mode {
    /// The node's own packets to external addresses elsewhere are not refused, and without
    /// endpoints everybody is refused alike.
    #[default]
    Iptables,
    /// The node is refused like everybody, and source ranges go before refusals.
    Nftables,
}

/// The fate of a packet for a port of a cluster IP that no Service serves.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum UnknownPort {
    /// It goes on untouched, as in kube-proxy's iptables mode.
    #[default]
    Pass,
    /// It is refused, as in kube-proxy's nftables mode.
    Reject,
    /// It is dropped.
    Drop,
}

/// Where node ports are reached on the node.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct NodePorts {
    /// Addresses that serve node ports.
    pub addresses: Vec<IpAddr>,
    /// Families in which every local address serves node ports. With IPv4 among them node ports are
    /// on all of 127.0.0.0/8 what they are on 127.0.0.1; otherwise they are closed on its other
    /// addresses.
    pub wildcard_families: Vec<Family>,
    /// Addresses that serve no node ports, where those without endpoints are refused nevertheless.
    pub reject_addresses: Vec<IpAddr>,
    /// A packet to 127.0.0.0/8 from another address is dropped unless a Service serves it; the
    /// node's other addresses count as others.
    pub loopback: bool,
}

impl NodePorts {
    /// Whether all of 127.0.0.0/8 serves the node ports that 127.0.0.1 does.
    #[must_use]
    pub fn includes_all_loopback(&self) -> bool {
        self.wildcard_families.contains(&Family::V4)
    }
}

/// The facts about the node that decisions depend on.
#[derive(Clone, Debug, Default)]
pub struct NodeView {
    /// The node's own addresses.
    pub addresses: Vec<IpAddr>,
    /// Where node ports are reached.
    pub node_ports: NodePorts,
    /// Ranges whose addresses are pods (kube-proxy's detectors ClusterCIDR and NodeCIDR).
    pub pod_ranges: Vec<Cidr>,
    /// Device indexes behind which pods are; `None` without the detectors BridgeInterface and
    /// InterfaceNamePrefix.
    pub pod_interfaces: Option<Vec<u32>>,
    /// Masquerade all that goes to a cluster IP.
    pub masquerade_all: bool,
    /// Policy for unknown ports of cluster IPs.
    pub unknown_port: UnknownPort,
    /// Ranges of cluster IPs; a packet to one that no Service has is dropped.
    pub unallocated: Vec<Cidr>,
    /// Which of kube-proxy's modes is followed.
    pub mode: Mode,
}

impl NodeView {
    /// Whether something tells pods of this family from the outside.
    #[inline]
    #[must_use]
    pub fn has_detector(&self, is_ipv4: bool) -> bool {
        self.pod_interfaces.is_some()
            || self.pod_ranges.iter().any(|range| range.is_ipv4() == is_ipv4)
    }

    /// Whether what comes from this address by this device comes from a pod.
    #[inline]
    #[must_use]
    pub fn is_pod(&self, source: IpAddr, interface: u32) -> bool {
        self.pod_interfaces.as_ref().is_some_and(|devices| devices.contains(&interface))
            || self.pod_ranges.iter().any(|range| range.contains(source))
    }
}

/// A node's view, with what is looked up in it for packets.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) view: NodeView,
    addresses: HashMap<AddressKey<IpAddr>, NodeAddress, HashKey>,
}

/// The role of an address on the node.
#[derive(Clone, Copy, Default, Debug)]
struct NodeAddress {
    /// It is one of the node's own.
    is_node: bool,
    /// How node ports are meant there, if the address has them.
    node_ports: Option<FrontendKind>,
}

impl Node {
    /// Cost: a hash insertion per address.
    pub(super) fn new(view: NodeView, key: HashKey) -> Self {
        let mut addresses: HashMap<AddressKey<IpAddr>, NodeAddress, HashKey> =
            HashMap::with_hasher(key);
        for &address in &view.addresses {
            addresses.entry(AddressKey(address)).or_default().is_node = true;
        }
        // An address that serves node ports does not refuse them, even where it is said to.
        let ports = &view.node_ports;
        let rejecting = ports.reject_addresses.iter().map(|address| (address, CLOSED));
        let serving = ports.addresses.iter().map(|address| (address, SERVING));
        for (&address, kind) in rejecting.chain(serving) {
            addresses.entry(AddressKey(address)).or_default().node_ports = Some(kind);
        }
        Self { view, addresses }
    }

    /// Whether `address` is one of the node's own.
    #[inline]
    pub(super) fn has(&self, address: IpAddr) -> bool {
        self.addresses.get(&AddressKey(address)).is_some_and(|address| address.is_node)
    }

    /// How node ports are meant at `address`.
    #[inline]
    pub(super) fn node_ports_at(&self, address: IpAddr) -> Option<FrontendKind> {
        self.addresses.get(&AddressKey(address))?.node_ports
    }
}

const SERVING: FrontendKind = FrontendKind::NodePort;
const CLOSED: FrontendKind = FrontendKind::ClosedNodePort;

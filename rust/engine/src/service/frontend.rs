//! Where service ports are reached.

use std::hash::{Hash, Hasher};
use std::net::{IpAddr, SocketAddr};

use crate::tuple::Protocol;

/// How a frontend is meant; decides traffic policy and masquerade.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum FrontendKind {
    /// A Service's own virtual IP.
    ClusterIp,
    /// One of `spec.externalIPs`.
    ExternalIp,
    /// A load balancer's ingress IP.
    LoadBalancer,
    /// A port on every node-port address of the node.
    NodePort,
    /// A node port's number on one of the node's other addresses: nothing is served there, but
    /// refusals apply.
    ClosedNodePort,
}

impl FrontendKind {
    /// The kind's name in text and in Python.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::ClusterIp => "cluster-ip",
            Self::ExternalIp => "external-ip",
            Self::LoadBalancer => "load-balancer",
            Self::NodePort => "node-port",
            Self::ClosedNodePort => "closed-node-port",
        }
    }

    /// The kind of this name; a closed node port is no kind that anybody asks for.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::ClusterIp, Self::ExternalIp, Self::LoadBalancer, Self::NodePort]
            .into_iter()
            .find(|kind| kind.name() == name)
    }
}

/// Where a service port is reached.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Frontend {
    /// How it is meant.
    pub kind: FrontendKind,
    /// Its address; `None` for a node port.
    pub address: Option<IpAddr>,
    /// Its port.
    pub port: u16,
}

/// Where a frontend with an address is found: no two service ports have one of the same key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct FrontendKey {
    address: Address,
    port: u16,
    protocol: Protocol,
}

impl FrontendKey {
    #[inline]
    pub(super) fn new(protocol: Protocol, destination: SocketAddr) -> Self {
        Self { address: Address(destination.ip()), port: destination.port(), protocol }
    }
}

impl Hash for FrontendKey {
    #[inline]
    fn hash<H: Hasher>(&self, state: &mut H) {
        let rest = u32::from(self.port) << 8 | u32::from(self.protocol.0);
        self.address.hash_with(rest, state);
    }
}

/// Where a node port is found, on all of the node's addresses of its family.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct NodePortKey {
    pub(super) is_ipv4: bool,
    pub(super) protocol: Protocol,
    pub(super) port: u16,
}

impl Hash for NodePortKey {
    #[inline]
    fn hash<H: Hasher>(&self, state: &mut H) {
        let family = u32::from(self.is_ipv4) << 24;
        state.write_u32(family | u32::from(self.port) << 8 | u32::from(self.protocol.0));
    }
}

/// An address that hashes as one number: the standard library's hash of [`IpAddr`] mixes its
/// variant, its length and its bytes in turn, which costs more than a look-up.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Address(pub(super) IpAddr);

impl Address {
    /// Mixes in the address and 32 bits more.
    #[inline]
    fn hash_with<H: Hasher>(&self, rest: u32, state: &mut H) {
        match self.0 {
            IpAddr::V4(address) => {
                state.write_u64(u64::from(address.to_bits()) << 32 | u64::from(rest));
            }
            IpAddr::V6(address) => {
                let bits = address.to_bits();
                state.write_u64((bits >> 64) as u64);
                state.write_u64(bits as u64);
                state.write_u32(rest);
            }
        }
    }
}

impl Hash for Address {
    #[inline]
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.hash_with(0, state);
    }
}

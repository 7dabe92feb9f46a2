//! Where service ports are reached.

use std::net::IpAddr;

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

//! What the engine serves: an immutable snapshot of all service ports, and the one look-up that
//! finds them.
//!
//! Which endpoints may serve whom is decided before (by policy, when something changes); here they
//! are two lists. A table shares the service ports that did not change with the table before it, so
//! replacing 10,000 costs as much as copying 10,000 pointers.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use crate::backend::Backend;
use crate::balance::{Balancer, SizeError, Strategy};
use crate::cidr::Cidr;
use crate::hash::HashKey;
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

/// What is wrong with a service port or a table of them; whoever built it is at fault.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ServiceError {
    /// A frontend and a backend, or two backends, are of different families.
    #[error("service port {0}: addresses of both families; a service port has one")]
    MixedFamilies(String),
    /// A frontend needs an address, or must not have one.
    #[error("service port {0}: a node port has no address, every other frontend has one")]
    FrontendAddress(String),
    /// The Maglev table's size does not fit.
    #[error("service port {0}: {1}")]
    MaglevSize(String, SizeError),
    /// Two service ports of one family have one name.
    #[error("two service ports are named {0}")]
    DuplicateName(String),
    /// Two service ports claim one frontend.
    #[error("{1} and {2} both claim {0}")]
    DuplicateFrontend(String, String, String),
}

/// The backends that may serve one kind of traffic, with the balancer over them.
#[derive(Debug)]
pub struct BackendSet {
    backends: Box<[Backend]>,
    balancer: Box<dyn Balancer>,
}

impl BackendSet {
    fn new(backends: Vec<Backend>, strategy: Strategy) -> Result<Self, SizeError> {
        Ok(Self { balancer: strategy.build(&backends)?, backends: backends.into() })
    }

    /// The backends in the order that was given.
    #[must_use]
    pub fn backends(&self) -> &[Backend] {
        &self.backends
    }

    /// The balancer over them.
    #[must_use]
    pub fn balancer(&self) -> &dyn Balancer {
        &*self.balancer
    }
}

/// Which of a service port's two lists serves.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Scope {
    /// Endpoints anywhere in the cluster.
    Cluster = 0,
    /// Endpoints of this node.
    Local = 1,
}

impl Scope {
    /// The scope's name in text and in Python.
    #[must_use]
    pub fn name(self) -> &'static str {
        ["cluster", "local"][self as usize]
    }
}

/// What a [`ServicePort`] is made of.
#[derive(Clone, Debug)]
pub struct ServiceSpec {
    /// Name, unique in its family, as kube-proxy writes it: `namespace/name:port`.
    pub name: String,
    /// Transport protocol.
    pub protocol: Protocol,
    /// Where it is reached.
    pub frontends: Vec<Frontend>,
    /// Backends anywhere in the cluster.
    pub cluster_backends: Vec<Backend>,
    /// Backends of this node.
    pub local_backends: Vec<Backend>,
    /// Endpoints of neither list that serve still: the flows of datagrams that they have stay with
    /// them.
    pub serving_backends: Vec<SocketAddr>,
    /// `internalTrafficPolicy: Local`.
    pub is_internal_local: bool,
    /// `externalTrafficPolicy: Local`.
    pub is_external_local: bool,
    /// Seconds for which a client keeps its backend (`sessionAffinity: ClientIP`).
    pub affinity: Option<u32>,
    /// `loadBalancerSourceRanges` of the frontends' family; empty restricts nothing.
    pub source_ranges: Vec<Cidr>,
    /// The ranges restrict external IPs and node ports too.
    pub source_ranges_apply_to_all: bool,
    /// How a backend is chosen.
    pub strategy: Strategy,
}

/// One port of a Service in one family; immutable, shared by all tables that contain it.
#[derive(Debug)]
pub struct ServicePort {
    /// Its `serving` is sorted.
    spec: ServiceSpec,
    sets: [BackendSet; 2],
}

impl ServicePort {
    /// Checks the parts and builds the balancers. Cost: linear in the backends, for Maglev in its
    /// table.
    ///
    /// # Errors
    /// [`ServiceError`] names the service port and what does not fit.
    pub fn new(mut spec: ServiceSpec) -> Result<Self, ServiceError> {
        spec.serving_backends.sort_unstable();
        let name = || spec.name.clone();
        let addresses = spec.frontends.iter().filter_map(|frontend| frontend.address);
        let backends = spec
            .cluster_backends
            .iter()
            .chain(&spec.local_backends)
            .map(|backend| backend.address.ip());
        let serving = spec.serving_backends.iter().map(SocketAddr::ip);
        let mut families =
            addresses.chain(backends).chain(serving).map(|address| address.is_ipv4());
        if let Some(first) = families.next()
            && families.any(|family| family != first)
        {
            return Err(ServiceError::MixedFamilies(name()));
        }
        if spec.frontends.iter().any(|f| (f.kind == FrontendKind::NodePort) == f.address.is_some())
        {
            return Err(ServiceError::FrontendAddress(name()));
        }
        let set = |backends: &Vec<Backend>| {
            BackendSet::new(backends.clone(), spec.strategy)
                .map_err(|error| ServiceError::MaglevSize(name(), error))
        };
        let sets = [set(&spec.cluster_backends)?, set(&spec.local_backends)?];
        Ok(Self { spec, sets })
    }

    /// The same service port under another strategy.
    ///
    /// # Errors
    /// [`ServiceError::MaglevSize`].
    pub fn with_strategy(&self, strategy: Strategy) -> Result<Self, ServiceError> {
        Self::new(ServiceSpec { strategy, ..self.spec.clone() })
    }

    /// Its unique name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.spec.name
    }

    /// All that it was made of.
    #[must_use]
    pub fn spec(&self) -> &ServiceSpec {
        &self.spec
    }

    /// The backends of one scope.
    #[inline]
    #[must_use]
    pub fn set(&self, scope: Scope) -> &BackendSet {
        &self.sets[scope as usize]
    }

    /// Whether anybody serves, whomever.
    #[must_use]
    pub fn has_endpoints(&self) -> bool {
        !(self.spec.cluster_backends.is_empty() && self.spec.local_backends.is_empty())
    }

    /// Whether this endpoint, of neither list, may keep the flows of datagrams that it has.
    #[must_use]
    pub fn serves_still(&self, endpoint: SocketAddr) -> bool {
        self.spec.serving_backends.binary_search(&endpoint).is_ok()
    }

    /// Whether it has no endpoints, or none on this node for traffic that asks for those.
    #[must_use]
    pub fn refuses_somebody(&self) -> bool {
        self.spec.local_backends.is_empty()
            && (self.spec.cluster_backends.is_empty() || self.spec.is_external_local)
    }

    /// Whether it serves IPv4; by its first address, IPv4 if it has none at all.
    #[must_use]
    pub fn is_ipv4(&self) -> bool {
        let backends = self
            .spec
            .cluster_backends
            .iter()
            .chain(&self.spec.local_backends)
            .map(|backend| backend.address.ip());
        self.spec
            .frontends
            .iter()
            .filter_map(|frontend| frontend.address)
            .chain(backends)
            .next()
            .is_none_or(|ip| ip.is_ipv4())
    }
}

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

/// What happens to a packet for a port of a cluster IP on which nothing is served.
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

/// What the engine knows of the node it works for.
#[derive(Clone, Debug, Default)]
pub struct NodeView {
    /// The node's own addresses.
    pub addresses: Vec<IpAddr>,
    /// Those on which node ports are served.
    pub node_port_addresses: Vec<IpAddr>,
    /// Other addresses of the node on which node ports without endpoints are refused nevertheless.
    pub closed_addresses: Vec<IpAddr>,
    /// Node ports are on all of 127.0.0.0/8 what they are on 127.0.0.1; otherwise they are closed
    /// on its other addresses.
    pub every_loopback: bool,
    /// What comes to 127.0.0.0/8 from elsewhere, the node's other addresses among it, is dropped
    /// unless it is served.
    pub guards_loopback: bool,
    /// Ranges whose addresses are pods (kube-proxy's detectors ClusterCIDR and NodeCIDR).
    pub pod_ranges: Vec<Cidr>,
    /// Device indexes behind which pods are; `None` without the detectors BridgeInterface and
    /// InterfaceNamePrefix.
    pub pod_interfaces: Option<Vec<u32>>,
    /// Masquerade all that goes to a cluster IP.
    pub masquerade_all: bool,
    /// Policy for unknown ports of cluster IPs.
    pub unknown_port: UnknownPort,
    /// Ranges of cluster IPs; what goes to one that no Service has is dropped.
    pub unallocated: Vec<Cidr>,
    /// Which of kube-proxy's modes is followed.
    pub mode: Mode,
}

impl NodeView {
    /// Whether something tells pods of this family from the outside.
    #[must_use]
    pub fn has_detector(&self, is_ipv4: bool) -> bool {
        self.pod_interfaces.is_some()
            || self.pod_ranges.iter().any(|range| range.is_ipv4() == is_ipv4)
    }

    /// Whether what comes from this address by this device comes from a pod.
    #[must_use]
    pub fn is_pod(&self, source: IpAddr, interface: u32) -> bool {
        self.pod_interfaces.as_ref().is_some_and(|own| own.contains(&interface))
            || self.pod_ranges.iter().any(|range| range.contains(source))
    }
}

/// The position of a service port in the table, and how the frontend is meant that it has there.
type Claim = (u32, FrontendKind);

/// An immutable snapshot of everything that is served. See the module documentation for what
/// replacing one costs.
#[derive(Debug)]
pub struct ServiceTable {
    services: Vec<Arc<ServicePort>>,
    frontends: HashMap<(Protocol, SocketAddr), Claim, HashKey>,
    /// Node ports at addresses where another Service has that port for itself.
    beaten: HashMap<(Protocol, SocketAddr), Claim, HashKey>,
    /// Every frontend's address, and whether a cluster IP is among them.
    addresses: HashMap<IpAddr, bool, HashKey>,
    node_addresses: HashSet<IpAddr, HashKey>,
    node: NodeView,
}

impl ServiceTable {
    /// Indexes `services`. Node ports are entered once per node-port address, so that every packet
    /// needs one look-up. Cost: one hash insertion per frontend and name.
    ///
    /// # Errors
    /// [`ServiceError::DuplicateName`], [`ServiceError::DuplicateFrontend`].
    pub fn new(
        services: Vec<Arc<ServicePort>>,
        node: NodeView,
        key: HashKey,
    ) -> Result<Self, ServiceError> {
        let mut names = HashSet::with_capacity_and_hasher(services.len(), key);
        let mut frontends = HashMap::with_capacity_and_hasher(services.len() * 2, key);
        let mut beaten = HashMap::with_hasher(key);
        let mut addresses = HashMap::with_capacity_and_hasher(services.len() * 2, key);
        let mut claim = |index: usize, frontend: &Frontend, address: IpAddr| {
            let service = &services[index];
            let claimed = (service.spec.protocol, SocketAddr::new(address, frontend.port));
            let (owner, kind) = *frontends.entry(claimed).or_insert((index as u32, frontend.kind));
            // An exact address goes before a node port, as in kube-proxy's chains.
            let is_beaten = frontend.address.is_none() && kind != frontend.kind;
            if owner != index as u32 && !is_beaten {
                let owner = services[owner as usize].name().to_owned();
                return Err(ServiceError::DuplicateFrontend(
                    claimed.1.to_string(),
                    owner,
                    service.name().to_owned(),
                ));
            }
            if is_beaten {
                beaten.insert(claimed, (index as u32, frontend.kind));
            }
            *addresses.entry(address).or_insert(false) |= frontend.kind == FrontendKind::ClusterIp;
            Ok(())
        };
        for (index, service) in services.iter().enumerate() {
            if !names.insert((service.name(), service.is_ipv4())) {
                return Err(ServiceError::DuplicateName(service.name().to_owned()));
            }
            for frontend in &service.spec.frontends {
                if let Some(address) = frontend.address {
                    claim(index, frontend, address)?;
                }
            }
        }
        for (index, service) in services.iter().enumerate() {
            for frontend in service.spec.frontends.iter().filter(|f| f.address.is_none()) {
                let is_own = |address: &&IpAddr| address.is_ipv4() == service.is_ipv4();
                for &address in node.node_port_addresses.iter().filter(is_own) {
                    claim(index, frontend, address)?;
                }
                if service.refuses_somebody() {
                    let closed = Frontend { kind: FrontendKind::ClosedNodePort, ..*frontend };
                    for &address in node.closed_addresses.iter().filter(is_own) {
                        claim(index, &closed, address)?;
                    }
                }
            }
        }
        drop(names);
        let mut node_addresses = HashSet::with_hasher(key);
        node_addresses.extend(&node.addresses);
        Ok(Self { services, frontends, beaten, addresses, node_addresses, node })
    }

    /// A table that serves nothing.
    #[must_use]
    pub fn empty(key: HashKey) -> Self {
        Self {
            services: Vec::new(),
            frontends: HashMap::with_hasher(key),
            beaten: HashMap::with_hasher(key),
            addresses: HashMap::with_hasher(key),
            node_addresses: HashSet::with_hasher(key),
            node: NodeView::default(),
        }
    }

    /// All service ports.
    #[must_use]
    pub fn services(&self) -> &[Arc<ServicePort>] {
        &self.services
    }

    /// The node's view.
    #[must_use]
    pub fn node(&self) -> &NodeView {
        &self.node
    }

    /// The position of the service port that is served at `destination`, and how that frontend is
    /// meant. Cost: one look-up, two for an address of 127.0.0.0/8.
    #[inline]
    #[must_use]
    pub fn find(&self, protocol: Protocol, destination: SocketAddr) -> Option<(u32, FrontendKind)> {
        let exact = self.frontends.get(&(protocol, destination)).copied();
        if exact.is_none() && destination.is_ipv4() && destination.ip().is_loopback() {
            return self.find_on_loopback(protocol, destination.port());
        }
        exact
    }

    /// The node port that 127.0.0.1 has here, as an address beside it has it: all of 127.0.0.0/8 is
    /// the node's.
    fn find_on_loopback(&self, protocol: Protocol, port: u16) -> Option<(u32, FrontendKind)> {
        let (service, kind) =
            *self.frontends.get(&(protocol, SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port)))?;
        match kind {
            FrontendKind::NodePort if self.node.every_loopback => Some((service, kind)),
            FrontendKind::NodePort | FrontendKind::ClosedNodePort => {
                Some((service, FrontendKind::ClosedNodePort))
            }
            _ => None,
        }
    }

    /// Who has rules for packets to `destination`: the service port that is served there, and one
    /// whose node port it would be. Cost: one look-up where no frontend has the address.
    #[must_use]
    pub(crate) fn claims(&self, protocol: Protocol, destination: SocketAddr) -> [Option<Claim>; 2] {
        if !self.is_frontend(destination.ip()) {
            return [None, None];
        }
        [self.find(protocol, destination), self.beaten.get(&(protocol, destination)).copied()]
    }

    /// Whether `address` is that of any frontend.
    #[must_use]
    pub fn is_frontend(&self, address: IpAddr) -> bool {
        self.addresses.contains_key(&address)
    }

    /// Whether `address` is a cluster IP.
    #[must_use]
    pub fn is_cluster_ip(&self, address: IpAddr) -> bool {
        self.addresses.get(&address) == Some(&true)
    }

    /// Whether `address` is one of the node's own.
    #[must_use]
    pub fn is_node(&self, address: IpAddr) -> bool {
        self.node_addresses.contains(&address)
    }
}

//! Service ports, the node that serves them, and the table of both.
//!
//! Policy decides which endpoints may serve whom, when something changes; here they are two lists.
//! A [`ServicePort`] is one port of a Service in one family, with the balancers over its backends.
//! It is immutable: a change builds another one, and all tables that contain it share it. A
//! [`ServiceTable`] is an immutable snapshot of all service ports, with the one look-up that finds
//! them. [`NodeView`] is what the engine knows of its node.

mod chunks;
mod contradictions;
mod frontend;
mod index;
mod node;
mod table;

use std::mem::take;
use std::net::{IpAddr, SocketAddr};

use crate::backend::Backend;
use crate::balance::{Balancer, Random, SizeError, Strategy};
use crate::cidr::Cidr;
use crate::tuple::{Family, Protocol};

pub use contradictions::Contradiction;
pub use frontend::{Frontend, FrontendKind};
pub use node::{Mode, NodePorts, NodeView, UnknownPort};
pub use table::ServiceTable;

/// A mistake in a service port or a table of them, made by the caller.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ServiceError {
    /// Two addresses are of different families, or one is not of the family that was asked for.
    #[error(
        "service port {0} is of IPv{version}, and {2} is not: it has one family",
        version = .1.version()
    )]
    MixedFamilies(String, Family, IpAddr),
    /// A frontend needs an address, or must not have one.
    #[error("service port {0}: a node port has no address, every other frontend has one")]
    FrontendAddress(String),
    /// The Maglev table's size does not fit.
    #[error("service port {0}: {1}")]
    MaglevSize(String, SizeError),
    /// Two service ports of one family have one name.
    #[error("two service ports are named {0}")]
    DuplicateName(String),
    /// No service port has the name that is to be removed.
    #[error("no service port is named {0}")]
    UnknownName(String),
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
    fn new(
        backends: Vec<Backend>,
        build: &mut impl FnMut(&[Backend]) -> Result<Box<dyn Balancer>, SizeError>,
    ) -> Result<Self, SizeError> {
        Ok(Self { balancer: build(&backends)?, backends: backends.into() })
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

/// The parts of a [`ServicePort`].
#[derive(Clone, Debug)]
pub struct ServiceSpec {
    /// Name, unique in its family, as kube-proxy writes it: `namespace/name:port`.
    pub name: String,
    /// The family of its addresses. `None` stands for that of the first address, and for IPv4 where
    /// there is none.
    pub family: Option<Family>,
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

impl ServiceSpec {
    /// A service port without frontends and backends, as Kubernetes makes one that says nothing
    /// else: traffic policies are `Cluster`, and there is no affinity and no source range. A
    /// backend is chosen at random, as by kube-proxy's rules.
    #[must_use]
    pub fn new(name: impl Into<String>, protocol: Protocol) -> Self {
        Self {
            name: name.into(),
            family: None,
            protocol,
            frontends: Vec::new(),
            cluster_backends: Vec::new(),
            local_backends: Vec::new(),
            serving_backends: Vec::new(),
            is_internal_local: false,
            is_external_local: false,
            affinity: None,
            source_ranges: Vec::new(),
            source_ranges_apply_to_all: false,
            strategy: Strategy::Random,
        }
    }
}

/// One port of a Service in one family; immutable, shared by all tables that contain it.
#[derive(Debug)]
pub struct ServicePort {
    /// Its serving backends are sorted; the other two lists have moved to `sets`.
    spec: ServiceSpec,
    sets: [BackendSet; 2],
    family: Family,
}

impl ServicePort {
    /// Checks the parts and builds the balancers. Cost: linear in the backends, for Maglev in its
    /// table.
    ///
    /// # Errors
    /// [`ServiceError`] names the service port and what does not fit.
    pub fn new(spec: ServiceSpec) -> Result<Self, ServiceError> {
        let strategy = spec.strategy;
        Self::with_balancers(spec, |backends| strategy.build(backends))
    }

    /// The same with balancers of the caller, which `build` makes for each of the two lists. The
    /// spec's strategy only says which hashes a request has, and whether mid-stream packets go by
    /// the balancer: those of a consistent one do.
    ///
    /// # Errors
    /// As of [`ServicePort::new`], and those of `build`.
    pub fn with_balancers(
        mut spec: ServiceSpec,
        mut build: impl FnMut(&[Backend]) -> Result<Box<dyn Balancer>, SizeError>,
    ) -> Result<Self, ServiceError> {
        spec.serving_backends.sort_unstable();
        let name = || spec.name.clone();
        let addresses = spec.frontends.iter().filter_map(|frontend| frontend.address);
        let backends = spec
            .cluster_backends
            .iter()
            .chain(&spec.local_backends)
            .map(|backend| backend.address.ip());
        let serving = spec.serving_backends.iter().map(SocketAddr::ip);
        let mut all = addresses.chain(backends).chain(serving);
        let first = all.clone().next().map(Family::of);
        let family = spec.family.or(first).unwrap_or(Family::V4);
        if let Some(other) = all.find(|address| Family::of(*address) != family) {
            return Err(ServiceError::MixedFamilies(name(), family, other));
        }
        if spec.frontends.iter().any(|f| (f.kind == FrontendKind::NodePort) == f.address.is_some())
        {
            return Err(ServiceError::FrontendAddress(name()));
        }
        // There are more backends than of all else: they are kept once.
        let lists = [take(&mut spec.cluster_backends), take(&mut spec.local_backends)];
        let set = |backends| {
            BackendSet::new(backends, &mut build)
                .map_err(|error| ServiceError::MaglevSize(spec.name.clone(), error))
        };
        let [cluster, local] = lists.map(set);
        let sets = [cluster?, local?];
        Ok(Self { spec, sets, family })
    }

    /// Its unique name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.spec.name
    }

    /// All that it was made of, but for the backends that are in its sets.
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
    #[inline]
    #[must_use]
    pub fn has_endpoints(&self) -> bool {
        self.has_backends(Scope::Cluster) || self.has_backends(Scope::Local)
    }

    /// Whether anybody serves in one scope.
    #[inline]
    #[must_use]
    pub fn has_backends(&self, scope: Scope) -> bool {
        !self.set(scope).backends.is_empty()
    }

    /// Whether this endpoint, of neither list, may keep the flows of datagrams that it has.
    #[must_use]
    pub fn serves_still(&self, endpoint: SocketAddr) -> bool {
        self.spec.serving_backends.binary_search(&endpoint).is_ok()
    }

    /// Whether it has no endpoints, or none on this node for traffic that asks for those.
    #[must_use]
    pub fn refuses_somebody(&self) -> bool {
        !self.has_backends(Scope::Local)
            && (!self.has_backends(Scope::Cluster) || self.spec.is_external_local)
    }

    /// The family that it serves.
    #[must_use]
    pub fn family(&self) -> Family {
        self.family
    }

    /// Its name and family without its backends, for the books of one that no table has any more.
    pub(crate) fn without_backends(&self) -> Self {
        let set = || BackendSet { backends: Box::default(), balancer: Box::new(Random::new(&[])) };
        let spec = ServiceSpec {
            family: Some(self.family),
            is_internal_local: self.spec.is_internal_local,
            is_external_local: self.spec.is_external_local,
            source_ranges_apply_to_all: self.spec.source_ranges_apply_to_all,
            ..ServiceSpec::new(self.spec.name.clone(), self.spec.protocol)
        };
        Self { spec, sets: [set(), set()], family: self.family }
    }
}

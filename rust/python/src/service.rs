//! `Backend`, `Frontend`, `ServicePort`.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use kbe_nat_engine::balance::Parameters;
use kbe_nat_engine::service::{FrontendKind, Scope};
use kbe_nat_engine::tuple::{Family, Protocol};
use kbe_nat_engine::{self as core, Cidr};
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::arguments::{self, Argument, Place, show};
use crate::errors::argument;
use crate::values::{Constructed, constructed, equal_by_fields, fields};
use crate::words::list;

/// One endpoint: where packets of a service port may go. `address` is that of one host: not
/// 0.0.0.0, broadcast or multicast. `weight`, from 0 to 65,535, is its share of new flows against
/// the weights of the others; 0 drains. Its connections to itself are masqueraded, without which
/// they get no answer, unless `hairpin` is false. Raises `ArgumentError`.
#[pyclass(frozen, eq, hash, module = "kbe_nat")]
#[derive(Clone, PartialEq, Eq, Hash)]
pub(crate) struct Backend(pub(crate) core::Backend);

#[pymethods]
impl Backend {
    #[new]
    #[pyo3(signature = (address, port, weight = 1, *, hairpin = true))]
    fn new(
        #[pyo3(from_py_with = arguments::address)] address: HostAddress,
        #[pyo3(from_py_with = arguments::port)] port: u16,
        #[pyo3(from_py_with = arguments::weight)] weight: u32,
        #[pyo3(from_py_with = arguments::hairpin)] hairpin: bool,
    ) -> Self {
        Self(core::Backend { address: SocketAddr::new(address.0, port), weight, hairpin })
    }

    /// The IP address, as text.
    #[getter]
    fn address(&self) -> String {
        self.0.address.ip().to_string()
    }

    /// The port.
    #[getter]
    fn port(&self) -> u16 {
        self.0.address.port()
    }

    /// The weight; 0 drains: no new flows come to it.
    #[getter]
    fn weight(&self) -> u32 {
        self.0.weight
    }

    /// Whether its connections to itself are masqueraded.
    #[getter]
    fn hairpin(&self) -> bool {
        self.0.hairpin
    }

    fn __repr__(&self) -> String {
        let hairpin = if self.0.hairpin { "" } else { ", hairpin=False" };
        format!("Backend({:?}, {}, {}{hairpin})", self.address(), self.port(), self.0.weight)
    }
}

/// Of one host that packets can be sent to, as a Service's endpoints have it.
struct HostAddress(IpAddr);

impl Argument<'_, '_> for HostAddress {
    fn read(object: &Bound<'_, PyAny>, place: Place<'_>) -> PyResult<Self> {
        let address = IpAddr::read(object, place)?;
        let reason = match address {
            IpAddr::V4(v4) if v4.is_broadcast() => "the broadcast address",
            IpAddr::V4(v4) if v4.octets()[0] == 0 => "no host's",
            _ if address.is_unspecified() => "no host's",
            _ if address.is_multicast() => "a multicast address",
            _ => return Ok(Self(address)),
        };
        let value = show(object);
        Err(argument(format!("{place} is the address of one host, not {value}: that is {reason}")))
    }
}

/// Empty for a node port.
struct FrontendAddress(Option<IpAddr>);

impl Argument<'_, '_> for FrontendAddress {
    fn read(object: &Bound<'_, PyAny>, place: Place<'_>) -> PyResult<Self> {
        let is_empty = object.extract::<&str>().is_ok_and(str::is_empty);
        if is_empty {
            return Ok(Self(None));
        }
        let address = IpAddr::read(object, place)?;
        if address.is_unspecified() {
            let accepted = "an address that packets are sent to";
            return Err(place.no_value(object, accepted));
        }
        Ok(Self(Some(address)))
    }
}

/// An address and port under which a service port is reached.
///
/// `kind` is "cluster-ip", "external-ip", "load-balancer" or "node-port"; a node port has the
/// address "" and stands for every address of `NodeView`'s `node_ports`. Raises `ArgumentError`.
#[pyclass(frozen, eq, hash, module = "kbe_nat")]
#[derive(Clone, PartialEq, Eq, Hash)]
pub(crate) struct Frontend(core::Frontend);

#[pymethods]
impl Frontend {
    #[new]
    #[pyo3(
        signature = (address, port, kind = FrontendKind::ClusterIp),
        text_signature = "(address, port, kind='cluster-ip')"
    )]
    fn new(
        #[pyo3(from_py_with = arguments::address)] address: FrontendAddress,
        #[pyo3(from_py_with = arguments::port)] port: u16,
        #[pyo3(from_py_with = arguments::kind)] kind: FrontendKind,
    ) -> PyResult<Self> {
        let address = match (kind, address) {
            (FrontendKind::NodePort, FrontendAddress(None)) => None,
            (FrontendKind::NodePort, _) => {
                return Err(argument("a node port has no address of its own"));
            }
            (_, FrontendAddress(None)) => {
                return Err(argument("address is an IP address, not ''"));
            }
            (_, FrontendAddress(address)) => address,
        };
        Ok(Self(core::Frontend { kind, address, port }))
    }

    /// The IP address, as text; empty for a node port.
    #[getter]
    fn address(&self) -> String {
        self.0.address.map(|address| address.to_string()).unwrap_or_default()
    }

    /// The port.
    #[getter]
    fn port(&self) -> u16 {
        self.0.port
    }

    /// "cluster-ip", "external-ip", "load-balancer" or "node-port".
    #[getter]
    fn kind(&self) -> &'static str {
        self.0.kind.name()
    }

    fn __repr__(&self) -> String {
        format!("Frontend({:?}, {}, {:?})", self.address(), self.0.port, self.0.kind.name())
    }
}

/// One port of a Service in one address family, ready for the engine; immutable.
///
/// `family`, 4 or 6, is that of its addresses. Without it the first address tells the family, and a
/// service port without addresses is of IPv4. `local_backends` are those of this node. They serve
/// where `is_internal_local` or `is_external_local` ask for it (internalTrafficPolicy,
/// externalTrafficPolicy). `affinity_seconds` is the timeout of ClientIP affinity. `source_ranges`
/// bind load-balancer frontends, with `source_ranges_apply_to_all` external IPs and node ports too.
/// `strategy` is one of `kbe_nat.Strategy`. Its parameters: for "mh" `table_size`, a prime; for
/// "ring" and "bounded" `virtual_nodes`, points of a backend of weight 1 (100); for "bounded"
/// `epsilon`, the part of its share that a backend may have beyond it (0.25); for "peak-ewma"
/// `decay`, seconds in which a connect time fades to 1/e (10). Cost: the building of the balancer,
/// for "mh" linear in its table, for "ring" and "bounded" in their points. A backend or frontend
/// that is there twice, a backend that is a frontend, and one on loopback behind other addresses
/// are errors unless `validate` is false: Kubernetes' objects may say such. Raises `ArgumentError`.
#[pyclass(frozen, module = "kbe_nat")]
pub(crate) struct ServicePort(pub(crate) Arc<core::ServicePort>);

#[pymethods]
impl ServicePort {
    #[new]
    // PyO3 writes no default that is a list into the signature that Python sees.
    #[pyo3(
        signature = (
            name, frontends, cluster_backends, *, family = None, protocol = Protocol::TCP,
            local_backends = Vec::new(), serving_backends = Vec::new(),
            is_internal_local = false, is_external_local = false, affinity_seconds = None,
            source_ranges = Vec::new(), source_ranges_apply_to_all = false,
            strategy = "random", table_size = None, virtual_nodes = None, epsilon = None,
            decay = None, validate = true,
        ),
        text_signature = "(name, frontends, cluster_backends, *, family=None, protocol='tcp', \
            local_backends=(), serving_backends=(), is_internal_local=False, \
            is_external_local=False, affinity_seconds=None, source_ranges=(), \
            source_ranges_apply_to_all=False, strategy='random', table_size=None, \
            virtual_nodes=None, epsilon=None, decay=None, validate=True)"
    )]
    #[allow(clippy::too_many_arguments, clippy::needless_pass_by_value)]
    fn new(
        py: Python<'_>,
        #[pyo3(from_py_with = arguments::name)] name: String,
        #[pyo3(from_py_with = arguments::frontends)] frontends: Vec<PyRef<'_, Frontend>>,
        #[pyo3(from_py_with = arguments::cluster_backends)] cluster_backends: Vec<
            PyRef<'_, Backend>,
        >,
        #[pyo3(from_py_with = arguments::family)] family: Option<Family>,
        #[pyo3(from_py_with = arguments::protocol)] protocol: Protocol,
        #[pyo3(from_py_with = arguments::local_backends)] local_backends: Vec<PyRef<'_, Backend>>,
        #[pyo3(from_py_with = arguments::serving_backends)] serving_backends: Vec<
            PyRef<'_, Backend>,
        >,
        #[pyo3(from_py_with = arguments::is_internal_local)] is_internal_local: bool,
        #[pyo3(from_py_with = arguments::is_external_local)] is_external_local: bool,
        #[pyo3(from_py_with = arguments::affinity_seconds)] affinity_seconds: Option<u32>,
        #[pyo3(from_py_with = arguments::source_ranges)] source_ranges: Vec<Cidr>,
        #[pyo3(from_py_with = arguments::source_ranges_apply_to_all)]
        source_ranges_apply_to_all: bool,
        #[pyo3(from_py_with = arguments::strategy)] strategy: &str,
        #[pyo3(from_py_with = arguments::table_size)] table_size: Option<u32>,
        #[pyo3(from_py_with = arguments::virtual_nodes)] virtual_nodes: Option<u32>,
        #[pyo3(from_py_with = arguments::epsilon)] epsilon: Option<f64>,
        #[pyo3(from_py_with = arguments::decay)] decay: Option<f64>,
        #[pyo3(from_py_with = arguments::validate)] validate: bool,
    ) -> PyResult<Self> {
        if name.is_empty() {
            return Err(argument("name is that of a service port, not ''"));
        }
        if ![Protocol::TCP, Protocol::UDP, Protocol::SCTP].contains(&protocol) {
            let transports = list(&["tcp", "udp", "sctp"]);
            return Err(argument(format!("protocol is {transports}, not '{protocol}'")));
        }
        let parameters = Parameters { table_size, virtual_nodes, epsilon, decay };
        let strategy = core::Strategy::with(strategy, &parameters).map_err(argument)?;
        let spec = core::ServiceSpec {
            name,
            family,
            protocol,
            frontends: frontends.iter().map(|frontend| frontend.0).collect(),
            cluster_backends: cluster_backends.iter().map(|backend| backend.0).collect(),
            local_backends: local_backends.iter().map(|backend| backend.0).collect(),
            serving_backends: serving_backends.iter().map(|backend| backend.0.address).collect(),
            is_internal_local,
            is_external_local,
            affinity: affinity_seconds,
            source_ranges,
            source_ranges_apply_to_all,
            strategy,
        };
        if validate {
            let name = &spec.name;
            let check = |error| argument(format!("service port {name}: {error}"));
            spec.check().map_err(check)?;
        }
        // A Maglev table can take a while.
        let service = py.detach(|| core::ServicePort::new(spec)).map_err(argument)?;
        Ok(Self(Arc::new(service)))
    }

    /// The name, as namespace/name or namespace/name:port.
    #[getter]
    fn name(&self) -> &str {
        self.0.name()
    }

    /// The address family, 4 or 6.
    #[getter]
    fn family(&self) -> u8 {
        self.0.family().version()
    }

    /// "tcp", "udp" or "sctp".
    #[getter]
    fn protocol(&self) -> String {
        self.0.spec().protocol.to_string()
    }

    /// The addresses and ports under which it is reached.
    #[getter]
    fn frontends(&self) -> Vec<Frontend> {
        self.0.spec().frontends.iter().copied().map(Frontend).collect()
    }

    /// The backends that serve with the traffic policy Cluster.
    #[getter]
    fn cluster_backends(&self) -> Vec<Backend> {
        self.0.set(Scope::Cluster).backends().iter().copied().map(Backend).collect()
    }

    /// The backends of this node, which serve with the traffic policy Local.
    #[getter]
    fn local_backends(&self) -> Vec<Backend> {
        self.0.set(Scope::Local).backends().iter().copied().map(Backend).collect()
    }

    /// The name of the strategy, one of `kbe_nat.Strategy`.
    #[getter]
    fn strategy(&self) -> &'static str {
        self.0.spec().strategy.name()
    }

    /// The timeout of ClientIP affinity in seconds; None without affinity.
    #[getter]
    fn affinity_seconds(&self) -> Option<u32> {
        self.0.spec().affinity
    }

    fn __repr__(&self) -> String {
        let (spec, family) = (self.0.spec(), self.family());
        let frontends: Vec<String> = spec.frontends.iter().map(reached_at).collect();
        let backends =
            [Scope::Cluster, Scope::Local].map(|scope| self.0.set(scope).backends().len());
        format!(
            "<ServicePort {} {} IPv{family} at {}: {}, {} backends, {} of this node>",
            spec.name,
            spec.protocol,
            if frontends.is_empty() { "none".to_owned() } else { frontends.join(", ") },
            spec.strategy.name(),
            backends[0],
            backends[1],
        )
    }
}

fn reached_at(frontend: &core::Frontend) -> String {
    match frontend.address {
        Some(address) => SocketAddr::new(address, frontend.port).to_string(),
        None => format!("node port {}", frontend.port),
    }
}

constructed!(Backend, Frontend, ServicePort);
equal_by_fields!(ServicePort);

impl Constructed for Backend {
    fn fields<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        fields!(
            py,
            address = self.address(),
            port = self.port(),
            weight = self.weight(),
            hairpin = self.hairpin(),
        )
    }
}

impl Constructed for Frontend {
    fn fields<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        fields!(py, address = self.address(), port = self.port(), kind = self.kind())
    }
}

impl Constructed for ServicePort {
    fn fields<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let spec = self.0.spec();
        let parameters = spec.strategy.parameters();
        let serving = spec
            .serving_backends
            .iter()
            .map(|&address| Backend(core::Backend { address, weight: 1, hairpin: true }));
        fields!(
            py,
            name = self.name(),
            frontends = self.frontends(),
            cluster_backends = self.cluster_backends(),
            family = self.family(),
            protocol = self.protocol(),
            local_backends = self.local_backends(),
            serving_backends = serving.collect::<Vec<_>>(),
            is_internal_local = spec.is_internal_local,
            is_external_local = spec.is_external_local,
            affinity_seconds = self.affinity_seconds(),
            source_ranges = spec.source_ranges.iter().map(Cidr::to_string).collect::<Vec<_>>(),
            source_ranges_apply_to_all = spec.source_ranges_apply_to_all,
            strategy = self.strategy(),
            table_size = parameters.table_size,
            virtual_nodes = parameters.virtual_nodes,
            epsilon = parameters.epsilon,
            decay = parameters.decay,
            validate = self.0.check().is_ok(),
        )
    }
}

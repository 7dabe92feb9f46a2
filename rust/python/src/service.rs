//! `Backend`, `Frontend`, `ServicePort`, `NodePorts`, `NodeView`.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use kbe_nat_engine as core;
use kbe_nat_engine::service::{self, FrontendKind, Mode, Scope, UnknownPort};
use pyo3::prelude::*;

use crate::convert;
use crate::errors::argument;

#[pyclass(frozen, eq, hash, module = "kbe_nat")]
#[derive(Clone, PartialEq, Eq, Hash)]
pub(crate) struct Backend(pub(crate) core::Backend);

#[pymethods]
impl Backend {
    #[new]
    #[pyo3(signature = (address, port, weight = 1, *, hairpin = true))]
    fn new(address: &str, port: u16, weight: u32, hairpin: bool) -> PyResult<Self> {
        let address = SocketAddr::new(convert::address(address)?, port);
        Ok(Self(core::Backend { address, weight, hairpin }))
    }

    #[getter]
    fn address(&self) -> String {
        self.0.address.ip().to_string()
    }

    #[getter]
    fn port(&self) -> u16 {
        self.0.address.port()
    }

    #[getter]
    fn weight(&self) -> u32 {
        self.0.weight
    }

    #[getter]
    fn hairpin(&self) -> bool {
        self.0.hairpin
    }

    fn __repr__(&self) -> String {
        format!("Backend({:?}, {}, {})", self.address(), self.port(), self.0.weight)
    }
}

#[pyclass(frozen, eq, hash, module = "kbe_nat")]
#[derive(Clone, PartialEq, Eq, Hash)]
pub(crate) struct Frontend(core::Frontend);

#[pymethods]
impl Frontend {
    #[new]
    #[pyo3(signature = (address, port, kind = "cluster-ip"))]
    fn new(address: &str, port: u16, kind: &str) -> PyResult<Self> {
        let kind = FrontendKind::from_name(kind)
            .ok_or_else(|| argument(format!("{kind:?} is not a kind of frontend")))?;
        let address = match (kind, address) {
            (FrontendKind::NodePort, "") => None,
            (FrontendKind::NodePort, _) => {
                return Err(argument("a node port has no address of its own"));
            }
            (_, address) => Some(convert::address(address)?),
        };
        Ok(Self(core::Frontend { kind, address, port }))
    }

    #[getter]
    fn address(&self) -> String {
        self.0.address.map(|address| address.to_string()).unwrap_or_default()
    }

    #[getter]
    fn port(&self) -> u16 {
        self.0.port
    }

    #[getter]
    fn kind(&self) -> &'static str {
        self.0.kind.name()
    }

    fn __repr__(&self) -> String {
        format!("Frontend({:?}, {}, {:?})", self.address(), self.0.port, self.0.kind.name())
    }
}

#[pyclass(frozen, module = "kbe_nat")]
pub(crate) struct ServicePort(pub(crate) Arc<core::ServicePort>);

#[pymethods]
impl ServicePort {
    #[new]
    #[pyo3(signature = (
        name, frontends, cluster_backends, *, family = None, protocol = "tcp",
        local_backends = Vec::new(), serving_backends = Vec::new(), is_internal_local = false,
        is_external_local = false, affinity_seconds = None, source_ranges = Vec::new(),
        source_ranges_apply_to_all = false, strategy = "random", maglev_size = None,
    ))]
    #[allow(clippy::too_many_arguments, clippy::needless_pass_by_value)]
    fn new(
        py: Python<'_>,
        name: String,
        frontends: Vec<PyRef<'_, Frontend>>,
        cluster_backends: Vec<PyRef<'_, Backend>>,
        family: Option<u32>,
        protocol: &str,
        local_backends: Vec<PyRef<'_, Backend>>,
        serving_backends: Vec<PyRef<'_, Backend>>,
        is_internal_local: bool,
        is_external_local: bool,
        affinity_seconds: Option<u32>,
        source_ranges: Vec<String>,
        source_ranges_apply_to_all: bool,
        strategy: &str,
        maglev_size: Option<u32>,
    ) -> PyResult<Self> {
        let strategy = match (strategy.parse().map_err(argument)?, maglev_size) {
            (core::Strategy::Maglev { .. }, size) => core::Strategy::Maglev { size },
            (_, Some(_)) => {
                return Err(argument(format!(
                    "maglev_size is for strategy \"mh\", not {strategy:?}"
                )));
            }
            (strategy, None) => strategy,
        };
        let spec = core::ServiceSpec {
            name,
            family: family.map(convert::family).transpose()?,
            protocol: convert::protocol(protocol)?,
            frontends: frontends.iter().map(|frontend| frontend.0).collect(),
            cluster_backends: cluster_backends.iter().map(|backend| backend.0).collect(),
            local_backends: local_backends.iter().map(|backend| backend.0).collect(),
            serving_backends: serving_backends.iter().map(|backend| backend.0.address).collect(),
            is_internal_local,
            is_external_local,
            affinity: affinity_seconds,
            source_ranges: source_ranges.iter().map(convert::cidr).collect::<PyResult<_>>()?,
            source_ranges_apply_to_all,
            strategy,
        };
        // A Maglev table can take a while.
        let service = py.detach(|| core::ServicePort::new(spec)).map_err(argument)?;
        Ok(Self(Arc::new(service)))
    }

    #[getter]
    fn name(&self) -> &str {
        self.0.name()
    }

    #[getter]
    fn family(&self) -> u8 {
        self.0.family().version()
    }

    #[getter]
    fn protocol(&self) -> String {
        self.0.spec().protocol.to_string()
    }

    #[getter]
    fn frontends(&self) -> Vec<Frontend> {
        self.0.spec().frontends.iter().copied().map(Frontend).collect()
    }

    #[getter]
    fn cluster_backends(&self) -> Vec<Backend> {
        self.0.set(Scope::Cluster).backends().iter().copied().map(Backend).collect()
    }

    #[getter]
    fn local_backends(&self) -> Vec<Backend> {
        self.0.set(Scope::Local).backends().iter().copied().map(Backend).collect()
    }

    #[getter]
    fn strategy(&self) -> &'static str {
        self.0.spec().strategy.name()
    }

    #[getter]
    fn affinity_seconds(&self) -> Option<u32> {
        self.0.spec().affinity
    }

    fn __repr__(&self) -> String {
        let spec = self.0.spec();
        format!(
            "<ServicePort {} {} with {} backends>",
            spec.name,
            spec.protocol,
            self.0.set(Scope::Cluster).backends().len()
        )
    }
}

#[pyclass(frozen, eq, module = "kbe_nat")]
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct NodePorts(service::NodePorts);

#[pymethods]
impl NodePorts {
    #[new]
    #[pyo3(signature = (
        addresses = Vec::new(), *, wildcard_families = Vec::new(), reject_addresses = Vec::new(),
        loopback = false,
    ))]
    #[allow(clippy::needless_pass_by_value)]
    fn new(
        addresses: Vec<String>,
        wildcard_families: Vec<u32>,
        reject_addresses: Vec<String>,
        loopback: bool,
    ) -> PyResult<Self> {
        Ok(Self(service::NodePorts {
            addresses: convert::addresses(&addresses)?,
            wildcard_families: wildcard_families
                .into_iter()
                .map(convert::family)
                .collect::<PyResult<_>>()?,
            reject_addresses: convert::addresses(&reject_addresses)?,
            loopback,
        }))
    }

    #[getter]
    fn addresses(&self) -> Vec<String> {
        self.0.addresses.iter().map(IpAddr::to_string).collect()
    }

    #[getter]
    fn wildcard_families(&self) -> Vec<u8> {
        self.0.wildcard_families.iter().map(|family| family.version()).collect()
    }

    #[getter]
    fn reject_addresses(&self) -> Vec<String> {
        self.0.reject_addresses.iter().map(IpAddr::to_string).collect()
    }

    #[getter]
    fn loopback(&self) -> bool {
        self.0.loopback
    }
}

#[pyclass(frozen, module = "kbe_nat")]
#[derive(Clone, Default)]
pub(crate) struct NodeView(pub(crate) core::NodeView);

#[pymethods]
impl NodeView {
    #[new]
    #[pyo3(signature = (
        *, addresses = Vec::new(), node_ports = None, pod_ranges = Vec::new(),
        pod_interfaces = None, masquerade_all = false, unknown_port = "pass",
        unallocated = Vec::new(), mode = "iptables",
    ))]
    #[allow(clippy::too_many_arguments, clippy::needless_pass_by_value)]
    fn new(
        addresses: Vec<String>,
        node_ports: Option<PyRef<'_, NodePorts>>,
        pod_ranges: Vec<String>,
        pod_interfaces: Option<Vec<u32>>,
        masquerade_all: bool,
        unknown_port: &str,
        unallocated: Vec<String>,
        mode: &str,
    ) -> PyResult<Self> {
        let addresses = convert::addresses(&addresses)?;
        Ok(Self(core::NodeView {
            node_ports: match node_ports {
                Some(ports) => ports.0.clone(),
                None => service::NodePorts { addresses: addresses.clone(), ..Default::default() },
            },
            addresses,
            pod_ranges: pod_ranges.iter().map(convert::cidr).collect::<PyResult<_>>()?,
            pod_interfaces,
            masquerade_all,
            unknown_port: match unknown_port {
                "pass" => UnknownPort::Pass,
                "reject" => UnknownPort::Reject,
                "drop" => UnknownPort::Drop,
                other => {
                    return Err(argument(format!(
                        "unknown_port is \"pass\", \"reject\" or \"drop\", not {other:?}"
                    )));
                }
            },
            unallocated: unallocated.iter().map(convert::cidr).collect::<PyResult<_>>()?,
            mode: match mode {
                "iptables" => Mode::Iptables,
                "nftables" => Mode::Nftables,
                other => {
                    return Err(argument(format!(
                        "mode is \"iptables\" or \"nftables\", not {other:?}"
                    )));
                }
            },
        }))
    }

    #[getter]
    fn addresses(&self) -> Vec<String> {
        self.0.addresses.iter().map(IpAddr::to_string).collect()
    }
}

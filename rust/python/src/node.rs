//! `NodePorts`, `NodeView`: what the engine knows of the node that it works for.

use std::net::IpAddr;

use kbe_nat_engine::service::{self, Mode, UnknownPort};
use kbe_nat_engine::tuple::Family;
use kbe_nat_engine::{self as core, Cidr};
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::arguments;
use crate::values::{Constructed, constructed, equal_by_fields, fields, hashed};

/// Where node ports are reached on a node.
///
/// `addresses` serve them. With 4 among `wildcard_families`, families in which every local address
/// serves them, all of 127.0.0.0/8 serves what 127.0.0.1 does; else its other addresses are closed.
/// On `reject_addresses` node ports without endpoints are refused. With `loopback` packets from
/// other addresses to 127.0.0.0/8 are dropped where no service port serves them. Raises
/// `ArgumentError`.
#[pyclass(frozen, eq, module = "kbe_nat")]
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct NodePorts(service::NodePorts);

#[pymethods]
impl NodePorts {
    #[new]
    #[pyo3(
        signature = (
            addresses = Vec::new(), *, wildcard_families = Vec::new(),
            reject_addresses = Vec::new(), loopback = false,
        ),
        text_signature = "(addresses=(), *, wildcard_families=(), reject_addresses=(), \
            loopback=False)"
    )]
    #[allow(clippy::needless_pass_by_value)]
    fn new(
        #[pyo3(from_py_with = arguments::addresses)] addresses: Vec<IpAddr>,
        #[pyo3(from_py_with = arguments::wildcard_families)] wildcard_families: Vec<Family>,
        #[pyo3(from_py_with = arguments::reject_addresses)] reject_addresses: Vec<IpAddr>,
        #[pyo3(from_py_with = arguments::loopback)] loopback: bool,
    ) -> Self {
        Self(service::NodePorts { addresses, wildcard_families, reject_addresses, loopback })
    }

    /// The addresses that serve node ports.
    #[getter]
    fn addresses(&self) -> Vec<String> {
        self.0.addresses.iter().map(IpAddr::to_string).collect()
    }

    /// The families, 4 and 6, in which every local address serves node ports.
    #[getter]
    fn wildcard_families(&self) -> Vec<u8> {
        self.0.wildcard_families.iter().map(|family| family.version()).collect()
    }

    /// The addresses at which node ports without endpoints are refused.
    #[getter]
    fn reject_addresses(&self) -> Vec<String> {
        self.0.reject_addresses.iter().map(IpAddr::to_string).collect()
    }

    /// Whether packets from other addresses to 127.0.0.0/8 are dropped where no service port
    /// serves them.
    #[getter]
    fn loopback(&self) -> bool {
        self.0.loopback
    }

    fn __repr__(&self) -> String {
        let families: Vec<String> =
            self.wildcard_families().iter().map(|family| format!("all of IPv{family}")).collect();
        let places = [self.addresses(), families].concat();
        format!(
            "<NodePorts: {}>",
            if places.is_empty() { "none".into() } else { places.join(", ") }
        )
    }
}

/// What the engine knows of the node it works for.
///
/// `pod_ranges` and `pod_interfaces` (indexes) tell pods from the outside; without either nobody's
/// source is masqueraded for not being a pod. `node_ports` says where node ports are reached: at
/// `addresses`, when it is None. `unknown_port` is what becomes of packets to a port that a cluster
/// IP does not have: "pass", "reject" or "drop"; those to cluster IPs of the ranges `unallocated`
/// that no service port has are dropped. `mode` is "iptables" or "nftables": which of kube-proxy's
/// modes is followed where they differ. Raises `ArgumentError`.
#[pyclass(frozen, module = "kbe_nat")]
#[derive(Clone, Default)]
pub(crate) struct NodeView(pub(crate) core::NodeView);

#[pymethods]
impl NodeView {
    #[new]
    #[pyo3(
        signature = (
            *, addresses = Vec::new(), node_ports = None, pod_ranges = Vec::new(),
            pod_interfaces = None, masquerade_all = false, unknown_port = UnknownPort::Pass,
            unallocated = Vec::new(), mode = Mode::Iptables,
        ),
        text_signature = "(*, addresses=(), node_ports=None, pod_ranges=(), \
            pod_interfaces=None, masquerade_all=False, unknown_port='pass', unallocated=(), \
            mode='iptables')"
    )]
    #[allow(clippy::too_many_arguments, clippy::needless_pass_by_value)]
    fn new(
        #[pyo3(from_py_with = arguments::addresses)] addresses: Vec<IpAddr>,
        #[pyo3(from_py_with = arguments::node_ports)] node_ports: Option<PyRef<'_, NodePorts>>,
        #[pyo3(from_py_with = arguments::pod_ranges)] pod_ranges: Vec<Cidr>,
        #[pyo3(from_py_with = arguments::pod_interfaces)] pod_interfaces: Option<Vec<u32>>,
        #[pyo3(from_py_with = arguments::masquerade_all)] masquerade_all: bool,
        #[pyo3(from_py_with = arguments::unknown_port)] unknown_port: UnknownPort,
        #[pyo3(from_py_with = arguments::unallocated)] unallocated: Vec<Cidr>,
        #[pyo3(from_py_with = arguments::mode)] mode: Mode,
    ) -> Self {
        Self(core::NodeView {
            node_ports: match node_ports {
                Some(ports) => ports.0.clone(),
                None => service::NodePorts { addresses: addresses.clone(), ..Default::default() },
            },
            addresses,
            pod_ranges,
            pod_interfaces,
            masquerade_all,
            unknown_port,
            unallocated,
            mode,
        })
    }

    /// The addresses of the node.
    #[getter]
    fn addresses(&self) -> Vec<String> {
        self.0.addresses.iter().map(IpAddr::to_string).collect()
    }

    fn __repr__(&self) -> String {
        let (addresses, ranges) = (&self.0.addresses, &self.0.pod_ranges);
        let join =
            |texts: Vec<String>| if texts.is_empty() { "none".into() } else { texts.join(", ") };
        format!(
            "<NodeView {}: pods in {}, mode {}>",
            join(addresses.iter().map(IpAddr::to_string).collect()),
            join(ranges.iter().map(Cidr::to_string).collect()),
            mode_name(self.0.mode),
        )
    }
}

fn mode_name(mode: Mode) -> &'static str {
    match mode {
        Mode::Iptables => "iptables",
        Mode::Nftables => "nftables",
    }
}

constructed!(NodePorts, NodeView);
hashed!(NodePorts);
equal_by_fields!(NodeView);

impl Constructed for NodePorts {
    fn fields<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let families: Vec<u32> =
            self.0.wildcard_families.iter().map(|f| f.version().into()).collect();
        fields!(
            py,
            addresses = self.addresses(),
            wildcard_families = families,
            reject_addresses = self.reject_addresses(),
            loopback = self.loopback(),
        )
    }
}

impl Constructed for NodeView {
    fn fields<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let node = &self.0;
        let texts = |ranges: &[Cidr]| ranges.iter().map(Cidr::to_string).collect::<Vec<_>>();
        let unknown_port = match node.unknown_port {
            UnknownPort::Pass => "pass",
            UnknownPort::Reject => "reject",
            UnknownPort::Drop => "drop",
        };
        // Left out where they follow from the addresses, so that a value with other addresses
        // (`__replace__`) has its node ports there.
        let at_addresses =
            service::NodePorts { addresses: node.addresses.clone(), ..Default::default() };
        let node_ports = Some(&node.node_ports).filter(|&ports| *ports != at_addresses);
        fields!(
            py,
            addresses = self.addresses(),
            node_ports = node_ports.cloned().map(NodePorts),
            pod_ranges = texts(&node.pod_ranges),
            pod_interfaces = node.pod_interfaces.clone(),
            masquerade_all = node.masquerade_all,
            unknown_port = unknown_port,
            unallocated = texts(&node.unallocated),
            mode = mode_name(node.mode),
        )
    }
}

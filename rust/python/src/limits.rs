//! `Limits`, `Snat`, `Timeouts`: how large an engine's tables are, what replaces masqueraded
//! sources, and how long flows live.

use std::collections::BTreeMap;
use std::net::IpAddr;

use kbe_nat_engine::conntrack::ports::PortRange;
use kbe_nat_engine::conntrack::timeouts;
use pyo3::prelude::*;

use crate::convert;
use crate::errors::argument;

#[pyclass(frozen, eq, get_all, module = "kbe_nat")]
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Limits {
    pub(crate) max_flows: u32,
    pub(crate) max_unassured: u32,
    pub(crate) max_flows_per_source: Option<u32>,
    pub(crate) max_affinities: u32,
    pub(crate) max_fragments: u32,
    pub(crate) max_decisions: u32,
}

#[pymethods]
impl Limits {
    #[new]
    #[pyo3(signature = (
        *, max_flows = 262_144, max_unassured = None, max_flows_per_source = None,
        max_affinities = 1_048_576, max_fragments = 4096, max_decisions = 65_536,
    ))]
    fn new(
        max_flows: u32,
        max_unassured: Option<u32>,
        max_flows_per_source: Option<u32>,
        max_affinities: u32,
        max_fragments: u32,
        max_decisions: u32,
    ) -> PyResult<Self> {
        if max_flows == 0 {
            return Err(argument("max_flows must be positive"));
        }
        let max_unassured = max_unassured.unwrap_or(max_flows);
        if max_decisions > MAX_DECISIONS {
            return Err(argument(format!("max_decisions is at most {MAX_DECISIONS}")));
        }
        Ok(Self {
            max_flows,
            max_unassured,
            max_flows_per_source,
            max_affinities,
            max_fragments,
            max_decisions,
        })
    }
}

/// One GiB of them.
const MAX_DECISIONS: u32 = 1 << 24;

#[pyclass(frozen, eq, module = "kbe_nat")]
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Snat {
    pub(crate) addresses: Vec<IpAddr>,
    pub(crate) ports: PortRange,
}

#[pymethods]
impl Snat {
    #[new]
    // PyO3 writes no default that is a tuple into the signature that Python sees.
    #[pyo3(
        signature = (addresses, *, ports = (1024, 65535), reserved = (30000, 32767)),
        text_signature = "(addresses, *, ports=(1024, 65535), reserved=(30000, 32767))"
    )]
    #[allow(clippy::needless_pass_by_value)]
    fn new(addresses: Vec<String>, ports: (u16, u16), reserved: (u16, u16)) -> PyResult<Self> {
        if ports.0 > ports.1 {
            return Err(argument("ports are a range (low, high)"));
        }
        let addresses = convert::addresses(&addresses)?;
        Ok(Self { addresses, ports: PortRange { ports, reserved } })
    }

    #[getter]
    fn addresses(&self) -> Vec<String> {
        self.addresses.iter().map(IpAddr::to_string).collect()
    }

    #[getter]
    fn ports(&self) -> (u16, u16) {
        self.ports.ports
    }

    #[getter]
    fn reserved(&self) -> (u16, u16) {
        self.ports.reserved
    }
}

#[pyclass(frozen, module = "kbe_nat")]
#[derive(Clone)]
pub(crate) struct Timeouts {
    pub(crate) table: timeouts::Timeouts,
    /// By name, defaults included.
    seconds: BTreeMap<String, f64>,
}

#[pymethods]
impl Timeouts {
    #[new]
    #[pyo3(signature = (**seconds))]
    fn new(seconds: Option<BTreeMap<String, f64>>) -> PyResult<Self> {
        let defaults = timeouts::Timeout::ALL.iter();
        let mut values: BTreeMap<_, _> =
            defaults.map(|&(_, name, value)| (name.to_owned(), value)).collect();
        let mut table = timeouts::Timeouts::default();
        for (name, value) in seconds.into_iter().flatten() {
            table.set(&name, value).map_err(argument)?;
            values.insert(name, value);
        }
        Ok(Self { table, seconds: values })
    }

    #[getter]
    fn seconds(&self) -> BTreeMap<String, f64> {
        self.seconds.clone()
    }

    fn __eq__(&self, other: &Self) -> bool {
        self.seconds == other.seconds
    }
}

//! `Limits`, `Timeouts`: how large an engine's tables are, and how long flows live.

use std::collections::BTreeMap;

use kbe_nat_engine::conntrack::timeouts;
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::arguments::{self, Argument, Place};
use crate::errors::argument;
use crate::values::{Constructed, constructed, fields, hash, hashed};

/// How many entries an engine's tables have at most, per address family.
///
/// `max_unassured` bounds flows that were not answered yet (default: `max_flows`),
/// `max_flows_per_source` those of one client, `max_affinities` clients whose backend is
/// remembered, `max_fragments` datagrams in fragments. `max_decisions`, of both families together,
/// bounds what `Engine.decisions` tells; 0 turns that off. Raises `ArgumentError`.
#[pyclass(frozen, eq, get_all, module = "kbe_nat")]
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Limits {
    /// Flows at most.
    pub(crate) max_flows: u32,
    /// Flows at most that were not answered yet.
    pub(crate) max_unassured: u32,
    /// Flows of one client at most; None for no such limit.
    pub(crate) max_flows_per_source: Option<u32>,
    /// Clients at most whose backend is remembered.
    pub(crate) max_affinities: u32,
    /// Datagrams in fragments at most.
    pub(crate) max_fragments: u32,
    /// Decisions that are remembered, of both families together; 0 for none.
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
        #[pyo3(from_py_with = arguments::max_flows)] max_flows: u32,
        #[pyo3(from_py_with = arguments::max_unassured)] max_unassured: Option<u32>,
        #[pyo3(from_py_with = arguments::max_flows_per_source)] max_flows_per_source: Option<u32>,
        #[pyo3(from_py_with = arguments::max_affinities)] max_affinities: u32,
        #[pyo3(from_py_with = arguments::max_fragments)] max_fragments: u32,
        #[pyo3(from_py_with = arguments::max_decisions)] max_decisions: u32,
    ) -> Self {
        let max_unassured = max_unassured.unwrap_or(max_flows);
        Self {
            max_flows,
            max_unassured,
            max_flows_per_source,
            max_affinities,
            max_fragments,
            max_decisions,
        }
    }
}

#[pymethods]
impl Limits {
    fn __repr__(&self, py: Python<'_>) -> PyResult<String> {
        let fields = self.fields(py)?;
        fields.set_item("max_unassured", self.max_unassured)?;
        show("Limits", &fields)
    }
}

constructed!(Limits, Timeouts);
hashed!(Limits);

impl Constructed for Limits {
    fn fields<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        fields!(
            py,
            max_flows = self.max_flows,
            // Left out where it follows from the other, as in the constructor.
            max_unassured = Some(self.max_unassured).filter(|&number| number != self.max_flows),
            max_flows_per_source = self.max_flows_per_source,
            max_affinities = self.max_affinities,
            max_fragments = self.max_fragments,
            max_decisions = self.max_decisions,
        )
    }
}

/// A call of the constructor.
fn show(class: &str, fields: &Bound<'_, PyDict>) -> PyResult<String> {
    let arguments: Vec<String> = fields
        .iter()
        .map(|(name, value)| Ok(format!("{name}={}", value.repr()?)))
        .collect::<PyResult<_>>()?;
    Ok(format!("{class}({})", arguments.join(", ")))
}

/// In seconds.
const YEAR: f64 = 31_536_000.0;

/// How long flows live without packets, in seconds: `TIMEOUTS`, but for those that are named.
/// Raises `ArgumentError` for a name that there is not, and for less than 0 or more than a year.
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
    fn new(seconds: Option<&Bound<'_, PyDict>>) -> PyResult<Self> {
        let defaults = timeouts::Timeout::ALL.iter();
        let mut values: BTreeMap<_, _> =
            defaults.map(|&(_, name, value)| (name.to_owned(), value)).collect();
        let mut table = timeouts::Timeouts::default();
        for (name, value) in seconds.into_iter().flatten() {
            let name = name.extract::<String>()?;
            let value = f64::read(&value, Place::Argument(&name, Some((0.0, YEAR))))?;
            table.set(&name, value).map_err(argument)?;
            values.insert(name, value);
        }
        Ok(Self { table, seconds: values })
    }

    /// By name, all of them.
    #[getter]
    fn seconds(&self) -> BTreeMap<String, f64> {
        self.seconds.clone()
    }

    fn __eq__(&self, other: &Self) -> bool {
        self.seconds == other.seconds
    }

    fn __hash__(&self) -> u64 {
        hash(&format!("{:?}", self.seconds))
    }

    /// Those that are not the default.
    fn __repr__(&self, py: Python<'_>) -> PyResult<String> {
        let fields = self.fields(py)?;
        for (_, name, default) in timeouts::Timeout::ALL {
            #[allow(clippy::float_cmp)]
            if self.seconds.get(*name) == Some(default) {
                fields.del_item(name)?;
            }
        }
        show("Timeouts", &fields)
    }
}

impl Constructed for Timeouts {
    fn fields<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        self.seconds.clone().into_pyobject(py)
    }
}

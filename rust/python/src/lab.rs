//! `LabCell`, `Assignment`: the lab's simulation, and strategies that are written in Python.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use kbe_nat_engine as core;
use kbe_nat_engine::balance::{Balancer, Request, State};
use kbe_nat_lab as lab;
use kbe_nat_lab::balancers::{Builder, Foreign};
use kbe_nat_lab::spec::LabError;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::arguments::{self, Numbers};
use crate::errors::argument;
use crate::service::Backend;
use crate::values::machines;

/// The first error of a strategy in Python: a choice cannot raise it where it happens.
#[derive(Clone, Debug, Default)]
struct Failure(Arc<Mutex<Option<PyErr>>>);

impl Failure {
    fn lock(&self) -> MutexGuard<'_, Option<PyErr>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self, error: PyErr) {
        self.lock().get_or_insert(error);
    }

    /// Raises what was noted, before any error of the lab, which may follow from it.
    fn raise<T>(&self, result: Result<T, LabError>) -> PyResult<T> {
        match self.lock().take() {
            Some(error) => Err(error),
            None => result.map_err(argument),
        }
    }
}

/// A class in Python, of which each Service gets instances.
#[derive(Debug)]
struct Class {
    class: Py<PyAny>,
    failure: Failure,
}

impl Class {
    fn shared(class: Option<Py<PyAny>>, failure: &Failure) -> Option<Arc<dyn Foreign>> {
        let class = class?;
        Some(Arc::new(Self { class, failure: failure.clone() }))
    }
}

impl Foreign for Class {
    fn builder(&self, seed: u64) -> Box<dyn Builder> {
        Python::attach(|py| {
            let is_set = |name: &str| {
                let value = self.class.bind(py).getattr(name);
                value.and_then(|value| value.is_truthy()).unwrap_or(false)
            };
            let by_client = is_set("by_client");
            Box::new(Instances {
                class: self.class.clone_ref(py),
                failure: self.failure.clone(),
                seed,
                is_mapping: is_set("consistent"),
                kind: if by_client {
                    core::Strategy::SourceHash
                } else {
                    core::Strategy::Rendezvous
                },
            })
        })
    }
}

#[derive(Debug)]
struct Instances {
    class: Py<PyAny>,
    failure: Failure,
    seed: u64,
    is_mapping: bool,
    kind: core::Strategy,
}

impl Builder for Instances {
    fn build(&mut self, backends: &[core::Backend]) -> Result<Box<dyn Balancer>, String> {
        let instance = Python::attach(|py| {
            let list: Vec<Backend> = backends.iter().copied().map(Backend).collect();
            self.class.call1(py, (list, self.seed))
        });
        let instance = instance.map_err(|error| {
            let text = error.to_string();
            self.failure.note(error);
            text
        })?;
        let (failure, backends) = (self.failure.clone(), backends.len());
        Ok(Box::new(Instance { instance, failure, backends, kind: self.kind }))
    }

    fn kind(&self) -> core::Strategy {
        self.kind
    }

    fn is_mapping(&self) -> bool {
        self.is_mapping
    }
}

/// A balancer that is written in Python.
#[derive(Debug)]
struct Instance {
    instance: Py<PyAny>,
    failure: Failure,
    backends: usize,
    kind: core::Strategy,
}

impl Balancer for Instance {
    fn pick(&self, request: &Request<'_>, _: &mut State) -> Option<usize> {
        let hash =
            if self.kind == core::Strategy::SourceHash { request.source } else { request.flow };
        let loads: Vec<u32> = (0..self.backends).map(|index| request.loads.active(index)).collect();
        let choice = Python::attach(|py| {
            let choice = self.instance.call_method1(py, "pick", (hash, loads))?;
            let choice = choice.bind(py);
            match choice.extract::<Option<usize>>() {
                Ok(index)
                    if index.is_none_or(|index| index < self.backends)
                        && !arguments::is_bool(choice) =>
                {
                    Ok(index)
                }
                _ => {
                    let accepted = match self.backends.checked_sub(1) {
                        Some(last) => format!("None or a position from 0 to {last}"),
                        None => "None without a backend".to_owned(),
                    };
                    let value = arguments::show(choice);
                    Err(argument(format!("pick returns {accepted}, not {value}")))
                }
            }
        });
        match choice {
            Ok(index) => index,
            Err(error) => {
                self.failure.note(error);
                None
            }
        }
    }
}

/// A cell of the lab while it runs; see `kbe_nat.lab`. `spec` is its description in JSON, and
/// `strategy` the class of a strategy named "python". Raises `ArgumentError`.
#[pyclass(frozen, module = "kbe_nat")]
pub(crate) struct LabCell {
    cell: Mutex<lab::Cell>,
    failure: Failure,
}

impl LabCell {
    fn lock(&self) -> MutexGuard<'_, lab::Cell> {
        self.cell.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[pymethods]
impl LabCell {
    #[new]
    #[pyo3(signature = (spec, strategy = None))]
    fn new(
        py: Python<'_>,
        #[pyo3(from_py_with = arguments::spec)] spec: &[u8],
        strategy: Option<Py<PyAny>>,
    ) -> PyResult<Self> {
        let failure = Failure::default();
        let foreign = Class::shared(strategy, &failure);
        let cell = py.detach(|| lab::Cell::from_json(spec, foreign));
        let cell = failure.raise(cell)?;
        Ok(Self { cell: Mutex::new(cell), failure })
    }

    /// Run until `until` seconds of the driven clock, or the end. Returns the rows since the last
    /// call in JSON. Raises `ArgumentError`, and what a strategy in Python raises.
    fn advance<'py>(
        &self,
        py: Python<'py>,
        #[pyo3(from_py_with = arguments::until)] until: f64,
    ) -> PyResult<Bound<'py, PyBytes>> {
        let progress = py.detach(|| self.lock().advance(until).and_then(|rows| lab::json(&rows)));
        Ok(PyBytes::new(py, &self.failure.raise(progress)?))
    }

    /// The results of the whole run in JSON.
    fn finish<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
        let result = py.detach(|| lab::json(&self.lock().finish()));
        Ok(PyBytes::new(py, &self.failure.raise(result)?))
    }
}

/// A balancing strategy by itself; `kbe_nat.lab.Assignment` has words for it.
#[pyclass(frozen, module = "kbe_nat")]
pub(crate) struct Assignment {
    assignment: Mutex<lab::Assignment>,
    failure: Failure,
}

impl Assignment {
    fn lock(&self) -> MutexGuard<'_, lab::Assignment> {
        self.assignment.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn pick_all(&self, py: Python<'_>, Numbers(keys): Numbers, stays: bool) -> PyResult<Picks> {
        let picks = py.detach(|| {
            let mut assignment = self.lock();
            keys.iter().map(|&key| assignment.pick(key, stays)).collect()
        });
        self.failure.raise(Ok(picks))
    }
}

type Picks = Vec<Option<usize>>;

#[pymethods]
impl Assignment {
    #[new]
    fn new(
        py: Python<'_>,
        #[pyo3(from_py_with = arguments::spec)] spec: &[u8],
        #[pyo3(from_py_with = arguments::seed)] seed: u64,
        strategy: Option<Py<PyAny>>,
    ) -> PyResult<Self> {
        let failure = Failure::default();
        let foreign = Class::shared(strategy, &failure);
        let assignment = py.detach(|| lab::Assignment::from_json(spec, seed, foreign.as_deref()));
        let assignment = failure.raise(assignment)?;
        Ok(Self { assignment: Mutex::new(assignment), failure })
    }

    /// List these backends in the place of those before. Raises `ArgumentError`.
    #[allow(clippy::needless_pass_by_value)]
    fn set_backends(
        &self,
        py: Python<'_>,
        #[pyo3(from_py_with = arguments::backends)] backends: Vec<PyRef<'_, Backend>>,
    ) -> PyResult<()> {
        let backends: Vec<core::Backend> = backends.iter().map(|backend| backend.0).collect();
        let result = py.detach(|| self.lock().set_backends(&backends));
        self.failure.raise(result)
    }

    /// The position of the backend of each key.
    fn assign(
        &self,
        py: Python<'_>,
        #[pyo3(from_py_with = arguments::keys)] keys: Numbers,
    ) -> PyResult<Picks> {
        self.pick_all(py, keys, false)
    }

    /// The same for connections, which stay and add to the loads.
    fn throw(
        &self,
        py: Python<'_>,
        #[pyo3(from_py_with = arguments::keys)] keys: Numbers,
    ) -> PyResult<Picks> {
        self.pick_all(py, keys, true)
    }

    /// Bytes of its tables; None of a strategy in Python.
    fn memory_bytes(&self, py: Python<'_>) -> Option<usize> {
        py.detach(|| self.lock().memory_bytes())
    }

    /// Connections of each backend.
    fn loads(&self, py: Python<'_>) -> Vec<u32> {
        py.detach(|| self.lock().loads().to_vec())
    }
}

machines! {
    Assignment: "make another one of the same strategy",
    LabCell: "make another one of the same description",
}

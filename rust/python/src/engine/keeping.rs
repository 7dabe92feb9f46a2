//! What outlives an engine: checkpoints, and affinities of another proxy.

use std::net::{IpAddr, SocketAddr};

use pyo3::prelude::*;
use pyo3::types::PyBytes;

use super::Engine;
use crate::arguments::{self, Octets};
use crate::errors;

#[pymethods]
impl Engine {
    /// Flows, affinities and balancer state in one versioned, checksummed format; times are
    /// relative.
    fn checkpoint<'py>(
        &self,
        py: Python<'py>,
        #[pyo3(from_py_with = arguments::now)] now: u64,
    ) -> Bound<'py, PyBytes> {
        let checkpoint = py.detach(|| self.lock().checkpoint(now));
        PyBytes::new(py, &checkpoint)
    }

    /// Bytes that a checkpoint of an engine with these limits can have, at most.
    #[getter]
    fn checkpoint_limit(&self, py: Python<'_>) -> usize {
        py.detach(|| self.lock().checkpoint_limit())
    }

    /// Remember that a client of a service port with session affinity has this backend for so many
    /// seconds more, as another proxy has bound it; not longer than the affinity lasts. False where
    /// the service port has no affinity, no such backend, or has bound the client itself. Raises
    /// `ArgumentError`.
    #[pyo3(signature = (service, client, backend, now, *, seconds))]
    fn bind_client(
        &self,
        py: Python<'_>,
        #[pyo3(from_py_with = arguments::service)] service: &str,
        #[pyo3(from_py_with = arguments::client)] client: IpAddr,
        #[pyo3(from_py_with = arguments::backend)] backend: SocketAddr,
        #[pyo3(from_py_with = arguments::now)] now: u64,
        #[pyo3(from_py_with = arguments::seconds)] seconds: f64,
    ) -> bool {
        py.detach(|| self.lock().bind_client(now, service, client, backend, seconds))
    }

    /// Take over what a checkpoint holds, in an engine without flows; returns how many flows.
    ///
    /// `away` is how many nanoseconds ago it was written: what must have ended since then is left
    /// out. Services are set before, with `replace_services`. Raises `CheckpointError` for what is
    /// damaged, or of a newer version; nothing is restored then.
    #[pyo3(signature = (checkpoint, now, *, away = 0))]
    fn restore(
        &self,
        py: Python<'_>,
        #[pyo3(from_py_with = arguments::checkpoint)] checkpoint: Octets,
        #[pyo3(from_py_with = arguments::now)] now: u64,
        #[pyo3(from_py_with = arguments::away)] away: u64,
    ) -> PyResult<usize> {
        let Octets(bytes) = checkpoint;
        py.detach(|| self.lock().restore(now, &bytes, away)).map_err(errors::checkpoint)
    }
}

//! `TrafficServer`, `HeldConnections` and the clients of `kbe_nat.lab.live.traffic`: results are
//! JSON, arguments are checked by their callers.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use kbe_nat_traffic as traffic;
use kbe_nat_traffic::TrafficError;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::arguments;
use crate::errors::{argument, lab};
use crate::values::machines;

fn rate_of(value: Option<f64>) -> PyResult<Option<f64>> {
    match value {
        Some(rate) if !(rate.is_finite() && rate > 0.0) => {
            Err(argument(format!("rate is a number above 0, not {rate}")))
        }
        rate => Ok(rate),
    }
}

fn json<'py>(py: Python<'py>, value: &impl serde::Serialize) -> PyResult<Bound<'py, PyBytes>> {
    let text = serde_json::to_vec(value).map_err(argument)?;
    Ok(PyBytes::new(py, &text))
}

/// What `work` finds, while other threads of Python run.
fn result<'py, T: serde::Serialize + Send>(
    py: Python<'py>,
    work: impl FnOnce() -> Result<T, TrafficError> + Send,
) -> PyResult<Bound<'py, PyBytes>> {
    json(py, &py.detach(work).map_err(lab)?)
}

/// Servers of the lab's live runs in the network namespace of this thread, for both families;
/// `kbe_nat.lab.live.traffic` has words for it, and for what follows. `ports` are those for
/// datagrams, streams, short connections and requests. Raises `ArgumentError` for a name of more
/// than 16 bytes, `LabError` when a port is taken.
#[pyclass(frozen, module = "kbe_nat")]
pub(crate) struct TrafficServer(Mutex<Option<traffic::Server>>);

#[pymethods]
impl TrafficServer {
    #[new]
    fn new(
        py: Python<'_>,
        #[pyo3(from_py_with = arguments::name)] name: &str,
        #[pyo3(from_py_with = arguments::ports)] ports: (u16, u16, u16, u16),
    ) -> PyResult<Self> {
        if name.is_empty() || name.len() > traffic::NAME_BYTES || name.contains('\0') {
            return Err(argument(format!("{name:?} is no server's name")));
        }
        let (udp, bulk, short, exchange) = ports;
        let ports = traffic::Ports { udp, bulk, short, exchange };
        let server = py.detach(|| traffic::Server::start(name, &ports)).map_err(lab)?;
        Ok(Self(Mutex::new(Some(server))))
    }

    /// `Counts` in JSON. Raises `ArgumentError` when it has stopped.
    fn counts<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
        let counts = lock(&self.0).as_ref().map(traffic::Server::counts);
        json(py, &counts.ok_or_else(|| argument("the server has stopped"))?)
    }

    /// End all of them. Idempotent.
    fn stop(&self, py: Python<'_>) {
        py.detach(|| drop(lock(&self.0).take()));
    }
}

/// Open connections from the network namespace of this thread, opened one after the other until
/// one does not answer within `wait` seconds. Raises `LabError`.
#[pyclass(frozen, module = "kbe_nat")]
pub(crate) struct HeldConnections(Mutex<traffic::Held>);

#[pymethods]
impl HeldConnections {
    #[new]
    fn new(
        py: Python<'_>,
        #[pyo3(from_py_with = arguments::address)] address: IpAddr,
        #[pyo3(from_py_with = arguments::port)] port: u16,
        #[pyo3(from_py_with = arguments::count)] count: u64,
        #[pyo3(from_py_with = arguments::wait)] wait: Duration,
    ) -> PyResult<Self> {
        let to = SocketAddr::new(address, port);
        let held = py.detach(|| traffic::Held::open(to, count, wait)).map_err(lab)?;
        Ok(Self(Mutex::new(held)))
    }

    /// How opening went, in JSON.
    fn opened<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
        let opened = lock(&self.0).opened().clone();
        json(py, &opened)
    }

    /// Let the server close them. Returns `Connections` in JSON. Idempotent.
    fn close<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
        result(py, || Ok(lock(&self.0).close()))
    }
}

/// Flows of datagrams from the network namespace of this thread, at least one, of which a packet is
/// answered now and then until they are as old as `settle` seconds. Raises `LabError`.
#[pyclass(frozen, module = "kbe_nat")]
pub(crate) struct HeldFlows(traffic::Flows);

#[pymethods]
impl HeldFlows {
    #[new]
    fn new(
        py: Python<'_>,
        #[pyo3(from_py_with = arguments::address)] address: IpAddr,
        #[pyo3(from_py_with = arguments::port)] port: u16,
        #[pyo3(from_py_with = arguments::count)] count: usize,
        #[pyo3(from_py_with = arguments::settle)] settle: Duration,
    ) -> PyResult<Self> {
        let to = SocketAddr::new(address, port);
        Ok(Self(py.detach(|| traffic::Flows::open(to, count, settle)).map_err(lab)?))
    }

    /// Send datagrams, a batch over each flow in turn. Returns `Flood` in JSON. Raises
    /// `ArgumentError` for a rate that is none.
    #[pyo3(signature = (packets, rate, burst, payload))]
    fn flood<'py>(
        &self,
        py: Python<'py>,
        #[pyo3(from_py_with = arguments::packets)] packets: u64,
        #[pyo3(from_py_with = arguments::rate)] rate: Option<f64>,
        #[pyo3(from_py_with = arguments::burst)] burst: u64,
        #[pyo3(from_py_with = arguments::payload)] payload: usize,
    ) -> PyResult<Bound<'py, PyBytes>> {
        let rate = rate_of(rate)?;
        let load = traffic::Load { packets, rate, burst: burst.max(1), payload };
        result(py, || Ok(self.0.flood(&load)))
    }
}

/// `Pings` in JSON.
#[pyfunction]
#[pyo3(signature = (address, port, count, rate, wait, fresh, settle))]
#[allow(clippy::too_many_arguments, reason = "one for each field of what is asked")]
pub(crate) fn traffic_ping<'py>(
    py: Python<'py>,
    #[pyo3(from_py_with = arguments::address)] address: IpAddr,
    #[pyo3(from_py_with = arguments::port)] port: u16,
    #[pyo3(from_py_with = arguments::count)] count: u64,
    #[pyo3(from_py_with = arguments::rate)] rate: Option<f64>,
    #[pyo3(from_py_with = arguments::wait)] wait: Duration,
    #[pyo3(from_py_with = arguments::fresh)] fresh: bool,
    #[pyo3(from_py_with = arguments::settle)] settle: Duration,
) -> PyResult<Bound<'py, PyBytes>> {
    let to = SocketAddr::new(address, port);
    let asking = traffic::Asking { count, rate: rate_of(rate)?, wait, is_fresh: fresh, settle };
    result(py, || traffic::ping(to, &asking))
}

/// `Connections` in JSON.
#[pyfunction]
#[pyo3(signature = (address, port, span, threads, wait, validate))]
pub(crate) fn traffic_connect<'py>(
    py: Python<'py>,
    #[pyo3(from_py_with = arguments::address)] address: IpAddr,
    #[pyo3(from_py_with = arguments::port)] port: u16,
    #[pyo3(from_py_with = arguments::span)] span: Duration,
    #[pyo3(from_py_with = arguments::threads)] threads: usize,
    #[pyo3(from_py_with = arguments::wait)] wait: Duration,
    #[pyo3(from_py_with = arguments::validate)] validate: bool,
) -> PyResult<Bound<'py, PyBytes>> {
    let to = SocketAddr::new(address, port);
    result(py, || traffic::connect(to, span, threads, wait, validate))
}

/// `Bulk` in JSON. The clients of traffic run in the network namespace of this thread, and raise
/// `ArgumentError` for an address, a time or a rate that is none, `LabError` for traffic that
/// cannot be made.
#[pyfunction]
pub(crate) fn traffic_bulk<'py>(
    py: Python<'py>,
    #[pyo3(from_py_with = arguments::address)] address: IpAddr,
    #[pyo3(from_py_with = arguments::port)] port: u16,
    #[pyo3(from_py_with = arguments::megabytes)] megabytes: u64,
    #[pyo3(from_py_with = arguments::streams)] streams: usize,
    #[pyo3(from_py_with = arguments::settle)] settle: Duration,
) -> PyResult<Bound<'py, PyBytes>> {
    let to = SocketAddr::new(address, port);
    result(py, || traffic::bulk(to, megabytes, streams, settle))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

machines! {
    HeldConnections: "it has open connections",
    HeldFlows: "it has open sockets",
    TrafficServer: "it has open sockets",
}

//! `FlowWatch`: the kernel's flows, told to an engine.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use kbe_nat_datapath as datapath;
use kbe_nat_netlink::conntrack::{Events, Requests, Statistics};
use pyo3::prelude::*;

use crate::convert;
use crate::engine::Engine;
use crate::errors;

/// Tells an engine what becomes of the flows that the kernel carries.
#[pyclass(frozen, module = "kbe_nat._native")]
pub(crate) struct FlowWatch {
    engine: Py<Engine>,
    kernel: Mutex<(Events, Requests)>,
    /// Beside what is asked in the thread that runs.
    asking: Mutex<Requests>,
    own: Arc<datapath::FlowWatch>,
}

#[pymethods]
impl FlowWatch {
    #[new]
    #[pyo3(signature = (engine, *, socket_buffer))]
    fn new(py: Python<'_>, engine: Py<Engine>, socket_buffer: i32) -> PyResult<Self> {
        let opened =
            py.detach(|| Ok((Events::open(socket_buffer)?, Requests::open()?, Requests::open()?)));
        let ((events, waker), requests, asking) =
            opened.map_err(|error| errors::conntrack(&error))?;
        let own = Arc::new(datapath::FlowWatch::new(waker));
        Ok(Self { engine, kernel: Mutex::new((events, requests)), asking: Mutex::new(asking), own })
    }

    fn run(&self, py: Python<'_>) -> PyResult<()> {
        let engine = self.engine.get().shared();
        py.detach(|| {
            let mut kernel = self.kernel.lock().unwrap_or_else(PoisonError::into_inner);
            let (events, requests) = &mut *kernel;
            self.own.run(engine, events, requests)
        })
        .map_err(|error| errors::conntrack(&error))
    }

    /// Flows that could not be entered, and packets that were dropped, by the kernel's connection
    /// tracking.
    fn statistics(&self, py: Python<'_>) -> PyResult<(u64, u64)> {
        let counted =
            py.detach(|| self.asking.lock().unwrap_or_else(PoisonError::into_inner).statistics());
        let Statistics { insert_failed, dropped } =
            counted.map_err(|error| errors::conntrack(&error))?;
        Ok((insert_failed, dropped))
    }

    fn stop(&self) {
        self.own.stop();
    }

    /// Looks at all flows now, unless that takes longer; whether it is done.
    fn refresh(&self, py: Python<'_>, timeout: f64) -> PyResult<bool> {
        let patience = Duration::try_from_secs_f64(timeout).map_err(errors::argument)?;
        Ok(py.detach(|| {
            let (asked, start) = (self.own.ask(), Instant::now());
            while self.own.answered() < asked {
                if start.elapsed() >= patience {
                    return false;
                }
                std::thread::sleep(Duration::from_millis(1));
            }
            true
        }))
    }

    /// Asks for a look at all flows soon.
    fn look(&self) {
        self.own.ask();
    }

    /// Asks for a look soon at the flows to these frontends: protocol, address and port of each.
    #[allow(clippy::needless_pass_by_value)]
    fn touch(&self, frontends: Vec<(String, String, u16)>) -> PyResult<()> {
        let parsed = frontends.iter().map(|(protocol, address, port)| {
            Ok((convert::protocol(protocol)?, SocketAddr::new(convert::address(address)?, *port)))
        });
        self.own.touch(parsed.collect::<PyResult<Vec<_>>>()?);
        Ok(())
    }

    #[getter]
    fn changes(&self) -> u64 {
        self.own.changes()
    }

    #[getter]
    fn overruns(&self) -> u64 {
        self.own.overruns()
    }

    #[getter]
    fn ended(&self) -> u64 {
        self.own.ended()
    }

    #[getter]
    fn forgotten(&self) -> u64 {
        self.own.forgotten()
    }

    #[getter]
    fn turns(&self) -> u64 {
        self.own.turns()
    }
}

/// Whether the kernel shows its flows to us; looks at none of them.
#[pyfunction]
pub(crate) fn probe_flows(py: Python<'_>) -> PyResult<()> {
    py.detach(|| Requests::open()?.statistics())
        .map(|_| ())
        .map_err(|error| errors::conntrack(&error))
}

//! `FlowWatch`: the kernel's flows, told to an engine.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use kbe_nat_datapath as datapath;
use kbe_nat_netlink::conntrack::Conntrack;
use pyo3::prelude::*;

use crate::engine::Engine;
use crate::errors;

/// Tells an engine what becomes of the flows that the kernel carries.
#[pyclass(frozen, module = "kbe_nat._native")]
pub(crate) struct FlowWatch {
    engine: Py<Engine>,
    mark: u32,
    conntrack: Mutex<Conntrack>,
    own: Arc<datapath::FlowWatch>,
}

#[pymethods]
impl FlowWatch {
    #[new]
    #[pyo3(signature = (engine, mark, *, socket_buffer))]
    fn new(py: Python<'_>, engine: Py<Engine>, mark: u32, socket_buffer: i32) -> PyResult<Self> {
        let (conntrack, waker) =
            py.detach(|| Conntrack::open(socket_buffer)).map_err(|error| errors::conntrack(&error))?;
        let own = Arc::new(datapath::FlowWatch::new(waker));
        Ok(Self { engine, mark, conntrack: Mutex::new(conntrack), own })
    }

    fn run(&self, py: Python<'_>) -> PyResult<()> {
        let engine = self.engine.get().shared();
        py.detach(|| {
            let mut conntrack = self.conntrack.lock().unwrap_or_else(PoisonError::into_inner);
            self.own.run(engine, &mut conntrack, self.mark)
        })
        .map_err(|error| errors::conntrack(&error))
    }

    /// Looks at all flows once, in this thread.
    fn look(&self, py: Python<'_>) -> PyResult<()> {
        let engine = self.engine.get().shared();
        py.detach(|| {
            let mut conntrack = self.conntrack.lock().unwrap_or_else(PoisonError::into_inner);
            self.own.look(engine, &mut conntrack, self.mark)
        })
        .map_err(|error| errors::conntrack(&error))
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

    fn backends_left(&self) {
        self.own.backends_left();
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
    fn turns(&self) -> u64 {
        self.own.turns()
    }
}

//! The kernel's connection tracking: `ConntrackSync` keeps an engine's flows in step with it,
//! `AnswerWatch` measures connect times,
//! `ConntrackEvents` and `conntrack_entries` only read it.

use std::io;
use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use kbe_nat_datapath as datapath;
use kbe_nat_engine::tuple::Protocol;
use kbe_nat_netlink::conntrack::{
    Answers, Change, Entry, Events, Requests, Statistics, Topic, Waker,
};
use pyo3::prelude::*;

use crate::convert;
use crate::engine::Engine;
use crate::errors;

/// Tells an engine what becomes of the kernel's flows.
#[pyclass(frozen, module = "kbe_nat._native")]
pub(crate) struct ConntrackSync {
    engine: Py<Engine>,
    kernel: Mutex<(Events, Requests)>,
    /// For `statistics`: the thread that runs holds `kernel`.
    statistics: Mutex<Requests>,
    sync: datapath::ConntrackSync,
}

#[pymethods]
impl ConntrackSync {
    #[new]
    #[pyo3(signature = (engine, *, socket_buffer))]
    fn new(py: Python<'_>, engine: Py<Engine>, socket_buffer: i32) -> PyResult<Self> {
        py.detach(|| {
            let (events, waker) = Events::open(socket_buffer, &[Topic::New, Topic::Ended])?;
            Ok(Self {
                engine,
                kernel: Mutex::new((events, Requests::open()?)),
                statistics: Mutex::new(Requests::open()?),
                sync: datapath::ConntrackSync::new(waker),
            })
        })
        .map_err(|error: io::Error| errors::conntrack(&error))
    }

    fn run(&self, py: Python<'_>) -> PyResult<()> {
        let engine = self.engine.get().shared();
        py.detach(|| {
            let mut kernel = self.kernel.lock().unwrap_or_else(PoisonError::into_inner);
            let (events, requests) = &mut *kernel;
            self.sync.run(engine, events, requests)
        })
        .map_err(|error| errors::conntrack(&error))
    }

    fn statistics(&self, py: Python<'_>) -> PyResult<(u64, u64)> {
        let Statistics { insert_failed, dropped } = py
            .detach(|| self.statistics.lock().unwrap_or_else(PoisonError::into_inner).statistics())
            .map_err(|error| errors::conntrack(&error))?;
        Ok((insert_failed, dropped))
    }

    fn stop(&self) {
        self.sync.stop();
    }

    fn resync_within(&self, py: Python<'_>, timeout: f64) -> PyResult<bool> {
        let timeout = Duration::try_from_secs_f64(timeout).map_err(errors::argument)?;
        Ok(py.detach(|| self.sync.resync_within(timeout)))
    }

    fn resync(&self) {
        self.sync.request();
    }

    #[allow(clippy::needless_pass_by_value)]
    fn resync_frontends(&self, frontends: Vec<(String, String, u16)>) -> PyResult<()> {
        let parsed = frontends.iter().map(|(protocol, address, port)| {
            Ok((convert::protocol(protocol)?, SocketAddr::new(convert::address(address)?, *port)))
        });
        self.sync.request_frontends(parsed.collect::<PyResult<Vec<_>>>()?);
        Ok(())
    }

    #[getter]
    fn changes(&self) -> u64 {
        self.sync.changes()
    }

    #[getter]
    fn overruns(&self) -> u64 {
        self.sync.overruns()
    }

    #[getter]
    fn ended(&self) -> u64 {
        self.sync.ended_flows()
    }

    #[getter]
    fn forgotten(&self) -> u64 {
        self.sync.forgotten()
    }

    #[getter]
    fn turns(&self) -> u64 {
        self.sync.turns()
    }
}

/// Tells an engine when backends answer.
#[pyclass(frozen, module = "kbe_nat._native")]
pub(crate) struct AnswerWatch {
    engine: Py<Engine>,
    answers: Mutex<Answers>,
    watch: datapath::AnswerWatch,
}

#[pymethods]
impl AnswerWatch {
    #[new]
    #[pyo3(signature = (engine, *, socket_buffer))]
    fn new(py: Python<'_>, engine: Py<Engine>, socket_buffer: i32) -> PyResult<Self> {
        let (answers, waker) = py
            .detach(|| Answers::open(socket_buffer))
            .map_err(|error| errors::conntrack(&error))?;
        let watch = datapath::AnswerWatch::new(waker);
        Ok(Self { engine, answers: Mutex::new(answers), watch })
    }

    fn run(&self, py: Python<'_>) -> PyResult<()> {
        let engine = self.engine.get().shared();
        py.detach(|| {
            let mut answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
            self.watch.run(engine, &mut answers)
        })
        .map_err(|error| errors::conntrack(&error))
    }

    fn stop(&self) {
        self.watch.stop();
    }

    #[getter]
    fn turns(&self) -> u64 {
        self.watch.turns()
    }

    #[getter]
    fn updates(&self) -> u64 {
        self.watch.updates()
    }

    #[getter]
    fn pauses(&self) -> u64 {
        self.watch.pauses()
    }
}

/// A flow of the kernel's.
#[pyclass(frozen, module = "kbe_nat._native")]
pub(crate) struct ConntrackEntry(Entry);

#[pymethods]
impl ConntrackEntry {
    #[getter]
    fn protocol(&self) -> String {
        Protocol(self.0.protocol).to_string()
    }

    #[getter]
    fn source(&self) -> (String, u16) {
        convert::end(&self.0.original.src)
    }

    #[getter]
    fn destination(&self) -> (String, u16) {
        convert::end(&self.0.original.dst)
    }

    #[getter]
    fn reply_source(&self) -> (String, u16) {
        convert::end(&self.0.reply.src)
    }

    #[getter]
    fn reply_destination(&self) -> (String, u16) {
        convert::end(&self.0.reply.dst)
    }
}

/// Flows of the kernel's as they begin.
#[pyclass(frozen, module = "kbe_nat._native")]
pub(crate) struct ConntrackEvents {
    events: Mutex<Events>,
    /// Without it every wait would end at once.
    _waker: Waker,
}

#[pymethods]
impl ConntrackEvents {
    #[new]
    #[pyo3(signature = (*, socket_buffer))]
    fn new(py: Python<'_>, socket_buffer: i32) -> PyResult<Self> {
        let (events, waker) = py
            .detach(|| Events::open(socket_buffer, &[Topic::New]))
            .map_err(|error| errors::conntrack(&error))?;
        Ok(Self { events: Mutex::new(events), _waker: waker })
    }

    fn receive(&self, py: Python<'_>, timeout: f64) -> PyResult<(Vec<ConntrackEntry>, bool)> {
        let timeout = Duration::try_from_secs_f64(timeout).map_err(errors::argument)?;
        let mut changes = Vec::new();
        let is_complete = py
            .detach(|| {
                let mut events = self.events.lock().unwrap_or_else(PoisonError::into_inner);
                events.receive(timeout, &mut changes)
            })
            .map_err(|error| errors::conntrack(&error))?;
        let entries = changes.into_iter().filter_map(|change| match change {
            Change::New(entry) => Some(ConntrackEntry(entry)),
            Change::Ended(_) => None,
        });
        Ok((entries.collect(), !is_complete))
    }
}

/// The flows that the kernel has.
#[pyfunction]
pub(crate) fn conntrack_entries(py: Python<'_>) -> PyResult<Vec<ConntrackEntry>> {
    let mut entries = Vec::new();
    py.detach(|| {
        Requests::open()?
            .dump(None, |chunk| entries.extend(chunk.iter().cloned().map(ConntrackEntry)))
    })
    .map_err(|error| errors::conntrack(&error))?;
    Ok(entries)
}

/// Fails where the kernel does not show its flows to this process. Dumps none of them.
#[pyfunction]
pub(crate) fn probe_flows(py: Python<'_>) -> PyResult<()> {
    py.detach(|| Requests::open()?.statistics())
        .map(|_| ())
        .map_err(|error| errors::conntrack(&error))
}

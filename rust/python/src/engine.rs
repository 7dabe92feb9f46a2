//! `Engine`: one engine behind a lock, so that any thread may call it, with or without a GIL.
//!
//! The lock is only ever taken with the GIL released, so neither waits for the other.

mod batch;
mod keeping;
mod processing;
mod records;
mod services;
mod settings;

use std::sync::{Mutex, MutexGuard, PoisonError};

use kbe_nat_engine::{self as core, InvalidTcp, Midstream, OffloadedPackets};
use pyo3::prelude::*;

use self::settings::configuration;
use crate::arguments;
use crate::limits::{Limits, Timeouts};
use crate::snat::Snat;
use crate::values::machines;

/// Service NAT without input or output: tables and packets in, verdicts out. Safe to share between
/// threads.
///
/// `seed` makes the random choices repeatable; without one they are unpredictable. Without `snat` a
/// masqueraded flow is only marked (`Verdict.masquerade`); with it the engine rewrites the source
/// itself. `midstream` is what becomes of a TCP packet without a flow: "consistent" (picked up by
/// hash of its client), "reject" or "drop"; `invalid` is that of one outside the window:
/// "translate" or "drop"; `offloaded` that of one whose flow the kernel carries: "decide" (the
/// kernel has it no more), or "pass" where the kernel's turn comes behind the engine's. Raises
/// `ArgumentError`.
#[pyclass(frozen, weakref, module = "kbe_nat")]
pub(crate) struct Engine {
    engine: Mutex<core::Engine>,
    /// Held by a thread that makes a table, from its look at the table in force until its own is.
    writing: Mutex<()>,
}

impl Engine {
    /// For a loop, which holds the lock for a batch at a time.
    pub(crate) fn shared(&self) -> &Mutex<core::Engine> {
        &self.engine
    }

    /// The engine. A panic in an earlier call does not lock everybody out: the engine's tables are
    /// consistent between packets.
    fn lock(&self) -> MutexGuard<'_, core::Engine> {
        self.engine.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[pymethods]
impl Engine {
    #[new]
    // PyO3 writes no default that is a value of the engine into the signature that Python sees.
    #[pyo3(
        signature = (
            *, seed = None, limits = None, timeouts = None, snat = None,
            midstream = Midstream::Consistent, invalid = InvalidTcp::Translate,
            offloaded = OffloadedPackets::Decide,
        ),
        text_signature = "(*, seed=None, limits=None, timeouts=None, snat=None, \
            midstream='consistent', invalid='translate', offloaded='decide')"
    )]
    #[allow(clippy::needless_pass_by_value)]
    fn new(
        #[pyo3(from_py_with = arguments::seed)] seed: Option<u64>,
        #[pyo3(from_py_with = arguments::limits)] limits: Option<PyRef<'_, Limits>>,
        #[pyo3(from_py_with = arguments::timeouts)] timeouts: Option<PyRef<'_, Timeouts>>,
        #[pyo3(from_py_with = arguments::snat)] snat: Option<PyRef<'_, Snat>>,
        #[pyo3(from_py_with = arguments::midstream)] midstream: Midstream,
        #[pyo3(from_py_with = arguments::invalid)] invalid: InvalidTcp,
        #[pyo3(from_py_with = arguments::offloaded)] offloaded: OffloadedPackets,
    ) -> Self {
        let config = configuration(
            seed,
            limits.as_deref(),
            timeouts.as_deref(),
            snat.as_deref(),
            (midstream, invalid, offloaded),
        );
        let engine = core::Engine::new(config);
        Self { engine: Mutex::new(engine), writing: Mutex::default() }
    }

    /// Let flows live so long without packets, each from its next packet on.
    #[allow(clippy::needless_pass_by_value)]
    fn set_timeouts(
        &self,
        py: Python<'_>,
        #[pyo3(from_py_with = arguments::timeouts)] timeouts: PyRef<'_, Timeouts>,
    ) {
        let table = timeouts.table.clone();
        py.detach(|| self.lock().set_timeouts(table));
    }

    fn __repr__(&self, py: Python<'_>) -> String {
        let (services, flows) = py.detach(|| {
            let engine = self.lock();
            (engine.services().services().count(), engine.occupancy().flows)
        });
        format!("<Engine: {services} service ports, {flows} flows>")
    }
}

machines! {
    Engine: "restore a checkpoint() of it into another one",
}

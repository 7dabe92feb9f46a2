//! `Engine`: one engine behind a lock, so that any thread may call it, with or without a GIL.
//!
//! The lock is only ever taken with the GIL released, so neither waits for the other.

mod batch;
mod settings;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use kbe_nat_engine as core;
use kbe_nat_engine::Packet;
use kbe_nat_engine::decisions::Recall;
use kbe_nat_engine::service::{ServiceError, ServiceTable};
use kbe_nat_engine::tuple::Family;
use kbe_nat_engine::view::Listing;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use self::settings::{configuration, filter};
use crate::convert;
use crate::decisions::{self, Decision};
use crate::errors;
use crate::limits::{Limits, Snat, Timeouts};
use crate::service::{NodeView, ServicePort};
use crate::verdict::{Verdict, release};
use crate::view::{Explanation, Flow, Stats};

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
#[pyclass(frozen, module = "kbe_nat")]
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
    #[pyo3(signature = (
        *, seed = None, limits = None, timeouts = None, snat = None, midstream = "consistent",
        invalid = "translate", offloaded = "decide",
    ))]
    #[allow(clippy::needless_pass_by_value)]
    fn new(
        seed: Option<u64>,
        limits: Option<PyRef<'_, Limits>>,
        timeouts: Option<PyRef<'_, Timeouts>>,
        snat: Option<PyRef<'_, Snat>>,
        midstream: &str,
        invalid: &str,
        offloaded: &str,
    ) -> PyResult<Self> {
        let config = configuration(
            seed,
            limits.as_deref(),
            timeouts.as_deref(),
            snat.as_deref(),
            [midstream, invalid, offloaded],
        )?;
        let engine = core::Engine::new(config);
        Ok(Self { engine: Mutex::new(engine), writing: Mutex::default() })
    }

    /// Let flows live so long without packets, each from its next packet on.
    #[allow(clippy::needless_pass_by_value)]
    fn set_timeouts(&self, py: Python<'_>, timeouts: PyRef<'_, Timeouts>) {
        let table = timeouts.table.clone();
        py.detach(|| self.lock().set_timeouts(table));
    }

    /// Serve these and no others, from the next packet on; `node` stays as it was when None.
    ///
    /// Flows and affinities stay, but those to backends that are gone: UDP flows are decided anew,
    /// unanswered TCP is dropped, established TCP goes on. Cost: a look-up per service port while
    /// packets go on, and more for those that differ from the ones in force; packets wait for the
    /// books of the latter alone. Raises `ServiceError` when two have one name, or claim one
    /// frontend or node port; nothing is changed then.
    #[pyo3(signature = (services, node = None))]
    #[allow(clippy::needless_pass_by_value)]
    fn replace_services(
        &self,
        py: Python<'_>,
        services: Vec<PyRef<'_, ServicePort>>,
        node: Option<PyRef<'_, NodeView>>,
    ) -> PyResult<()> {
        let (services, node) = (shared(&services), node.map(|node| node.0.clone()));
        py.detach(|| self.exchange(|table| table.with_services(&services, node)))
            .map_err(errors::service)
    }

    /// Serve `changed` in the place of the service ports of their names, or beside the others, and
    /// no longer those in `removed`, by name and address family (4 or 6).
    ///
    /// Afterwards all is as if the whole had been given to `replace_services`. A service port may
    /// be in both: it is changed. Cost: what is touched, whatever the number of the others; packets
    /// wait no longer than for a look-up per backend of what changed. Raises `ServiceError` as
    /// `replace_services` does, and when none has the name of one to be removed, and
    /// `ArgumentError` for another family; nothing is changed then.
    #[pyo3(
        signature = (changed, removed = Vec::new(), node = None),
        text_signature = "($self, changed, removed=(), node=None)"
    )]
    #[allow(clippy::needless_pass_by_value)]
    fn update_services(
        &self,
        py: Python<'_>,
        changed: Vec<PyRef<'_, ServicePort>>,
        removed: Vec<(String, u32)>,
        node: Option<PyRef<'_, NodeView>>,
    ) -> PyResult<()> {
        let (changed, node) = (shared(&changed), node.map(|node| node.0.clone()));
        let removed: Vec<(&str, Family)> = removed
            .iter()
            .map(|(name, family)| Ok((name.as_str(), convert::family(*family)?)))
            .collect::<PyResult<_>>()?;
        py.detach(|| self.exchange(|table| table.with_changes(&changed, &removed, node)))
            .map_err(errors::service)
    }

    /// Set one service port, in the place of the one of its name and family, or beside the others:
    /// `update_services` with one.
    #[allow(clippy::needless_pass_by_value)]
    fn update_service(&self, py: Python<'_>, service: PyRef<'_, ServicePort>) -> PyResult<()> {
        self.update_services(py, vec![service], Vec::new(), None)
    }

    /// Serve a service port no longer, by its name and address family (4 or 6). Raises
    /// `ServiceError` when none has this name.
    #[pyo3(signature = (name, family = 4))]
    fn remove_service(&self, py: Python<'_>, name: String, family: u32) -> PyResult<()> {
        self.update_services(py, Vec::new(), vec![(name, family)], None)
    }

    /// The service ports in force, in the order of their names and families.
    #[getter]
    fn services(&self, py: Python<'_>) -> Vec<ServicePort> {
        let table = py.detach(|| self.lock().services().clone());
        let mut services: Vec<_> = table.services().map(Arc::clone).collect();
        services.sort_unstable_by(|a, b| (a.name(), a.family()).cmp(&(b.name(), b.family())));
        services.into_iter().map(ServicePort).collect()
    }

    /// What is to be done with one packet, at `now` nanoseconds of a monotonic clock.
    ///
    /// `interface` is the index of the device it came in by, 0 for the node's own. With
    /// `incomplete_checksum` the transport checksum is computed in full (a packet from a local
    /// sender, CHECKSUM_PARTIAL). With `captured`, for packets of captures, an IP length of 0
    /// stands for the length of the bytes: the sending host had not yet cut this segment. Without
    /// it such a packet is malformed. Cost: one lookup; for the first packet of a flow also the
    /// decision.
    #[pyo3(signature = (
        packet, now, *, interface = 0, incomplete_checksum = false, captured = false
    ))]
    fn process(
        &self,
        packet: &Bound<'_, PyAny>,
        now: u64,
        interface: u32,
        incomplete_checksum: bool,
        captured: bool,
    ) -> PyResult<Verdict> {
        let mut bytes = convert::bytes(packet)?;
        let meta = convert::meta(interface, incomplete_checksum, captured);
        let verdict = packet
            .py()
            .detach(|| self.lock().process(now, &mut Packet { bytes: &mut bytes, meta }));
        Ok(Verdict::new(verdict, bytes))
    }

    /// `process` for many packets, rewritten in place; the GIL is released, no object is made per
    /// packet.
    ///
    /// `packets` is one writable buffer whose packet i lies at `offsets[i]:offsets[i + 1]` (n + 1
    /// numbers of 64 bits, such as `array("Q")`), or without `offsets` a sequence of writable
    /// buffers. Returns one record of 8 bytes per packet, `kbe_nat.drivers.queue.VERDICT`. Raises
    /// `ArgumentError` for bad offsets, TypeError for a buffer that is read-only.
    #[pyo3(signature = (
        packets, now, *, offsets = None, interface = 0, incomplete_checksum = false,
        captured = false
    ))]
    fn process_batch<'py>(
        &self,
        packets: &Bound<'py, PyAny>,
        now: u64,
        offsets: Option<&Bound<'py, PyAny>>,
        interface: u32,
        incomplete_checksum: bool,
        captured: bool,
    ) -> PyResult<Bound<'py, PyBytes>> {
        let meta = convert::meta(interface, incomplete_checksum, captured);
        match offsets {
            Some(offsets) => {
                batch::process_buffer(&self.engine, packets, now, &batch::ends(offsets)?, meta)
            }
            None => batch::process_list(&self.engine, packets, now, meta),
        }
    }

    /// Held fragments whose datagram is decided meanwhile: ticket, action and, where it is sent,
    /// packet.
    fn released(&self, py: Python<'_>) -> Vec<(u32, &'static str, Option<Vec<u8>>)> {
        let released = py.detach(|| self.lock().released(|_| true));
        released.into_iter().map(release).collect()
    }

    /// Forget what timed out, looking at no more than `budget` entries; returns how many flows
    /// ended.
    #[pyo3(signature = (now, budget = 4096))]
    fn expire(&self, py: Python<'_>, now: u64, budget: usize) -> usize {
        py.detach(|| self.lock().expire(now, budget))
    }

    /// When `expire` will next find something, in nanoseconds; None when there is nothing to wait
    /// for.
    fn next_expiry(&self, py: Python<'_>) -> Option<u64> {
        py.detach(|| self.lock().next_expiry())
    }

    /// The flows to which all given filters apply, each as it is when it comes.
    ///
    /// One that lives throughout comes exactly once; one that begins after the call is left out.
    /// Cost: one walk of the table, page by page; packets are processed between two pages.
    ///
    /// Raises `ArgumentError` for a filter that can match nothing.
    #[pyo3(signature = (
        *, protocol = None, service = None, source = None, destination = None, backend = None,
        state = None, limit = None
    ))]
    #[allow(clippy::too_many_arguments)]
    fn flows(
        own: &Bound<'_, Self>,
        protocol: Option<&str>,
        service: Option<String>,
        source: Option<&str>,
        destination: Option<&str>,
        backend: Option<&str>,
        state: Option<String>,
        limit: Option<usize>,
    ) -> PyResult<Flows> {
        let filter = filter(protocol, service, source, destination, backend, state)?;
        let engine = own.clone().unbind();
        let listing = own.py().detach(|| engine.get().lock().listing(filter));
        Ok(Flows {
            engine,
            listing,
            page: Vec::new().into_iter(),
            left: limit.unwrap_or(usize::MAX),
        })
    }

    /// End the flows to which all given filters apply, and return how many they were. A later
    /// packet of one is decided anew. Cost: one walk of the table.
    ///
    /// Raises `ArgumentError` as `flows` does.
    #[pyo3(signature = (
        *, protocol = None, service = None, source = None, destination = None, backend = None,
        state = None
    ))]
    #[allow(clippy::too_many_arguments)]
    fn delete_flows(
        &self,
        py: Python<'_>,
        protocol: Option<&str>,
        service: Option<String>,
        source: Option<&str>,
        destination: Option<&str>,
        backend: Option<&str>,
        state: Option<String>,
    ) -> PyResult<usize> {
        let filter = filter(protocol, service, source, destination, backend, state)?;
        Ok(py.detach(|| {
            let mut listing = self.lock().listing(filter);
            let mut count = 0;
            while let Some(ended) = self.end_page(&mut listing) {
                count += ended;
                // The loops may have waited for the engine.
                std::thread::yield_now();
            }
            count
        }))
    }

    /// The newest decisions to which all filters apply, `limit` at most, oldest first.
    ///
    /// `service` is a service port, or a Service with all of its ports; `verdict` an action;
    /// `since` a moment of the caller's clock in nanoseconds; `after` a sequence number. Cost: a
    /// look at each decision that is remembered; packets are processed between two pages of them.
    /// Raises `ArgumentError`.
    #[pyo3(signature = (
        *, service = None, client = None, verdict = None, since = None, after = 0, limit = None
    ))]
    #[allow(clippy::too_many_arguments)]
    fn decisions(
        &self,
        py: Python<'_>,
        service: Option<String>,
        client: Option<&str>,
        verdict: Option<&str>,
        since: Option<u64>,
        after: u64,
        limit: Option<usize>,
    ) -> PyResult<Vec<Decision>> {
        let filter = decisions::filter(service, client, verdict, since, after)?;
        let limit = limit.unwrap_or(usize::MAX);
        Ok(py.detach(|| {
            let mut recall = self.lock().recall(filter);
            let mut decisions = Vec::new();
            while decisions.len() < limit
                && let Some(page) = self.recall_page(&mut recall)
            {
                decisions.extend(page.into_iter().map(Decision));
                // The loops may have waited for the engine.
                std::thread::yield_now();
            }
            decisions.truncate(limit);
            decisions.reverse();
            decisions
        }))
    }

    /// From now on note what happens to flows: at most `capacity` events of each family are kept
    /// until they are taken, and the oldest are lost. 0 notes nothing.
    fn watch(&self, py: Python<'_>, capacity: usize) {
        py.detach(|| self.lock().watch(capacity));
    }

    /// What happened since the last call, oldest first by family: "NEW", "UPDATE" (another state)
    /// or "DESTROY", and the flow as it was then; and how many events were lost.
    fn take_events(&self, py: Python<'_>) -> (Vec<(&'static str, Flow)>, u64) {
        let (events, lost) = py.detach(|| self.lock().take_events());
        (events.into_iter().map(|(kind, flow)| (kind.name(), Flow(flow))).collect(), lost)
    }

    /// All counters. Cost: linear in flows, service ports and their backends; packets wait for the
    /// flows and a copy of the backends' counters at most, and not for the rest.
    fn stats(&self, py: Python<'_>) -> Stats {
        py.detach(|| Stats::of(|| self.lock()))
    }

    /// What `process` would do with the packet and why, from the same code, changing nothing.
    #[pyo3(signature = (
        packet, now, *, interface = 0, incomplete_checksum = false, captured = false
    ))]
    fn explain(
        &self,
        packet: &Bound<'_, PyAny>,
        now: u64,
        interface: u32,
        incomplete_checksum: bool,
        captured: bool,
    ) -> PyResult<Explanation> {
        let bytes = convert::bytes(packet)?;
        let meta = convert::meta(interface, incomplete_checksum, captured);
        Ok(Explanation(packet.py().detach(|| self.lock().explain(now, &bytes, meta))))
    }

    /// Flows, affinities and balancer state in one versioned, checksummed format; times are
    /// relative.
    fn checkpoint<'py>(&self, py: Python<'py>, now: u64) -> Bound<'py, PyBytes> {
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
        service: &str,
        client: &str,
        backend: (String, u16),
        now: u64,
        seconds: f64,
    ) -> PyResult<bool> {
        let client = convert::address(client)?;
        let backend = SocketAddr::new(convert::address(&backend.0)?, backend.1);
        Ok(py.detach(|| self.lock().bind_client(now, service, client, backend, seconds)))
    }

    /// Take over what a checkpoint holds, in an engine without flows; returns how many flows.
    ///
    /// `away` is how many nanoseconds ago it was written: what must have ended since then is left
    /// out. Services are set before, with `replace_services`. Raises `CheckpointError` for what is
    /// damaged, or of a newer version; nothing is restored then.
    #[pyo3(signature = (checkpoint, now, *, away = 0))]
    fn restore(&self, checkpoint: &Bound<'_, PyAny>, now: u64, away: u64) -> PyResult<usize> {
        let bytes = convert::bytes(checkpoint)?;
        checkpoint
            .py()
            .detach(|| self.lock().restore(now, &bytes, away))
            .map_err(errors::checkpoint)
    }

    fn __repr__(&self, py: Python<'_>) -> String {
        let (services, flows) = py.detach(|| {
            let engine = self.lock();
            (engine.services().services().count(), engine.occupancy().flows)
        });
        format!("<Engine: {services} service ports, {flows} flows>")
    }
}

impl Engine {
    /// Puts another table in force, which is made of the one that is. It is made, and the one
    /// before is freed, while packets go on; they wait for the exchange alone. Writers wait for
    /// each other.
    fn exchange(
        &self,
        make: impl FnOnce(&ServiceTable) -> Result<ServiceTable, ServiceError>,
    ) -> Result<(), ServiceError> {
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let former = self.lock().services().clone();
        let table = Arc::new(make(&former)?);
        // The engine's reference to the former table is not the last one, here or later.
        drop(self.lock().replace_services(table));
        Ok(())
    }
}

impl Engine {
    fn end_page(&self, listing: &mut Listing) -> Option<usize> {
        self.lock().end_next_flows(listing, PAGE)
    }

    fn recall_page(&self, recall: &mut Recall) -> Option<Vec<core::decisions::Decision>> {
        self.lock().next_decisions(recall, PAGE)
    }
}

/// The flows of a list, of which a page at a time is asked for.
#[pyclass(module = "kbe_nat._native")]
pub(crate) struct Flows {
    engine: Py<Engine>,
    listing: Listing,
    page: std::vec::IntoIter<core::view::Flow>,
    left: usize,
}

#[pymethods]
impl Flows {
    fn __iter__(own: PyRef<'_, Self>) -> PyRef<'_, Self> {
        own
    }

    fn __next__(&mut self, py: Python<'_>) -> Option<Flow> {
        self.left = self.left.checked_sub(1)?;
        loop {
            if let Some(flow) = self.page.next() {
                return Some(Flow(flow));
            }
            let (engine, listing) = (self.engine.get(), &mut self.listing);
            self.page = py.detach(|| engine.lock().next_flows(listing, PAGE))?.into_iter();
        }
    }
}

/// Records of flows, or decisions, that are looked at while the loops wait for the engine.
const PAGE: usize = 4096;

/// The engine's service ports behind Python's.
fn shared(services: &[PyRef<'_, ServicePort>]) -> Vec<Arc<core::ServicePort>> {
    services.iter().map(|service| service.0.clone()).collect()
}

//! Flows, decisions, events and counters of an engine, a page at a time: packets go on between two
//! pages.

use std::net::SocketAddr;
use std::sync::{Mutex, TryLockError};

use kbe_nat_engine::decisions::{DecisionFilter, Recall};
use kbe_nat_engine::tuple::Protocol;
use kbe_nat_engine::view::{Filter, Listing};
use kbe_nat_engine::{self as core, Action, Cidr};
use pyo3::prelude::*;

use super::Engine;
use crate::arguments;
use crate::decisions::Decision;
use crate::flow::Flow;
use crate::flow_table::FlowTable;
use crate::stats::Stats;
use crate::values::machines;
use crate::words::StateName;

#[pymethods]
impl Engine {
    /// The flows to which all given filters apply, each as it is when it comes.
    ///
    /// One that lives throughout comes exactly once; one that begins after the call is left out.
    /// Cost: one walk of the table, page by page; packets are processed between two pages.
    ///
    /// `source` (the client), `destination` (the frontend) and `backend` are an address or a range
    /// of them, such as "10.0.0.0/8". Raises `ArgumentError` for a filter that is no protocol,
    /// state or range. A service port that is not there has no flows; one that was removed keeps
    /// those that it had.
    #[pyo3(signature = (
        *, protocol = None, service = None, source = None, destination = None, backend = None,
        state = None, limit = None
    ))]
    #[allow(clippy::too_many_arguments)]
    fn flows(
        own: &Bound<'_, Self>,
        #[pyo3(from_py_with = arguments::protocol)] protocol: Option<Protocol>,
        #[pyo3(from_py_with = arguments::service)] service: Option<String>,
        #[pyo3(from_py_with = arguments::source)] source: Option<Cidr>,
        #[pyo3(from_py_with = arguments::destination)] destination: Option<Cidr>,
        #[pyo3(from_py_with = arguments::backend)] backend: Option<Cidr>,
        #[pyo3(from_py_with = arguments::state)] state: Option<StateName>,
        #[pyo3(from_py_with = arguments::limit)] limit: Option<usize>,
    ) -> PyResult<Flows> {
        let state = state.map(|StateName(name)| name);
        let filter = Filter { protocol, service, source, destination, backend, state };
        let engine = own.clone().unbind();
        let listing = own.py().detach(|| engine.get().lock().listing(filter));
        let page = Vec::new().into_iter();
        let rest = Rest { listing, page, limit: limit.unwrap_or(usize::MAX) };
        Ok(Flows { engine, list: Mutex::new(rest) })
    }

    /// The flows to which all given filters apply as a table of Arrow, for data frames: one row a
    /// flow, as of `flows`, with addresses and ports in columns of their own. Cost: one walk of the
    /// table, and some 200 bytes for each flow; packets are processed between two pages.
    ///
    /// Raises `ArgumentError` as `flows` does.
    #[pyo3(signature = (
        *, protocol = None, service = None, source = None, destination = None, backend = None,
        state = None
    ))]
    #[allow(clippy::too_many_arguments)]
    fn flows_table(
        &self,
        py: Python<'_>,
        #[pyo3(from_py_with = arguments::protocol)] protocol: Option<Protocol>,
        #[pyo3(from_py_with = arguments::service)] service: Option<String>,
        #[pyo3(from_py_with = arguments::source)] source: Option<Cidr>,
        #[pyo3(from_py_with = arguments::destination)] destination: Option<Cidr>,
        #[pyo3(from_py_with = arguments::backend)] backend: Option<Cidr>,
        #[pyo3(from_py_with = arguments::state)] state: Option<StateName>,
    ) -> PyResult<FlowTable> {
        let state = state.map(|StateName(name)| name);
        let filter = Filter { protocol, service, source, destination, backend, state };
        Ok(py.detach(|| {
            let mut listing = self.lock().listing(filter);
            FlowTable::new(std::iter::from_fn(|| self.lock().next_flows(&mut listing, PAGE)))
        }))
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
        #[pyo3(from_py_with = arguments::protocol)] protocol: Option<Protocol>,
        #[pyo3(from_py_with = arguments::service)] service: Option<String>,
        #[pyo3(from_py_with = arguments::source)] source: Option<Cidr>,
        #[pyo3(from_py_with = arguments::destination)] destination: Option<Cidr>,
        #[pyo3(from_py_with = arguments::backend)] backend: Option<Cidr>,
        #[pyo3(from_py_with = arguments::state)] state: Option<StateName>,
    ) -> PyResult<usize> {
        let state = state.map(|StateName(name)| name);
        let filter = Filter { protocol, service, source, destination, backend, state };
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

    /// End these flows, each by protocol, client and frontend, and return how many of them were
    /// alive. A later packet of one is decided anew. Cost: a look-up for each.
    ///
    /// Raises `ArgumentError`.
    fn end_flows(
        &self,
        py: Python<'_>,
        #[pyo3(from_py_with = arguments::flows)] flows: Vec<(Protocol, SocketAddr, SocketAddr)>,
    ) -> usize {
        py.detach(|| {
            let mut count = 0;
            for page in flows.chunks(PAGE) {
                let mut engine = self.lock();
                let ended = page.iter().filter(|(protocol, client, frontend)| {
                    engine.end_flow(*protocol, *client, *frontend)
                });
                count += ended.count();
            }
            count
        })
    }

    /// The newest decisions to which all filters apply, `limit` at most, oldest first.
    ///
    /// `service` is a service port, or a Service with all of its ports; `client` an address or a
    /// range of them, such as "10.0.0.0/8"; `verdict` an action;
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
        #[pyo3(from_py_with = arguments::service)] service: Option<String>,
        #[pyo3(from_py_with = arguments::client)] client: Option<Cidr>,
        #[pyo3(from_py_with = arguments::verdict)] verdict: Option<Action>,
        #[pyo3(from_py_with = arguments::since)] since: Option<u64>,
        #[pyo3(from_py_with = arguments::after)] after: u64,
        #[pyo3(from_py_with = arguments::limit)] limit: Option<usize>,
    ) -> PyResult<Vec<Decision>> {
        let filter = DecisionFilter { service, client, action: verdict, since, after };
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
    fn watch(&self, py: Python<'_>, #[pyo3(from_py_with = arguments::capacity)] capacity: usize) {
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
#[pyclass(frozen, module = "kbe_nat._native")]
pub(crate) struct Flows {
    engine: Py<Engine>,
    list: Mutex<Rest>,
}

/// What is still to come.
struct Rest {
    listing: Listing,
    page: std::vec::IntoIter<core::view::Flow>,
    limit: usize,
}

#[pymethods]
impl Flows {
    fn __iter__(own: PyRef<'_, Self>) -> PyRef<'_, Self> {
        own
    }

    fn __next__(&self, py: Python<'_>) -> Option<Flow> {
        // Of several threads each gets the next one. A thread that looks at a page waits for the
        // engine without the GIL, so others wait for it without.
        let mut rest = loop {
            match self.list.try_lock() {
                Ok(rest) => break rest,
                Err(TryLockError::Poisoned(poisoned)) => break poisoned.into_inner(),
                Err(TryLockError::WouldBlock) => py.detach(|| drop(self.list.lock())),
            }
        };
        let Rest { listing, page, limit } = &mut *rest;
        *limit = limit.checked_sub(1)?;
        loop {
            if let Some(flow) = page.next() {
                return Some(Flow(flow));
            }
            let engine = self.engine.get();
            *page = py.detach(|| engine.lock().next_flows(listing, PAGE))?.into_iter();
        }
    }

    fn __repr__(&self) -> &'static str {
        "<Flows: an iterator>"
    }
}

/// Records of flows, or decisions, that are looked at while the loops wait for the engine.
const PAGE: usize = 4096;

machines! {
    Flows: "make a list of it",
}

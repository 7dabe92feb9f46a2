//! `CacheSync`: which flows the kernel's flow cache carries.

use std::collections::HashSet;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};

use kbe_nat_datapath as datapath;
use kbe_nat_datapath::{CacheSockets, FlowKey, Standing};
use kbe_nat_engine::Cidr;
use kbe_nat_engine::tuple::Protocol;
use kbe_nat_netlink::addresses::Addresses;
use kbe_nat_netlink::conntrack::{Ends, Requests, Updates};
use kbe_nat_netlink::doubts::Doubts;
use kbe_nat_netlink::links::Links;
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::arguments;
use crate::engine::Engine;
use crate::errors;
use crate::flow_cache::FlowCache;
use crate::values::machines;

/// Decides which flows a cache carries, in the network namespace of the thread that makes this
/// object: established ones that the engine has, `max_flows` at most, none with an address in
/// `excluded_ranges`. While `run` runs, the cache stands on all Ethernet devices that are neither
/// ports of another one nor among `excluded_devices`. At most `socket_buffer` bytes of events wait.
/// Raises `ConntrackError`.
#[pyclass(frozen, module = "kbe_nat._native")]
pub(crate) struct CacheSync {
    engine: Py<Engine>,
    sockets: Mutex<CacheSockets>,
    sync: Arc<datapath::CacheSync>,
}

impl CacheSync {
    pub(crate) fn shared(&self) -> Arc<datapath::CacheSync> {
        Arc::clone(&self.sync)
    }
}

#[pymethods]
impl CacheSync {
    #[new]
    #[pyo3(signature = (
        engine, cache, *, max_flows, excluded_ranges = Vec::new(), excluded_devices = Vec::new(),
        socket_buffer,
    ))]
    #[pyo3(text_signature = "(engine, cache, *, max_flows, excluded_ranges=(), \
        excluded_devices=(), socket_buffer)")]
    fn new(
        py: Python<'_>,
        #[pyo3(from_py_with = arguments::engine)] engine: Py<Engine>,
        #[pyo3(from_py_with = arguments::cache)] cache: Py<FlowCache>,
        #[pyo3(from_py_with = arguments::max_flows)] max_flows: u32,
        #[pyo3(from_py_with = arguments::excluded_ranges)] excluded_ranges: Vec<Cidr>,
        #[pyo3(from_py_with = arguments::excluded_devices)] excluded_devices: Vec<String>,
        #[pyo3(from_py_with = arguments::socket_buffer)] socket_buffer: i32,
    ) -> PyResult<Self> {
        let cache = cache.get().shared();
        py.detach(|| {
            let (updates, waker) = Updates::open(socket_buffer)?;
            let sync = datapath::CacheSync::new(
                waker,
                cache,
                max_flows as usize,
                excluded_ranges,
                excluded_devices.into_iter().collect(),
            );
            sync.inherit(engine.get().shared());
            let (doubts, addresses) = (Doubts::open()?, Addresses::open()?);
            let (links, requests) = (Links::open()?, Requests::open()?);
            let sockets = CacheSockets { updates, doubts, links, addresses, requests };
            Ok(Self { engine, sockets: Mutex::new(sockets), sync: Arc::new(sync) })
        })
        .map_err(|error: io::Error| errors::conntrack(&error))
    }

    /// Run until `stop` is called; then the cache stands nowhere. Raises `ConntrackError`.
    fn run(&self, py: Python<'_>) -> PyResult<()> {
        let engine = self.engine.get().shared();
        py.detach(|| {
            let mut sockets = self.sockets.lock().unwrap_or_else(PoisonError::into_inner);
            self.sync.run(engine, &mut sockets)
        })
        .map_err(|error| errors::conntrack(&error))
    }

    /// End `run` soon.
    fn stop(&self) {
        self.sync.stop();
    }

    /// The frontends whose flows are not cached, in place of those before: protocol, address and
    /// port of each. Raises `ConntrackError`.
    #[allow(clippy::needless_pass_by_value)]
    fn exclude_frontends(
        &self,
        py: Python<'_>,
        #[pyo3(from_py_with = arguments::frontends)] frontends: Vec<(Protocol, IpAddr, u16)>,
    ) -> PyResult<()> {
        let services: HashSet<_> = frontends
            .into_iter()
            .map(|(protocol, address, port)| (protocol.0, SocketAddr::new(address, port)))
            .collect();
        py.detach(|| self.sync.exclude_services(services))
            .map_err(|error| errors::conntrack(&error))
    }

    /// Where the flow stands that a client has begun: "proposed", or why it is not; whether the
    /// cache carries the client's packets, and the backend's; and a device of the flow, if there is
    /// one, that the cache does not stand on, with the reason. Raises `ConntrackError`.
    fn standing(
        &self,
        py: Python<'_>,
        #[pyo3(from_py_with = arguments::protocol)] protocol: Protocol,
        #[pyo3(from_py_with = arguments::source)] source: SocketAddr,
        #[pyo3(from_py_with = arguments::destination)] destination: SocketAddr,
    ) -> PyResult<FlowStanding> {
        let original = Ends { src: source, dst: destination };
        let key = FlowKey { protocol: protocol.0, original };
        let state =
            py.detach(|| self.sync.state(&key)).map_err(|error| errors::conntrack(&error))?;
        let [there, back] = state.is_cached;
        Ok((word(state.standing), there, back, state.left_out))
    }

    /// Devices that the cache does not stand on, but for loopback and ports of others, each with
    /// the reason.
    #[getter]
    fn left_out(&self) -> Vec<(String, String)> {
        self.sync.left_out()
    }

    /// What was counted so far, by name. Raises `ConntrackError`.
    fn counters<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let cache = self.sync.cache();
        let counters = py.detach(|| cache.counters()).map_err(|error| errors::conntrack(&error))?;
        let (flows, refused) = self.sync.counts();
        let [device_voids, neighbour_voids, moves] = self.sync.device_counts();
        let rows = PyDict::new(py);
        for (name, number) in counters.rows() {
            rows.set_item(name.replace('_', "-"), number)?;
        }
        for (name, number) in [
            ("flows", flows as u64),
            ("proposed", self.sync.proposed()),
            ("vanished", self.sync.vanished()),
            ("no-room", refused),
            ("generations", cache.generation().into()),
            ("device-voids", device_voids),
            ("neighbour-voids", neighbour_voids),
            ("moves-behind-others", moves),
            ("devices-left-out", self.sync.left_out().len() as u64),
            ("events-lost", self.sync.overruns()),
            ("pauses", self.sync.pauses()),
            ("rereads-delayed", self.sync.delayed()),
            ("devices", cache.devices().len() as u64),
        ] {
            rows.set_item(name, number)?;
        }
        Ok(rows)
    }

    /// How often it went round: more often from one moment to the next, unless it hangs.
    #[getter]
    fn turns(&self) -> u64 {
        self.sync.turns()
    }
}

/// The devices of this thread's network namespace, but for loopback and ports of others, on which a
/// flow cache would not stand now if none were excluded, each with the reason. Raises
/// `FlowCacheError`.
#[pyfunction]
pub(crate) fn uncached_devices(py: Python<'_>) -> PyResult<Vec<(String, String)>> {
    py.detach(datapath::uncached_devices).map_err(|error| errors::flow_cache(&error))
}

machines! {
    CacheSync: "it has a socket of the kernel",
}

/// A word, whether the cache carries packets there and back, and a device that is left out, with
/// the reason.
type FlowStanding = (&'static str, bool, bool, Option<(String, String)>);

fn word(standing: Standing) -> &'static str {
    match standing {
        Standing::Proposed => "proposed",
        Standing::Waiting => "waiting",
        Standing::Over => "over",
        Standing::Aside => "aside",
        Standing::Special => "special",
        Standing::Unknown => "unknown",
        Standing::Protocol => "protocol",
        Standing::Service => "service",
        Standing::Range => "range",
        Standing::Local => "local",
    }
}

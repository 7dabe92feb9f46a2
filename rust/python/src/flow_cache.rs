//! `FlowCache`: the kernel's cache of translated flows.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use kbe_nat_engine::tuple::Protocol;
use kbe_nat_flowcache as flowcache;
use kbe_nat_flowcache::{Proposal, Sizes, Tuple};
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::arguments;
use crate::convert;
use crate::errors;
use crate::values::{Portable, machines, portable, text};

/// A cache of translated flows: programs on devices send packets of flows that they know out at
/// once, past the kernel's stack. Only a packet that has gone the kernel's whole way, and left,
/// makes or renews an entry. There is room for `max_flows` directions of each family, and as many
/// are proposed at most; each takes about 300 bytes. All methods raise `FlowCacheError`.
#[pyclass(frozen, module = "kbe_nat._native")]
pub(crate) struct FlowCache(Arc<flowcache::FlowCache>);

#[pymethods]
impl FlowCache {
    #[new]
    #[pyo3(signature = (*, max_flows = 65_536))]
    fn new(
        py: Python<'_>,
        #[pyo3(from_py_with = arguments::max_flows)] max_flows: u32,
    ) -> PyResult<Self> {
        let sizes = Sizes::holding(max_flows).map_err(|error| errors::flow_cache(&error))?;
        py.detach(|| flowcache::FlowCache::load(sizes))
            .map(|cache| Self(Arc::new(cache)))
            .map_err(|error| errors::flow_cache(&error))
    }

    /// Ask whether there can be a cache here: raises `FlowCacheError` with what is missing. Cost: a
    /// millisecond.
    #[staticmethod]
    fn probe(py: Python<'_>) -> PyResult<()> {
        py.detach(flowcache::FlowCache::probe).map_err(|error| errors::flow_cache(&error))
    }

    /// Put the programs on a device of this thread's network namespace, by its number; where they
    /// stand already nothing happens. They leave it with this object.
    fn attach(
        &self,
        py: Python<'_>,
        #[pyo3(from_py_with = arguments::device)] device: u32,
    ) -> PyResult<()> {
        self.ask(py, |cache| cache.attach(device))
    }

    /// Take the programs off a device. Entries that lead to it stay until `void`.
    fn detach(
        &self,
        py: Python<'_>,
        #[pyo3(from_py_with = arguments::device)] device: u32,
    ) -> PyResult<()> {
        self.ask(py, |cache| {
            cache.detach(device);
            Ok(())
        })
    }

    /// The devices that the programs stand on, without those that are gone.
    #[getter]
    fn devices(&self) -> Vec<u32> {
        self.0.devices()
    }

    /// Hand packets for this device to the network namespace at its other end at once, or not any
    /// more; its entries are void then. For the host's end of a pod's veth pair alone, while both
    /// ends are up: elsewhere packets are lost.
    fn set_peer(
        &self,
        py: Python<'_>,
        #[pyo3(from_py_with = arguments::device)] device: u32,
        #[pyo3(from_py_with = arguments::is_peer)] is_peer: bool,
    ) -> PyResult<()> {
        self.ask(py, |cache| cache.set_peer(device, is_peer))
    }

    /// Say that the caller lives: without another call entries are void after this many seconds.
    fn beat(
        &self,
        py: Python<'_>,
        #[pyo3(from_py_with = arguments::seconds)] seconds: Duration,
    ) -> PyResult<()> {
        self.ask(py, |cache| cache.beat(seconds))
    }

    /// Make all entries void at once. Each comes back with the next packet of its flow that leaves.
    fn void(&self, py: Python<'_>) -> PyResult<()> {
        self.ask(py, flowcache::FlowCache::void)
    }

    /// Make the entries void at once whose packets come or leave by this device, by its number.
    fn void_device(
        &self,
        py: Python<'_>,
        #[pyo3(from_py_with = arguments::device)] device: u32,
    ) -> PyResult<()> {
        self.ask(py, |cache| cache.void_device(device))
    }

    /// How often `void` was called.
    #[getter]
    fn generation(&self) -> u32 {
        self.0.generation()
    }

    /// Propose translations, each as protocol, source and destination of packets as they come, and
    /// both as they leave; the two directions of a flow are two. The next packet of each that
    /// leaves so makes an entry. Cost: 0.4 us each.
    #[allow(clippy::needless_pass_by_value)]
    fn propose(
        &self,
        py: Python<'_>,
        #[pyo3(from_py_with = arguments::proposals)] proposals: Vec<Row>,
    ) -> PyResult<()> {
        let proposals: Vec<_> = proposals.iter().map(proposal).collect();
        self.ask(py, |cache| cache.propose(&proposals))
    }

    /// Take back proposals, take out their entries, and return these with what they had counted.
    /// Cost: 1 us each.
    #[allow(clippy::needless_pass_by_value)]
    fn remove(
        &self,
        py: Python<'_>,
        #[pyo3(from_py_with = arguments::proposals)] proposals: Vec<Row>,
    ) -> PyResult<Vec<CachedFlow>> {
        let proposals: Vec<_> = proposals.iter().map(proposal).collect();
        let removed = self.ask(py, |cache| cache.remove(&proposals))?;
        Ok(removed.into_iter().map(CachedFlow).collect())
    }

    /// All entries, current or not. Those that come or go meanwhile may be missing. Cost: 0.3 us
    /// each, and as much again for Python's objects.
    fn flows(&self, py: Python<'_>) -> PyResult<Vec<CachedFlow>> {
        let flows = self.ask(py, flowcache::FlowCache::flows)?;
        Ok(flows.into_iter().map(CachedFlow).collect())
    }

    /// The entry for packets with these ends, as they come.
    fn find(
        &self,
        py: Python<'_>,
        #[pyo3(from_py_with = arguments::protocol)] protocol: Protocol,
        #[pyo3(from_py_with = arguments::source)] source: SocketAddr,
        #[pyo3(from_py_with = arguments::destination)] destination: SocketAddr,
    ) -> PyResult<Option<CachedFlow>> {
        let arriving = Tuple { protocol: protocol.0, source, destination };
        Ok(self.ask(py, |cache| cache.find(&arriving))?.map(CachedFlow))
    }

    /// Packets by what became of them, and entries by what was done to them, by name.
    fn counters<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let counters = self.ask(py, flowcache::FlowCache::counters)?;
        let rows = PyDict::new(py);
        for (name, number) in counters.rows() {
            rows.set_item(name, number)?;
        }
        Ok(rows)
    }
}

/// Protocol, ends as a packet comes, ends as it leaves.
type Row = (Protocol, (SocketAddr, SocketAddr), (SocketAddr, SocketAddr));

fn proposal(&(protocol, arriving, leaving): &Row) -> Proposal {
    let tuple = |(source, destination)| Tuple { protocol: protocol.0, source, destination };
    Proposal { arriving: tuple(arriving), leaving: tuple(leaving) }
}

impl FlowCache {
    pub(crate) fn shared(&self) -> Arc<flowcache::FlowCache> {
        Arc::clone(&self.0)
    }

    fn ask<T: Send>(
        &self,
        py: Python<'_>,
        question: impl FnOnce(&flowcache::FlowCache) -> io::Result<T> + Send,
    ) -> PyResult<T> {
        py.detach(|| question(&self.0)).map_err(|error| errors::flow_cache(&error))
    }
}

/// One direction of a flow in the cache.
#[pyclass(frozen, eq, module = "kbe_nat._native")]
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct CachedFlow(flowcache::CachedFlow);

#[pymethods]
impl CachedFlow {
    /// "tcp" or "udp".
    #[getter]
    fn protocol(&self) -> String {
        Protocol(self.0.arriving.protocol).to_string()
    }

    /// Where packets come from.
    #[getter]
    fn source(&self) -> (String, u16) {
        convert::end(&self.0.arriving.source)
    }

    /// Where they are going when they come.
    #[getter]
    fn destination(&self) -> (String, u16) {
        convert::end(&self.0.arriving.destination)
    }

    /// Where they come from when they leave.
    #[getter]
    fn leaving_source(&self) -> (String, u16) {
        convert::end(&self.0.leaving.source)
    }

    /// Where they are going when they leave.
    #[getter]
    fn leaving_destination(&self) -> (String, u16) {
        convert::end(&self.0.leaving.destination)
    }

    /// Packets that the cache has sent on. Segments that the kernel handles as one count as many;
    /// processors that count at once may lose a few.
    #[getter]
    fn packets(&self) -> u64 {
        self.0.packets
    }

    /// Their bytes from the IP header on.
    #[getter]
    fn bytes(&self) -> u64 {
        self.0.bytes
    }

    /// The number of the device by which they leave.
    #[getter]
    fn device(&self) -> u32 {
        self.0.device
    }

    /// The number of the device by which they come.
    #[getter]
    fn arrival(&self) -> u32 {
        self.0.arrival
    }

    /// Whether it would send on a packet that comes now, as far as leases go.
    #[getter]
    fn is_current(&self) -> bool {
        self.0.is_current
    }

    /// Whether a FIN, SYN or RST has ended it: it is not current again until it is entered anew.
    #[getter]
    fn is_ended(&self) -> bool {
        self.0.is_ended
    }

    fn __repr__(&self) -> String {
        let (protocol, flowcache::CachedFlow { arriving, leaving, .. }) = (self.protocol(), self.0);
        let (source, destination) = (arriving.source, arriving.destination);
        let (new_source, new_destination) = (leaving.source, leaving.destination);
        format!(
            "<CachedFlow {protocol} {source} -> {destination} as {new_source} -> {new_destination}>"
        )
    }
}

portable!(CachedFlow);

impl Portable for CachedFlow {
    /// Protocol, ends, packets, bytes, devices, whether it is current, and whether it has ended.
    type State = (u8, [String; 4], (u64, u64), (u32, u32, bool, bool));

    fn state(&self) -> Self::State {
        let flow = &self.0;
        let ends = [
            &flow.arriving.source,
            &flow.arriving.destination,
            &flow.leaving.source,
            &flow.leaving.destination,
        ];
        let counts = (flow.packets, flow.bytes);
        (
            flow.arriving.protocol,
            ends.map(text),
            counts,
            (flow.device, flow.arrival, flow.is_current, flow.is_ended),
        )
    }

    fn restore((protocol, ends, counts, rest): Self::State) -> Option<Self> {
        let [source, destination, new_source, new_destination] = ends;
        let tuple = |source: &str, destination: &str| {
            let (source, destination) = (source.parse().ok()?, destination.parse().ok()?);
            Some(Tuple { protocol, source, destination })
        };
        Some(Self(flowcache::CachedFlow {
            arriving: tuple(&source, &destination)?,
            leaving: tuple(&new_source, &new_destination)?,
            packets: counts.0,
            bytes: counts.1,
            device: rest.0,
            arrival: rest.1,
            is_current: rest.2,
            is_ended: rest.3,
        }))
    }
}

machines! {
    FlowCache: "it has maps and programs of the kernel",
}

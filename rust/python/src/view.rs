//! `Stats`, `Explanation`: the engine's views as Python objects.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::ops::Deref;
use std::thread;
use std::time::Duration;

use kbe_nat_engine as core;
use kbe_nat_engine::view::{
    BackendStats as CoreBackend, Occupancy, ServiceStats as CoreService, sort_service_stats,
};
use pyo3::prelude::*;

use crate::arguments;
use crate::snat::PortUse;

/// How long backends took from a client's first SYN to their SYN-ACK. Refused and unanswered
/// connections are not counted.
#[pyclass(frozen, module = "kbe_nat")]
pub(crate) struct ConnectTimes(core::ConnectTimes);

#[pymethods]
impl ConnectTimes {
    /// Connections for each of `CONNECT_BOUNDS`, those of the shorter ones left out; the longer
    /// ones last.
    #[getter]
    fn counts(&self) -> Vec<u64> {
        self.0.counts.into()
    }

    /// Connections that were measured.
    #[getter]
    fn count(&self) -> u64 {
        self.0.count()
    }

    /// Of all together.
    #[getter]
    fn seconds(&self) -> f64 {
        self.0.nanoseconds as f64 / 1e9
    }

    /// The seconds within which this share of the connections was answered, reckoned from the
    /// counts; at most the last bound. None without connections.
    fn quantile(&self, #[pyo3(from_py_with = arguments::share)] share: f64) -> Option<f64> {
        self.0.quantile(share)
    }
}

/// Counters of one backend of one service port since the engine started.
#[pyclass(frozen, module = "kbe_nat")]
pub(crate) struct BackendStats(CoreBackend);

#[pymethods]
impl BackendStats {
    /// The IP address, as text.
    #[getter]
    fn address(&self) -> String {
        self.0.address.ip().to_string()
    }

    /// The port.
    #[getter]
    fn port(&self) -> u16 {
        self.0.address.port()
    }

    /// Flows alive now.
    #[getter]
    fn active(&self) -> u32 {
        self.0.active
    }

    /// Flows that it got.
    #[getter]
    fn flows(&self) -> u64 {
        self.0.traffic.flows
    }

    /// Packets towards the backend, and back.
    #[getter]
    fn packets(&self) -> (u64, u64) {
        self.0.traffic.packets.into()
    }

    /// Bytes of the IP packets towards the backend, and back.
    #[getter]
    fn bytes(&self) -> (u64, u64) {
        self.0.traffic.bytes.into()
    }

    /// None if none was measured.
    #[getter]
    fn connects(&self) -> Option<ConnectTimes> {
        self.0.connects.as_deref().copied().map(ConnectTimes)
    }

    /// No longer in the tables; kept while flows still use it.
    #[getter]
    fn is_gone(&self) -> bool {
        self.0.is_gone
    }
}

/// Counters of one service port in one family, 4 or 6; of backends that are gone too.
#[pyclass(frozen, module = "kbe_nat")]
pub(crate) struct ServiceStats(CoreService);

#[pymethods]
impl ServiceStats {
    /// The name, as namespace/name or namespace/name:port.
    #[getter]
    fn name(&self) -> &str {
        &self.0.name
    }

    /// The address family, 4 or 6.
    #[getter]
    fn family(&self) -> u8 {
        self.0.family.version()
    }

    /// Flows alive now.
    #[getter]
    fn active(&self) -> u64 {
        self.0.active()
    }

    /// Flows that began.
    #[getter]
    fn flows(&self) -> u64 {
        self.0.traffic.flows
    }

    /// Packets towards the backends, and back.
    #[getter]
    fn packets(&self) -> (u64, u64) {
        self.0.traffic.packets.into()
    }

    /// Bytes of the IP packets towards the backends, and back.
    #[getter]
    fn bytes(&self) -> (u64, u64) {
        self.0.traffic.bytes.into()
    }

    /// Packets that were dropped or rejected at this service port, by cause.
    #[getter]
    fn refused(&self) -> BTreeMap<&'static str, u64> {
        self.0.refused.iter().map(|&(cause, count)| (cause.name(), count)).collect()
    }

    /// Of all its backends; None if none was measured.
    #[getter]
    fn connects(&self) -> Option<ConnectTimes> {
        let connects = self.0.connects;
        (connects.count() > 0).then_some(ConnectTimes(connects))
    }

    /// The counters of each backend, of those that are gone too.
    #[getter]
    fn backends(&self) -> Vec<BackendStats> {
        self.0.backends.iter().cloned().map(BackendStats).collect()
    }
}

/// All counters at one moment.
#[pyclass(frozen, module = "kbe_nat")]
pub(crate) struct Stats {
    actions: BTreeMap<&'static str, u64>,
    causes: BTreeMap<&'static str, u64>,
    occupancy: Occupancy,
    port_use: core::conntrack::ports::PortUse,
    services: Vec<CoreService>,
}

impl Stats {
    /// `lock` locks the engine for as long as the guard lives: once to count, and then for each
    /// page, so that packets wait for one of these at most.
    pub(crate) fn of<G: Deref<Target = core::Engine>>(lock: impl Fn() -> G) -> Self {
        let (mut stats, mut census) = {
            let engine = lock();
            let stats = Self {
                actions: engine.actions().map(|(action, count)| (action.name(), count)).collect(),
                causes: engine.causes().map(|(cause, count)| (cause.name(), count)).collect(),
                occupancy: engine.occupancy(),
                port_use: engine.port_use(),
                services: Vec::new(),
            };
            (stats, engine.census())
        };
        loop {
            // The guard is dropped before the page is taken over.
            let page = lock().next_service_stats(&mut census, PAGE);
            let Some(page) = page else { break };
            stats.services.extend(page);
            // A mutex is not fair: taken again at once, it would be ours again, before a loop that
            // waits for it has woken up.
            thread::sleep(PAUSE);
        }
        sort_service_stats(&mut stats.services);
        stats
    }
}

/// Service ports that are looked at while the loops wait for the engine.
const PAGE: usize = 128;
/// Between two pages: longer than a thread takes to wake up.
const PAUSE: Duration = Duration::from_micros(100);

#[pymethods]
impl Stats {
    /// Packets by action.
    #[getter]
    fn actions(&self) -> BTreeMap<&'static str, u64> {
        self.actions.clone()
    }

    /// Packets by cause, those that did not occur left out.
    #[getter]
    fn causes(&self) -> BTreeMap<&'static str, u64> {
        self.causes.clone()
    }

    /// Flows alive now.
    #[getter]
    fn flows(&self) -> usize {
        self.occupancy.flows
    }

    /// Of these, flows whose both ends have talked.
    #[getter]
    fn assured(&self) -> usize {
        self.occupancy.assured
    }

    /// Clients whose backend is remembered (ClientIP affinity).
    #[getter]
    fn affinities(&self) -> usize {
        self.occupancy.affinities
    }

    /// Source ports that flows have got from `Snat`, by all backends and addresses.
    #[getter]
    fn leased_ports(&self) -> usize {
        self.occupancy.leased_ports
    }

    /// Of these, the ones towards the backend that most are leased towards, from one address.
    #[getter]
    fn most_leased_ports(&self) -> usize {
        self.occupancy.most_leased_ports
    }

    /// Source ports that can be leased towards one backend, from one address.
    #[getter]
    fn leasable_ports(&self) -> usize {
        self.occupancy.leasable_ports
    }

    /// How masqueraded flows got their source ports.
    #[getter]
    fn port_use(&self) -> PortUse {
        self.port_use.into()
    }

    /// Fragments that wait for the first one of their datagram.
    #[getter]
    fn held_fragments(&self) -> usize {
        self.occupancy.held_fragments
    }

    /// Flows that have timed out.
    #[getter]
    fn expired(&self) -> u64 {
        self.occupancy.expired
    }

    /// Flows that made room for others.
    #[getter]
    fn evicted(&self) -> u64 {
        self.occupancy.evicted
    }

    /// The counters of each service port.
    #[getter]
    fn services(&self) -> Vec<ServiceStats> {
        self.services.iter().cloned().map(ServiceStats).collect()
    }
}

/// Why a packet gets its verdict. Nothing was changed to find out.
#[pyclass(frozen, module = "kbe_nat")]
pub(crate) struct Explanation(pub(crate) core::Explanation);

#[pymethods]
impl Explanation {
    /// What `process` would do, as the action of a `Verdict`.
    #[getter]
    fn action(&self) -> &'static str {
        self.0.verdict.action.name()
    }

    /// Why, in a word, as of a `Verdict`.
    #[getter]
    fn cause(&self) -> &'static str {
        self.0.verdict.cause.name()
    }

    /// The name of the service port; None where no one has the destination.
    #[getter]
    fn service(&self) -> Option<&str> {
        self.0.service.as_deref()
    }

    /// How its destination is meant, as the `kind` of a `Frontend`; None when it belongs to a known
    /// flow, or to nobody.
    #[getter]
    fn frontend(&self) -> Option<&'static str> {
        self.0.frontend.map(core::FrontendKind::name)
    }

    /// "cluster" or "local": which endpoints serve it, when it opens a flow.
    #[getter]
    fn scope(&self) -> Option<&'static str> {
        self.0.scope.map(core::service::Scope::name)
    }

    /// The backend that the next such packet gets, as "address:port".
    #[getter]
    fn backend(&self) -> Option<String> {
        self.0.backend.map(|backend| backend.to_string())
    }

    /// Every backend that it may be sent to, sorted as text.
    #[getter]
    fn candidates(&self) -> Vec<String> {
        in_order(&self.0.candidates)
    }

    /// Backends that may be chosen, too, but their address is a frontend at which it is refused;
    /// each with action and cause.
    #[getter]
    fn refused(&self) -> Vec<(String, &'static str, &'static str)> {
        let mut refusals: Vec<_> = self
            .0
            .refused
            .iter()
            .map(|(backend, action, cause)| (backend.to_string(), action.name(), cause.name()))
            .collect();
        refusals.sort_unstable();
        refusals
    }

    /// Whether the source would be replaced by the node's, for the `backend` given.
    #[getter]
    fn masquerade(&self) -> bool {
        self.0.verdict.flags & core::Verdict::MASQUERADE != 0
    }

    /// Candidates for which the source is masqueraded.
    #[getter]
    fn masqueraded(&self) -> Vec<String> {
        in_order(&self.0.masqueraded)
    }

    /// What was checked, in order, and what was found.
    #[getter]
    fn steps(&self) -> Vec<(&'static str, &str)> {
        self.0.steps.iter().map(|(check, found)| (*check, found.as_str())).collect()
    }

    fn __repr__(&self) -> String {
        format!("<Explanation {}: {}>", self.action(), self.cause())
    }
}

fn in_order(addresses: &[SocketAddr]) -> Vec<String> {
    let mut texts: Vec<String> = addresses.iter().map(SocketAddr::to_string).collect();
    texts.sort_unstable();
    texts.dedup();
    texts
}

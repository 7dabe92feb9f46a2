//! `Flow`, `Stats`, `Explanation`: the engine's views as Python objects.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::ops::Deref;
use std::thread;
use std::time::Duration;

use kbe_nat_engine as core;
use kbe_nat_engine::view::{
    BackendStats as CoreBackend, Flow as CoreFlow, Occupancy, ServiceStats as CoreService,
    sort_service_stats,
};
use pyo3::prelude::*;

fn pair(address: SocketAddr) -> (String, u16) {
    (address.ip().to_string(), address.port())
}

#[pyclass(frozen, module = "kbe_nat")]
pub(crate) struct Flow(pub(crate) CoreFlow);

#[pymethods]
impl Flow {
    #[getter]
    fn protocol(&self) -> String {
        self.0.protocol.to_string()
    }

    #[getter]
    fn state(&self) -> Option<&'static str> {
        self.0.state
    }

    #[getter]
    fn assured(&self) -> bool {
        self.0.assured
    }

    #[getter]
    fn replied(&self) -> bool {
        self.0.replied
    }

    #[getter]
    fn source(&self) -> (String, u16) {
        pair(self.0.source)
    }

    #[getter]
    fn destination(&self) -> (String, u16) {
        pair(self.0.destination)
    }

    #[getter]
    fn reply_source(&self) -> (String, u16) {
        pair(self.0.reply_source)
    }

    #[getter]
    fn reply_destination(&self) -> (String, u16) {
        pair(self.0.reply_destination)
    }

    #[getter]
    fn service(&self) -> &str {
        &self.0.service
    }

    #[getter]
    fn masquerade(&self) -> bool {
        self.0.masquerade
    }

    #[getter]
    fn packets(&self) -> (u64, u64) {
        self.0.packets.into()
    }

    #[getter]
    fn bytes(&self) -> (u64, u64) {
        self.0.bytes.into()
    }

    #[getter]
    fn age(&self) -> f64 {
        self.0.age
    }

    #[getter]
    fn timeout(&self) -> f64 {
        self.0.timeout
    }

    fn __repr__(&self) -> String {
        let flow = &self.0;
        let state = flow.state.unwrap_or("-");
        format!(
            "<Flow {} {} -> {} on {} {state}>",
            flow.protocol, flow.source, flow.destination, flow.reply_source
        )
    }
}

#[pyclass(frozen, module = "kbe_nat")]
pub(crate) struct ConnectTimes(core::ConnectTimes);

#[pymethods]
impl ConnectTimes {
    #[getter]
    fn counts(&self) -> Vec<u64> {
        self.0.counts.into()
    }

    #[getter]
    fn count(&self) -> u64 {
        self.0.count()
    }

    #[getter]
    fn seconds(&self) -> f64 {
        self.0.nanoseconds as f64 / 1e9
    }

    fn quantile(&self, share: f64) -> Option<f64> {
        self.0.quantile(share)
    }
}

#[pyclass(frozen, module = "kbe_nat")]
pub(crate) struct BackendStats(CoreBackend);

#[pymethods]
impl BackendStats {
    #[getter]
    fn address(&self) -> String {
        self.0.address.ip().to_string()
    }

    #[getter]
    fn port(&self) -> u16 {
        self.0.address.port()
    }

    #[getter]
    fn active(&self) -> u32 {
        self.0.active
    }

    #[getter]
    fn flows(&self) -> u64 {
        self.0.traffic.flows
    }

    #[getter]
    fn packets(&self) -> (u64, u64) {
        self.0.traffic.packets.into()
    }

    #[getter]
    fn bytes(&self) -> (u64, u64) {
        self.0.traffic.bytes.into()
    }

    #[getter]
    fn connects(&self) -> Option<ConnectTimes> {
        self.0.connects.as_deref().copied().map(ConnectTimes)
    }

    #[getter]
    fn is_gone(&self) -> bool {
        self.0.is_gone
    }
}

#[pyclass(frozen, module = "kbe_nat")]
pub(crate) struct ServiceStats(CoreService);

#[pymethods]
impl ServiceStats {
    #[getter]
    fn name(&self) -> &str {
        &self.0.name
    }

    #[getter]
    fn family(&self) -> u8 {
        self.0.family.version()
    }

    #[getter]
    fn active(&self) -> u64 {
        self.0.active()
    }

    #[getter]
    fn flows(&self) -> u64 {
        self.0.traffic.flows
    }

    #[getter]
    fn packets(&self) -> (u64, u64) {
        self.0.traffic.packets.into()
    }

    #[getter]
    fn bytes(&self) -> (u64, u64) {
        self.0.traffic.bytes.into()
    }

    #[getter]
    fn refused(&self) -> BTreeMap<&'static str, u64> {
        self.0.refused.iter().map(|&(cause, count)| (cause.name(), count)).collect()
    }

    #[getter]
    fn connects(&self) -> Option<ConnectTimes> {
        let connects = self.0.connects;
        (connects.count() > 0).then_some(ConnectTimes(connects))
    }

    #[getter]
    fn backends(&self) -> Vec<BackendStats> {
        self.0.backends.iter().cloned().map(BackendStats).collect()
    }
}

#[pyclass(frozen, module = "kbe_nat")]
pub(crate) struct Stats {
    actions: BTreeMap<&'static str, u64>,
    causes: BTreeMap<&'static str, u64>,
    occupancy: Occupancy,
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
    #[getter]
    fn actions(&self) -> BTreeMap<&'static str, u64> {
        self.actions.clone()
    }

    #[getter]
    fn causes(&self) -> BTreeMap<&'static str, u64> {
        self.causes.clone()
    }

    #[getter]
    fn flows(&self) -> usize {
        self.occupancy.flows
    }

    #[getter]
    fn assured(&self) -> usize {
        self.occupancy.assured
    }

    #[getter]
    fn affinities(&self) -> usize {
        self.occupancy.affinities
    }

    #[getter]
    fn leased_ports(&self) -> usize {
        self.occupancy.leased_ports
    }

    #[getter]
    fn most_leased_ports(&self) -> usize {
        self.occupancy.most_leased_ports
    }

    #[getter]
    fn leasable_ports(&self) -> usize {
        self.occupancy.leasable_ports
    }

    #[getter]
    fn held_fragments(&self) -> usize {
        self.occupancy.held_fragments
    }

    #[getter]
    fn expired(&self) -> u64 {
        self.occupancy.expired
    }

    #[getter]
    fn evicted(&self) -> u64 {
        self.occupancy.evicted
    }

    #[getter]
    fn services(&self) -> Vec<ServiceStats> {
        self.services.iter().cloned().map(ServiceStats).collect()
    }
}

#[pyclass(frozen, module = "kbe_nat")]
pub(crate) struct Explanation(pub(crate) core::Explanation);

#[pymethods]
impl Explanation {
    #[getter]
    fn action(&self) -> &'static str {
        self.0.verdict.action.name()
    }

    #[getter]
    fn cause(&self) -> &'static str {
        self.0.verdict.cause.name()
    }

    #[getter]
    fn service(&self) -> Option<&str> {
        self.0.service.as_deref()
    }

    #[getter]
    fn frontend(&self) -> Option<&'static str> {
        self.0.frontend.map(core::FrontendKind::name)
    }

    #[getter]
    fn scope(&self) -> Option<&'static str> {
        self.0.scope.map(core::service::Scope::name)
    }

    #[getter]
    fn backend(&self) -> Option<String> {
        self.0.backend.map(|backend| backend.to_string())
    }

    #[getter]
    fn candidates(&self) -> Vec<String> {
        in_order(&self.0.candidates)
    }

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

    #[getter]
    fn masquerade(&self) -> bool {
        self.0.verdict.flags & core::Verdict::MASQUERADE != 0
    }

    #[getter]
    fn masqueraded(&self) -> Vec<String> {
        in_order(&self.0.masqueraded)
    }

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

//! `Stats`, `ServiceStats`, `BackendStats`, `ConnectTimes`: counters of an engine at one moment.

use std::collections::BTreeMap;
use std::ops::Deref;
use std::thread;
use std::time::Duration;

use kbe_nat_engine as core;
use kbe_nat_engine::tuple::Family;
use kbe_nat_engine::view::{
    BackendStats as CoreBackend, Occupancy, ServiceStats as CoreService, sort_service_stats,
};
use pyo3::prelude::*;

use crate::arguments;
use crate::snat::PortUse;
use crate::values::{Portable, constant, portable, text};

/// How long backends took from a client's first SYN to their SYN-ACK. Refused and unanswered
/// connections are not counted.
#[pyclass(frozen, eq, module = "kbe_nat")]
#[derive(Clone, PartialEq, Eq, Debug)]
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

    fn __repr__(&self) -> String {
        let (count, seconds) = (self.count(), self.seconds());
        format!("<ConnectTimes: {count} connections, {seconds:.6} s together>")
    }
}

/// Counters of one backend of one service port since the engine started.
#[pyclass(frozen, eq, module = "kbe_nat")]
#[derive(Clone, PartialEq, Eq, Debug)]
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

    /// Of these, those that are being closed: as in IPVS, TCP from the first FIN on, and SCTP that
    /// is not established.
    #[getter]
    fn inactive(&self) -> u32 {
        self.0.inactive
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

    fn __repr__(&self) -> String {
        let CoreBackend { address, active, traffic, .. } = &self.0;
        format!("<BackendStats {address}: {active} active of {} flows>", traffic.flows)
    }
}

/// Counters of one service port in one family, 4 or 6; of backends that are gone too.
#[pyclass(frozen, eq, module = "kbe_nat")]
#[derive(Clone, PartialEq, Eq, Debug)]
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

    fn __repr__(&self) -> String {
        let (name, family, active) = (self.name(), self.family(), self.active());
        let (flows, backends) = (self.flows(), self.0.backends.len());
        format!(
            "<ServiceStats {name} (IPv{family}): {active} active of {flows} flows, \
             {backends} backends>"
        )
    }
}

/// All counters at one moment.
#[pyclass(frozen, eq, module = "kbe_nat")]
#[derive(Clone, PartialEq, Eq, Debug)]
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

    fn __repr__(&self) -> String {
        let Occupancy { flows, assured, .. } = self.occupancy;
        let packets: u64 = self.actions.values().sum();
        let services = self.services.len();
        format!(
            "<Stats: {packets} packets, {flows} flows ({assured} assured), \
             {services} service ports>"
        )
    }
}

portable!(BackendStats, ConnectTimes, ServiceStats, Stats);

impl Portable for ConnectTimes {
    /// Counts, and nanoseconds.
    type State = (Vec<u64>, u64);

    fn state(&self) -> Self::State {
        (self.0.counts.into(), self.0.nanoseconds)
    }

    fn restore((counts, nanoseconds): Self::State) -> Option<Self> {
        let counts = counts.try_into().ok()?;
        Some(Self(core::ConnectTimes { counts, nanoseconds }))
    }
}

/// Flows, packets and bytes.
type TrafficState = (u64, [u64; 2], [u64; 2]);

fn traffic_state(traffic: &core::Traffic) -> TrafficState {
    (traffic.flows, traffic.packets, traffic.bytes)
}

fn traffic((flows, packets, bytes): TrafficState) -> core::Traffic {
    core::Traffic { flows, packets, bytes }
}

impl Portable for BackendStats {
    /// Address and port, active flows and those of them that are closing, traffic, connect times,
    /// whether it is gone.
    type State = (String, [u32; 2], TrafficState, Option<(Vec<u64>, u64)>, bool);

    fn state(&self) -> Self::State {
        let CoreBackend { address, active, inactive, traffic, connects, is_gone } = &self.0;
        let connects = connects.as_deref().map(|connects| ConnectTimes(*connects).state());
        (text(address), [*active, *inactive], traffic_state(traffic), connects, *is_gone)
    }

    fn restore((address, flows, counters, connects, is_gone): Self::State) -> Option<Self> {
        let [active, inactive] = flows;
        let connects = match connects {
            Some(state) => Some(Box::new(ConnectTimes::restore(state)?.0)),
            None => None,
        };
        let (address, traffic) = (address.parse().ok()?, traffic(counters));
        Some(Self(CoreBackend { address, active, inactive, traffic, connects, is_gone }))
    }
}

impl Portable for ServiceStats {
    /// Name and family, traffic, connect times, refusals by the place of their cause, backends.
    #[allow(clippy::type_complexity)]
    type State = (
        (String, u8),
        TrafficState,
        (Vec<u64>, u64),
        Vec<(usize, u64)>,
        Vec<<BackendStats as Portable>::State>,
    );

    fn state(&self) -> Self::State {
        let service = &self.0;
        (
            (service.name.clone(), service.family.version()),
            traffic_state(&service.traffic),
            ConnectTimes(service.connects).state(),
            service.refused.iter().map(|&(cause, count)| (cause as usize, count)).collect(),
            self.backends().iter().map(Portable::state).collect(),
        )
    }

    fn restore(
        ((name, version), counters, connects, refused, backends): Self::State,
    ) -> Option<Self> {
        let family = match version {
            4 => Family::V4,
            6 => Family::V6,
            _ => return None,
        };
        let cause = |(place, count): (usize, u64)| Some((*core::Cause::ALL.get(place)?, count));
        let backend = |state| BackendStats::restore(state).map(|backend| backend.0);
        Some(Self(CoreService {
            name,
            family,
            traffic: traffic(counters),
            connects: ConnectTimes::restore(connects)?.0,
            refused: refused.into_iter().map(cause).collect::<Option<_>>()?,
            backends: backends.into_iter().map(backend).collect::<Option<_>>()?,
        }))
    }
}

impl Portable for Stats {
    /// Packets by action and by cause, sizes, ports, service ports.
    #[allow(clippy::type_complexity)]
    type State = (
        BTreeMap<String, u64>,
        BTreeMap<String, u64>,
        ([usize; 7], u64, u64),
        [u64; 4],
        Vec<<ServiceStats as Portable>::State>,
    );

    fn state(&self) -> Self::State {
        let texts = |counts: &BTreeMap<&str, u64>| {
            counts.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect()
        };
        let sizes = self.occupancy;
        let counts = [
            sizes.flows,
            sizes.assured,
            sizes.affinities,
            sizes.leased_ports,
            sizes.most_leased_ports,
            sizes.leasable_ports,
            sizes.held_fragments,
        ];
        (
            texts(&self.actions),
            texts(&self.causes),
            (counts, sizes.expired, sizes.evicted),
            self.port_use().state(),
            self.services().iter().map(Portable::state).collect(),
        )
    }

    fn restore((actions, causes, sizes, ports, services): Self::State) -> Option<Self> {
        let names = |counts: BTreeMap<String, u64>| {
            counts.iter().map(|(name, count)| (constant(name), *count)).collect()
        };
        let (counts, expired, evicted) = sizes;
        let [flows, assured, affinities, leased_ports, most_leased_ports, others @ ..] = counts;
        let [leasable_ports, held_fragments] = others;
        let occupancy = Occupancy {
            flows,
            assured,
            affinities,
            leased_ports,
            most_leased_ports,
            leasable_ports,
            held_fragments,
            expired,
            evicted,
        };
        let [allocations, collisions, probes, log_lines] = ports;
        let service = |state| ServiceStats::restore(state).map(|service| service.0);
        Some(Self {
            actions: names(actions),
            causes: names(causes),
            occupancy,
            port_use: core::conntrack::ports::PortUse {
                allocations,
                collisions,
                probes,
                log_lines,
            },
            services: services.into_iter().map(service).collect::<Option<_>>()?,
        })
    }
}

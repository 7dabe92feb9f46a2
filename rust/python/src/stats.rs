//! `Stats`: all counters of an engine at one moment. Those of service ports, backends and connect
//! times have files of their own.

mod connect_times;
mod service_stats;

use std::collections::BTreeMap;
use std::ops::Deref;
use std::thread;
use std::time::Duration;

use kbe_nat_engine as core;
use kbe_nat_engine::view::{Occupancy, ServiceStats as CoreService, sort_service_stats};
use pyo3::prelude::*;

pub(crate) use self::connect_times::ConnectTimes;
pub(crate) use self::service_stats::{BackendStats, ServiceStats};
use crate::snat::PortUse;
use crate::values::{Portable, constant, portable};

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

portable!(Stats);

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

//! The Services of a cell over time: which backends are listed, with which weights, and alive.

use std::sync::Arc;

use kbe_nat_engine::balance::{Loads, Random, Request, State};
use kbe_nat_engine::rng::mix64;
use kbe_nat_engine::service::Scope;
use kbe_nat_engine::tuple::{Family, Protocol};
use kbe_nat_engine::{Backend, Frontend, FrontendKind, ServicePort};

use crate::balancers::{Builder, Foreign, builder};
use crate::dataplane::{ServiceState, thread_time};
use crate::packets;
use crate::spec::{CellSpec, LabError, Memory, StrategySpec};

/// A backend of a Service.
#[derive(Clone, Debug)]
pub(crate) struct BackendState {
    pub(crate) weight: u32,
    pub(crate) capacity: Option<f64>,
    pub(crate) latency: f64,
    pub(crate) is_listed: bool,
    pub(crate) is_alive: bool,
    /// It may be listed soon: JET provides for it.
    pub(crate) is_expected: bool,
}

/// A Service.
#[derive(Debug)]
pub(crate) struct Service {
    /// Position among the scenario's Services: measures are for these.
    pub(crate) group: u32,
    /// Position of its first backend among those of its group.
    pub(crate) offset: usize,
    /// Number of its first backend among all.
    pub(crate) first: u32,
    pub(crate) backends: Vec<BackendState>,
    pub(crate) affinity: Option<u32>,
    protocol: Protocol,
    pub(crate) family: Family,
    builder: Box<dyn Builder>,
    horizon_builder: Box<dyn Builder>,
    /// As it was built last, and whether its strategy was a mapping then.
    state: Option<(ServiceState, bool)>,
}

/// All Services.
#[derive(Debug)]
pub(crate) struct Services {
    pub(crate) services: Vec<Service>,
    /// The first Service of each group, and how many it has.
    pub(crate) groups: Vec<(u32, u32)>,
    /// The Service of each backend.
    pub(crate) owners: Vec<u32>,
    memory: Memory,
    /// Processor time of building balancers, in nanoseconds.
    pub(crate) build_time: u64,
    /// Bytes of the tables of all balancers; `None` once one was not known.
    pub(crate) balancer_bytes: Option<u64>,
}

/// The effect of a change on a Service's mapping of flows to backends.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Remapping {
    /// Share of flows that would get another backend.
    pub(crate) moved: f64,
    /// The least share with which the new weights can be met.
    pub(crate) minimum: f64,
}

impl Services {
    pub(crate) fn new(spec: &CellSpec, foreign: Option<&dyn Foreign>) -> Result<Self, LabError> {
        let mut world = Self {
            services: Vec::new(),
            groups: Vec::new(),
            owners: Vec::new(),
            memory: spec.memory,
            build_time: 0,
            balancer_bytes: Some(0),
        };
        for (group, service) in spec.services.iter().enumerate() {
            world.groups.push((world.services.len() as u32, service.count));
            let mut traffic = spec.traffic.iter();
            let first = traffic.find(|traffic| traffic.service as usize == group);
            let protocol = first.map_or(Protocol::TCP, |traffic| traffic.kind.protocol());
            for replica in 0..service.count as usize {
                let number = world.services.len();
                let first = world.owners.len();
                world.owners.resize(first + service.backends.len(), number as u32);
                let make = || builder(&spec.strategy, foreign, spec.seed);
                let backends =
                    service.backends.iter().zip(0..).map(|(backend, place)| BackendState {
                        weight: backend.weight,
                        capacity: backend.capacity,
                        latency: backend.latency,
                        is_listed: backend.listed,
                        is_alive: true,
                        is_expected: service.horizon.contains(&place),
                    });
                world.services.push(Service {
                    group: group as u32,
                    offset: replica * service.backends.len(),
                    first: first as u32,
                    backends: backends.collect(),
                    affinity: service.affinity,
                    protocol,
                    family: service.family.into(),
                    builder: make()?,
                    horizon_builder: make()?,
                    state: None,
                });
            }
        }
        if world.services.len() > packets::MAX_SERVICES {
            return Err(LabError::Cell(format!("more than {} Services", packets::MAX_SERVICES)));
        }
        if world.owners.len() > packets::MAX_BACKENDS {
            return Err(LabError::Cell(format!("more than {} backends", packets::MAX_BACKENDS)));
        }
        Ok(world)
    }

    /// The Service of a backend.
    pub(crate) fn owner(&self, backend: u32) -> &Service {
        &self.services[self.owners[backend as usize] as usize]
    }

    /// A backend by its number among all.
    pub(crate) fn backend(&self, backend: u32) -> &BackendState {
        let service = self.owner(backend);
        &service.backends[(backend - service.first) as usize]
    }

    /// Services of a group, by number.
    pub(crate) fn group(&self, group: u32) -> std::ops::Range<u32> {
        let (first, count) = self.groups[group as usize];
        first..first + count
    }

    /// Gives all Services of a group another strategy.
    pub(crate) fn set_strategy(
        &mut self,
        group: u32,
        strategy: &StrategySpec,
        foreign: Option<&dyn Foreign>,
        seed: u64,
    ) -> Result<(), LabError> {
        for number in self.group(group) {
            let service = &mut self.services[number as usize];
            service.builder = builder(strategy, foreign, seed)?;
            service.horizon_builder = builder(strategy, foreign, seed)?;
        }
        Ok(())
    }

    /// Builds what a Service is now, one of so many that change. Says how the mapping of flows has
    /// changed, where the strategy is one.
    pub(crate) fn build(
        &mut self,
        number: u32,
        among: usize,
    ) -> Result<(ServiceState, Option<Remapping>), LabError> {
        let is_jet = self.memory == Memory::Jet;
        let service = &mut self.services[number as usize];
        let refuse = |reason| LabError::Cell(format!("Service {number}: {reason}"));
        let start = thread_time();
        let places = |is_in: &dyn Fn(&BackendState) -> bool| -> Vec<usize> {
            (0..service.backends.len()).filter(|&place| is_in(&service.backends[place])).collect()
        };
        let listed = places(&|backend| backend.is_listed);
        let both = places(&|backend| backend.is_listed || backend.is_expected);
        let port = service.port(number, &listed, false).map_err(refuse)?;
        self.build_time += thread_time() - start;
        let service = &mut self.services[number as usize];
        let horizon = if is_jet {
            let port = service.port(number, &both, true).map_err(refuse)?;
            Some((port, service.numbers(&both)))
        } else {
            None
        };
        let state = ServiceState { number, port, backends: service.numbers(&listed), horizon };
        let is_mapping = service.builder.is_mapping();
        let before = service.state.replace((state.clone(), is_mapping));
        let former = before.as_ref().map_or(Some(0), |(state, _)| state.balancer_bytes());
        let bytes = self.balancer_bytes.zip(state.balancer_bytes()).map(|(all, new)| all + new);
        self.balancer_bytes = bytes.zip(former).map(|(bytes, former)| bytes - former);
        let remapping = before
            .filter(|&(_, was_mapping)| is_mapping && was_mapping)
            .map(|(before, _)| remapping(&before, &state, probes(among)));
        Ok((state, remapping))
    }
}

impl Service {
    fn numbers(&self, places: &[usize]) -> Arc<[u32]> {
        places.iter().map(|&place| self.first + place as u32).collect()
    }

    fn port(
        &mut self,
        number: u32,
        places: &[usize],
        is_horizon: bool,
    ) -> Result<Arc<ServicePort>, String> {
        let backends: Vec<Backend> = places
            .iter()
            .map(|&place| Backend {
                weight: self.backends[place].weight,
                ..Backend::new(packets::backend(self.first + place as u32, self.family))
            })
            .collect();
        let builder = if is_horizon { &mut self.horizon_builder } else { &mut self.builder };
        let mut balancer = Some(builder.build(&backends)?);
        let address = packets::service(number, self.family);
        let spec = kbe_nat_engine::ServiceSpec {
            frontends: vec![Frontend {
                kind: FrontendKind::ClusterIp,
                address: Some(address.ip()),
                port: address.port(),
            }],
            cluster_backends: backends,
            affinity: self.affinity,
            strategy: builder.kind(),
            ..kbe_nat_engine::ServiceSpec::new(format!("lab/s{number}"), self.protocol)
        };
        // The first list is the cluster's; the node's is empty, and asks for none.
        let build =
            |_: &[Backend]| Ok(balancer.take().unwrap_or_else(|| Box::new(Random::new(&[]))));
        ServicePort::with_balancers(spec, build).map(Arc::new).map_err(|error| error.to_string())
    }
}

/// How many flows of each of so many Services are asked about.
fn probes(services: usize) -> u32 {
    let each = ALL_PROBES / u32::try_from(services.max(1)).unwrap_or(u32::MAX);
    each.clamp(FEWEST_PROBES, PROBES)
}

/// Asks both states for the backends of the same flows, others for each Service.
fn remapping(before: &ServiceState, after: &ServiceState, probes: u32) -> Remapping {
    let mut moved = 0u32;
    for key in 0..probes {
        let choice = |state: &ServiceState| {
            let flow = mix64((u64::from(state.number) << 32 | u64::from(key)) + 1);
            let request = Request { source: flow, flow, loads: Loads::default() };
            let balancer = state.port.set(Scope::Cluster).balancer();
            let index = balancer.pick(&request, &mut State::new(0))?;
            state.backends.get(index).copied()
        };
        moved += u32::from(choice(before) != choice(after));
    }
    Remapping { moved: f64::from(moved) / f64::from(probes), minimum: least_moves(before, after) }
}

/// The sum of what backends lose of their shares, as others cannot gain it without moves, and of
/// what flows without a backend get.
fn least_moves(before: &ServiceState, after: &ServiceState) -> f64 {
    let shares = |state: &ServiceState| -> Vec<(u32, f64)> {
        let backends = state.port.set(Scope::Cluster).backends();
        let total: f64 = backends.iter().map(|backend| f64::from(backend.weight)).sum();
        let share = |backend: &Backend| f64::from(backend.weight) / total.max(1.0);
        state.backends.iter().copied().zip(backends.iter().map(share)).collect()
    };
    let (old, new) = (shares(before), shares(after));
    // Positions are sorted, so the two lists merge.
    let of = |shares: &[(u32, f64)], backend: u32| {
        let place = shares.binary_search_by_key(&backend, |&(number, _)| number);
        place.map_or(0.0, |place| shares[place].1)
    };
    let sum = |shares: &[(u32, f64)]| shares.iter().map(|&(_, share)| share).sum::<f64>();
    let losses = old.iter().map(|&(backend, share)| (share - of(&new, backend)).max(0.0));
    losses.sum::<f64>() + (sum(&new) - sum(&old)).max(0.0)
}

/// Flows of a Service that are asked about: shares are exact to about 0.2 %.
const PROBES: u32 = 65_536;
/// Flows of all Services of one change: a second of work. Their mean is as exact.
const ALL_PROBES: u32 = 64 * PROBES;
/// Thirty thousand Services have two million then.
const FEWEST_PROBES: u32 = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flows_that_are_asked_about_are_bounded() {
        assert_eq!([0, 1, 64].map(probes), [PROBES; 3]);
        assert_eq!(probes(128), PROBES / 2);
        for services in [65, 1_000, 30_000, 1_000_000] {
            let all = u64::from(probes(services)) * services as u64;
            assert!(all <= u64::from(ALL_PROBES).max(services as u64 * 64), "{services}: {all}");
        }
        assert_eq!(probes(usize::MAX), FEWEST_PROBES);
    }
}

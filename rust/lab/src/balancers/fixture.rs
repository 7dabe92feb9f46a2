//! Backends and requests for tests of balancers.

use std::net::{Ipv4Addr, SocketAddr};

use kbe_nat_engine::Backend;
use kbe_nat_engine::balance::{Balancer, Loads, Request, State};
use kbe_nat_engine::rng::mix64;

use super::{Builder, builder};
use crate::spec::StrategySpec;

pub(crate) fn spec(name: &str) -> StrategySpec {
    serde_json::from_str(&format!(r#"{{"name": "{name}"}}"#)).expect("a strategy")
}

pub(crate) fn build(spec: &StrategySpec) -> Box<dyn Builder> {
    builder(spec, None, 1).expect("the parameters fit")
}

pub(crate) fn backend(number: u32, weight: u32) -> Backend {
    let address = SocketAddr::new(Ipv4Addr::from(0x0aac_1000 + number).into(), 8080);
    Backend { weight, ..Backend::new(address) }
}

/// The backends `0..count` without some.
pub(crate) fn without(count: u32, absent: &[u32]) -> Vec<Backend> {
    (0..count).filter(|number| !absent.contains(number)).map(|number| backend(number, 1)).collect()
}

/// The backend of each of so many keys, by address.
pub(crate) fn map(balancer: &dyn Balancer, backends: &[Backend], keys: u64) -> Vec<SocketAddr> {
    let mut state = State::new(0);
    (0..keys)
        .map(|key| {
            let flow = mix64(key + 1);
            let request = Request { source: flow, flow, loads: Loads::default() };
            backends[balancer.pick(&request, &mut state).expect("some have weight")].address
        })
        .collect()
}

/// Throws so many balls; the load of each backend, by position.
pub(crate) fn throw(balancer: &dyn Balancer, backends: usize, balls: u64) -> Vec<u32> {
    let records: Vec<u32> = (0..backends as u32).collect();
    let (mut active, mut state) = (vec![0; backends], State::new(7));
    for ball in 0..balls {
        let flow = mix64(ball + 1);
        let loads = Loads { records: &records, active: &active, ..Loads::default() };
        let request = Request { source: flow, flow, loads };
        let index = balancer.pick(&request, &mut state).expect("some have weight");
        active[index] += 1;
    }
    active
}

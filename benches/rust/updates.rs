//! Cost of one changed Service by number of service ports: what its thread pays, and how long
//! packets wait for it.
//!
//! Each sample takes an endpoint out of a service port at random, or puts it back, in the table in
//! force. `make` is the table with the change, `exchange` is what packets wait for, `free` what
//! becomes of the table before; `rebuild` is a whole table in which one service port differs, made
//! and exchanged. Prints one JSON object per line. Arguments: numbers of service ports.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use kbe_nat_engine::rng::Rng;
use kbe_nat_engine::tuple::Protocol;
use kbe_nat_engine::{
    Backend, Config, Engine, Frontend, FrontendKind, NodeView, ServicePort, ServiceSpec,
    ServiceTable,
};

const ENDPOINTS: u32 = 15;
const SAMPLES: usize = 2000;
const REBUILDS: usize = 20;

/// A service port with all of its endpoints, or without the first.
fn service(number: u32, is_whole: bool) -> Arc<ServicePort> {
    let first = number * ENDPOINTS;
    let endpoints = first + u32::from(!is_whole)..first + ENDPOINTS;
    let backend = |number: u32| {
        let address = Ipv4Addr::from(0x0b00_0000 + number);
        Backend::new(SocketAddr::new(address.into(), 9876))
    };
    let service = ServicePort::new(ServiceSpec {
        frontends: vec![Frontend {
            kind: FrontendKind::ClusterIp,
            address: Some(Ipv4Addr::from(0x0a60_0000 + number).into()),
            port: 80,
        }],
        cluster_backends: endpoints.map(backend).collect(),
        ..ServiceSpec::new(format!("default/s{number}:http"), Protocol::TCP)
    });
    Arc::new(service.expect("the service port is valid"))
}

/// Nanoseconds of each part of an exchange: making the table, exchanging it, freeing the one
/// before.
fn exchange(engine: &mut Engine, make: impl FnOnce(&ServiceTable) -> ServiceTable) -> [u64; 3] {
    let former = engine.services().clone();
    let mut moments = [Instant::now(); 4];
    let table = Arc::new(make(&former));
    moments[1] = Instant::now();
    drop(engine.replace_services(table));
    moments[2] = Instant::now();
    drop(former);
    moments[3] = Instant::now();
    std::array::from_fn(|part| (moments[part + 1] - moments[part]).as_nanos() as u64)
}

fn run(services: u32) {
    let mut engine = Engine::new(Config { secret: 1, ..Config::default() });
    let mut ports: Vec<_> = (0..services).map(|number| service(number, true)).collect();
    let all = |table: &ServiceTable, ports: &[Arc<ServicePort>]| {
        table.with_services(ports, Some(NodeView::default())).expect("no frontend twice")
    };
    let first = exchange(&mut engine, |table| all(table, &ports));
    let mut rng = Rng::new(7);
    let mut change = |ports: &mut Vec<Arc<ServicePort>>| {
        let number = ((u128::from(rng.next_u64()) * u128::from(services)) >> 64) as u32;
        let port = &mut ports[number as usize];
        let is_whole = port.spec().cluster_backends.len() as u32 == ENDPOINTS;
        *port = service(number, !is_whole);
        port.clone()
    };
    let mut parts = [const { Vec::new() }; 5];
    for _ in 0..SAMPLES {
        let port = change(&mut ports);
        let times = exchange(&mut engine, |table| {
            table.with_changes(&[port], &[], None).expect("the same frontend")
        });
        parts.iter_mut().zip(times).for_each(|(part, time)| part.push(time));
        parts[3].push(times.iter().sum());
    }
    for _ in 0..REBUILDS {
        change(&mut ports);
        parts[4].push(exchange(&mut engine, |table| all(table, &ports)).iter().sum());
    }
    parts.iter_mut().for_each(|times| times.sort_unstable());
    let at = |part: usize, share: f64| parts[part][(parts[part].len() as f64 * share) as usize];
    println!(
        "{{\"services\": {services}, \"first_ns\": {}, \"make_ns\": {}, \"exchange_ns\": {}, \
         \"free_ns\": {}, \"change_ns\": {}, \"change_p99_ns\": {}, \"exchange_p99_ns\": {}, \
         \"rebuild_ns\": {}}}",
        first.iter().sum::<u64>(),
        at(0, 0.5),
        at(1, 0.5),
        at(2, 0.5),
        at(3, 0.5),
        at(3, 0.99),
        at(1, 0.99),
        at(4, 0.5),
    );
}

fn main() {
    std::env::args().skip(1).filter_map(|argument| argument.parse().ok()).for_each(run);
}

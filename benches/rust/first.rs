//! Cost of a flow's first packet by number of service ports: each sample is one packet of a new
//! client to a service port at random.
//!
//! Prints one JSON object per line. Arguments: numbers of service ports.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use kbe_nat_engine::rng::{Rng, mix64};
use kbe_nat_engine::tuple::Protocol;
use kbe_nat_engine::{
    Action, Backend, Config, Engine, Frontend, FrontendKind, Meta, NodeView, Packet, ServicePort,
    ServiceSpec, ServiceTable,
};

const LENGTH: usize = 28;
const SAMPLES: usize = 400_000;

fn vip(number: u32) -> Ipv4Addr {
    Ipv4Addr::from(0x0a60_0000 + number)
}

fn service(number: u32) -> Arc<ServicePort> {
    let backends = (0..15)
        .map(|n| {
            let address = Ipv4Addr::from(0x0af4_0000 + (number * 15 + n) % 60_000);
            Backend::new(SocketAddr::new(address.into(), 9876))
        })
        .collect();
    let service = ServicePort::new(ServiceSpec {
        frontends: vec![Frontend {
            kind: FrontendKind::ClusterIp,
            address: Some(vip(number).into()),
            port: 80,
        }],
        cluster_backends: backends,
        ..ServiceSpec::new(format!("default/s{number}"), Protocol::UDP)
    });
    Arc::new(service.expect("the service port is valid"))
}

fn packet(client: u64, to: Ipv4Addr) -> [u8; LENGTH] {
    let mut bytes = [0; LENGTH];
    bytes[0] = 0x45;
    bytes[3] = LENGTH as u8;
    bytes[8] = 64;
    bytes[9] = Protocol::UDP.0;
    let mixed = mix64(client);
    bytes[12..16].copy_from_slice(&(0x0b00_0000 + (mixed as u32 & 0x3fff_ffff)).to_be_bytes());
    bytes[16..20].copy_from_slice(&to.octets());
    bytes[20..22].copy_from_slice(&((mixed >> 32) as u16).to_be_bytes());
    bytes[22..24].copy_from_slice(&80u16.to_be_bytes());
    bytes[25] = 8;
    bytes
}

fn run(services: u32) {
    let mut engine = Engine::new(Config {
        secret: 1,
        max_flows: 2 * SAMPLES,
        max_unassured: 2 * SAMPLES,
        ..Config::default()
    });
    let ports: Vec<_> = (0..services).map(service).collect();
    let table = ServiceTable::new(&ports, NodeView::default(), engine.hash_key())
        .expect("no frontend twice");
    engine.replace_services(Arc::new(table));
    let mut rng = Rng::new(7);
    let mut times = Vec::with_capacity(SAMPLES);
    for client in 0..SAMPLES as u64 {
        let number = ((u128::from(rng.next_u64()) * u128::from(services)) >> 64) as u32;
        let mut bytes = packet(client, vip(number));
        let mut incoming = Packet { bytes: &mut bytes, meta: Meta::default() };
        let start = Instant::now();
        let verdict = engine.process(client, &mut incoming);
        times.push(start.elapsed().as_nanos() as u64);
        assert_eq!(verdict.action, Action::Translate);
    }
    // The first ones meet cold code.
    let mut times = times.split_off(SAMPLES / 10);
    times.sort_unstable();
    let at = |share: f64| times[(times.len() as f64 * share) as usize];
    println!(r#"{{"services": {services}, "p50_ns": {}, "p99_ns": {}}}"#, at(0.5), at(0.99));
}

fn main() {
    std::env::args().skip(1).filter_map(|argument| argument.parse().ok()).for_each(run);
}

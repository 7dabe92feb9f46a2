//! Cost of a packet by number of flows: established and new, one at a time and in batches of 64,
//! with bytes per flow.
//!
//! The same work, packets and way of measuring as `benches/yardstick/engine.c`: UDP in IPv4, 64
//! bytes, flows met at random, the median over batches of 64. Prints one JSON object per line.
//! Arguments: numbers of flows.

use std::hint::black_box;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use kbe_nat_engine::rng::{Rng, mix64};
use kbe_nat_engine::tuple::Protocol;
use kbe_nat_engine::wire::checksum;
use kbe_nat_engine::{
    Backend, Config, Engine, Frontend, FrontendKind, Meta, NodeView, Packet, ServicePort,
    ServiceSpec, ServiceTable, Strategy, Verdict,
};

const BATCH: usize = 64;
const LENGTH: usize = 64;
const ROUNDS: usize = 20_000;
const VIP: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 1);

/// The first packet of flow `number`: its own client address and port, one frontend.
fn packet(number: u64, bytes: &mut [u8; LENGTH]) {
    let mixed = mix64(number);
    *bytes = [0; LENGTH];
    bytes[0] = 0x45;
    bytes[2..4].copy_from_slice(&(LENGTH as u16).to_be_bytes());
    bytes[8] = 64;
    bytes[9] = Protocol::UDP.0;
    // 10.0.0.0/8 to 73.255.255.255: no martians, and as good as unique with the port.
    let client = 0x0a00_0000 + (mixed as u32 & 0x3fff_ffff);
    bytes[12..16].copy_from_slice(&client.to_be_bytes());
    bytes[16..20].copy_from_slice(&VIP.octets());
    bytes[20..22].copy_from_slice(&((mixed >> 32) as u16).to_be_bytes());
    bytes[22..24].copy_from_slice(&80u16.to_be_bytes());
    bytes[24..26].copy_from_slice(&(LENGTH as u16 - 20).to_be_bytes());
    bytes[26..28].copy_from_slice(&((mixed >> 48) as u16 | 1).to_be_bytes());
    let sum = checksum::complete(0, &bytes[..20]);
    bytes[10..12].copy_from_slice(&sum);
}

fn engine(flows: usize) -> Engine {
    let backends =
        (0..16).map(|n| Backend::new(SocketAddr::from(([172, 17, 0, 3 + n], 9876)))).collect();
    let service = ServicePort::new(ServiceSpec {
        family: None,
        name: "default/bench:".into(),
        protocol: Protocol::UDP,
        frontends: vec![Frontend {
            kind: FrontendKind::ClusterIp,
            address: Some(VIP.into()),
            port: 80,
        }],
        cluster_backends: backends,
        local_backends: Vec::new(),
        serving_backends: Vec::new(),
        is_internal_local: false,
        is_external_local: false,
        affinity: None,
        source_ranges: Vec::new(),
        source_ranges_apply_to_all: false,
        strategy: Strategy::Random,
    })
    .expect("the service port is valid");
    let mut engine = Engine::new(Config {
        secret: 1,
        max_flows: flows,
        max_unassured: flows,
        ..Config::default()
    });
    let table = ServiceTable::new(&[Arc::new(service)], NodeView::default(), engine.hash_key())
        .expect("one service");
    engine.replace_services(Arc::new(table));
    engine
}

fn median(samples: &mut [f64]) -> f64 {
    samples.sort_by(f64::total_cmp);
    samples[samples.len() / 2]
}

/// Resident memory of this process in bytes.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux");
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("Linux");
    line.split_whitespace().nth(1).and_then(|kb| kb.parse::<u64>().ok()).expect("a number of kB")
        * 1024
}

struct Bench {
    engine: Engine,
    buffers: Vec<[u8; LENGTH]>,
    verdicts: Vec<Verdict>,
    now: u64,
}

impl Bench {
    /// Nanoseconds per packet of one batch.
    fn time(&mut self, is_batch: bool) -> f64 {
        self.now += 1000;
        self.verdicts.clear();
        let mut buffers = self.buffers.iter_mut();
        let mut packets: [Packet<'_>; BATCH] = std::array::from_fn(|_| Packet {
            bytes: buffers.next().expect("64 buffers"),
            meta: Meta::default(),
        });
        let start = Instant::now();
        if is_batch {
            self.engine.process_batch(self.now, &mut packets, &mut self.verdicts);
        } else {
            for packet in &mut packets {
                let _ = black_box(self.engine.process(self.now, packet));
            }
        }
        start.elapsed().as_nanos() as f64 / BATCH as f64
    }
}

fn run(flows: usize) {
    let before = resident();
    let buffers = vec![[0; LENGTH]; BATCH];
    let mut bench =
        Bench { engine: engine(flows), buffers, verdicts: Vec::with_capacity(BATCH), now: 0 };
    let mut opening = [Vec::new(), Vec::new()];
    for first in (0..flows).step_by(BATCH) {
        for (offset, bytes) in bench.buffers.iter_mut().enumerate() {
            packet((first + offset).min(flows - 1) as u64, bytes);
        }
        let is_batch = first / BATCH % 2 == 1;
        let time = bench.time(is_batch);
        // New flows are timed in a table that is half full or more.
        if first * 2 >= flows {
            opening[usize::from(is_batch)].push(time);
        }
    }
    let known = bench.engine.occupancy().flows;
    let bytes = (resident() - before) as f64 / known as f64;
    let mut rng = Rng::new(1_234_567);
    let mut samples = [Vec::new(), Vec::new()];
    for round in 0..2 * ROUNDS {
        for bytes in &mut bench.buffers {
            packet(((u128::from(rng.next_u64()) * flows as u128) >> 64) as u64, bytes);
        }
        let is_batch = round % 2 == 1;
        samples[usize::from(is_batch)].push(bench.time(is_batch));
    }
    let opened = bench.engine.occupancy().flows;
    assert_eq!(opened, known, "every packet met its flow");
    for (mode, side) in [("one", 0), ("batch64", 1)] {
        println!(
            r#"{{"flows": {flows}, "mode": "{mode}", "ns": {:.1}, "new_ns": {:.1}, "bytes_per_flow": {bytes:.1}}}"#,
            median(&mut samples[side]),
            median(&mut opening[side]),
        );
    }
}

fn main() {
    let counts: Vec<usize> =
        std::env::args().filter_map(|argument| argument.parse().ok()).collect();
    for flows in if counts.is_empty() { vec![1000, 100_000] } else { counts } {
        run(flows);
    }
}

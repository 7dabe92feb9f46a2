//! Cost of a packet by number of flows: known and new ones, one at a time and in batches of 64, UDP
//! and TCP, IPv4 and IPv6, with bytes per flow.
//!
//! UDP has 64 bytes, TCP is a pure acknowledgement of an established connection. Flows are met at
//! random. `benches/yardstick/engine.c` does the same work in C. Prints one JSON object per line.
//!
//! | arguments | |
//! |---|---|
//! | `[FLOWS...]` | nanoseconds of every shape, one after the other |
//! | `serve PROTOCOL FAMILY FLOWS` | nanoseconds of a block for each line (a mode) of input |
//! | `count PROTOCOL FAMILY FLOWS` | known numbers of packets, for callgrind: see `phase_ends` |
//! | `time-strategies FLOWS` | nanoseconds of new flows in a table of so many, by strategy |
//! | `count-strategies FLOWS` | the same for callgrind |

mod strategies;
mod traffic;

use kbe_nat_engine::rng::Rng;
use kbe_nat_engine::{FrontendKind, Strategy};

use traffic::{BATCH, MODES, Shape, Traffic, median, phase_ends, print};

/// Batches of a block.
const BLOCK: usize = 400;
/// Batches at its start that only fetch what another program has pushed out of the caches.
const WARM: usize = BLOCK / 4;
/// Blocks of each mode where nothing else is measured between them.
const ROUNDS: usize = 40;
/// New flows that callgrind counts, at most.
const COUNTED_FLOWS: usize = 2048;
/// Batches that callgrind counts, and those before them.
const COUNTED_BATCHES: usize = 500;
const UNCOUNTED_BATCHES: usize = 100;

struct Bench {
    traffic: Traffic,
    is_tcp: bool,
    flows: usize,
    rng: Rng,
}

impl Bench {
    fn new(shape: Shape, flows: usize) -> Self {
        let service = shape.service(0, FrontendKind::ClusterIp, Strategy::Random);
        let traffic = Traffic::new(shape, shape.engine(flows, &[service]));
        Self { traffic, is_tcp: shape.is_tcp(), flows, rng: Rng::new(1_234_567) }
    }

    /// Opens all flows. Nanoseconds of a new one by mode, and bytes of each.
    fn fill(&mut self) -> ([f64; 2], f64) {
        let before = resident();
        let mut samples = [Vec::new(), Vec::new()];
        for first in (0..self.flows).step_by(BATCH) {
            let mode = first / BATCH % 2;
            let time = self.traffic.open(0, first, self.flows, mode == 1);
            // New flows are timed in a table that is half full or more.
            if first * 2 >= self.flows {
                samples[mode].push(time);
            }
        }
        let occupancy = self.traffic.engine.occupancy();
        assert!(!self.is_tcp || occupancy.assured == self.flows, "every connection is established");
        let bytes = resident().saturating_sub(before) as f64 / occupancy.flows as f64;
        (samples.map(|mut samples| median(&mut samples)), bytes)
    }

    fn occupancy(&self) -> usize {
        self.traffic.engine.occupancy().flows
    }

    /// Nanoseconds per packet of one batch of known flows at random.
    fn send(&mut self, mode: usize) -> f64 {
        let (rng, flows) = (&mut self.rng, self.flows as u128);
        let numbers =
            std::iter::repeat_with(|| ((u128::from(rng.next_u64()) * flows) >> 64) as u64);
        self.traffic.send(numbers, mode == 1)
    }

    fn block(&mut self, mode: usize) -> f64 {
        let mut times: Vec<f64> = (0..BLOCK).map(|_| self.send(mode)).collect();
        median(&mut times[WARM..])
    }
}

/// Resident memory of this process in bytes.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux");
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("Linux");
    line.split_whitespace().nth(1).and_then(|kb| kb.parse::<u64>().ok()).expect("a number of kB")
        * 1024
}

fn time(shape: Shape, flows: usize) {
    let mut bench = Bench::new(shape, flows);
    let (new_ns, bytes) = bench.fill();
    let known = bench.occupancy();
    let mut samples = [Vec::new(), Vec::new()];
    for round in 0..2 * ROUNDS {
        samples[round % 2].push(bench.block(round % 2));
    }
    assert_eq!(bench.occupancy(), known, "every packet met its flow");
    let (protocol, family) = shape.names();
    for (mode, name) in MODES.into_iter().enumerate() {
        print(&format!(
            "{{\"flows\": {flows}, \"protocol\": \"{protocol}\", \"family\": \"{family}\", \
             \"mode\": \"{name}\", \"ns\": {:.2}, \"new_ns\": {:.1}, \
             \"bytes_per_flow\": {bytes:.1}}}",
            median(&mut samples[mode]),
            new_ns[mode],
        ));
    }
}

fn serve(shape: Shape, flows: usize) {
    let mut bench = Bench::new(shape, flows);
    let (new_ns, bytes) = bench.fill();
    for (mode, name) in MODES.into_iter().enumerate() {
        print(&format!(
            r#"{{"mode": "{name}", "new_ns": {:.1}, "bytes_per_flow": {bytes:.1}}}"#,
            new_ns[mode]
        ));
    }
    let known = bench.occupancy();
    for line in std::io::stdin().lines().map_while(Result::ok) {
        let mode = usize::from(line != MODES[0]);
        print(&format!(r#"{{"mode": "{line}", "ns": {:.3}}}"#, bench.block(mode)));
    }
    assert_eq!(bench.occupancy(), known, "every packet met its flow");
}

fn count(shape: Shape, flows: usize) {
    let mut bench = Bench::new(shape, flows);
    let few = COUNTED_FLOWS.min(flows / 4) / BATCH * BATCH;
    let mut end = flows - 2 * few;
    for first in (0..end).step_by(BATCH) {
        bench.traffic.open(0, first, end, true);
    }
    phase_ends("fill", MODES[1], end);
    bench.traffic.is_counted = true;
    for (mode, name) in MODES.into_iter().enumerate() {
        for first in (end..end + few).step_by(BATCH) {
            bench.traffic.open(0, first, end + few, mode == 1);
        }
        end += few;
        phase_ends("new", name, few);
    }
    for (mode, name) in MODES.into_iter().enumerate() {
        for (phase, batches) in [("warm", UNCOUNTED_BATCHES), ("known", COUNTED_BATCHES)] {
            for _ in 0..batches {
                bench.send(mode);
            }
            phase_ends(phase, name, batches * BATCH);
        }
    }
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words[..] {
        ["serve", protocol, family, flows] => serve(shape(protocol, family), number(flows)),
        ["count", protocol, family, flows] => count(shape(protocol, family), number(flows)),
        ["time-strategies", flows] => strategies::run(number(flows), false),
        ["count-strategies", flows] => strategies::run(number(flows), true),
        _ => {
            // Cargo adds arguments of its own.
            let mut counts: Vec<usize> =
                words.iter().filter_map(|word| word.parse().ok()).collect();
            if counts.is_empty() {
                counts = vec![1000, 100_000];
            }
            for flows in counts {
                Shape::all().into_iter().for_each(|shape| time(shape, flows));
            }
        }
    }
}

fn shape(protocol: &str, family: &str) -> Shape {
    Shape::parse(protocol, family).expect("udp or tcp, ipv4 or ipv6")
}

fn number(text: &str) -> usize {
    text.parse().expect("a number of flows")
}

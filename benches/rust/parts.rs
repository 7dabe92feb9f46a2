//! Parts of a packet's cost, by criterion: choosing a backend with each strategy, building its
//! tables, checksums.

use std::hint::black_box;
use std::net::SocketAddr;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use kbe_nat_engine::balance::{Loads, Request, State};
use kbe_nat_engine::rng::mix64;
use kbe_nat_engine::wire::checksum;
use kbe_nat_engine::{Backend, Strategy};

fn backends(count: u16) -> Vec<Backend> {
    let endpoint = |n: u16| SocketAddr::from(([172, 17, (n >> 8) as u8, n as u8], 9876));
    (0..count)
        .map(|n| Backend { weight: 1 + u32::from(n % 3), ..Backend::new(endpoint(n)) })
        .collect()
}

fn pick(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("pick of 16");
    for strategy in Strategy::ALL {
        let balancer = strategy.build(&backends(16)).expect("it can be built");
        let mut state = State::new(1);
        let records: Vec<u32> = (0..16).collect();
        let active: Vec<u32> = (0..16).map(|record| record % 3).collect();
        let loads = Loads { records: &records, active: &active, ..Loads::default() };
        let mut client = 0;
        group.bench_function(strategy.name(), |bencher| {
            bencher.iter(|| {
                client += 1;
                let hash = mix64(client);
                balancer.pick(&Request { source: hash, flow: !hash, loads }, black_box(&mut state))
            });
        });
    }
}

fn build(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("build");
    for strategy in Strategy::ALL {
        for count in [15, 250] {
            let backends = backends(count);
            let id = BenchmarkId::new(strategy.name(), count);
            group.bench_function(id, |bencher| {
                bencher.iter(|| strategy.build(black_box(&backends)))
            });
        }
    }
}

fn checksums(criterion: &mut Criterion) {
    let bytes = vec![0x5a; 65_535];
    let mut group = criterion.benchmark_group("full checksum");
    for length in [64, 1500, 65_535] {
        group.bench_function(BenchmarkId::from_parameter(length), |bencher| {
            bencher.iter(|| checksum::complete(0, black_box(&bytes[..length])));
        });
    }
}

criterion_group!(parts, pick, build, checksums);
criterion_main!(parts);

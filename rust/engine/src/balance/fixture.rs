//! Backends, loads and requests for the tests of the strategies.

use std::net::{Ipv4Addr, SocketAddr};

use super::{Balancer, Loads, Request, State};
use crate::backend::Backend;
use crate::rng::mix64;

/// A record for each position.
static RECORDS: [u32; 128] = {
    let mut records = [0; 128];
    let mut record = 0;
    while record < records.len() {
        records[record] = record as u32;
        record += 1;
    }
    records
};

/// Live flows by position in the list.
pub(super) fn loads(active: &[u32]) -> Loads<'_> {
    Loads { records: &RECORDS, active, ..IDLE.loads }
}

/// A request while no backend has a flow.
pub(super) const IDLE: Request<'static> = Request {
    source: 0,
    flow: 0,
    loads: Loads { records: &[], active: &[], inactive: &[], latencies: &[], now: 0 },
};

pub(super) fn request(hash: u64, loads: Loads<'_>) -> Request<'_> {
    Request { source: hash, flow: hash, loads }
}

/// Backends 10.0.0.1:80, 10.0.0.2:80, ... with these weights.
pub(super) fn backends(weights: &[u32]) -> Vec<Backend> {
    let address =
        |index: usize| SocketAddr::from((Ipv4Addr::from_bits(0x0a00_0001 + index as u32), 80));
    (weights.iter().enumerate())
        .map(|(index, &weight)| Backend { weight, ..Backend::new(address(index)) })
        .collect()
}

/// The first choices under seed 42, with nothing alive and a new client for each.
pub(super) fn picks(balancer: &dyn Balancer, count: u64) -> Vec<usize> {
    let mut state = State::new(42);
    (0..count)
        .filter_map(|flow| balancer.pick(&request(mix64(flow + 1), IDLE.loads), &mut state))
        .collect()
}

/// How often each of `backends` was chosen in `count` picks.
pub(super) fn tally(balancer: &dyn Balancer, backends: usize, count: u64) -> Vec<u32> {
    let mut counts = vec![0; backends];
    for index in picks(balancer, count) {
        counts[index] += 1;
    }
    assert_eq!(u64::from(counts.iter().sum::<u32>()), count);
    counts
}

/// Asserts that counts may be draws with chances in proportion to `weights` (p > 0.001), and 0
/// exactly where the weight is.
pub(super) fn assert_shares(counts: &[u32], weights: &[u32]) {
    let total: f64 = weights.iter().map(|&weight| f64::from(weight)).sum();
    let expected: Vec<f64> = weights.iter().map(|&weight| f64::from(weight) / total).collect();
    chi_square(counts, &expected);
}

/// The same for any chances that add up to 1.
pub(super) fn chi_square(counts: &[u32], chances: &[f64]) {
    let total: f64 = counts.iter().map(|&count| f64::from(count)).sum();
    let mut statistic = 0.0;
    for (&count, &chance) in counts.iter().zip(chances) {
        if chance == 0.0 {
            assert_eq!(count, 0, "{counts:?}");
        } else {
            statistic += (f64::from(count) - total * chance).powi(2) / (total * chance);
        }
    }
    let classes = chances.iter().filter(|&&chance| chance > 0.0).count();
    // Quantiles of chi-square at 0.999 for 0, 1, 2, ... degrees of freedom.
    let critical = [1e-9, 10.828, 13.816, 16.266, 18.467, 20.515, 22.458][classes - 1];
    assert!(statistic < critical, "{counts:?}: chi-square {statistic}");
}

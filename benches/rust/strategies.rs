//! Cost of a new flow by strategy, with and without masquerade, in a table that has many flows:
//! UDP by IPv4 in batches of 64, 16 backends.

use kbe_nat_engine::tuple::Protocol;
use kbe_nat_engine::{FrontendKind, Strategy};

use crate::traffic::{BATCH, Shape, Traffic, median, phase_ends, print};

const TIMED_BATCHES: usize = 200;
const COUNTED_BATCHES: usize = 32;
/// The source of a flow to an external address is masqueraded.
const KINDS: [FrontendKind; 2] = [FrontendKind::ClusterIp, FrontendKind::ExternalIp];

/// Nanoseconds of each, or known numbers of new flows for callgrind.
pub(crate) fn run(flows: usize, is_counted: bool) {
    let shape = Shape { protocol: Protocol::UDP, is_ipv6: false };
    let batches = if is_counted { COUNTED_BATCHES } else { TIMED_BATCHES };
    let rows: Vec<(Strategy, FrontendKind)> =
        Strategy::ALL.into_iter().flat_map(|strategy| KINDS.map(|kind| (strategy, kind))).collect();
    let mut services = vec![shape.service(0, FrontendKind::ClusterIp, Strategy::Random)];
    for (&(strategy, kind), number) in rows.iter().zip(1..) {
        services.push(shape.service(number, kind, strategy));
    }
    // The first batch of a row warms its balancer up.
    let more = rows.len() * (batches + 1) * BATCH;
    let mut traffic = Traffic::new(shape, shape.engine(flows + more, &services));
    for first in (0..flows).step_by(BATCH) {
        traffic.open(0, first, flows, true);
    }
    traffic.is_counted = is_counted;
    let mut first = flows;
    for ((strategy, kind), number) in rows.into_iter().zip(1..) {
        let is_masqueraded = kind == FrontendKind::ExternalIp;
        let mut open = |batches: usize| -> Vec<f64> {
            let end = first + batches * BATCH;
            let times = (first..end).step_by(BATCH);
            let times = times.map(|first| traffic.open(number, first, end, true)).collect();
            first = end;
            times
        };
        open(1);
        if is_counted {
            phase_ends("warm", strategy.name(), BATCH);
        }
        let mut times = open(batches);
        if is_counted {
            let phase = if is_masqueraded { "masqueraded" } else { "plain" };
            phase_ends(phase, strategy.name(), batches * BATCH);
        } else {
            print(&format!(
                r#"{{"strategy": "{}", "is_masqueraded": {is_masqueraded}, "new_ns": {:.1}}}"#,
                strategy.name(),
                median(&mut times)
            ));
        }
    }
    assert_eq!(traffic.engine.occupancy().flows, flows + more, "every flow was new");
}

//! The configuration of a new engine.

use std::hash::{BuildHasher, RandomState};

use kbe_nat_engine::{self as core, InvalidTcp, Midstream, OffloadedPackets};

use crate::limits::{Limits, Timeouts};
use crate::snat::Snat;

/// The configuration of a new engine.
pub(super) fn configuration(
    seed: Option<u64>,
    limits: Option<&Limits>,
    timeouts: Option<&Timeouts>,
    snat: Option<&Snat>,
    (midstream, invalid, offloaded): (Midstream, InvalidTcp, OffloadedPackets),
) -> core::Config {
    let random = || RandomState::new().hash_one(0u64);
    let mut config = core::Config {
        seed: seed.unwrap_or_else(random),
        secret: random(),
        midstream,
        invalid,
        offloaded,
        ..core::Config::default()
    };
    if let Some(limits) = limits {
        config.max_flows = limits.max_flows as usize;
        config.max_unassured = limits.max_unassured as usize;
        config.max_flows_per_source = limits.max_flows_per_source;
        config.max_affinities = limits.max_affinities as usize;
        config.max_fragments = limits.max_fragments as usize;
        config.decisions = limits.max_decisions as usize;
    }
    if let Some(timeouts) = timeouts {
        config.timeouts = timeouts.table.clone();
    }
    if let Some(snat) = snat {
        (config.snat, config.ports) = (snat.addresses.clone(), snat.ports);
        (config.allocation, config.mapping) = (snat.allocation.clone(), snat.mapping);
    }
    config
}

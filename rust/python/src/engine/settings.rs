//! What an engine is told: its configuration, and which flows are wanted of it.

use std::hash::{BuildHasher, RandomState};

use kbe_nat_engine as core;
use kbe_nat_engine::view::Filter;
use pyo3::prelude::*;

use crate::convert;
use crate::limits::{Limits, Timeouts};
use crate::snat::Snat;

/// The configuration of a new engine; the texts are `midstream`, `invalid` and `offloaded`.
pub(super) fn configuration(
    seed: Option<u64>,
    limits: Option<&Limits>,
    timeouts: Option<&Timeouts>,
    snat: Option<&Snat>,
    [midstream, invalid, offloaded]: [&str; 3],
) -> PyResult<core::Config> {
    let random = || RandomState::new().hash_one(0u64);
    let mut config = core::Config {
        seed: seed.unwrap_or_else(random),
        secret: random(),
        midstream: convert::midstream(midstream)?,
        invalid: convert::invalid_tcp(invalid)?,
        offloaded: convert::offloaded(offloaded)?,
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
    Ok(config)
}

/// Which flows are wanted.
pub(super) fn filter(
    protocol: Option<&str>,
    service: Option<String>,
    source: Option<&str>,
    destination: Option<&str>,
    backend: Option<&str>,
    state: Option<String>,
) -> PyResult<Filter> {
    Ok(Filter {
        protocol: protocol.map(convert::protocol).transpose()?,
        service,
        source: source.map(convert::address).transpose()?,
        destination: destination.map(convert::address).transpose()?,
        backend: backend.map(convert::address).transpose()?,
        state,
    })
}

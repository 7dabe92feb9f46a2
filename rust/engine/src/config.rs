//! How an engine is set up.

use std::net::IpAddr;

use crate::conntrack::ports::{Allocation, Mapping, PortRange};
use crate::conntrack::timeouts::Timeouts;
use crate::decide::Midstream;

/// The action for TCP segments that do not fit their connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum InvalidTcp {
    /// Translate them: the endpoints judge for themselves.
    #[default]
    Translate,
    /// Drop them, as kube-proxy does with conntrack's INVALID.
    Drop,
}

/// The action for a packet of an offloaded flow that comes to the engine all the same.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum OffloadedPackets {
    /// Decide about them anew: the kernel, which would have translated them, has the flow no more.
    #[default]
    Decide,
    /// Let them pass: the engine sees every packet before the kernel does, which goes on to
    /// translate the flows that another proxy has begun.
    Pass,
}

/// How an engine is set up. Limits are per address family where nothing else is said.
#[derive(Clone, Debug)]
pub struct Config {
    /// Makes random choices repeatable.
    pub seed: u64,
    /// Keys the hash tables; to be unpredictable where packets come from strangers.
    pub secret: u64,
    /// Flows at most.
    pub max_flows: usize,
    /// Flows at most whose other side has not confirmed them.
    pub max_unassured: usize,
    /// Flows at most from one source address.
    pub max_flows_per_source: Option<u32>,
    /// Clients at most whose backend is remembered.
    pub max_affinities: usize,
    /// Datagrams in fragments at most, and fragments that wait for their first.
    pub max_fragments: usize,
    /// Decisions about first packets that are remembered, of both families together; 0: none.
    pub decisions: usize,
    /// How long flows live without packets.
    pub timeouts: Timeouts,
    /// Addresses that replace a masqueraded source, at most one of each family; without one, the
    /// verdict's flag asks the sender to.
    pub snat: Vec<IpAddr>,
    /// Ports for replaced sources.
    pub ports: PortRange,
    /// Which of them a masqueraded flow gets.
    pub allocation: Allocation,
    /// Whether a client's port keeps its port of ours towards other backends.
    pub mapping: Mapping,
    /// TCP in mid-stream of unknown connections.
    pub midstream: Midstream,
    /// TCP that does not fit.
    pub invalid: InvalidTcp,
    /// Packets of flows that the kernel carries.
    pub offloaded: OffloadedPackets,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            seed: 0,
            secret: 0,
            max_flows: 262_144,
            max_unassured: 262_144,
            max_flows_per_source: None,
            max_affinities: 1 << 20,
            max_fragments: 4096,
            decisions: 65_536,
            timeouts: Timeouts::default(),
            snat: Vec::new(),
            ports: PortRange::default(),
            allocation: Allocation::default(),
            mapping: Mapping::default(),
            midstream: Midstream::default(),
            invalid: InvalidTcp::default(),
            offloaded: OffloadedPackets::default(),
        }
    }
}

//! The results of a cell. Seconds are those of the driven clock. Processor time stands in rows of
//! its own: all else is equal for equal seeds.

use serde::Serialize;

use crate::balance::Indices;

/// A second of one Service of the scenario, all that are alike together.
#[derive(Clone, Debug, Serialize)]
pub struct SecondRow {
    /// When the second ended.
    pub time: f64,
    /// The Service's position.
    pub service: u32,
    /// Connections that were admitted.
    pub connections: u64,
    /// Balance of these by weight.
    pub connections_balance: Option<Indices>,
    /// Bytes that were answered.
    pub bytes: f64,
    /// Balance of these by weight.
    pub bytes_balance: Option<Indices>,
    /// Connections alive, in the mean over the second.
    pub load: f64,
    /// Balance of these by capacity.
    pub load_balance: Option<Indices>,
    /// Connections that were refused.
    pub refused: u64,
    /// Connections that were lost.
    pub lost: u64,
}

/// The tables of all nodes at the end of a second.
#[derive(Clone, Debug, Serialize)]
pub struct TableRow {
    /// When.
    pub time: f64,
    /// Connections that are remembered.
    pub flows: u64,
    /// Flows that have timed out since the start.
    pub expired: u64,
    /// Flows that made room for others since the start.
    pub evicted: u64,
}

/// An event, and the fates of the connections alive.
#[derive(Clone, Debug, Serialize)]
pub struct EventRow {
    /// When.
    pub time: f64,
    /// Its name.
    pub event: String,
    /// Connections that were established before.
    pub live: u64,
    /// Connections whose next packet went to another backend.
    pub moved: u64,
    /// Connections that ended: moved TCP, dead backends, refusals.
    pub broken: u64,
    /// Connections whose backend died in this event: these must move or end. One-way flows do not
    /// count: their clients notice nothing.
    pub minimum: u64,
    /// Share of all possible flows whose choice has changed; of strategies that are mappings.
    pub keys_moved: Option<f64>,
    /// The least such share with which the new weights can be met.
    pub keys_minimum: Option<f64>,
}

/// Processor time of putting a change in force.
#[derive(Clone, Debug, Serialize)]
pub struct ChangeRow {
    /// When.
    pub time: f64,
    /// The event's name; `start` for the first tables.
    pub event: String,
    /// Services that were built.
    pub services: u64,
    /// Nanoseconds of building balancers.
    pub build_ns: u64,
    /// Nanoseconds of changing the tables of all nodes.
    pub change_ns: u64,
}

/// The rows since the last look.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Progress {
    /// By time and Service.
    pub seconds: Vec<SecondRow>,
    /// By time.
    pub tables: Vec<TableRow>,
    /// By time.
    pub events: Vec<EventRow>,
    /// By time.
    pub changes: Vec<ChangeRow>,
}

/// A backend over the whole run.
#[derive(Clone, Debug, Serialize)]
pub struct BackendRow {
    /// The Service's position.
    pub service: u32,
    /// Its position, those of Services alike one after the other.
    pub backend: u32,
    /// Connections that it got.
    pub connections: f64,
    /// Of these, those that came while it was drained or not listed.
    pub connections_lingering: f64,
    /// Its fair share of the others, by weight.
    pub connections_fair: f64,
    /// Bytes that it answered.
    pub bytes: f64,
    /// Of these, those while it was drained or not listed.
    pub bytes_lingering: f64,
    /// Its fair share of the others, by weight.
    pub bytes_fair: f64,
    /// Connections alive, in the mean over the run.
    pub load: f64,
    /// The part of this while it was drained or not listed.
    pub load_lingering: f64,
    /// Its fair share of the rest, by capacity.
    pub load_fair: f64,
}

/// A Service of the scenario over the whole run.
#[derive(Clone, Debug, Serialize)]
pub struct ServiceRow {
    /// Its position.
    pub service: u32,
    /// Connections that clients began: the sum of `served`, `refused` and `lost`.
    pub offered: u64,
    /// Connections that were not disturbed.
    pub served: u64,
    /// Of these, connections that were open when the run ended.
    pub open: u64,
    /// Connections whose first packet was refused, or that got no port.
    pub refused: u64,
    /// Connections that a dead backend, a move or a table has cost.
    pub lost: u64,
    /// Packets that came to another backend than those before, of connections alive.
    pub moved: u64,
    /// Connections of clients within their affinity to another backend than before.
    pub affinity_breaks: u64,
    /// Of these, those whose former backend was dead or not listed.
    pub affinity_breaks_minimum: u64,
    /// Balance of connections, over the run and in the mean of seconds.
    pub connections: [Option<Indices>; 2],
    /// Balance of bytes.
    pub bytes: [Option<Indices>; 2],
    /// Balance of load.
    pub load: [Option<Indices>; 2],
}

/// Sums over all nodes and Services.
#[derive(Clone, Debug, Serialize)]
pub struct Totals {
    /// Packets that were sent.
    pub packets: u64,
    /// Most flows at the end of a second or at an event.
    pub flows_peak: u64,
    /// Most bytes of tables, then.
    pub memory_bytes: u64,
    /// Most bytes of the tables of one node's balancers; `None` where some are in Python.
    pub balancer_bytes: Option<u64>,
    /// Flows that have timed out.
    pub expired: u64,
    /// Flows that made room for others.
    pub evicted: u64,
    /// Packets of floods.
    pub flood: u64,
    /// Of these, packets that came to a backend.
    pub flood_admitted: u64,
    /// The others: dropped, or rejected.
    pub flood_refused: u64,
}

/// Source ports over the whole run, of all nodes.
#[derive(Clone, Debug, Default, Serialize)]
pub struct PortRow {
    /// Flows that got a port.
    pub allocations: u64,
    /// Of these, flows whose first choice was not free.
    pub collisions: u64,
    /// Ports that were looked at, for each of them.
    pub probes: Option<f64>,
    /// First packets that were refused for want of a port.
    pub exhausted: u64,
    /// Most ports at the end of a second or at an event.
    pub ports_peak: u64,
    /// Of these, the ports of one address of ours towards the backend that had most; towards all
    /// backends where mappings do not depend on them.
    pub pool_peak: u64,
    /// Ports that such a pool has.
    pub pool_size: u64,
    /// Lines of a log by which the client behind a port is found again.
    pub log_lines: u64,
    /// Share of flows whose port was the one behind that of the node's last flow.
    pub next_guessed: Option<f64>,
    /// Share of flows whose port was the one behind that of the last flow to the same backend.
    pub next_guessed_towards: Option<f64>,
    /// Entropy of the difference of successive ports, in bits of 8.
    pub difference_bits: Option<f64>,
}

/// Processor time over the whole run, in nanoseconds. `None` where packets came too seldom to be
/// measured: by fewer than 16 at once.
#[derive(Clone, Debug, Serialize)]
pub struct CostRow {
    /// Of a packet that opens no connection.
    pub packet_ns: Option<f64>,
    /// Of a connection's first packet.
    pub first_packet_ns: Option<f64>,
    /// Of the whole cell, the generating of traffic included, for each packet.
    pub cell_ns: f64,
}

/// A cell's results.
#[derive(Clone, Debug, Serialize)]
pub struct CellResult {
    /// By position.
    pub services: Vec<ServiceRow>,
    /// By Service and position.
    pub backends: Vec<BackendRow>,
    /// Sums.
    pub totals: Totals,
    /// One row with source NAT, else none.
    pub ports: Vec<PortRow>,
    /// Costs.
    pub cost: CostRow,
}

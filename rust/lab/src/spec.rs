//! The description of a cell: one strategy, one seed, one scenario, in primitive steps.
//!
//! The Python side reads scenarios, checks them with the field's path, and writes their timeline
//! out: a rolling update arrives here as backends that are listed and removed at moments. This
//! format is between the two alone, and has no versions.

use std::collections::BTreeMap;

use kbe_nat_engine::tuple::{Family, Protocol};
use serde::Deserialize;

/// A strategy by name, with its parameters.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct StrategySpec {
    /// A strategy of the engine, one of [`crate::balancers::NAMES`], or `python`.
    pub name: String,
    /// `mh`: slots of the table, a prime.
    #[serde(default)]
    pub table_size: Option<u32>,
    /// `ring`, `bounded`: points of a backend of weight 1 on the ring.
    #[serde(default)]
    pub virtual_nodes: Option<u32>,
    /// `bounded`: the load above the mean that a backend may have, as a share of it.
    #[serde(default)]
    pub epsilon: Option<f64>,
    /// `lcd`: backends that are drawn for each choice.
    #[serde(default)]
    pub draws: Option<u32>,
    /// `anchor`: buckets, which bound the backends that may ever be listed at once.
    #[serde(default)]
    pub buckets: Option<u32>,
    /// `peak-ewma`: seconds in which a connect time fades to 1/e.
    #[serde(default)]
    pub decay: Option<f64>,
}

/// Where the memory of connections is.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub enum Memory {
    /// The engine's table, which holds every connection.
    Conntrack,
    /// No memory: every packet is chosen for anew.
    None,
    /// Only connections that the arrival of a backend of the horizon would move (JET).
    Jet,
}

/// How routers in front of several nodes choose one for a flow.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub enum Ecmp {
    /// The hash modulo the nodes: when one leaves, most flows change their node.
    Modulo,
    /// Resilient hashing: only flows of the node that left change theirs.
    Resilient,
}

/// A backend that is listed at some time.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BackendSpec {
    /// Its share of new connections.
    pub weight: u32,
    /// Connections that it serves at once at full speed; `None`: any number.
    pub capacity: Option<f64>,
    /// Seconds until it answers while it is idle.
    pub latency: f64,
    /// Whether it is listed at the start.
    pub listed: bool,
}

/// An address family by its name.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum FamilyName {
    /// IPv4.
    Ipv4,
    /// IPv6.
    Ipv6,
}

impl From<FamilyName> for Family {
    fn from(name: FamilyName) -> Self {
        match name {
            FamilyName::Ipv4 => Self::V4,
            FamilyName::Ipv6 => Self::V6,
        }
    }
}

/// A Service, or `count` alike.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServiceSpec {
    /// How many there are.
    pub count: u32,
    /// Of its address, its backends and its clients.
    pub family: FamilyName,
    /// Seconds of ClientIP affinity.
    pub affinity: Option<u32>,
    /// All backends that are ever listed.
    pub backends: Vec<BackendSpec>,
    /// Backends, by position, that the horizon of JET holds: they may be listed soon.
    pub horizon: Vec<u32>,
}

/// A random size or time.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Distribution {
    /// Always the same.
    Constant(f64),
    /// Evenly between two values.
    Uniform(f64, f64),
    /// With this mean, without memory.
    Exponential(f64),
    /// By shape and smallest value.
    Pareto(f64, f64),
    /// Drawn from these with replacement.
    Samples(Vec<f64>),
}

/// When connections begin.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Arrivals {
    /// Independent, so many a second in the mean.
    Poisson(f64),
    /// At equal distances, so many a second.
    Paced(f64),
    /// Poisson with a rate while it is on; seconds on and off, both exponential with these means.
    Bursty(f64, f64, f64),
    /// A closed loop: each client opens the next connection when it has thought after its last.
    Closed(Distribution),
    /// These: seconds, client, bytes, seconds of life.
    Trace(Vec<(f64, u32, f64, f64)>),
}

/// Which client opens a connection.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClientSpec {
    /// How many clients there are.
    pub count: u32,
    /// 0 for an even draw, else the exponent of Zipf's law.
    pub zipf: f64,
}

/// The packets of a connection.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub enum TrafficKind {
    /// Handshake, requests and answers, close.
    Tcp,
    /// Handshake of four packets, requests and answers, close.
    Sctp,
    /// Requests and answers.
    Udp,
    /// Datagrams that are never answered.
    UdpOneWay,
    /// SYNs from sources that do not exist, one each.
    SynFlood,
}

impl TrafficKind {
    /// The transport protocol.
    #[must_use]
    pub fn protocol(self) -> Protocol {
        match self {
            Self::Tcp | Self::SynFlood => Protocol::TCP,
            Self::Sctp => Protocol::SCTP,
            Self::Udp | Self::UdpOneWay => Protocol::UDP,
        }
    }

    /// Whether both ends know a connection, which a backend that does not know it would reset.
    #[must_use]
    pub fn has_handshake(self) -> bool {
        matches!(self, Self::Tcp | Self::Sctp)
    }
}

/// A stream of connections to one Service.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrafficSpec {
    /// The Service's position.
    pub service: u32,
    /// Its packets.
    pub kind: TrafficKind,
    /// When they begin.
    pub arrivals: Arrivals,
    /// From whom.
    pub clients: ClientSpec,
    /// Bytes of a connection.
    pub size: Distribution,
    /// Seconds from a connection's opening to its close.
    pub lifetime: Distribution,
    /// Requests of a connection, spread over its life.
    pub requests: u32,
    /// Seconds of the first and of the last arrival.
    pub start: f64,
    /// See `start`.
    pub stop: f64,
}

/// A primitive change. Services and backends are told by their positions.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Change {
    /// A backend of a Service enters its list, or leaves it.
    List(u32, u32, bool),
    /// A backend of a Service gets a weight.
    Weight(u32, u32, u32),
    /// A backend answers from now on, or does not.
    Alive(u32, u32, bool),
    /// A node serves from now on, or does not.
    Node(u32, bool),
    /// A Service gets a strategy.
    Strategy(u32, StrategySpec),
}

/// Changes at one moment.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EventSpec {
    /// Seconds from the start.
    pub at: f64,
    /// Its name in results.
    pub name: String,
    /// In this order.
    pub changes: Vec<Change>,
}

/// Sizes of an engine's tables.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TableLimits {
    /// Flows at most.
    pub max_flows: u32,
    /// Unanswered flows at most.
    pub max_unassured: Option<u32>,
    /// Flows of one client at most.
    pub max_flows_per_source: Option<u32>,
}

/// Source NAT of all clients at the nodes.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SourceNatSpec {
    /// The way of giving ports, by its name in [`kbe_nat_engine::conntrack::ports::Allocation`].
    pub allocation: String,
    /// Whether a client's port keeps its mapping towards other backends, by its name there.
    pub mapping: String,
    /// Lowest and highest port.
    pub ports: (u16, u16),
    /// `blocks`, `deterministic`: ports of a block.
    pub block_size: u16,
    /// `blocks`: blocks of a client at most.
    pub blocks_per_client: u16,
}

/// A cell.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CellSpec {
    /// All randomness follows from it.
    pub seed: u64,
    /// Seconds of arrivals and events.
    pub duration: f64,
    /// Nodes behind the routers.
    pub nodes: u32,
    /// How routers choose among them.
    pub ecmp: Ecmp,
    /// Where connections are remembered.
    pub memory: Memory,
    /// Sizes of tables.
    pub limits: TableLimits,
    /// Clients keep their addresses without it.
    #[serde(default)]
    pub source_nat: Option<SourceNatSpec>,
    /// The engine's timeouts that are not the defaults, in seconds.
    pub timeouts: BTreeMap<String, f64>,
    /// Of all Services at the start.
    pub strategy: StrategySpec,
    /// At least one.
    pub services: Vec<ServiceSpec>,
    /// At least one.
    pub traffic: Vec<TrafficSpec>,
    /// In the order of their times.
    pub events: Vec<EventSpec>,
}

/// Why a cell cannot be run.
#[derive(Debug, thiserror::Error)]
pub enum LabError {
    /// The description is none.
    #[error("the description of a cell: {0}")]
    Format(#[from] serde_json::Error),
    /// A strategy's parameters do not fit.
    #[error("strategy {name}: {reason}")]
    Strategy {
        /// Its name.
        name: String,
        /// The mistake.
        reason: String,
    },
    /// Something else does not fit.
    #[error("{0}")]
    Cell(String),
}

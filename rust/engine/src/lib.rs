//! kbe-nat-engine: Service NAT without input or output.
//!
//! Packets, tables and time come in as arguments, verdicts go out as values. A driver (a netfilter
//! queue, a capture file, a test) hands packets to [`Engine::process`] or [`Engine::process_batch`]
//! and does what the verdict says.
//!
//! | module | what it knows |
//! |---|---|
//! | [`wire`] | packets as views over bytes, checksums |
//! | [`mod@tuple`], `cidr` | ends and directions of flows, and ranges of addresses |
//! | `clock`, [`rng`], [`hash`] | time in ticks, seeded choices, keyed hashes |
//! | `hint` | prefetches and huge pages |
//! | [`verdict`] | what is done with a packet, and why |
//! | [`backend`], [`balance`] | endpoints, and how one is chosen |
//! | [`service`] | what is served where: the snapshot that policy hands in |
//! | [`conntrack`], `affinity`, `fragment` | what is remembered of flows, clients and datagrams |
//! | `events` | what happens to flows, for watchers |
//! | `decide`, `filtering` | first packets, before and behind their translation: pure |
//! | `rewrite`, [`reject`] | what a translation and a rejection look like in bytes |
//! | `ledger`, `counters` | live flows and traffic of service ports and backends, and verdicts |
//! | `recorder` | the last decisions about first packets |
//! | [`config`] | limits and policies of an engine |
//! | `pipeline` | the path of a packet; `assess` decides about packets of known flows: pure |
//! | `engine` | the public face |
//! | `engine::explain` | why a packet gets its verdict: prints `decide` and `assess` |
//! | [`decisions`] | decisions in words, after the fact |
//! | [`view`], [`checkpoint`] | what is there, and what outlives a restart |
//! | `engine::offload` | flows that the kernel translates |

mod affinity;
pub mod backend;
pub mod balance;
mod cidr;
mod clock;
pub mod config;
mod connects;
pub mod conntrack;
mod counters;
mod decide;
mod engine;
mod events;
mod filtering;
mod fragment;
pub mod hash;
mod hint;
mod ledger;
mod pipeline;
mod recorder;
pub mod reject;
mod rewrite;
pub mod rng;
pub mod service;
pub mod tuple;
pub mod verdict;
pub mod wire;

pub use backend::Backend;
pub use balance::Strategy;
pub use cidr::Cidr;
pub use config::{Config, InvalidTcp, OffloadedPackets};
pub use connects::{CONNECT_BOUNDS, ConnectTimes};
pub use decide::Midstream;
pub use engine::explain::Explanation;
pub use engine::kernel_flow::KernelFlow;
pub use engine::offload::{Outcome, Resync};
pub use engine::{Engine, checkpoint, decisions, view};
pub use events::EventKind;
pub use fragment::Released;
pub use ledger::Traffic;
pub use pipeline::{Meta, Packet};
pub use rewrite::ChecksumState;
pub use service::{
    Frontend, FrontendKind, Mode, NodePorts, NodeView, ServicePort, ServiceSpec, ServiceTable,
};
pub use verdict::{Action, Cause, Verdict};

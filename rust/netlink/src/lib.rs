//! Netfilter by netlink: packets from a queue and verdicts back, and the flows of connection tracking. Knows packets, verdicts and
//! flows, not NAT.
//!
//! The kernel sends one netlink message per packet; up to [`BATCH`] are taken by one system call, and their verdicts, each with its own
//! mark and payload, go back by one. All system calls are in `socket`, the only place with `unsafe`.

mod attribute;
pub mod conntrack;
mod message;
mod queue;
mod socket;
mod verdict;

pub use message::{Message, Vlan};
pub use queue::{BATCH, Options, Queue, QueueError};
pub use socket::monotonic;
pub use verdict::{Judgement, Verdict};

//! Packets from a netfilter queue, and verdicts back. Knows packets and verdicts, not NAT.
//!
//! The kernel sends one netlink message per packet; up to [`BATCH`] are taken by one system call, and their verdicts, each with its own
//! mark and payload, go back by one. All system calls are in `socket`, the only place with `unsafe`.

mod attribute;
mod message;
mod queue;
mod socket;
mod verdict;

pub use message::{Message, Vlan};
pub use queue::{BATCH, Options, Queue, QueueError};
pub use socket::monotonic;
pub use verdict::{Judgement, Verdict};

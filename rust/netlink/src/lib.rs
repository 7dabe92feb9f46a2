//! Netfilter by netlink: packets from a queue and verdicts back, the flows of connection tracking,
//! and tables of nf_tables; the node's addresses, and what may change the way of packets. Knows
//! packets, verdicts, flows and bytes, not NAT.
//!
//! The kernel sends one netlink message per packet; up to [`BATCH`] are taken by one system call,
//! and their verdicts, each with its own mark and payload, go back by one. All system calls are in
//! `socket`, the only place with `unsafe`.

pub mod addresses;
pub mod attribute;
pub mod conntrack;
mod detours;
pub mod doubts;
mod exchange;
mod family;
mod inbox;
pub mod links;
mod message;
pub mod nft;
mod pace;
mod queue;
mod socket;
mod verdict;

pub use family::Family;
pub use message::{Details, Message};
pub use pace::Pace;
pub use queue::{BATCH, Options, Queue, QueueError};
pub use socket::monotonic;
pub use verdict::{NfVerdict, VerdictMessage};

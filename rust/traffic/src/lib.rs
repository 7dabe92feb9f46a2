//! kbe-nat-traffic: servers and clients of the lab's live runs, on real sockets.
//!
//! A [`Server`] runs in a pod's network namespace and the clients in another: a socket belongs to
//! the namespace of the thread that opens it, so the caller enters one first. CPU time is that of
//! the thread that sends: softirq work that the kernel does in it counts, which on a
//! veth pair is the whole way to the receiver or to a queue.
//!
//! | module | what it knows |
//! |---|---|
//! | `wire` | what ends say to each other: pings, requests, answers |
//! | `sockets` | how they are opened |
//! | `latencies`, `clock` | histograms of times, CPU time |
//! | [`Server`] | `shared` counters; `datagrams`, `streams`, `exchanges`: a file a kind of port |
//! | [`Flows`], [`ping`] | datagrams that are counted, and those that are answered |
//! | [`connect`], [`Held`], [`bulk`] | connections: short ones, open ones, a stream |

mod bulk;
mod clock;
mod connections;
mod datagrams;
mod error;
mod exchanges;
mod flood;
mod held;
mod latencies;
mod pings;
mod server;
mod shared;
mod sockets;
mod streams;
mod wire;

pub use bulk::{Bulk, bulk};
pub use connections::{Connections, connect};
pub use error::TrafficError;
pub use flood::{Flood, Flows, Load};
pub use held::{Held, Opened};
pub use latencies::Latencies;
pub use pings::{Asking, Pings, ping};
pub use server::{Ports, Server};
pub use shared::Counts;
pub use wire::NAME_BYTES;

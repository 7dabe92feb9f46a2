//! What the cache of established flows has carried of them. The kernel counts the other packets,
//! and goes on counting while no daemon runs; these are known to a daemon alone.
//!
//! A section of a checkpoint: for each flow its protocol, the kernel's number of it (u32), four
//! addresses with ports, and four numbers (u64).

use std::net::SocketAddr;

use crate::tuple::Protocol;

/// A flow of the kernel, of whose packets a cache has carried some.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CarriedFlow {
    /// Its protocol.
    pub protocol: Protocol,
    /// The kernel's number of it: another flow with the same ends has another one.
    pub id: u32,
    /// Client and frontend.
    pub original: (SocketAddr, SocketAddr),
    /// Backend, and whom it answers.
    pub reply: (SocketAddr, SocketAddr),
    /// Packets of the client, and of the backend.
    pub packets: [u64; 2],
    /// Their bytes from the network header on.
    pub bytes: [u64; 2],
}

/// The most bytes that the section can have.
pub(super) const fn limit(flows: usize) -> usize {
    2 * 4 + flows * FLOW_SIZE
}

/// Its number.
pub(super) const SECTION: u32 = 1;
/// Bytes of a flow, at most.
const FLOW_SIZE: usize = 1 + 4 + 4 * (17 + 2) + 4 * 8;

//! Flows as the kernel tells of them.

use std::net::SocketAddr;

use kbe_nat_engine::KernelFlow;
use kbe_nat_engine::tuple::Protocol;

use super::{Cast as _, Family};

/// A flow from a client by the frontend to a backend, of which the kernel has seen no answer.
pub(crate) fn kernel_flow(
    protocol: Protocol,
    client: SocketAddr,
    family: Family,
    backend: SocketAddr,
) -> KernelFlow {
    KernelFlow {
        protocol,
        original: (client, family.vip()),
        reply: (backend, client),
        is_replied: false,
        is_assured: false,
        state: (protocol == Protocol::TCP).then_some(1),
        timeout: Some(100),
        counters: None,
        age: None,
    }
}

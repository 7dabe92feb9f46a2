//! Conntrack's entries as flows of the engine.

use kbe_nat_engine::KernelFlow;
use kbe_nat_engine::tuple::Protocol;
use kbe_nat_netlink::conntrack::Entry;

/// A flow of the kernel as the engine takes it.
#[must_use]
pub fn kernel_flow(entry: &Entry) -> KernelFlow {
    KernelFlow {
        protocol: Protocol(entry.protocol),
        original: (entry.original.src, entry.original.dst),
        reply: (entry.reply.src, entry.reply.dst),
        is_replied: entry.is_replied,
        is_assured: entry.is_assured,
        state: entry.state,
        timeout: entry.timeout,
        counters: entry.counters,
        age: entry.age(),
    }
}

/// Whether the kernel is to track a flow again that others have deleted. Conntrack's own records of
/// helpers, of shifted sequence numbers and of SCTP are lost.
pub(crate) fn is_restored(entry: &Entry) -> bool {
    matches!(Protocol(entry.protocol), Protocol::TCP | Protocol::UDP) && !entry.needs_conntrack
}

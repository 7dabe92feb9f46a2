//! A cache of translated flows. A BPF program on a device's way in sends packets of flows that it
//! knows out at once, past the kernel's stack; a second one on the way out enters flows.
//!
//! Nothing here decides about packets. The kernel's own rules do, and one rule keeps the cache
//! right: only a packet that has gone the kernel's whole way, and left, may make or renew an entry.
//! [`FlowCache::propose`] says how a flow is translated. The next packet of it that leaves, past
//! all rules, routes and neighbours, makes the entry. Once a lease one packet goes the kernel's way
//! and renews the entry, and with it the kernel's own timeouts.
//! Entries are void when [`FlowCache::beat`] is not called any more, and all at once after
//! [`FlowCache::void`]; [`FlowCache::void_device`] voids those of a device.
//!
//! The programs leave to the kernel all that is not certain. Loading needs CAP_BPF, CAP_NET_ADMIN
//! and CAP_PERFMON, and a kernel with tcx (6.6); [`FlowCache::probe`] says what is missing. When
//! the process ends, the kernel takes the programs off their devices.
//!
//! All system calls are in `bpf`, the only place with `unsafe`.

mod bpf;
mod cache;
mod counters;
mod device;
mod flow;
mod layout;
mod map;
mod probe;
mod program;

pub use cache::{FlowCache, LoadError, Sizes};
pub use counters::Counters;
pub use device::Link;
pub use flow::{CachedFlow, Notice, Proposal, Topic, Tuple};
pub use probe::ProbeError;

/// The programs' times.
pub mod periods {
    use std::time::Duration;

    /// How long an entry carries packets before one of them goes the kernel's way.
    pub const LEASE: Duration = Duration::from_secs(1);
    /// How long an entry holds that no packet renews.
    pub const EXPIRY: Duration = Duration::from_secs(2);
    /// How soon after a packet that was to renew an entry the next one is sent after it.
    pub const RETRY: Duration = Duration::from_millis(250);
}

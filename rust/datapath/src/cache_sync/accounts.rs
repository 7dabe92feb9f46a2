//! What the cache has carried: a part of what conntrack's flows have, over restarts too.

use std::io;
use std::sync::Mutex;
use std::time::Instant;

use kbe_nat_engine::{Engine, KernelFlow};
use kbe_nat_netlink::conntrack::{Entry, Requests};

use super::CacheSync;
use super::resets::open_ones;
use super::words::{add, key_of};
use crate::locking::lock;

impl CacheSync {
    /// Takes over what the cache of an earlier daemon has carried, as the engine has it from a
    /// checkpoint. Once, and before flows are shown.
    pub fn inherit(&self, engine: &Mutex<Engine>) {
        let carried = lock(engine).carried().to_vec();
        lock(&self.flows).inherit(&carried, Instant::now());
    }

    /// Adds to flows of conntrack what the cache has carried of them, where packets are counted.
    pub(crate) fn add_carried(&self, entries: &[Entry], kernel_flows: &mut [KernelFlow]) {
        let flows = lock(&self.flows);
        for (entry, flow) in entries.iter().zip(kernel_flows) {
            add(flow, flows.carried(&key_of(flow), entry.id));
        }
    }

    /// Renews conntrack's timeout of the connections that the last dump has shown to need it.
    ///
    /// # Errors
    /// The system's.
    pub fn renew(&self, requests: &mut Requests) -> io::Result<()> {
        let (connections, seconds) = lock(&self.flows).take_renewals();
        requests.renew(&open_ones(&self.cache, &connections)?, seconds)
    }
}

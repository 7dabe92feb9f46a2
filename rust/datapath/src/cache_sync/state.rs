//! Where a flow stands, for people who ask.

use std::io;

use kbe_nat_netlink::conntrack::Ends;

use super::CacheSync;
use super::words::tuple;
use crate::cached_flows::{FlowKey, Standing};
use crate::locking::lock;

/// Where a flow stands.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CacheState {
    /// Whether it is proposed, or why not.
    pub standing: Standing,
    /// Whether the cache carries the client's packets, and answers.
    pub is_cached: [bool; 2],
    /// A device of the flow that the cache does not stand on, with the reason.
    pub left_out: Option<(String, String)>,
}

impl CacheSync {
    /// Whether a flow is in the cache, or why not. Cost: two system calls for each device.
    ///
    /// # Errors
    /// The system's.
    pub fn state(&self, key: &FlowKey) -> io::Result<CacheState> {
        let (standing, reply) = {
            let flows = lock(&self.flows);
            (flows.standing(key, None), flows.reply(key))
        };
        let current = |ends: Ends| {
            let entry = self.cache.find(&tuple(key.protocol, ends))?;
            io::Result::Ok(entry.filter(|entry| entry.is_current))
        };
        let entries = match reply {
            Some(reply) => [current(key.original)?, current(reply)?],
            None => [None; 2],
        };
        // A device that packets leave by makes entries, whether those come by one where somebody
        // looks for these or not. Packets of the other direction leave by that one.
        let attached = self.cache.devices();
        let is_cached =
            entries.map(|entry| entry.is_some_and(|entry| attached.contains(&entry.arrival)));
        let mut arrivals = entries.iter().flatten().map(|entry| entry.arrival);
        let left_out = arrivals.find_map(|device| self.devices.left_out_by_number(device));
        Ok(CacheState { standing, is_cached, left_out })
    }
}

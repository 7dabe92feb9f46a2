//! Bridges that call iptables (`br_netfilter`): conntrack counts what comes by their ports there,
//! ahead of the programs on the bridge. What the cache carries of it is counted already.

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use kbe_nat_flowcache::CachedFlow;
use kbe_nat_netlink::doubts::Device;

use crate::locking::lock;

/// Which bridges do so, for IPv4 and IPv6.
#[derive(Debug, Default)]
pub(crate) struct Bridges {
    /// Whether a bridge's own setting says so, by its number.
    own: Mutex<HashMap<u32, [bool; 2]>>,
    /// The namespace's settings.
    all: [AtomicBool; 2],
}

impl Bridges {
    /// Takes note of the devices that are there.
    pub(crate) fn note<'a>(&self, devices: impl Iterator<Item = &'a Device>) {
        let bridges = devices.filter_map(|device| Some((device.index, device.calls_iptables?)));
        *lock(&self.own) = bridges.collect();
    }

    /// Reads the namespace's settings, of whose changes nothing tells.
    pub(crate) fn look(&self) {
        if lock(&self.own).is_empty() {
            return;
        }
        for (is_on, path) in self.all.iter().zip(SETTINGS) {
            let setting = std::fs::read_to_string(path).unwrap_or_default();
            is_on.store(!matches!(setting.trim(), "" | "0"), Ordering::Relaxed);
        }
    }

    /// Whether conntrack counts the packets of this entry, too.
    pub(crate) fn count(&self, entry: &CachedFlow) -> bool {
        let family = usize::from(entry.arriving.source.is_ipv6());
        let calls = lock(&self.own).get(&entry.arrival).map(|calls| calls[family]);
        calls.is_some_and(|calls| calls || self.all[family].load(Ordering::Relaxed))
    }
}

const SETTINGS: [&str; 2] = [
    "/proc/sys/net/bridge/bridge-nf-call-iptables",
    "/proc/sys/net/bridge/bridge-nf-call-ip6tables",
];

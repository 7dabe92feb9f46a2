//! What a [`CacheSync`] hears by, and asks by.

use kbe_nat_netlink::addresses::Addresses;
use kbe_nat_netlink::conntrack::{Requests, Updates};
use kbe_nat_netlink::doubts::Doubts;
use kbe_nat_netlink::links::Links;

#[cfg(doc)]
use super::CacheSync;

/// The sockets of a [`CacheSync`], in one network namespace.
#[derive(Debug)]
pub struct CacheSockets {
    /// Of changes of flows.
    pub updates: Updates,
    /// Of doubts.
    pub doubts: Doubts,
    /// Of what tc does at devices.
    pub links: Links,
    /// Of the node's addresses.
    pub addresses: Addresses,
    /// Of requests about flows.
    pub requests: Requests,
}

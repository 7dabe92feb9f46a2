//! A flow in the words of the engine, of the records and of the cache.

use kbe_nat_engine::KernelFlow;
use kbe_nat_engine::tuple::Protocol;
use kbe_nat_flowcache::{CachedFlow, Notice, Proposal, Tuple};
use kbe_nat_netlink::conntrack::Ends;

use crate::cached_flows::{Carried, FlowKey, Passage};

/// Adds what the cache has carried to the counters of a flow that has some.
pub(crate) fn add(flow: &mut KernelFlow, carried: [Carried; 2]) {
    for ((packets, bytes), more) in flow.counters.iter_mut().flatten().zip(carried) {
        *packets += more.packets;
        *bytes += more.bytes;
    }
}

/// The key of a flow of the kernel.
pub(crate) fn key_of(flow: &KernelFlow) -> FlowKey {
    let (src, dst) = flow.original;
    FlowKey { protocol: flow.protocol.0, original: Ends { src, dst } }
}

pub(super) fn flow_of(key: &FlowKey, reply: Ends) -> KernelFlow {
    KernelFlow {
        protocol: Protocol(key.protocol),
        original: (key.original.src, key.original.dst),
        reply: (reply.src, reply.dst),
        is_replied: true,
        is_assured: true,
        state: None,
        timeout: None,
        counters: None,
        age: None,
    }
}

pub(super) fn tuple(protocol: u8, ends: Ends) -> Tuple {
    Tuple { protocol, source: ends.src, destination: ends.dst }
}

pub(super) fn proposal(passage: &Passage) -> Proposal {
    let Passage { protocol, arriving, leaving } = *passage;
    Proposal { arriving: tuple(protocol, arriving), leaving: tuple(protocol, leaving) }
}

pub(super) fn passage(entry: &CachedFlow) -> Passage {
    let ends = |tuple: &Tuple| Ends { src: tuple.source, dst: tuple.destination };
    Passage {
        protocol: entry.arriving.protocol,
        arriving: ends(&entry.arriving),
        leaving: ends(&entry.leaving),
    }
}

pub(super) fn passage_of(notice: &Notice) -> Passage {
    let Notice { arriving, leaving, .. } = *notice;
    let ends = |tuple: Tuple| Ends { src: tuple.source, dst: tuple.destination };
    Passage { protocol: arriving.protocol, arriving: ends(arriving), leaving: ends(leaving) }
}

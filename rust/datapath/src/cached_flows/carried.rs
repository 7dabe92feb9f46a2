//! What the cache has carried of flows, as a checkpoint keeps it.

use std::time::Instant;

use kbe_nat_engine::checkpoint::CarriedFlow;
use kbe_nat_engine::tuple::Protocol;
use kbe_nat_netlink::conntrack::Ends;

use super::record::{Carried, FlowKey, Record, Stage, is_same, totals};
use super::{CachedFlows, RECORDS};

impl CachedFlows {
    /// What the cache has carried so far of a flow with this number.
    pub(crate) fn carried(&self, key: &FlowKey, id: Option<u32>) -> [Carried; 2] {
        let record = self.records.get(key).filter(|record| is_same(record.id, id));
        record.map_or_else(Default::default, totals)
    }

    /// What the cache has carried of all flows that it knows.
    pub(crate) fn all_carried(&self) -> Vec<CarriedFlow> {
        let flows = self.records.iter().filter_map(|(key, record)| saved(key, record));
        flows.filter(|flow| flow.packets != [0; 2]).collect()
    }

    /// Takes note of what another cache has carried. For this one these flows are over until
    /// conntrack shows them, and end with a dump that does not.
    pub(crate) fn inherit(&mut self, flows: &[CarriedFlow], now: Instant) {
        let most = self.places.limit().saturating_mul(RECORDS);
        let records = flows.iter().map(|flow| inherited(flow, self.dump, now));
        self.records.extend(records.take(most));
    }
}

/// `None`: conntrack's number of the flow is not known, so a daemon could take another one for it.
fn saved(key: &FlowKey, record: &Record) -> Option<CarriedFlow> {
    let totals = totals(record);
    Some(CarriedFlow {
        protocol: Protocol(key.protocol),
        id: record.id?,
        original: (key.original.src, key.original.dst),
        reply: (record.reply.src, record.reply.dst),
        packets: totals.map(|carried| carried.packets),
        bytes: totals.map(|carried| carried.bytes),
    })
}

fn inherited(flow: &CarriedFlow, dump: u64, now: Instant) -> (FlowKey, Record) {
    let ends = |(src, dst)| Ends { src, dst };
    let side = |side: usize| Carried { packets: flow.packets[side], bytes: flow.bytes[side] };
    let record = Record {
        reply: ends(flow.reply),
        id: Some(flow.id),
        stage: Stage::Over,
        former: [side(0), side(1)],
        present: Default::default(),
        is_current: Default::default(),
        renewed: flow.packets,
        alive: (flow.packets[0].saturating_add(flow.packets[1]), 0, now),
        is_idle: false,
        dump,
    };
    (FlowKey { protocol: flow.protocol.0, original: ends(flow.original) }, record)
}

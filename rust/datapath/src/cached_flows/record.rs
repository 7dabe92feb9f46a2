//! A flow's record, and what conntrack's entry of it says.

use std::time::Instant;

use kbe_nat_engine::tuple::Protocol;
use kbe_nat_netlink::conntrack::{Ends, Entry, TCP_ESTABLISHED};

/// A flow, by the ends of its first packet.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct FlowKey {
    /// Its protocol's number.
    pub protocol: u8,
    /// Client and frontend.
    pub original: Ends,
}

/// One direction of a flow: a packet's ends as it comes, and as it leaves.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Passage {
    /// Its protocol's number.
    pub(crate) protocol: u8,
    /// Before translation.
    pub(crate) arriving: Ends,
    /// After it.
    pub(crate) leaving: Ends,
}

/// Packets and bytes.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Carried {
    /// Packets; of a super-packet, its segments.
    pub packets: u64,
    /// Bytes from the network header on.
    pub bytes: u64,
}

/// Why a flow is not cached, or whether it may be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Standing {
    /// Proposed: the cache carries it as soon as packets have left.
    Proposed,
    /// It is not established for long enough.
    Waiting,
    /// It is ending.
    Over,
    /// It was idle, or its client has more flows than others leave room for.
    Aside,
    /// Conntrack has to see each of its packets: a helper, SYNPROXY.
    Special,
    /// Conntrack has not called it assured, or it has ended.
    Unknown,
    /// Neither TCP nor UDP.
    Protocol,
    /// Its Service is excluded.
    Service,
    /// One of its addresses is in an excluded range.
    Range,
    /// A client or server of the node itself: its packets do not pass through.
    Local,
}

/// Where a record stands, see `cached_flows.rs`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Stage {
    Waiting,
    Proposed,
    Again,
    Aside,
    Special,
    Over,
}

impl Stage {
    pub(super) fn has_place(self) -> bool {
        matches!(self, Self::Waiting | Self::Proposed | Self::Again)
    }

    /// Whether the cache may have proposals or entries.
    pub(super) fn is_in_cache(self) -> bool {
        matches!(self, Self::Proposed | Self::Again)
    }
}

/// What is known of a flow.
#[derive(Debug)]
pub(super) struct Record {
    pub(super) reply: Ends,
    /// Conntrack's number.
    pub(super) id: Option<u32>,
    pub(super) stage: Stage,
    /// By entries that are gone; of the client's packets, and of the backend's.
    pub(super) former: [Carried; 2],
    /// By the present entries, when they were looked at last.
    pub(super) present: [Carried; 2],
    /// Which of the present entries were current when they were looked at last.
    pub(super) is_current: [bool; 2],
    /// The packets that the cache had carried when conntrack's timeout was renewed last.
    pub(super) renewed: [u64; 2],
    /// Those of both sides when the last look found that it lives, conntrack's seconds then, and
    /// when that was.
    pub(super) alive: (u64, u32, Instant),
    /// The last look has found it idle.
    pub(super) is_idle: bool,
    /// The dump of conntrack that has shown it last, or during which it was made.
    pub(super) dump: u64,
}

impl Carried {
    pub(super) fn add(&mut self, other: Self) {
        self.packets += other.packets;
        self.bytes += other.bytes;
    }
}

/// Whether two numbers are of the same flow, as far as they are known.
pub(super) fn is_same(one: Option<u32>, other: Option<u32>) -> bool {
    one.zip(other).is_none_or(|(one, other)| one == other)
}

pub(super) fn is_tcp(entry: &Entry) -> bool {
    entry.protocol == Protocol::TCP.0
}

/// Whether both ends have confirmed the flow, and it is not ending. An event has no state where
/// that is as it was: so does one about a connection that conntrack has met in its middle.
pub(super) fn is_established(entry: &Entry) -> bool {
    entry.is_assured && !is_ending(entry)
}

/// Whether conntrack has seen that TCP ends.
pub(super) fn is_ending(entry: &Entry) -> bool {
    is_tcp(entry) && entry.state.is_some_and(|state| state != TCP_ESTABLISHED)
}

pub(super) fn passages(key: &FlowKey, record: &Record) -> [Passage; 2] {
    let FlowKey { protocol, original } = *key;
    [
        Passage { protocol, arriving: original, leaving: record.reply.reversed() },
        Passage { protocol, arriving: record.reply, leaving: original.reversed() },
    ]
}

pub(super) fn totals(record: &Record) -> [Carried; 2] {
    let mut totals = record.former;
    for (total, present) in totals.iter_mut().zip(record.present) {
        total.add(present);
    }
    totals
}

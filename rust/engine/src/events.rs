//! Events of flows for a watcher: a bounded ring, so that a slow watcher loses the oldest events
//! instead of filling our memory.

use std::collections::VecDeque;

use crate::clock::Tick;
use crate::conntrack::{FlowId, FlowTable, Hot};
use crate::tuple::Address;

/// The kind of a change to a flow; names as `conntrack -E` shows them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum EventKind {
    /// It was opened.
    New,
    /// It is in another state.
    Update,
    /// It is over.
    Destroy,
}

impl EventKind {
    /// The name in text and in Python.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::New => "NEW",
            Self::Update => "UPDATE",
            Self::Destroy => "DESTROY",
        }
    }
}

/// A flow as it was when something happened to it.
#[derive(Clone, Debug)]
pub(crate) struct Seen<A> {
    pub(crate) kind: EventKind,
    pub(crate) hot: Hot<A>,
    pub(crate) packets: [u64; 2],
    pub(crate) created: Tick,
    /// The backend's record in the ledger.
    pub(crate) backend: u32,
}

/// The events of one family's flows.
#[derive(Debug)]
pub(crate) struct Events<A> {
    ring: VecDeque<Seen<A>>,
    capacity: usize,
    lost: u64,
}

impl<A> Default for Events<A> {
    fn default() -> Self {
        Self { ring: VecDeque::new(), capacity: 0, lost: 0 }
    }
}

impl<A: Address> Events<A> {
    /// From now on keeps that many events; none, and none that are kept, with 0.
    pub(crate) fn watch(&mut self, capacity: usize) {
        self.capacity = capacity;
        self.ring.truncate(capacity);
    }

    /// Notes what happens to a flow of this table.
    #[inline]
    pub(crate) fn note(&mut self, kind: EventKind, flows: &FlowTable<A>, id: FlowId) {
        if self.capacity > 0 {
            self.keep(kind, flows, id);
        }
    }

    #[cold]
    fn keep(&mut self, kind: EventKind, flows: &FlowTable<A>, id: FlowId) {
        if self.ring.len() >= self.capacity {
            self.ring.pop_front();
            self.lost += 1;
        }
        let (hot, cold) = (flows.hot(id).clone(), flows.cold(id));
        let (created, backend) = (cold.created, cold.backend);
        self.ring.push_back(Seen { kind, hot, packets: flows.packets(id), created, backend });
    }

    /// Takes the events, oldest first, with how many were lost since the last time.
    pub(crate) fn take(&mut self) -> (VecDeque<Seen<A>>, u64) {
        (std::mem::take(&mut self.ring), std::mem::take(&mut self.lost))
    }
}

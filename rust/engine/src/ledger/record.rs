//! What the books hold: traffic, backends and service ports.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;

use crate::balance::State;
use crate::connects::ConnectTimes;
use crate::hash::HashKey;
use crate::service::ServicePort;
use crate::verdict::Cause;

/// Flows, packets and bytes; the latter by direction.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Traffic {
    /// Flows that were opened.
    pub flows: u64,
    /// Packets to the backend and back.
    pub packets: [u64; 2],
    /// Bytes of IP packets to the backend and back.
    pub bytes: [u64; 2],
}

impl Traffic {
    /// Adds packets and bytes of a flow. A restored flow may claim any number of them.
    pub(crate) fn carry(&mut self, packets: [u64; 2], bytes: [u64; 2]) {
        for direction in 0..2 {
            self.packets[direction] = self.packets[direction].saturating_add(packets[direction]);
            self.bytes[direction] = self.bytes[direction].saturating_add(bytes[direction]);
        }
    }

    pub(crate) fn add(&mut self, other: &Self) {
        self.flows += other.flows;
        self.carry(other.packets, other.bytes);
    }
}

/// The flows that an endpoint of a service port may have.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Standing {
    /// New flows, and those that it has.
    Listed,
    /// It is in no list, but serves: the datagrams of flows that it has, and answered connections.
    Serving,
    /// Answered connections only.
    Gone,
}

/// One backend of one service port.
#[derive(Debug)]
pub(crate) struct BackendRecord {
    pub(crate) address: SocketAddr,
    /// Number of its service port.
    pub(crate) service: u32,
    /// Distinguishes it from those that had this record before.
    pub(crate) birth: u32,
    pub(crate) standing: Standing,
    /// The adoption that last found it in a list.
    pub(super) generation: u32,
    /// The adoption under which no rule was found to be about packets to it; see
    /// [`super::Ledger::is_unruled`].
    pub(super) unruled: Option<u32>,
    /// Of flows that have ended; `flows` counts the live ones too.
    pub(crate) ended: Traffic,
    /// There once it has answered a client.
    pub(crate) connects: Option<Box<ConnectTimes>>,
}

/// One service port.
#[derive(Debug)]
pub(crate) struct ServiceRecord {
    /// As it was in the newest table that had it.
    pub(crate) service: Arc<ServicePort>,
    /// The balancers' memories, by scope.
    pub(crate) states: [State; 2],
    /// Backend records in the order of the service port's two lists; empty while it is in no table.
    pub(crate) backends: [Vec<u32>; 2],
    /// Identifiers of all its backends: the listed ones, and others that still have flows.
    pub(super) ids: HashMap<SocketAddr, u32, HashKey>,
    /// Traffic of backends whose records are closed.
    pub(crate) past: Traffic,
    /// Connect times of these.
    pub(crate) past_connects: ConnectTimes,
    pub(crate) refused: Vec<(Cause, u64)>,
    /// The adoption that last found it in the table.
    pub(super) generation: u32,
    /// Decisions about first packets before its newest form.
    pub(super) decisions: u64,
    pub(super) is_served: bool,
}

impl ServiceRecord {
    /// All its backends, each once, in no order.
    pub(crate) fn all_backends(&self) -> impl Iterator<Item = u32> {
        self.ids.values().copied()
    }
}

//! Nodes between clients and backends: packets in, their fates out.

mod choosers;
mod engines;

use std::sync::Arc;

use kbe_nat_engine::ServicePort;
use kbe_nat_engine::service::Scope;
use rustix::time::{ClockId, clock_gettime};

pub(crate) use choosers::Choosers;
pub(crate) use engines::Engines;

use crate::packets::Segment;
use crate::rows::PortRow;

/// The fate of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// It goes to this backend.
    To(u32),
    /// It goes back to its client.
    Back,
    /// It was dropped or rejected, or belongs to no connection.
    Refused,
}

/// A Service as it is to be served.
#[derive(Clone, Debug)]
pub(crate) struct ServiceState {
    pub(crate) number: u32,
    pub(crate) port: Arc<ServicePort>,
    /// The numbers of its backends, by position.
    pub(crate) backends: Arc<[u32]>,
    /// The same with the backends of the horizon, where JET needs it.
    pub(crate) horizon: Option<(Arc<ServicePort>, Arc<[u32]>)>,
}

impl ServiceState {
    /// Bytes of its balancers' tables, if they are known.
    pub(crate) fn balancer_bytes(&self) -> Option<u64> {
        let ports = [Some(&self.port), self.horizon.as_ref().map(|(port, _)| port)];
        let balancers = ports.into_iter().flatten().map(|port| port.set(Scope::Cluster).balancer());
        balancers.map(|balancer| Some(balancer.memory_bytes()? as u64)).sum()
    }
}

/// How full tables are, summed over the nodes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct TableUse {
    /// Connections that are remembered.
    pub(crate) flows: u64,
    /// Memory that the tables have used.
    pub(crate) bytes: u64,
    /// Source ports that are leased, and those of the fullest pool.
    pub(crate) ports: u64,
    pub(crate) pool: u64,
    pub(crate) expired: u64,
    pub(crate) evicted: u64,
}

impl TableUse {
    /// The peaks of both.
    pub(crate) fn max(self, other: Self) -> Self {
        Self {
            flows: self.flows.max(other.flows),
            bytes: self.bytes.max(other.bytes),
            ports: self.ports.max(other.ports),
            pool: self.pool.max(other.pool),
            ..other
        }
    }
}

/// Processor time, in nanoseconds, of groups of at least [`Costs::GROUP`] packets: for smaller ones
/// the clock itself counts.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Costs {
    pub(crate) firsts: u64,
    pub(crate) first_time: u64,
    pub(crate) others: u64,
    pub(crate) other_time: u64,
    /// Packets of all groups.
    pub(crate) packets: u64,
}

impl Costs {
    const GROUP: usize = 16;

    pub(crate) fn note(&mut self, is_first: bool, packets: usize, time: u64) {
        self.packets += packets as u64;
        if packets < Self::GROUP {
            return;
        }
        let (count, sum) = if is_first {
            (&mut self.firsts, &mut self.first_time)
        } else {
            (&mut self.others, &mut self.other_time)
        };
        *count += packets as u64;
        *sum += time;
    }
}

/// Nodes that serve.
pub(crate) trait Dataplane: std::fmt::Debug + Send {
    /// The fate of each of these packets, in their order. `loads` are the connections alive by
    /// backend.
    fn send(&mut self, now: u64, packets: &[Segment], loads: &[u32], fates: &mut Vec<Fate>);

    /// The port with which each packet of the last [`Dataplane::send`] went on, by position, where
    /// sources are replaced; else none.
    fn source_ports(&self) -> &[u16] {
        &[]
    }

    /// How source ports were given, where sources are replaced.
    fn ports(&self) -> Option<PortRow> {
        None
    }

    /// Serves these in the place of those of their numbers.
    ///
    /// # Errors
    /// In words; the simulation ends.
    fn update(&mut self, services: &[ServiceState]) -> Result<(), String>;

    /// A node starts with an empty memory, or takes it with it.
    fn restart(&mut self, node: u32);

    /// A connection has ended for both ends.
    fn close(&mut self, packet: &Segment);

    /// Time has come to here: what has timed out leaves the tables.
    fn expire(&mut self, now: u64);

    /// How full the tables are.
    fn table_use(&self) -> TableUse;

    fn costs(&self) -> Costs;
}

/// Nanoseconds that this thread has run.
pub(crate) fn thread_time() -> u64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// The packets of each node, those that open connections before the others, as positions.
pub(crate) fn groups(
    packets: &[Segment],
    nodes: u32,
) -> impl Iterator<Item = (u32, bool, Vec<usize>)> + '_ {
    (0..nodes).flat_map(|node| [(node, true), (node, false)]).filter_map(move |(node, is_first)| {
        let group: Vec<usize> = (0..packets.len())
            .filter(|&i| packets[i].node == node && packets[i].is_first == is_first)
            .collect();
        (!group.is_empty()).then_some((node, is_first, group))
    })
}

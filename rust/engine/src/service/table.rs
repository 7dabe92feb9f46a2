//! The table of all service ports.
//!
//! Theory of operation. A table is numbered service ports, and indexes over them. The last three
//! indexes exist once for each family (`index`):
//!
//! | index | from | to |
//! |---|---|---|
//! | `services` | slot | service port |
//! | `names` | name and family | slot |
//! | frontends | protocol, address, port | slot, and how the frontend is meant |
//! | node ports | protocol, port | slot |
//! | addresses | address | how many frontends have it, and how many as a cluster IP |
//!
//! - A frontend key belongs to one service port, and so does a node port of a family: a second
//!   claim is an error. So the order in which service ports come in does not matter, and a table
//!   that was changed step by step finds what a table built at once finds. Policy sees to it that
//!   the first claim in its order is the only one that is handed in (`kbe_nat.claims`).
//! - Within one service port the first of two frontends with one key decides how both are meant.
//! - Node ports are not entered for each address of the node. A look-up asks for a frontend first,
//!   then, where the address has node ports, for the node port: exact addresses go before node
//!   ports, as in kube-proxy's chains. A new [`NodeView`] therefore leaves all indexes as they are.
//! - A service port keeps its slot while its name is served. The engine's books (`ledger`) compare
//!   two tables slot by slot and pass over what both share, so taking a table over costs what has
//!   changed.
//! - A table never changes. [`ServiceTable::with_changes`] makes another one, which shares all
//!   chunks but those that the changes touch (`chunks`). Readers keep the one that they have, and
//!   an error leaves nothing half done.

use std::hash::BuildHasher;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use super::chunks::{ChunkTable, Slots};
use super::frontend::{Frontend, FrontendKind};
use super::index::{Claim, FrontendKey, Index};
use super::node::{Node, NodeView};
use super::{ServiceError, ServicePort};
use crate::hash::HashKey;
use crate::tuple::{Family, Protocol};

/// The service ports that have rules for packets to an endpoint, which may be a frontend as well.
pub(crate) struct Claims {
    /// The service port that is served there, and one whose node port it would be.
    pub(crate) frontends: [Option<Claim>; 2],
    /// Whether the address is a cluster IP, on whatever port.
    pub(crate) is_cluster_ip: bool,
}

/// Service ports that were put into a table, and have not made their claims yet.
struct Placed {
    /// The slots of all, in order.
    slots: Vec<u32>,
    /// Of those whose claims are to be made.
    claiming: Vec<u32>,
}

/// An immutable snapshot of everything that is served.
#[derive(Clone, Debug)]
pub struct ServiceTable {
    key: HashKey,
    services: Slots<ServicePort>,
    names: ChunkTable<u32>,
    v4: Index<Ipv4Addr>,
    v6: Index<Ipv6Addr>,
    node: Arc<Node>,
}

impl ServiceTable {
    /// A table that serves nothing.
    #[must_use]
    pub fn empty(key: HashKey) -> Self {
        Self {
            key,
            services: Slots::default(),
            names: ChunkTable::default(),
            v4: Index::new(key),
            v6: Index::new(key),
            node: Arc::new(Node::new(NodeView::default(), key)),
        }
    }

    /// A table of these service ports. Cost: one hash insertion per name and frontend.
    ///
    /// # Errors
    /// [`ServiceError::DuplicateName`], [`ServiceError::DuplicateFrontend`].
    pub fn new(
        services: &[Arc<ServicePort>],
        node: NodeView,
        key: HashKey,
    ) -> Result<Self, ServiceError> {
        Self::empty(key).with_changes(services, &[], Some(node))
    }

    /// The table in which these service ports are served and no others. It shares with this one
    /// all chunks that stay. Cost: a name look-up per service port, and more for those that differ.
    ///
    /// # Errors
    /// [`ServiceError::DuplicateName`], [`ServiceError::DuplicateFrontend`].
    pub fn with_services(
        &self,
        services: &[Arc<ServicePort>],
        node: Option<NodeView>,
    ) -> Result<Self, ServiceError> {
        let mut table = self.with_node(node);
        let placed = table.place(services)?;
        let mut stay = placed.slots.iter().peekable();
        for slot in (0..self.services.end()).filter(|&slot| self.services.get(slot).is_some()) {
            // Both are in order.
            while stay.next_if(|&&other| other < slot).is_some() {}
            if stay.peek() != Some(&&slot) {
                table.remove(slot);
            }
        }
        table.claim_for(&placed.claiming)?;
        Ok(table)
    }

    /// The table in which the service ports of these names and families are served no more, and
    /// these others are, in the place of those that have their names. One that is handed in again
    /// as it is changes nothing. Cost: that of the changes, whatever the size of the table; see the
    /// module documentation.
    ///
    /// # Errors
    /// [`ServiceError::UnknownName`] of one to be removed, [`ServiceError::DuplicateName`] among
    /// `changed`, [`ServiceError::DuplicateFrontend`].
    pub fn with_changes(
        &self,
        changed: &[Arc<ServicePort>],
        removed: &[(&str, Family)],
        node: Option<NodeView>,
    ) -> Result<Self, ServiceError> {
        let mut table = self.with_node(node);
        for &(name, family) in removed {
            let slot = table.slot(name, family);
            table.remove(slot.ok_or_else(|| ServiceError::UnknownName(name.to_owned()))?);
        }
        let placed = table.place(changed)?;
        table.claim_for(&placed.claiming)?;
        Ok(table)
    }

    /// All service ports.
    pub fn services(&self) -> impl Iterator<Item = &Arc<ServicePort>> {
        (0..self.services.end()).filter_map(|slot| self.services.get(slot))
    }

    /// The service port in a slot of this table, which [`ServiceTable::find`] has returned.
    ///
    /// # Panics
    /// When the slot is of another table.
    #[inline]
    #[must_use]
    pub fn service(&self, slot: u32) -> &Arc<ServicePort> {
        // A table's claims and its service ports change together, and `find` returns a slot of a
        // claim: only a slot of another table can be empty here.
        self.services.get(slot).expect("a claim leads to a service port of its table")
    }

    /// The service port in a slot, if there is one.
    pub(crate) fn in_slot(&self, slot: u32) -> Option<&Arc<ServicePort>> {
        self.services.get(slot)
    }

    /// Slots that hold something else than in `former`, in order. Cost: a pass over
    /// the leaves that differ.
    pub(crate) fn slots_changed_since(&self, former: &Self) -> Vec<u32> {
        self.services.changed_since(&former.services)
    }

    /// The node's view.
    #[inline]
    #[must_use]
    pub fn node(&self) -> &NodeView {
        &self.node.view
    }

    /// The slot of the service port that is served at `destination`, and how that frontend is
    /// meant. Cost: one look-up where a frontend has this address, two or three for a node port.
    #[inline(always)]
    #[must_use]
    pub fn find(&self, protocol: Protocol, destination: SocketAddr) -> Option<(u32, FrontendKind)> {
        match self.frontend(protocol, destination) {
            None => self.find_node_port(protocol, destination),
            claim => claim,
        }
    }

    #[inline(never)]
    fn find_node_port(&self, protocol: Protocol, destination: SocketAddr) -> Option<Claim> {
        self.node_port(protocol, destination)
            .or_else(|| self.loopback_node_port(protocol, destination))
    }

    /// The claims on packets to `destination`. Cost: one look-up where no frontend has the
    /// address.
    #[must_use]
    pub(crate) fn claims(&self, protocol: Protocol, destination: SocketAddr) -> Claims {
        let node_port = self.node_port(protocol, destination);
        let role = match destination.ip() {
            IpAddr::V4(address) => self.v4.role(address),
            IpAddr::V6(address) => self.v6.role(address),
        };
        let Some(is_cluster_ip) = role else {
            return Claims { frontends: [node_port, None], is_cluster_ip: false };
        };
        let frontends = match self.frontend(protocol, destination) {
            Some(exact) => [Some(exact), node_port],
            None => [node_port, None],
        };
        Claims { frontends, is_cluster_ip }
    }

    /// Whether `address` is a cluster IP. Cost: a comparison or two for one that is lower or higher
    /// than all of these, else one look-up.
    #[inline(always)]
    #[must_use]
    pub fn is_cluster_ip(&self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(address) => self.v4.is_cluster_ip(address),
            IpAddr::V6(address) => self.v6.is_cluster_ip(address),
        }
    }

    /// Whether `address` is one of the node's own.
    #[inline]
    #[must_use]
    pub fn is_node(&self, address: IpAddr) -> bool {
        self.node.has(address)
    }

    #[inline(always)]
    fn frontend(&self, protocol: Protocol, destination: SocketAddr) -> Option<Claim> {
        let port = destination.port();
        match destination.ip() {
            IpAddr::V4(address) => self.v4.frontend(&FrontendKey { protocol, address, port }),
            IpAddr::V6(address) => self.v6.frontend(&FrontendKey { protocol, address, port }),
        }
    }

    /// The node port at an address of the node.
    #[inline]
    fn node_port(&self, protocol: Protocol, destination: SocketAddr) -> Option<Claim> {
        let kind = self.node.node_ports_at(destination.ip())?;
        let slot = match destination {
            SocketAddr::V4(_) => self.v4.node_port(protocol, destination.port()),
            SocketAddr::V6(_) => self.v6.node_port(protocol, destination.port()),
        }?;
        let is_refusal = kind == FrontendKind::ClosedNodePort;
        (!is_refusal || self.service(slot).refuses_somebody()).then_some((slot, kind))
    }

    /// The node port that 127.0.0.1 has, as an address beside it has it: all of 127.0.0.0/8 is the
    /// node's.
    fn loopback_node_port(&self, protocol: Protocol, destination: SocketAddr) -> Option<Claim> {
        if !(destination.is_ipv4() && destination.ip().is_loopback()) {
            return None;
        }
        let first = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), destination.port());
        if self.frontend(protocol, first).is_some() {
            return None;
        }
        let (slot, kind) = self.node_port(protocol, first)?;
        let is_served = self.node.view.node_ports.includes_all_loopback();
        Some((slot, if is_served { kind } else { FrontendKind::ClosedNodePort }))
    }

    fn slot(&self, name: &str, family: Family) -> Option<u32> {
        self.slot_of_hash(self.key.hash_one((name, family)), name, family)
    }

    fn slot_of_hash(&self, hash: u64, name: &str, family: Family) -> Option<u32> {
        let is_it = |&slot: &u32| {
            let service = self.in_slot(slot);
            service.is_some_and(|service| service.name() == name && service.family() == family)
        };
        self.names.find(hash, is_it).copied()
    }

    /// The same table, with another view of the node if there is one.
    fn with_node(&self, view: Option<NodeView>) -> Self {
        let node = view.map(|view| Arc::new(Node::new(view, self.key)));
        Self { node: node.unwrap_or_else(|| self.node.clone()), ..self.clone() }
    }

    /// Gives up a slot, with all that leads to it.
    fn remove(&mut self, slot: u32) {
        let service = self.service(slot);
        let hash = self.key.hash_one((service.name(), service.family()));
        self.give_up_claims(slot);
        self.names.remove(hash, |&other| other == slot);
        self.services.remove(slot);
    }

    /// Puts service ports into the slots of their names, or new ones. Claims are given up here and
    /// made by the caller, once all are given up: two service ports may change places.
    fn place(&mut self, services: &[Arc<ServicePort>]) -> Result<Placed, ServiceError> {
        let places: Vec<(u32, bool)> =
            services.iter().map(|service| self.slot_for(service)).collect();
        let mut slots: Vec<u32> = places.iter().map(|&(slot, _)| slot).collect();
        slots.sort_unstable();
        if let Some(pair) = slots.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(ServiceError::DuplicateName(self.service(pair[0]).name().to_owned()));
        }
        let mut claiming = Vec::new();
        for (service, (slot, is_new)) in services.iter().zip(places) {
            if is_new || self.replace(slot, service) {
                claiming.push(slot);
            }
        }
        Ok(Placed { slots, claiming })
    }

    /// The slot of a service port's name, a new one if there is none, and whether it is new.
    fn slot_for(&mut self, service: &Arc<ServicePort>) -> (u32, bool) {
        let hash = self.key.hash_one((service.name(), service.family()));
        if let Some(slot) = self.slot_of_hash(hash, service.name(), service.family()) {
            return (slot, false);
        }
        let slot = self.services.insert(service.clone());
        self.names.insert(hash, slot);
        (slot, true)
    }

    /// Puts a service port in the place of the one in a slot. Returns whether its claims are to be
    /// made: not where they are those of the one before.
    fn replace(&mut self, slot: u32, service: &Arc<ServicePort>) -> bool {
        let former = self.service(slot);
        if Arc::ptr_eq(former, service) {
            return false;
        }
        let (spec, former) = (service.spec(), former.spec());
        let is_claiming = spec.protocol != former.protocol || spec.frontends != former.frontends;
        if is_claiming {
            self.give_up_claims(slot);
        }
        self.services.replace(slot, service.clone());
        is_claiming
    }

    fn claim_for(&mut self, slots: &[u32]) -> Result<(), ServiceError> {
        slots.iter().try_for_each(|&slot| self.claim_all(slot))
    }

    fn claim_all(&mut self, slot: u32) -> Result<(), ServiceError> {
        let service = self.service(slot).clone();
        for frontend in &service.spec.frontends {
            let owner = self.claim(slot, &service, frontend);
            if owner != slot {
                let place = match frontend.address {
                    Some(address) => SocketAddr::new(address, frontend.port).to_string(),
                    None => format!("node port {}", frontend.port),
                };
                return Err(ServiceError::DuplicateFrontend(
                    place,
                    self.service(owner).name().to_owned(),
                    service.name().to_owned(),
                ));
            }
        }
        Ok(())
    }

    /// Claims a frontend, and returns the slot that has it now.
    fn claim(&mut self, slot: u32, service: &ServicePort, frontend: &Frontend) -> u32 {
        let (protocol, &Frontend { kind, address, port }) = (service.spec.protocol, frontend);
        match address {
            Some(IpAddr::V4(address)) => {
                self.v4.claim(&FrontendKey { protocol, address, port }, kind, slot)
            }
            Some(IpAddr::V6(address)) => {
                self.v6.claim(&FrontendKey { protocol, address, port }, kind, slot)
            }
            None => match service.family() {
                Family::V4 => self.v4.claim_node_port(protocol, port, slot),
                Family::V6 => self.v6.claim_node_port(protocol, port, slot),
            },
        }
    }

    /// Gives up all claims of the service port in a slot.
    fn give_up_claims(&mut self, slot: u32) {
        let service = self.service(slot).clone();
        let protocol = service.spec.protocol;
        for &Frontend { kind, address, port } in &service.spec.frontends {
            match address {
                Some(IpAddr::V4(address)) => {
                    self.v4.give_up(&FrontendKey { protocol, address, port }, kind);
                }
                Some(IpAddr::V6(address)) => {
                    self.v6.give_up(&FrontendKey { protocol, address, port }, kind);
                }
                None => match service.family() {
                    Family::V4 => self.v4.give_up_node_port(protocol, port),
                    Family::V6 => self.v6.give_up_node_port(protocol, port),
                },
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::service::ServiceSpec;

    #[test]
    fn nothing_is_left_of_what_is_removed() {
        let service = ServicePort::new(ServiceSpec {
            frontends: vec![
                Frontend {
                    kind: FrontendKind::ClusterIp,
                    address: Some(Ipv4Addr::LOCALHOST.into()),
                    port: 80,
                },
                Frontend { kind: FrontendKind::NodePort, address: None, port: 30_080 },
            ],
            ..ServiceSpec::new("a", Protocol::TCP)
        })
        .expect("valid");
        let key = HashKey::new(1);
        let table = ServiceTable::new(&[Arc::new(service)], NodeView::default(), key);
        let table = table
            .expect("valid")
            .with_changes(&[], &[("a", Family::V4)], None)
            .expect("it is there");
        let is_named =
            |name| table.names.find(key.hash_one((name, Family::V4)), |_| true).is_some();
        assert!(!is_named("a"));
        assert_eq!(table.v4.node_port(Protocol::TCP, 30_080), None);
        assert_eq!(table.v4.role(Ipv4Addr::LOCALHOST), None);
        assert_eq!(table.services().count(), 0);
    }
}

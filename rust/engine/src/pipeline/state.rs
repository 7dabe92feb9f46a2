//! The engine's memory, by family and for both, and the books in which each flow stands.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;

use crate::affinity::Affinity;
use crate::clock::Clock;
use crate::config::Config;
use crate::conntrack::ports::{Claim, Leases};
use crate::conntrack::{FlowId, FlowTable, Hot};
use crate::counters::Counters;
use crate::events::{EventKind, Events};
use crate::fragment::{Fragments, Released};
use crate::hash::{AddressKey, HashKey};
use crate::ledger::{Ledger, Standing};
use crate::service::ServiceTable;
use crate::tuple::{Direction, Protocol};
use crate::wire::Wire;

/// Flows and fragments of one family.
#[derive(Debug)]
pub(crate) struct FamilyState<A> {
    pub(crate) flows: FlowTable<A>,
    pub(crate) fragments: Fragments<A>,
    pub(crate) events: Events<A>,
    /// Flows by source address; kept only under a limit per source.
    pub(crate) sources: HashMap<AddressKey<A>, u32, HashKey>,
}

impl<A: Wire> FamilyState<A> {
    pub(crate) fn new(config: &Config, key: HashKey) -> Self {
        Self {
            flows: FlowTable::new(config.max_flows, key),
            fragments: Fragments::new(config.max_fragments, key),
            events: Events::default(),
            sources: HashMap::with_hasher(key),
        }
    }
}

/// All that both families share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) config: Config,
    pub(crate) clock: Clock,
    pub(crate) table: Arc<ServiceTable>,
    /// Counts the tables; never [`crate::conntrack::STALE`].
    pub(crate) generation: u32,
    pub(crate) ledger: Ledger,
    pub(crate) affinity: Affinity,
    pub(crate) leases: Leases,
    pub(crate) counters: Counters,
    pub(crate) released: Vec<Released>,
    /// Offloaded flows that were ended here: protocol, client and frontend.
    pub(crate) orphans: Vec<(Protocol, SocketAddr, SocketAddr)>,
}

impl Shared {
    /// Notes that a flow which is ended here is to be ended by the kernel as well, if it carries
    /// it.
    pub(crate) fn orphan<A: Wire>(&mut self, family: &FamilyState<A>, id: FlowId) {
        let hot = family.flows.hot(id);
        if hot.has(Hot::<A>::OFFLOADED) {
            let original = hot.ends(Direction::Original);
            self.orphans.push((hot.protocol, original.source(), original.destination()));
        }
    }

    /// The service port that is reached where a flow began, if that is another one than the flow's:
    /// it has got another name, or another one's place.
    #[inline(always)]
    pub(crate) fn home<A: Wire>(&self, family: &FamilyState<A>, id: FlowId) -> Option<u32> {
        let hot = family.flows.hot(id);
        let (place, _) =
            self.table.find(hot.protocol, hot.ends(Direction::Original).destination())?;
        let number = self.ledger.number(place);
        (self.ledger.backend(family.flows.cold(id).backend).service != number).then_some(number)
    }

    /// The standing of a flow's backend: which flows it may still have. `home` is as
    /// [`Shared::home`] says.
    #[inline]
    pub(crate) fn standing<A: Wire>(
        &self,
        family: &FamilyState<A>,
        id: FlowId,
        home: Option<u32>,
    ) -> Standing {
        let backend = self.ledger.backend(family.flows.cold(id).backend);
        match home {
            Some(number) => self.ledger.standing(number, backend.address),
            None => backend.standing,
        }
    }

    /// Enters a flow in the books of another service port. `home` is as [`Shared::home`] says.
    pub(crate) fn rehome<A: Wire>(
        &mut self,
        family: &mut FamilyState<A>,
        id: FlowId,
        home: Option<u32>,
    ) {
        if let Some(number) = home {
            let (hot, cold) = family.flows.both(id);
            let (state, former) = (hot.state, cold.backend);
            let backend = self.ledger.backend_for(number, self.ledger.backend(former).address);
            // Packets and bytes were not counted anywhere yet, so both books get none: the whole
            // traffic is counted where the flow ends.
            self.ledger.open_flow(backend, state);
            self.ledger.close_flow(former, state, [0; 2], [0; 2]);
            family.flows.cold_mut(id).backend = backend;
        }
    }

    /// Takes a flow out of all books.
    pub(crate) fn end_flow<A: Wire>(&mut self, family: &mut FamilyState<A>, id: FlowId) {
        // Watchers get the flow as it was, so the event comes before the books change.
        family.events.note(EventKind::Destroy, &family.flows, id);
        let (hot, cold) = (family.flows.hot(id), family.flows.cold(id));
        let client = hot.ends(Direction::Original).src;
        self.ledger.close_flow(cold.backend, hot.state, family.flows.packets(id), hot.bytes);
        if hot.has(Hot::<A>::LEASED) {
            let reply = hot.ends(Direction::Reply);
            let claim = Claim::of_flow(hot);
            self.leases.give_back(&claim, reply.dport);
        }
        if self.config.max_flows_per_source.is_some()
            && let Some(flows) = family.sources.get_mut(&AddressKey(client))
        {
            *flows -= 1;
            // Entries without flows would let addresses fill the map.
            if *flows == 0 {
                family.sources.remove(&AddressKey(client));
            }
        }
        family.flows.remove(id);
    }
}

//! Who holds the places of the cache: as many flows as there is room for, by their clients'
//! addresses.
//!
//! While there is room, a client takes as much as it likes. When there is none, two kinds of flows
//! make room: idle ones, which the last look has offered, whoever has them; and, for a client that
//! has less than its share, flows of the client that has most and more than that. So one client
//! that opens connections without an end leaves others three quarters of the room. Backends have
//! no share: many clients of one Service are no fault.

use std::collections::HashMap;
use std::net::IpAddr;

use super::FlowKey;

#[derive(Debug)]
pub(super) struct Places {
    limit: usize,
    taken: usize,
    /// Of each client.
    clients: HashMap<IpAddr, usize>,
    /// Clients with more than their share.
    excessive: usize,
    /// Flows that the last look found idle. They may be so no more.
    idle: Vec<FlowKey>,
    /// Flows of one client that had more than its share.
    excess: Vec<FlowKey>,
}

impl Places {
    pub(super) fn new(limit: usize) -> Self {
        Self {
            limit,
            taken: 0,
            clients: HashMap::new(),
            excessive: 0,
            idle: Vec::new(),
            excess: Vec::new(),
        }
    }

    pub(super) fn limit(&self) -> usize {
        self.limit
    }

    pub(super) fn taken(&self) -> usize {
        self.taken
    }

    pub(super) fn is_full(&self) -> bool {
        self.taken >= self.limit
    }

    /// A flow of this client had a place or not, and has one now or not.
    pub(super) fn change(&mut self, client: IpAddr, had_place: bool, has_place: bool) {
        let share = self.share();
        match (had_place, has_place) {
            (false, true) => {
                let count = self.clients.entry(client).or_default();
                *count += 1;
                self.taken += 1;
                self.excessive += usize::from(*count == share + 1);
            }
            (true, false) => {
                let Some(count) = self.clients.get_mut(&client) else { return };
                self.excessive -= usize::from(*count == share + 1);
                self.taken -= 1;
                *count -= 1;
                if *count == 0 {
                    self.clients.remove(&client);
                }
            }
            _ => {}
        }
    }

    /// Takes note of an idle flow, until the next look.
    pub(super) fn offer(&mut self, key: FlowKey) {
        self.idle.push(key);
    }

    pub(super) fn take_offer(&mut self) -> Option<FlowKey> {
        self.idle.pop()
    }

    /// A look begins.
    pub(super) fn withdraw(&mut self) {
        self.idle.clear();
    }

    /// A flow that makes room for one of this client; `None` if nobody has more than a share, or
    /// this client has that itself. Cost: a pass over all flows for [`BATCH`] of them.
    pub(super) fn excess<'a>(
        &mut self,
        client: IpAddr,
        flows: impl Iterator<Item = &'a FlowKey>,
        has_place: impl Fn(&FlowKey) -> bool,
    ) -> Option<FlowKey> {
        let share = self.share();
        let has = |clients: &HashMap<IpAddr, usize>, client: &IpAddr| {
            clients.get(client).copied().unwrap_or(0)
        };
        if self.excessive == 0 || has(&self.clients, &client) >= share {
            return None;
        }
        while let Some(key) = self.excess.pop() {
            if has(&self.clients, &key.original.src.ip()) > share && has_place(&key) {
                return Some(key);
            }
        }
        let (&greatest, &count) = self.clients.iter().max_by_key(|(_, count)| **count)?;
        let of_greatest = flows.filter(|key| key.original.src.ip() == greatest && has_place(key));
        self.excess = of_greatest.take(BATCH.min(count - share)).copied().collect();
        self.excess.pop()
    }

    /// Places that a client keeps, whatever others want.
    fn share(&self) -> usize {
        (self.limit / SHARES).max(1)
    }
}

const SHARES: usize = 4;
/// Flows that are found at once to make room.
const BATCH: usize = 64;

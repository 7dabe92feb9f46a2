//! ClientIP affinity: which backend a client had last, per service port. Bounded; no client is
//! forgotten early while there is room.

use std::collections::HashMap;
use std::hash::{Hash, Hasher};
use std::net::IpAddr;

use crate::clock::Tick;
use crate::hash::{HashKey, hash_address};

/// A client of one service port (by its number in the ledger).
pub(crate) type Client = (u32, IpAddr);

/// A client that hashes as a number or two.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct ClientKey(Client);

impl Hash for ClientKey {
    #[inline]
    fn hash<H: Hasher>(&self, state: &mut H) {
        match self.0 {
            (service, IpAddr::V4(address)) => hash_address(address, service, state),
            (service, IpAddr::V6(address)) => hash_address(address, service, state),
        }
    }
}

/// A client's memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Sticky {
    pub(crate) client: Client,
    /// The backend's record and birth in the ledger; a record that was reused has another birth.
    pub(crate) backend: (u32, u32),
    pub(crate) deadline: Tick,
}

/// All clients that are remembered.
#[derive(Debug)]
pub(crate) struct Affinity {
    places: HashMap<ClientKey, u32, HashKey>,
    /// Dense, so that a sweep can walk it in bounded steps.
    stickies: Vec<Sticky>,
    capacity: usize,
    cursor: usize,
}

impl Affinity {
    pub(crate) fn new(capacity: usize, key: HashKey) -> Self {
        Self { places: HashMap::with_hasher(key), stickies: Vec::new(), capacity, cursor: 0 }
    }

    pub(crate) fn len(&self) -> usize {
        self.stickies.len()
    }

    /// The backend that the client had, unless that was too long ago. Cost: one look-up.
    pub(crate) fn get(&self, client: &Client, now: Tick) -> Option<(u32, u32)> {
        let sticky = &self.stickies[*self.places.get(&ClientKey(*client))? as usize];
        (now <= sticky.deadline).then_some(sticky.backend)
    }

    /// Remembers a choice. A full table makes room by forgetting one of the next clients of the
    /// sweep, those first that are over.
    pub(crate) fn put(&mut self, sticky: Sticky, now: Tick) {
        if let Some(&place) = self.places.get(&ClientKey(sticky.client)) {
            self.stickies[place as usize] = sticky;
            return;
        }
        if self.capacity == 0 {
            return;
        }
        if self.stickies.len() >= self.capacity {
            let near = (0..EVICTION_REACH).map(|step| (self.cursor + step) % self.stickies.len());
            if let Some(victim) = near.min_by_key(|&place| self.stickies[place].deadline) {
                self.forget(victim);
                self.cursor = victim + 1;
            }
        }
        self.places.insert(ClientKey(sticky.client), self.stickies.len() as u32);
        self.stickies.push(sticky);
        debug_assert!(now <= sticky.deadline);
    }

    /// Looks at the next `budget` clients and forgets those that are over or that `is_gone`;
    /// returns how many.
    pub(crate) fn expire(
        &mut self,
        now: Tick,
        budget: usize,
        is_gone: impl Fn(&Sticky) -> bool,
    ) -> usize {
        let mut forgotten = 0;
        for _ in 0..budget.min(self.stickies.len()) {
            if self.cursor >= self.stickies.len() {
                self.cursor = 0;
            }
            match self.stickies.get(self.cursor) {
                Some(sticky) if now > sticky.deadline || is_gone(sticky) => {
                    self.forget(self.cursor);
                    forgotten += 1;
                }
                Some(_) => self.cursor += 1,
                None => break,
            }
        }
        forgotten
    }

    /// All that are remembered.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Sticky> {
        self.stickies.iter()
    }

    fn forget(&mut self, place: usize) {
        let removed = self.stickies.swap_remove(place);
        self.places.remove(&ClientKey(removed.client));
        if let Some(moved) = self.stickies.get(place) {
            self.places.insert(ClientKey(moved.client), place as u32);
        }
    }
}

/// Clients among which a full table looks for the one to forget.
const EVICTION_REACH: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;

    fn sticky(n: u32, deadline: Tick) -> Sticky {
        Sticky { client: (0, IpAddr::from(n.to_be_bytes())), backend: (n, 0), deadline }
    }

    #[test]
    fn a_million_clients_are_kept_and_expire_in_bounded_steps() {
        let mut affinity = Affinity::new(1 << 20, HashKey::new(5));
        for n in 0..1_000_000 {
            affinity.put(sticky(n, 100 + n % 2), 0);
        }
        assert!((0..1_000_000).all(|n| affinity.get(&sticky(n, 0).client, 100) == Some((n, 0))));
        assert_eq!(affinity.get(&sticky(2, 0).client, 101), None, "over");
        let mut forgotten = 0;
        for _ in 0..1000 {
            let step = affinity.expire(101, 2000, |_| false);
            assert!(step <= 2000);
            forgotten += step;
        }
        assert_eq!(forgotten, 500_000);
        assert_eq!(affinity.len(), 500_000);
        assert!(
            (0..1_000_000)
                .all(|n| affinity.get(&sticky(n, 0).client, 101).is_some() == (n % 2 == 1))
        );
    }

    #[test]
    fn a_full_table_forgets_what_is_nearest_to_its_end() {
        let mut affinity = Affinity::new(16, HashKey::new(5));
        for n in 0..16 {
            affinity.put(sticky(n, 100 + n), 0);
        }
        affinity.put(sticky(99, 500), 0);
        assert_eq!(affinity.len(), 16);
        assert_eq!(affinity.get(&sticky(0, 0).client, 0), None);
        assert_eq!(affinity.get(&sticky(99, 0).client, 0), Some((99, 0)));
    }
}

//! `anchor`: AnchorHash (Mendelson, Vargaftik, Barabash, Lorenz, Keslassy and Orda 2020).
//!
//! Keys hash into a fixed array of buckets, of which some work. A bucket that was removed remembers
//! how many worked right after it left (`after`); a key that falls on it is hashed again into those
//! and so on until a working one is met. Which buckets those were is found without copies: `at[b]`
//! is the bucket that stands in the place of `b`. A key of a bucket that works never moves, and
//! keys of one that leaves spread evenly over the others: the least moves there can be.
//!
//! The names of the paper's arrays: `after` is A, `heir` is K, `order` is W, `place` is L, and
//! `free` is the stack R.

use std::collections::HashMap;
use std::net::SocketAddr;

use kbe_nat_engine::balance::{Balancer, Request, State};
use kbe_nat_engine::rng::{mix64, scale};
use kbe_nat_engine::{Backend, Strategy};

use super::{Builder, units};

/// Buckets and their history.
#[derive(Clone, Debug)]
struct Buckets {
    /// 0 for a bucket that works; else how many worked after its removal.
    after: Vec<u32>,
    /// The bucket that took a removed one's place among those that worked.
    heir: Vec<u32>,
    /// Working buckets by place.
    order: Vec<u32>,
    /// Place of each bucket.
    place: Vec<u32>,
    /// Removed buckets; the last one returns first.
    free: Vec<u32>,
    working: u32,
}

impl Buckets {
    /// None works yet: as if all had worked, and left from the last to the first.
    fn new(count: u32) -> Self {
        let identity: Vec<u32> = (0..count).collect();
        Self {
            after: identity.clone(),
            heir: identity.clone(),
            order: identity.clone(),
            place: identity.clone(),
            free: identity.into_iter().rev().collect(),
            working: 0,
        }
    }

    fn add(&mut self) -> Option<u32> {
        let bucket = self.free.pop()?;
        let b = bucket as usize;
        self.after[b] = 0;
        self.place[self.order[self.working as usize] as usize] = self.working;
        let place = self.place[b] as usize;
        self.order[place] = bucket;
        self.heir[b] = bucket;
        self.working += 1;
        Some(bucket)
    }

    fn remove(&mut self, bucket: u32) {
        let b = bucket as usize;
        self.free.push(bucket);
        self.working -= 1;
        self.after[b] = self.working;
        let last = self.order[self.working as usize];
        self.order[self.place[b] as usize] = last;
        self.place[last as usize] = self.place[b];
        self.heir[b] = last;
    }

    fn memory_bytes(&self) -> usize {
        let Self { after, heir, order, place, free, working: _ } = self;
        [after, heir, order, place, free].map(|list| size_of_val(&list[..])).iter().sum()
    }

    fn find(&self, key: u64) -> Option<u32> {
        if self.working == 0 {
            return None;
        }
        let mut bucket = scale(mix64(key), self.after.len() as u64) as u32;
        while self.after[bucket as usize] > 0 {
            let size = self.after[bucket as usize];
            let hash = mix64(key ^ mix64(u64::from(bucket) + 1));
            let mut next = scale(hash, size.into()) as u32;
            // Buckets that left before this one had others in their places.
            while self.after[next as usize] >= size {
                next = self.heir[next as usize];
            }
            bucket = next;
        }
        // Bucket 0 without a removal has 0 in `after` too, whether it works or not.
        Some(bucket)
    }
}

/// A frozen state of the buckets. O(1) to pick in the mean while most buckets work.
#[derive(Debug)]
pub struct Anchor {
    buckets: Buckets,
    backends: Vec<u32>,
}

impl Balancer for Anchor {
    fn pick(&self, request: &Request<'_>, _: &mut State) -> Option<usize> {
        let bucket = self.buckets.find(request.flow)?;
        self.backends.get(bucket as usize).map(|&index| index as usize)
    }

    fn memory_bytes(&self) -> Option<usize> {
        Some(self.buckets.memory_bytes() + size_of_val(&self.backends[..]))
    }
}

/// Keeps buckets over changes.
#[derive(Debug)]
pub(super) struct AnchorBuilder {
    buckets: Buckets,
    /// The bucket of each unit of weight of a backend.
    homes: HashMap<(SocketAddr, u32), u32>,
}

impl AnchorBuilder {
    pub(super) fn new(buckets: u32) -> Self {
        Self { buckets: Buckets::new(buckets), homes: HashMap::new() }
    }
}

impl Builder for AnchorBuilder {
    fn build(&mut self, backends: &[Backend]) -> Result<Box<dyn Balancer>, String> {
        let units = units(backends)?;
        if units.len() > self.buckets.after.len() {
            let (need, have) = (units.len(), self.buckets.after.len());
            return Err(format!("{need} units of weight, but {have} buckets"));
        }
        let listed: HashMap<_, _> =
            units.iter().map(|&(index, unit)| ((backends[index].address, unit), index)).collect();
        // In a fixed order, as a map has none.
        let mut departures: Vec<_> =
            self.homes.keys().filter(|home| !listed.contains_key(home)).copied().collect();
        departures.sort_unstable();
        for home in departures {
            if let Some(bucket) = self.homes.remove(&home) {
                self.buckets.remove(bucket);
            }
        }
        let mut places = vec![0; self.buckets.after.len()];
        for &(index, unit) in &units {
            let home = (backends[index].address, unit);
            let bucket = match self.homes.get(&home) {
                Some(&bucket) => bucket,
                None => self.buckets.add().ok_or("no bucket is free")?,
            };
            self.homes.insert(home, bucket);
            places[bucket as usize] = index as u32;
        }
        Ok(Box::new(Anchor { buckets: self.buckets.clone(), backends: places }))
    }

    fn kind(&self) -> Strategy {
        super::MAPPING
    }
}

pub(super) const BUCKETS: u32 = 4096;

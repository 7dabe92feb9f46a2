//! Blocks of ports that clients have for themselves (RFC 6888; RFC 7422 calls them dynamic).
//!
//! A client gets its first block with its first flow, and another one when its blocks are full
//! towards the remote, up to its limit. A block is free again when its last flow has ended. One
//! line of a log per block tells whose its ports were. Blocks are those of an address of ours, for
//! all protocols together.
//!
//! Invariant: a block is in `free` exactly if it has no client. A restored flow may hold a port in
//! the block of another client: it counts for no block, and gets a line of its own.

use std::collections::HashMap;
use std::net::IpAddr;

use super::allocator::{PortAllocator, Wish};
use super::candidates::{Candidates, Cursor};
use super::claim::Claim;
use super::range::PortRange;
use crate::hash::{AddressKey, HashKey};

/// The blocks of all addresses.
#[derive(Clone, Debug)]
pub(super) struct Blocks {
    layout: Layout,
    per_client: usize,
    key: HashKey,
    pools: HashMap<AddressKey<IpAddr>, Pool, HashKey>,
}

/// Where blocks are in a range: one behind the other, the ports that fill none left out.
#[derive(Clone, Copy, Debug)]
pub(super) struct Layout {
    range: PortRange,
    size: u32,
    pub(super) count: u32,
}

/// The blocks of one address.
#[derive(Clone, Debug)]
struct Pool {
    /// By block: its client, and the client's mappings there.
    blocks: Vec<Option<(IpAddr, u32)>>,
    free: Vec<u32>,
    clients: HashMap<AddressKey<IpAddr>, Vec<u32>, HashKey>,
}

impl Layout {
    pub(super) fn new(range: PortRange, size: u16) -> Self {
        let size = u32::from(size.max(1));
        Self { range, size, count: range.count() as u32 / size }
    }

    /// The block of a port, if it lies in one.
    pub(super) fn block(&self, port: u16) -> Option<u32> {
        let block = self.range.contains(port).then(|| self.range.position(port) / self.size)?;
        (block < self.count).then_some(block)
    }

    /// A free port of a block, the first behind a random one.
    pub(super) fn search<F: Fn(u16) -> bool>(
        &self,
        block: u32,
        candidates: &Candidates<'_, F>,
        cursor: &mut Cursor,
    ) -> Option<u16> {
        let first = block * self.size;
        candidates.first_from(first + cursor.rng.below(self.size), first..first + self.size)
    }
}

impl Blocks {
    pub(super) fn new(range: PortRange, size: u16, per_client: u16, key: HashKey) -> Self {
        let pools = HashMap::with_hasher(key);
        Self { layout: Layout::new(range, size), per_client: per_client.into(), key, pools }
    }
}

impl PortAllocator for Blocks {
    fn find<F: Fn(u16) -> bool>(
        &self,
        wish: &Wish<'_>,
        candidates: &Candidates<'_, F>,
        cursor: &mut Cursor,
    ) -> Option<u16> {
        let Some(pool) = self.pools.get(&AddressKey(wish.source)) else {
            let block = (self.layout.count > 0).then(|| cursor.rng.below(self.layout.count))?;
            return self.layout.search(block, candidates, cursor);
        };
        let blocks = pool.clients.get(&AddressKey(wish.client.ip())).map_or(&[][..], Vec::as_slice);
        let port = blocks.iter().find_map(|&b| self.layout.search(b, candidates, cursor));
        if port.is_some() || blocks.len() >= self.per_client {
            return port;
        }
        // Nearly always the first free block has free ports. Restored flows may fill one.
        let start = cursor.rng.below(pool.free.len() as u32) as usize;
        let (before, behind) = pool.free.split_at(start);
        behind.iter().chain(before).find_map(|&b| self.layout.search(b, candidates, cursor))
    }

    fn take(&mut self, claim: &Claim, port: u16) -> u64 {
        let Some(block) = self.layout.block(port) else { return 1 };
        let (count, key) = (self.layout.count, self.key);
        let pool = self
            .pools
            .entry(AddressKey(claim.remote.source))
            .or_insert_with(|| Pool::new(count, key));
        let client = claim.client.ip();
        match &mut pool.blocks[block as usize] {
            Some((known, mappings)) if *known == client => {
                *mappings += 1;
                0
            }
            Some(_) => 1,
            free => {
                *free = Some((client, 1));
                pool.free.retain(|&other| other != block);
                pool.clients.entry(AddressKey(client)).or_default().push(block);
                1
            }
        }
    }

    fn give_back(&mut self, claim: &Claim, port: u16) -> u64 {
        let Some(block) = self.layout.block(port) else { return 1 };
        let Some(pool) = self.pools.get_mut(&AddressKey(claim.remote.source)) else { return 1 };
        let client = claim.client.ip();
        match &mut pool.blocks[block as usize] {
            Some((known, mappings)) if *known == client => {
                *mappings -= 1;
                if *mappings > 0 {
                    return 0;
                }
            }
            _ => return 1,
        }
        pool.release(block, client);
        1
    }
}

impl Pool {
    fn new(count: u32, key: HashKey) -> Self {
        let blocks = vec![None; count as usize];
        Self { blocks, free: (0..count).collect(), clients: HashMap::with_hasher(key) }
    }

    fn release(&mut self, block: u32, client: IpAddr) {
        self.blocks[block as usize] = None;
        self.free.push(block);
        if let Some(blocks) = self.clients.get_mut(&AddressKey(client)) {
            blocks.retain(|&other| other != block);
            if blocks.is_empty() {
                self.clients.remove(&AddressKey(client));
            }
        }
    }
}

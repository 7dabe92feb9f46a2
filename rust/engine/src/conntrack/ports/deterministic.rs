//! Blocks that follow from the client's address (RFC 7422).

use std::net::IpAddr;

use super::allocator::{PortAllocator, Wish};
use super::blocks::Layout;
use super::candidates::{Candidates, Cursor};
use super::claim::Claim;
use super::range::PortRange;
use crate::cidr::Cidr;

/// Each client's block is that of its position in the clients' networks. Nothing need be logged,
/// and each client has its ports for ever: one that is idle wastes them, and one beyond the last
/// block, or outside of the networks, gets none.
#[derive(Clone, Debug)]
pub(super) struct Deterministic {
    layout: Layout,
    clients: Vec<Cidr>,
}

impl Deterministic {
    pub(super) fn new(range: PortRange, size: u16, clients: &[Cidr]) -> Self {
        Self { layout: Layout::new(range, size), clients: clients.to_vec() }
    }

    fn block(&self, client: IpAddr) -> Option<u32> {
        let mut first = 0u128;
        let family = self.clients.iter().filter(|network| network.is_ipv4() == client.is_ipv4());
        for network in family {
            if let Some(position) = network.position(client) {
                let block = u32::try_from(first.checked_add(position)?).ok()?;
                return (block < self.layout.count).then_some(block);
            }
            first = first.saturating_add(network.count());
        }
        None
    }

    /// A restored flow may hold a port of another block, which the client's address does not tell.
    fn log_lines(&self, claim: &Claim, port: u16) -> u64 {
        let block = self.block(claim.client.ip());
        u64::from(block.is_none() || block != self.layout.block(port))
    }
}

impl PortAllocator for Deterministic {
    fn find<F: Fn(u16) -> bool>(
        &self,
        wish: &Wish<'_>,
        candidates: &Candidates<'_, F>,
        cursor: &mut Cursor,
    ) -> Option<u16> {
        self.layout.search(self.block(wish.client.ip())?, candidates, cursor)
    }

    fn take(&mut self, claim: &Claim, port: u16) -> u64 {
        self.log_lines(claim, port)
    }

    fn give_back(&mut self, claim: &Claim, port: u16) -> u64 {
        self.log_lines(claim, port)
    }
}

//! The interface of the ways to choose a free port.

use std::net::{IpAddr, SocketAddr};

use super::candidates::{Candidates, Cursor};
use super::claim::Claim;

/// A flow that wishes a port.
pub(super) struct Wish<'a> {
    /// As it sends.
    pub(super) client: SocketAddr,
    /// The address of ours that takes its place.
    pub(super) source: IpAddr,
    /// The keyed hash of the ends that are told apart.
    pub(super) hash: &'a dyn Fn() -> u64,
}

/// A way to choose among free ports.
///
/// `take` and `give_back` are told of every mapping that begins and ends, those that come from a
/// checkpoint included, and return how many lines a log of the translation gets then. The default
/// is a line each.
pub(super) trait PortAllocator {
    /// A free port, or none if the client can get none. Changes the cursor alone.
    fn find<F: Fn(u16) -> bool>(
        &self,
        wish: &Wish<'_>,
        candidates: &Candidates<'_, F>,
        cursor: &mut Cursor,
    ) -> Option<u16>;

    /// A mapping has begun.
    fn take(&mut self, _claim: &Claim, _port: u16) -> u64 {
        1
    }

    /// A mapping has ended.
    fn give_back(&mut self, _claim: &Claim, _port: u16) -> u64 {
        1
    }
}

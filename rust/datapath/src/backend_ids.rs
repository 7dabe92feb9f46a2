//! Identifiers of backends: the mark of a first packet tells the kernel by one of them where to
//! translate the packet's flow to.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{PoisonError, RwLock};

use kbe_nat_engine::wire::destination;

/// The identifier of each backend, as bits of the packet mark. It may change while queues use it.
#[derive(Debug)]
pub struct BackendIdMap {
    /// The bits that hold an identifier.
    mask: u32,
    marks: RwLock<HashMap<SocketAddr, u32>>,
    unknown: AtomicU64,
}

impl BackendIdMap {
    /// An empty map, which shifts identifiers into the bits of `mask`.
    #[must_use]
    pub fn new(mask: u32) -> Self {
        Self { mask, marks: RwLock::default(), unknown: AtomicU64::new(0) }
    }

    /// Removes backends, and then enters others with their identifiers.
    pub fn update(&self, added: Vec<(SocketAddr, u32)>, removed: &[SocketAddr]) {
        let mut marks = self.marks.write().unwrap_or_else(PoisonError::into_inner);
        for backend in removed {
            marks.remove(backend);
        }
        marks.extend(added.into_iter().map(|(backend, id)| (backend, self.mark_bits(id))));
    }

    /// The mark for the backend to which this packet was translated; `None`, and counted, when the
    /// backend has no identifier.
    #[must_use]
    pub fn mark_of(&self, packet: &[u8]) -> Option<u32> {
        let marks = self.marks.read().unwrap_or_else(PoisonError::into_inner);
        let mark = destination(packet).and_then(|backend| marks.get(&backend).copied());
        self.unknown.fetch_add(u64::from(mark.is_none()), Ordering::Relaxed);
        mark
    }

    /// `mark` without the bits that hold an identifier.
    #[must_use]
    pub fn clear(&self, mark: u32) -> u32 {
        mark & !self.mask
    }

    /// Packets that were left to the standby because their backend had no identifier.
    pub fn unknown(&self) -> u64 {
        self.unknown.load(Ordering::Relaxed)
    }

    fn mark_bits(&self, id: u32) -> u32 {
        id.checked_shl(self.mask.trailing_zeros()).unwrap_or(0) & self.mask
    }
}

//! Numbers of backends, by which the mark of a first packet tells the kernel where its flow goes.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{PoisonError, RwLock};

use kbe_nat_engine::wire::destination;

/// The backends' numbers as bits of the packet mark. They may change while queues use them.
#[derive(Debug)]
pub struct Numbers {
    /// The bits that hold a number.
    mask: u32,
    marks: RwLock<HashMap<SocketAddr, u32>>,
    unknown: AtomicU64,
}

impl Numbers {
    /// No numbers yet; later ones are shifted into these bits.
    #[must_use]
    pub fn new(mask: u32) -> Self {
        Self { mask, marks: RwLock::default(), unknown: AtomicU64::new(0) }
    }

    /// Gives backends numbers, and takes those of others away.
    pub fn change(&self, added: Vec<(SocketAddr, u32)>, removed: &[SocketAddr]) {
        let mut marks = self.marks.write().unwrap_or_else(PoisonError::into_inner);
        for backend in removed {
            marks.remove(backend);
        }
        marks.extend(added.into_iter().map(|(backend, number)| (backend, self.shifted(number))));
    }

    /// The mark for the backend to which this packet was translated; `None`, and counted, when that
    /// has no number.
    #[must_use]
    pub fn mark_of(&self, packet: &[u8]) -> Option<u32> {
        let marks = self.marks.read().unwrap_or_else(PoisonError::into_inner);
        let mark = destination(packet).and_then(|backend| marks.get(&backend).copied());
        self.unknown.fetch_add(u64::from(mark.is_none()), Ordering::Relaxed);
        mark
    }

    /// A mark without a number.
    #[must_use]
    pub fn cleared(&self, mark: u32) -> u32 {
        mark & !self.mask
    }

    /// Packets that were left to the standby because their backend had no number.
    pub fn unknown(&self) -> u64 {
        self.unknown.load(Ordering::Relaxed)
    }

    fn shifted(&self, number: u32) -> u32 {
        number.checked_shl(self.mask.trailing_zeros()).unwrap_or(0) & self.mask
    }
}

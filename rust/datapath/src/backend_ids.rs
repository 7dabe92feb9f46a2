//! Identifiers of backends: the mark of a first packet tells the kernel by one of them where to
//! translate the packet's flow to.

use std::collections::HashMap;
use std::net::{SocketAddr, SocketAddrV4, SocketAddrV6};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{PoisonError, RwLock};

use kbe_nat_engine::wire::destination;

/// The bits of the mark for each backend. A map for each family: the place of a `SocketAddr` is
/// three times that of an IPv4 backend, and there may be 150,000 of them.
#[derive(Debug, Default)]
struct Marks {
    v4: HashMap<SocketAddrV4, u32>,
    v6: HashMap<SocketAddrV6, u32>,
}

impl Marks {
    fn get(&self, backend: SocketAddr) -> Option<u32> {
        match backend {
            SocketAddr::V4(backend) => self.v4.get(&backend).copied(),
            SocketAddr::V6(backend) => self.v6.get(&backend).copied(),
        }
    }

    fn insert(&mut self, backend: SocketAddr, mark: u32) {
        match backend {
            SocketAddr::V4(backend) => self.v4.insert(backend, mark),
            SocketAddr::V6(backend) => self.v6.insert(backend, mark),
        };
    }

    fn remove(&mut self, backend: &SocketAddr) {
        match backend {
            SocketAddr::V4(backend) => self.v4.remove(backend),
            SocketAddr::V6(backend) => self.v6.remove(backend),
        };
    }
}

/// The identifier of each backend, as bits of the packet mark. It may change while queues use it.
#[derive(Debug)]
pub struct BackendIdMap {
    /// The bits that hold an identifier.
    mask: u32,
    marks: RwLock<Marks>,
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
        for (backend, id) in added {
            marks.insert(backend, self.mark_bits(id));
        }
    }

    /// The mark for the backend to which this packet was translated; `None`, and counted, when the
    /// backend has no identifier.
    #[must_use]
    pub fn mark_of(&self, packet: &[u8]) -> Option<u32> {
        let marks = self.marks.read().unwrap_or_else(PoisonError::into_inner);
        let mark = destination(packet).and_then(|backend| marks.get(backend));
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

//! The ports of a pool that are leased.
//!
//! Most pools have a handful of flows, and a list of ports is enough for those; from [`FEW`] on a
//! pool gets a bit per port, 8 kB, so that the search for a free one stays a pass over words.

/// Leased ports.
#[derive(Clone, Debug)]
pub(super) enum Taken {
    Few(Vec<u16>),
    Many { bits: Box<[u64; WORDS]>, count: u32 },
}

impl Default for Taken {
    fn default() -> Self {
        Self::Few(Vec::new())
    }
}

impl Taken {
    pub(super) fn has(&self, port: u16) -> bool {
        match self {
            Self::Few(ports) => ports.contains(&port),
            Self::Many { bits, .. } => bits[usize::from(port) / 64] >> (port % 64) & 1 == 1,
        }
    }

    /// Whether it was not taken before.
    pub(super) fn insert(&mut self, port: u16) -> bool {
        if self.has(port) {
            return false;
        }
        if let Self::Few(ports) = self {
            if ports.len() < FEW {
                ports.push(port);
                return true;
            }
            let mut bits = Box::new([0; WORDS]);
            for &port in ports.iter() {
                bits[usize::from(port) / 64] |= 1 << (port % 64);
            }
            *self = Self::Many { bits, count: FEW as u32 };
        }
        if let Self::Many { bits, count } = self {
            bits[usize::from(port) / 64] |= 1 << (port % 64);
            *count += 1;
        }
        true
    }

    /// Whether it was taken.
    pub(super) fn remove(&mut self, port: u16) -> bool {
        if !self.has(port) {
            return false;
        }
        match self {
            Self::Few(ports) => ports.retain(|&leased| leased != port),
            Self::Many { bits, count } => {
                bits[usize::from(port) / 64] &= !(1 << (port % 64));
                *count -= 1;
            }
        }
        true
    }

    pub(super) fn count(&self) -> usize {
        match self {
            Self::Few(ports) => ports.len(),
            Self::Many { count, .. } => *count as usize,
        }
    }

    /// The bits of one word of 64 ports; a list has none, and its ports must be asked for.
    pub(super) fn word(&self, word: usize) -> u64 {
        match self {
            Self::Few(_) => 0,
            Self::Many { bits, .. } => bits[word],
        }
    }
}

const WORDS: usize = 1 << 10;
/// Leases that are kept as a list; a bitmap costs as much as a list of 4,096.
const FEW: usize = 64;

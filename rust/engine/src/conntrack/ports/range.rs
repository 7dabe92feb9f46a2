//! The ports that may be leased, and their positions.

/// The ports that may be leased.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PortRange {
    /// Lowest and highest port.
    pub ports: (u16, u16),
    /// Lowest and highest port that is never leased: the cluster's node ports, which would shadow
    /// it (F33).
    pub reserved: (u16, u16),
}

impl Default for PortRange {
    fn default() -> Self {
        Self { ports: (1024, u16::MAX), reserved: (30_000, 32_767) }
    }
}

impl PortRange {
    pub(super) fn contains(&self, port: u16) -> bool {
        let within = |(low, high): (u16, u16)| (low..=high).contains(&port);
        within(self.ports) && !within(self.reserved)
    }

    /// The reserved ports within the range: the first one, and how many.
    fn gap(&self) -> (u32, u32) {
        let low = u32::from(self.reserved.0.max(self.ports.0));
        let high = u32::from(self.reserved.1.min(self.ports.1));
        (low, (high + 1).saturating_sub(low))
    }

    /// How many they are.
    #[must_use]
    pub fn count(&self) -> usize {
        let (low, high) = self.ports;
        let ports = (u32::from(high) + 1).saturating_sub(low.into());
        ports.saturating_sub(self.gap().1) as usize
    }

    /// The port at this position, below [`PortRange::count`].
    pub(super) fn port(&self, position: u32) -> u16 {
        let (first, count) = self.gap();
        let port = u32::from(self.ports.0) + position;
        (if count > 0 && port >= first { port + count } else { port }) as u16
    }

    /// The position of a port of the range.
    pub(super) fn position(&self, port: u16) -> u32 {
        let (first, count) = self.gap();
        let port = u32::from(port);
        port - u32::from(self.ports.0) - if port >= first { count } else { 0 }
    }
}

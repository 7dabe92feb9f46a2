//! A backend: one address and port that may answer for a service port, with its weight.

use std::net::SocketAddr;

/// One endpoint of a service port. Weight 0 drains: it keeps its flows and gets no new ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Backend {
    /// Where translated packets go.
    pub address: SocketAddr,
    /// Relative share of new flows; 0 drains.
    pub weight: u32,
    /// Whether a flow that it opens to itself is masqueraded, without which it would never see an
    /// answer.
    pub hairpin: bool,
}

impl Backend {
    /// A backend with weight 1 that may reach itself.
    #[must_use]
    pub fn new(address: SocketAddr) -> Self {
        Self { address, weight: 1, hairpin: true }
    }
}

//! The flows that need a port, and the ends that must be told apart.

use std::hash::{Hash, Hasher};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use super::super::record::Hot;
use crate::hash::{AddressKey, hash_address};
use crate::tuple::{Address, Direction, Protocol};

/// Whose answers must be told apart: protocol, the address that is answered to, and the backend
/// that answers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Remote {
    pub(crate) protocol: Protocol,
    pub(crate) source: IpAddr,
    pub(crate) backend: SocketAddr,
}

impl Remote {
    /// The pool of one of our addresses, where a port serves one mapping towards all backends.
    pub(super) fn of_address(self) -> Self {
        Self { backend: SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0), ..self }
    }
}

impl Hash for Remote {
    /// As numbers: the standard library would mix each field, variant and length by itself.
    #[inline]
    fn hash<H: Hasher>(&self, state: &mut H) {
        let rest = u32::from(self.backend.port()) << 8 | u32::from(self.protocol.0);
        AddressKey(self.source).hash(state);
        match self.backend.ip() {
            IpAddr::V4(address) => hash_address(address, rest, state),
            IpAddr::V6(address) => hash_address(address, rest, state),
        }
    }
}

/// A flow that needs a port: the client's end as it sends, and the ends that must be told apart.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Claim {
    pub(crate) client: SocketAddr,
    pub(crate) remote: Remote,
}

impl Claim {
    /// The claim of a flow that holds a lease.
    pub(crate) fn of_flow<A: Address>(hot: &Hot<A>) -> Self {
        let reply = hot.ends(Direction::Reply);
        let (source, backend) = (reply.dst.into(), reply.source());
        let client = hot.ends(Direction::Original).source();
        Self { client, remote: Remote { protocol: hot.protocol, source, backend } }
    }

    /// Whether the backend sees another address than the client's.
    pub(super) fn is_masqueraded(&self) -> bool {
        self.client.ip() != self.remote.source
    }
}

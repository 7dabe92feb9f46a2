//! Flows as callers see them.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

/// The ends of a packet.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Tuple {
    /// TCP or UDP, by IANA's number.
    pub protocol: u8,
    /// Address and port from which it comes.
    pub source: SocketAddr,
    /// Address and port to which it goes.
    pub destination: SocketAddr,
}

impl Tuple {
    /// That of the answers.
    #[must_use]
    pub const fn reversed(self) -> Self {
        Self { protocol: self.protocol, source: self.destination, destination: self.source }
    }

    /// Both addresses in the length of their family: `None` if there are two families.
    pub(crate) fn is_of_one_family(&self) -> bool {
        self.source.is_ipv4() == self.destination.is_ipv4()
    }
}

/// How packets of one direction of a flow are translated. Both directions of a flow are two
/// proposals.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Proposal {
    /// A packet as it comes.
    pub arriving: Tuple,
    /// The same packet as it leaves.
    pub leaving: Tuple,
}

impl Proposal {
    /// Whether both are of one family and of one protocol that has ports here.
    pub(crate) fn is_possible(&self) -> bool {
        let Self { arriving, leaving } = self;
        let protocols = [libc::IPPROTO_TCP as u8, libc::IPPROTO_UDP as u8];
        arriving.is_of_one_family()
            && leaving.is_of_one_family()
            && arriving.source.is_ipv4() == leaving.source.is_ipv4()
            && arriving.protocol == leaving.protocol
            && protocols.contains(&arriving.protocol)
    }
}

/// One direction of a flow in the cache.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CachedFlow {
    /// A packet as it comes.
    pub arriving: Tuple,
    /// The same packet as it leaves.
    pub leaving: Tuple,
    /// Packets that the cache has sent on. Segments that the kernel handles as one count as many.
    /// Processors that count at once may lose a few.
    pub packets: u64,
    /// Their bytes from the IP header on.
    pub bytes: u64,
    /// The device by which they leave.
    pub device: u32,
    /// The device by which they come.
    pub arrival: u32,
    /// Whether it would send on a packet that comes now, as far as leases go.
    pub is_current: bool,
    /// Whether a FIN, SYN or RST has ended it: it is not current again until it is entered anew.
    pub is_ended: bool,
}

/// What the programs tell of a direction of a connection of TCP.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Notice {
    /// What has happened.
    pub topic: Topic,
    /// A packet as it comes.
    pub arriving: Tuple,
    /// The same packet as it leaves.
    pub leaving: Tuple,
}

/// What a notice is about.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Topic {
    /// A RST has come, and gone the kernel's way.
    Reset,
    /// The cache has carried another 512 MiB.
    Volume,
}

/// A protocol's family, as the two sets of maps have it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Family {
    V4,
    V6,
}

impl Family {
    pub(crate) const ALL: [Self; 2] = [Self::V4, Self::V6];

    pub(crate) const fn of(address: &SocketAddr) -> Self {
        if address.is_ipv4() { Self::V4 } else { Self::V6 }
    }

    /// Bytes of an address.
    pub(crate) const fn length(self) -> usize {
        match self {
            Self::V4 => 4,
            Self::V6 => 16,
        }
    }

    /// The address whose bytes these are; of the wrong length, the unspecified one.
    pub(crate) fn address(self, bytes: &[u8]) -> IpAddr {
        match self {
            Self::V4 => <[u8; 4]>::try_from(bytes).map(IpAddr::from),
            Self::V6 => <[u8; 16]>::try_from(bytes).map(IpAddr::from),
        }
        .unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED))
    }
}

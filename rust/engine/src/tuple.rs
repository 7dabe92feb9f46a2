//! Both ends of a flow: protocol, addresses and ports of a packet, and the same seen from the other
//! side.

use std::fmt;
use std::hash::Hash;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// IPv4 or IPv6.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// The family of an address.
    #[must_use]
    pub fn of(address: IpAddr) -> Self {
        if address.is_ipv4() { Self::V4 } else { Self::V6 }
    }

    /// The version in the family's IP header.
    #[must_use]
    pub const fn version(self) -> u8 {
        match self {
            Self::V4 => 4,
            Self::V6 => 6,
        }
    }
}

/// An IP protocol number.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Protocol(pub u8);

impl Protocol {
    /// ICMP (RFC 792).
    pub const ICMP: Self = Self(1);
    /// TCP (RFC 9293).
    pub const TCP: Self = Self(6);
    /// UDP (RFC 768).
    pub const UDP: Self = Self(17);
    /// ICMPv6 (RFC 4443).
    pub const ICMPV6: Self = Self(58);
    /// SCTP (RFC 9260).
    pub const SCTP: Self = Self(132);

    /// The protocol of this name or number.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::NAMES
            .iter()
            .find(|(_, known)| known.eq_ignore_ascii_case(name))
            .map(|&(protocol, _)| protocol)
            .or_else(|| name.parse().ok().map(Self))
    }

    const NAMES: [(Self, &str); 5] = [
        (Self::TCP, "tcp"),
        (Self::UDP, "udp"),
        (Self::SCTP, "sctp"),
        (Self::ICMP, "icmp"),
        (Self::ICMPV6, "icmpv6"),
    ];
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match Self::NAMES.iter().find(|(known, _)| known == self) {
            Some((_, name)) => f.write_str(name),
            None => write!(f, "{}", self.0),
        }
    }
}

/// An address of one family; the engine's tables exist once for each.
pub trait Address:
    Copy + Eq + Ord + Hash + fmt::Debug + Send + Sync + Into<IpAddr> + 'static
{
    /// The family of these addresses.
    const FAMILY: Family;
    /// The version field of this family's IP header.
    const VERSION: u8 = Self::FAMILY.version();
    /// The address's bytes as one number, for hashing.
    fn bits(self) -> u128;
    /// The address as a number, in the order of addresses.
    fn number(self) -> u128;
    /// The address if it is of this family.
    fn from_ip(address: IpAddr) -> Option<Self>;
    /// The family's sum of 16-bit words, for checksum differences (native byte order, unfolded).
    fn words(self) -> u32;
}

impl Address for Ipv4Addr {
    const FAMILY: Family = Family::V4;

    #[inline]
    fn bits(self) -> u128 {
        u128::from(u32::from_ne_bytes(self.octets()))
    }

    #[inline]
    fn number(self) -> u128 {
        self.to_bits().into()
    }

    fn from_ip(address: IpAddr) -> Option<Self> {
        match address {
            IpAddr::V4(address) => Some(address),
            IpAddr::V6(_) => None,
        }
    }

    #[inline]
    fn words(self) -> u32 {
        let bits = u32::from_ne_bytes(self.octets());
        (bits & 0xffff) + (bits >> 16)
    }
}

impl Address for Ipv6Addr {
    const FAMILY: Family = Family::V6;

    #[inline]
    fn bits(self) -> u128 {
        u128::from_ne_bytes(self.octets())
    }

    #[inline]
    fn number(self) -> u128 {
        self.to_bits()
    }

    fn from_ip(address: IpAddr) -> Option<Self> {
        match address {
            IpAddr::V6(address) => Some(address),
            IpAddr::V4(_) => None,
        }
    }

    #[inline]
    fn words(self) -> u32 {
        // Every other word in a lane of 32 bits: four words leave room for their carries.
        const LANES: u64 = 0x0000_ffff_0000_ffff;
        let bits = u128::from_ne_bytes(self.octets());
        let lanes = |half: u64| (half & LANES) + (half >> 16 & LANES);
        let sums = lanes(bits as u64) + lanes((bits >> 64) as u64);
        (sums as u32) + (sums >> 32) as u32
    }
}

/// Both ends of a packet. Ports are 0 where the protocol has none; an ICMP echo request has its
/// identifier as source port, its reply the same as destination port, so that the reply of a
/// request is its mirror image.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ends<A> {
    /// Source address.
    pub src: A,
    /// Destination address.
    pub dst: A,
    /// Source port.
    pub sport: u16,
    /// Destination port.
    pub dport: u16,
}

impl<A: Address> Ends<A> {
    /// The same pair, seen from the other side.
    #[inline]
    #[must_use]
    pub fn reply(self) -> Self {
        Self { src: self.dst, dst: self.src, sport: self.dport, dport: self.sport }
    }

    /// Source address and port.
    #[must_use]
    pub fn source(self) -> SocketAddr {
        SocketAddr::new(self.src.into(), self.sport)
    }

    /// Destination address and port.
    #[must_use]
    pub fn destination(self) -> SocketAddr {
        SocketAddr::new(self.dst.into(), self.dport)
    }
}

impl<A: Address> From<Ends<A>> for WireEnds<A> {
    #[inline]
    fn from(ends: Ends<A>) -> Self {
        let ports = u32::from(ends.sport) << 16 | u32::from(ends.dport);
        Self { src: ends.src, dst: ends.dst, ports: ports.to_be_bytes() }
    }
}

/// [`Ends`] as they stand in a packet, so that they are compared and written as a whole.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct WireEnds<A> {
    /// Source address.
    pub src: A,
    /// Destination address.
    pub dst: A,
    /// Source and destination port, in network byte order.
    pub ports: [u8; 4],
}

impl<A: Address> Eq for WireEnds<A> {}

impl<A: Address> PartialEq for WireEnds<A> {
    /// Without branches between the parts: that some are equal and others not is rare where it
    /// matters.
    #[inline(always)]
    fn eq(&self, other: &Self) -> bool {
        let addresses = (self.src.bits() ^ other.src.bits()) | (self.dst.bits() ^ other.dst.bits());
        addresses | u128::from(u32::from_ne_bytes(self.ports) ^ u32::from_ne_bytes(other.ports))
            == 0
    }
}

impl<A: Address> WireEnds<A> {
    /// The same pair, seen from the other side.
    #[inline]
    #[must_use]
    pub fn reply(self) -> Self {
        let ports = u32::from_ne_bytes(self.ports).rotate_left(16).to_ne_bytes();
        Self { src: self.dst, dst: self.src, ports }
    }

    /// As numbers.
    #[inline]
    #[must_use]
    pub fn ends(self) -> Ends<A> {
        let ports = u32::from_be_bytes(self.ports);
        Ends { src: self.src, dst: self.dst, sport: (ports >> 16) as u16, dport: ports as u16 }
    }
}

/// Protocol and both ends. They identify one direction of a flow.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Tuple<A> {
    /// Addresses and ports.
    pub ends: Ends<A>,
    /// Protocol.
    pub protocol: Protocol,
}

impl<A: Address> Tuple<A> {
    /// The tuple of the answer.
    #[inline]
    #[must_use]
    pub fn reply(self) -> Self {
        Self { ends: self.ends.reply(), protocol: self.protocol }
    }
}

/// The way a packet of a flow travels.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Direction {
    /// From the client to the backend, as the flow's first packet.
    Original = 0,
    /// From the backend to the client.
    Reply = 1,
}

impl Direction {
    /// The other way.
    #[inline]
    #[must_use]
    pub fn opposite(self) -> Self {
        match self {
            Self::Original => Self::Reply,
            Self::Reply => Self::Original,
        }
    }
}

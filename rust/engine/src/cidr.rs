//! Ranges of addresses: of pods, of clients that may come in, of cluster IPs.

use std::fmt;
use std::net::IpAddr;

/// A range of addresses.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Cidr {
    network: IpAddr,
    prefix: u8,
}

impl fmt::Display for Cidr {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}", self.network, self.prefix)
    }
}

impl From<IpAddr> for Cidr {
    /// The range of this address alone.
    fn from(address: IpAddr) -> Self {
        Self { network: address, prefix: if address.is_ipv4() { 32 } else { 128 } }
    }
}

impl Cidr {
    /// The range of `prefix` bits around `address`; `None` when the family has no such prefix.
    #[must_use]
    pub fn new(address: IpAddr, prefix: u8) -> Option<Self> {
        let width = if address.is_ipv4() { 32 } else { 128 };
        (prefix <= width).then_some(Self { network: address, prefix })
    }

    /// Whether the range is of IPv4.
    #[must_use]
    pub fn is_ipv4(&self) -> bool {
        self.network.is_ipv4()
    }

    /// Whether this address, and no other, lies inside.
    #[must_use]
    pub fn is_just(&self, address: IpAddr) -> bool {
        self.network == address && self.prefix == if address.is_ipv4() { 32 } else { 128 }
    }

    /// The place of an address in the range, from 0; `None` outside of it.
    #[must_use]
    pub fn position(&self, address: IpAddr) -> Option<u128> {
        let bits = match address {
            IpAddr::V4(address) => address.to_bits().into(),
            IpAddr::V6(address) => address.to_bits(),
        };
        self.contains(address).then_some(bits & (self.count() - 1))
    }

    /// Addresses in the range; for all of IPv6 one less.
    #[must_use]
    pub fn count(&self) -> u128 {
        let width = if self.is_ipv4() { 32 } else { 128 };
        1u128.checked_shl(width - u32::from(self.prefix)).unwrap_or(u128::MAX)
    }

    /// Whether `address` lies inside.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        let differing = match (self.network, address) {
            (IpAddr::V4(a), IpAddr::V4(b)) => u128::from(a.to_bits() ^ b.to_bits()) << 96,
            (IpAddr::V6(a), IpAddr::V6(b)) => a.to_bits() ^ b.to_bits(),
            _ => return false,
        };
        differing.leading_zeros() >= u32::from(self.prefix)
    }
}

//! Hashes that are equal on every node, platform and version: the ground of the consistent
//! strategies.
//!
//! They spread well and are cheap, and they are no secret: the seed lets an attacker aim flows at a
//! backend. Tables that an attacker could flood need a keyed hash instead.

use std::net::{IpAddr, SocketAddr};

use crate::rng::mix64;

/// Hash of a client's address.
#[must_use]
pub fn stable_hash_address(address: IpAddr, seed: u64) -> u64 {
    absorb_address(start(seed), address)
}

/// Hash of an address and port. Flow label and scope of an IPv6 socket address do not count.
#[must_use]
pub fn stable_hash_endpoint(endpoint: SocketAddr, seed: u64) -> u64 {
    absorb(absorb_address(start(seed), endpoint.ip()), u64::from(endpoint.port()))
}

/// Hash of a flow: IP protocol number, both addresses and both ports, in this direction.
#[must_use]
pub fn stable_hash_tuple(protocol: u8, src: SocketAddr, dst: SocketAddr, seed: u64) -> u64 {
    let addresses = absorb_address(absorb_address(start(seed), src.ip()), dst.ip());
    let ports = u64::from(src.port()) << 16 | u64::from(dst.port());
    absorb(addresses, u64::from(protocol) << 32 | ports)
}

/// Mixes the seed by itself first: `seed ^ address` alone would make two seeds two orders of the
/// same hashes.
fn start(seed: u64) -> u64 {
    absorb(0, seed)
}

fn absorb_address(hash: u64, address: IpAddr) -> u64 {
    match address {
        IpAddr::V4(v4) => absorb(hash, u64::from(v4.to_bits())),
        IpAddr::V6(v6) => {
            let bits = v6.to_bits();
            absorb(absorb(hash, (bits >> 64) as u64), bits as u64)
        }
    }
}

fn absorb(hash: u64, word: u64) -> u64 {
    // The odd constant of SplitMix64 keeps zero, the fixed point of mix64, from staying zero.
    mix64((hash ^ word).wrapping_add(0x9e37_79b9_7f4a_7c15))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    fn endpoint(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    /// These numbers are shared by all nodes of a cluster, whatever version they run. They never
    /// change.
    #[test]
    fn golden() {
        let v4 = endpoint("192.0.2.1:40000");
        let v6 = endpoint("[2001:db8::1]:40000");
        let hashes = [
            stable_hash_address(v4.ip(), 0),
            stable_hash_address(v6.ip(), 0),
            stable_hash_endpoint(v4, 0),
            stable_hash_endpoint(v6, 0),
            stable_hash_tuple(6, v4, endpoint("10.96.0.1:80"), 1),
            stable_hash_tuple(17, v6, endpoint("[fd00::1]:53"), 1),
        ];
        assert_eq!(
            hashes,
            [
                8_155_974_245_528_717_141,
                1_001_210_987_488_415_653,
                16_809_563_522_952_271_010,
                12_552_995_974_463_723_154,
                16_022_326_583_510_082_189,
                2_151_393_898_664_200_592,
            ]
        );
    }

    #[test]
    fn every_field_counts() {
        let (a, b) = (endpoint("10.0.0.1:1"), endpoint("10.0.0.2:2"));
        let hashes = HashSet::from([
            stable_hash_tuple(6, a, b, 0),
            stable_hash_tuple(6, a, b, 1),
            stable_hash_tuple(6, b, a, 0),
            stable_hash_tuple(17, a, b, 0),
            stable_hash_tuple(6, endpoint("10.0.0.1:3"), b, 0),
            stable_hash_tuple(6, a, endpoint("10.0.0.2:3"), 0),
            stable_hash_tuple(6, endpoint("10.0.0.3:1"), b, 0),
            stable_hash_tuple(6, a, endpoint("10.0.0.3:2"), 0),
        ]);
        assert_eq!(hashes.len(), 8);
    }

    #[test]
    fn zeros_do_not_hash_to_zero() {
        assert_ne!(stable_hash_address(endpoint("0.0.0.0:0").ip(), 0), 0);
        assert_ne!(stable_hash_address(endpoint("[::]:0").ip(), 0), 0);
    }

    /// Neighbouring addresses fill 64 buckets evenly, by the high bits as well as by the low ones.
    #[test]
    fn neighbours_spread() {
        for shift in [0, 58] {
            let mut buckets = [0u32; 64];
            for host in 0..64_000u32 {
                let hash = stable_hash_address(IpAddr::V4((0x0a00_0000 | host).into()), 0);
                buckets[(hash >> shift & 63) as usize] += 1;
            }
            assert!(buckets.iter().all(|&count| (850..1150).contains(&count)), "{buckets:?}");
        }
    }
}

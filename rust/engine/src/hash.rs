//! Keyed hashes of the engine's own tables. A sender without the key cannot choose tuples that
//! collide (F28).

use std::hash::{BuildHasher, Hash, Hasher};
use std::net::IpAddr;

use crate::rng::Rng;
use crate::tuple::{Address, Protocol, WireEnds};

/// The secret of one engine's tables.
#[derive(Clone, Copy, Debug)]
pub struct HashKey([u64; 4]);

impl HashKey {
    /// A key that follows from `secret`; it is as unpredictable as that is.
    #[must_use]
    pub fn new(secret: u64) -> Self {
        let mut rng = Rng::new(secret);
        Self([rng.next_u64(), rng.next_u64(), rng.next_u64(), rng.next_u64()])
    }

    /// The hash of a tuple: folded 64 x 64 -> 128 bit multiplications, one for IPv4 and three for
    /// IPv6.
    #[inline(always)]
    #[must_use]
    pub(crate) fn tuple<A: Address>(&self, ends: &WireEnds<A>, protocol: Protocol) -> u64 {
        let ports = u64::from(u32::from_ne_bytes(ends.ports)) << 8 | u64::from(protocol.0);
        if A::VERSION == 4 {
            let addresses = (ends.src.bits() as u64) << 32 | ends.dst.bits() as u64;
            fold(addresses ^ self.0[0], ports ^ self.0[1])
        } else {
            let (src, dst) = (ends.src.bits(), ends.dst.bits());
            let src = fold(src as u64 ^ self.0[0], (src >> 64) as u64 ^ self.0[1]);
            let dst = fold(dst as u64 ^ self.0[2], (dst >> 64) as u64 ^ self.0[3]);
            fold(src.rotate_left(17) ^ dst ^ self.0[1], ports ^ self.0[2])
        }
    }
}

impl BuildHasher for HashKey {
    type Hasher = KeyedHasher;

    fn build_hasher(&self) -> KeyedHasher {
        KeyedHasher { state: self.0[0], key: self.0 }
    }
}

/// A [`Hasher`] over a [`HashKey`], for the standard library's maps.
#[derive(Debug)]
pub struct KeyedHasher {
    state: u64,
    key: [u64; 4],
}

impl Hasher for KeyedHasher {
    fn write(&mut self, bytes: &[u8]) {
        for block in bytes.chunks(8) {
            let mut word = [0; 8];
            for (to, &from) in word.iter_mut().zip(block) {
                *to = from;
            }
            self.write_u64(u64::from_le_bytes(word) ^ (block.len() as u64) << 56);
        }
    }

    fn write_u8(&mut self, value: u8) {
        self.write_u64(value.into());
    }

    fn write_u16(&mut self, value: u16) {
        self.write_u64(value.into());
    }

    fn write_u32(&mut self, value: u32) {
        self.write_u64(value.into());
    }

    fn write_u64(&mut self, value: u64) {
        self.state = fold(self.state ^ value, self.key[1]).wrapping_add(self.key[2]);
    }

    fn write_usize(&mut self, value: usize) {
        self.write_u64(value as u64);
    }

    fn finish(&self) -> u64 {
        fold(self.state, self.key[3])
    }
}

/// An address that hashes as a number or two: the standard library's hash of [`IpAddr`] mixes its
/// variant, its length and its bytes in turn, which costs more than a look-up.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct AddressKey<A>(pub(crate) A);

impl<A: Address> Hash for AddressKey<A> {
    #[inline]
    fn hash<H: Hasher>(&self, state: &mut H) {
        hash_address(self.0, 0, state);
    }
}

impl Hash for AddressKey<IpAddr> {
    #[inline]
    fn hash<H: Hasher>(&self, state: &mut H) {
        match self.0 {
            IpAddr::V4(address) => hash_address(address, 0, state),
            IpAddr::V6(address) => hash_address(address, 0, state),
        }
    }
}

/// Mixes in an address and 32 bits more.
#[inline]
pub(crate) fn hash_address<A: Address, H: Hasher>(address: A, rest: u32, state: &mut H) {
    let bits = address.bits();
    if A::VERSION == 4 {
        state.write_u64((bits as u64) << 32 | u64::from(rest));
    } else {
        state.write_u64((bits >> 64) as u64);
        state.write_u64(bits as u64);
        state.write_u32(rest);
    }
}

#[inline]
fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    product as u64 ^ (product >> 64) as u64
}

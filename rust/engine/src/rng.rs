//! A small seeded generator: the same seed gives the same choices on every run, platform and
//! version.
//!
//! Not for secrets: the keys of hash tables come from the caller.

/// SplitMix64 (Steele, Lea, Flood 2014): 64 bits of state, one multiply chain per draw.
#[derive(Clone, Debug)]
pub struct Rng(u64);

impl Rng {
    /// A generator whose whole sequence follows from `seed`.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next 64 random bits.
    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix64(self.0)
    }

    /// A number below `bound`, without modulo bias beyond 2^-32 (Lemire's multiply-shift). `bound`
    /// 0 gives 0.
    pub fn below(&mut self, bound: u32) -> u32 {
        (((self.next_u64() >> 32) * u64::from(bound)) >> 32) as u32
    }

    /// A number below a `bound` that may not fit in 32 bits. `bound` 0 gives 0.
    pub fn below_u64(&mut self, bound: u64) -> u64 {
        scale(self.next_u64(), bound)
    }
}

/// A bijective mixer of 64 bits (the finaliser of SplitMix64); also the stable hash step of
/// consistent strategies.
#[inline]
#[must_use]
pub fn mix64(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// Maps evenly spread 64 bits to a number below `bound` by multiply and shift: a modulo without its
/// division. It looks at the high bits first, so `x` must be a random number or a finished hash.
/// `bound` 0 gives 0.
#[inline]
#[must_use]
pub fn scale(x: u64, bound: u64) -> u64 {
    ((u128::from(x) * u128::from(bound)) >> 64) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn matches_the_published_sequence() {
        let mut rng = Rng::new(1_234_567);
        let expected: [u64; 5] = [
            6_457_827_717_110_365_317,
            3_203_168_211_198_807_973,
            9_817_491_932_198_370_423,
            4_593_380_528_125_082_431,
            16_408_922_859_458_223_821,
        ];
        assert_eq!(expected, std::array::from_fn(|_| rng.next_u64()));
    }

    #[test]
    fn stays_below_every_bound() {
        let mut rng = Rng::new(7);
        for bound in [1, 2, 3, 1000, u32::MAX] {
            assert!((0..1000).all(|_| rng.below(bound) < bound));
        }
        for bound in [1, 3, u64::from(u32::MAX) + 1, u64::MAX] {
            assert!((0..1000).all(|_| rng.below_u64(bound) < bound));
        }
        assert_eq!((rng.below(0), rng.below_u64(0)), (0, 0));
    }

    #[test]
    fn scale_reaches_both_ends() {
        assert_eq!((scale(0, 10), scale(u64::MAX, 10)), (0, 9));
    }
}

//! A small seeded generator: the same seed gives the same choices on every run, platform and version.
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

    /// A number below `bound`, without modulo bias beyond 2^-32 (Lemire's multiply-shift). `bound` 0 gives 0.
    pub fn below(&mut self, bound: u32) -> u32 {
        ((self.next_u64() >> 32) * u64::from(bound) >> 32) as u32
    }
}

/// A bijective mixer of 64 bits (the finaliser of SplitMix64); also the stable hash step of consistent strategies.
#[inline]
#[must_use]
pub fn mix64(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

//! A logarithm in integers, because `f64::ln` may differ in the last bit between platforms and
//! nodes must agree.

/// Binary digits after the point of a result.
pub(super) const FRACTION_BITS: u32 = 48;

/// `-log2(x / 2^64)` for `x > 0` (0 counts as 1), as fixed point with [`FRACTION_BITS`]; between 1
/// ulp and 64.
///
/// `x` is `m * 2^e` with `m` in [1, 2). With `c` the next of 256 grid points above `m`, `log2(c)`
/// comes from a table and `log2(c / m) = 2 / ln 2 * artanh(s)`, where `s = (c - m) / (c + m)` is at
/// most 2^-9, so that `artanh(s)` is `s` but for 1 part in 780,000. `m` is cut to 32 digits.
/// Because the grid point lies above, the first error vanishes as `x` nears 2^64, where the small
/// results (those which win) are: the whole error is below 2^-19 of the result plus 2^-30.
pub(super) fn neg_log2(x: u64) -> u64 {
    let x = x.max(1);
    let exponent = x.leading_zeros();
    let m = x << exponent >> 32;
    let cell = ((m >> 23) & 0xff) as usize + 1;
    let c = (256 + cell as u64) << 23;
    let s = ((c - m) << 40) / (c + m);
    (u64::from(exponent) << FRACTION_BITS) + ONE_MINUS_LOG2[cell] + ((s * TWO_OVER_LN_2) >> 22)
}

/// The highest number with the same [`neg_log2`]: it looks at the highest 32 digits, and any other
/// digits of these give another result.
#[inline]
pub(super) fn last_equal(x: u64) -> u64 {
    let x = x.max(1);
    x | (u64::from(u32::MAX) >> x.leading_zeros().min(32))
}

/// A number that is never above [`neg_log2`] of the same `x`: of `y` between 0 and 1, `-log2(y)` is
/// at least `(1 - y) / ln 2`. The 44 % that are left out are more than all errors together.
#[inline]
pub(super) fn at_least(x: u64) -> u64 {
    !x >> (64 - FRACTION_BITS)
}

/// `2 / ln 2` with 30 binary digits after the point.
const TWO_OVER_LN_2: u64 = 3_098_164_009;

/// `1 - log2(1 + i / 256)`.
const ONE_MINUS_LOG2: [u64; 257] = {
    let mut table = [0; 257];
    let mut i = 0;
    while i < 256 {
        table[i] = (1 << FRACTION_BITS) - log2_by_digits(256 + i as u128);
        i += 1;
    }
    table
};

/// `log2(m / 256)` for `m` in [256, 512), digit by digit: squaring doubles the logarithm, so what
/// carries over 2 is the next binary digit.
const fn log2_by_digits(m: u128) -> u64 {
    let mut y = m << 54;
    let mut digits = 0;
    let mut i = 0;
    while i < FRACTION_BITS {
        y = (y * y) >> 62;
        let carry = y >> 63;
        y >>= carry;
        digits = digits << 1 | carry as u64;
        i += 1;
    }
    digits
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Rng;

    fn as_float(x: u64) -> f64 {
        neg_log2(x) as f64 / (1u64 << FRACTION_BITS) as f64
    }

    #[test]
    fn golden() {
        let logarithms =
            [1, 3, 1 << 32, 0x8000_0000_0000_0000, 0xdead_beef_0000_0000, u64::MAX].map(neg_log2);
        assert_eq!(
            logarithms,
            [
                18_014_398_507_476_512,
                17_568_271_225_908_558,
                9_007_199_252_735_520,
                281_474_974_705_184,
                56_627_214_219_161,
                94_548,
            ]
        );
    }

    #[test]
    fn agrees_with_floating_point() {
        let mut rng = Rng::new(1);
        for _ in 0..100_000 {
            // Of every magnitude, and as near to 2^64 as 2^-20.
            let low = rng.next_u64() >> rng.below(63);
            for x in [low.max(1), !(low >> 1 >> rng.below(20))] {
                let exact = 64.0 - (x as f64).log2();
                let error = (as_float(x) - exact).abs();
                assert!(
                    error <= exact * 2f64.powi(-19) + 2f64.powi(-30),
                    "{x:#x}: {} for {exact}",
                    as_float(x)
                );
            }
        }
    }

    /// Of every magnitude, as near to 2^64 as can be, and around each point of the grid.
    #[test]
    fn the_bound_is_never_above() {
        let mut rng = Rng::new(3);
        let random = (0..200_000).flat_map(|_| {
            let low = rng.next_u64() >> rng.below(64);
            [low, !low]
        });
        let grid = (0..64).flat_map(|exponent| {
            (256..=512u128).flat_map(move |point| {
                let x = ((point << 55) >> exponent).min(u128::from(u64::MAX)) as u64;
                [x.saturating_sub(1), x, x.saturating_add(1), x.saturating_add(1 << 31)]
            })
        });
        for x in random.chain(grid).chain([0, 1, u64::MAX]) {
            assert!(at_least(x) <= neg_log2(x), "{x:#x}");
        }
        // It is of use: near 2^64, where the winners are, it says most of what there is to say.
        assert!(at_least(!(1 << 56)) * 3 > neg_log2(!(1 << 56)) * 2);
    }

    /// At random, and where one point of the grid gives way to the next.
    #[test]
    fn numbers_up_to_the_last_equal_one_are_equal_and_the_next_is_less() {
        let mut rng = Rng::new(4);
        let random = (0..200_000).map(|_| rng.next_u64() >> rng.below(64));
        let grid = (0..64).flat_map(|exponent| {
            (256..512u64).flat_map(move |point| {
                let x = (point << 55) >> exponent;
                [x.saturating_sub(1 << 32 >> exponent), x.saturating_sub(1), x, x + 1]
            })
        });
        for x in random.chain(grid).chain([0, 1, 2, u64::MAX - (1 << 32)]) {
            let last = last_equal(x);
            assert!(last >= x && neg_log2(last) == neg_log2(x), "{x:#x}");
            if let Some(next) = last.checked_add(1) {
                assert!(neg_log2(next) < neg_log2(x), "{x:#x}");
            }
        }
    }

    #[test]
    fn falls_as_x_grows() {
        let mut rng = Rng::new(2);
        let mut xs: Vec<u64> = (0..100_000).map(|_| rng.next_u64() >> rng.below(64)).collect();
        xs.sort_unstable();
        assert!(xs.windows(2).all(|pair| neg_log2(pair[0]) >= neg_log2(pair[1])));
        assert!(neg_log2(u64::MAX) > 0);
        assert_eq!(neg_log2(0), neg_log2(1));
    }
}

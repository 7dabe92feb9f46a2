//! Seeded draws: one stream for each purpose, so that no draw shifts another's sequence.
//!
//! Logarithms and powers are those of the `libm` crate, in software: a platform's own library may
//! round otherwise, and results would differ between machines.

use kbe_nat_engine::rng::{Rng, mix64, scale};

use crate::spec::Distribution;

/// A stream of draws.
#[derive(Clone, Debug)]
pub struct Stream(Rng);

impl Stream {
    /// The stream of a seed for one purpose of one part; others are independent of it.
    #[must_use]
    pub fn new(seed: u64, part: u64, purpose: Purpose) -> Self {
        Self(Rng::new(mix64(mix64(seed ^ mix64(part + 1)) ^ (purpose as u64 + 1))))
    }

    /// Evenly in (0, 1), neither end included.
    pub fn unit(&mut self) -> f64 {
        // 52 bits and a half: exact, and never 0 or 1.
        ((self.0.next_u64() >> 12) as f64 + 0.5) * (1.0 / (1u64 << 52) as f64)
    }

    /// Evenly below a bound.
    pub fn below(&mut self, bound: u64) -> u64 {
        scale(self.0.next_u64(), bound)
    }

    /// 64 even bits.
    pub fn bits(&mut self) -> u64 {
        self.0.next_u64()
    }

    /// Exponential with this mean.
    pub fn exponential(&mut self, mean: f64) -> f64 {
        -mean * libm::log(self.unit())
    }

    /// A value of a distribution. The heaviest tails end at [`LARGEST`], so that sums stay finite.
    pub fn draw(&mut self, distribution: &Distribution) -> f64 {
        let value = match distribution {
            Distribution::Constant(value) => *value,
            Distribution::Uniform(low, high) => low + (high - low) * self.unit(),
            Distribution::Exponential(mean) => self.exponential(*mean),
            Distribution::Pareto(shape, smallest) => {
                smallest * libm::pow(self.unit(), -1.0 / shape)
            }
            Distribution::Samples(values) => {
                let place = self.below(values.len() as u64) as usize;
                values.get(place).copied().unwrap_or(0.0)
            }
        };
        value.min(LARGEST)
    }
}

/// Of all draws: more seconds or bytes than any run has.
const LARGEST: f64 = 1e15;

/// The use of a stream.
#[derive(Clone, Copy, Debug)]
#[repr(u64)]
pub enum Purpose {
    /// Distances of arrivals.
    Arrivals,
    /// Which client.
    Clients,
    /// Which of several Services alike.
    Services,
    /// Bytes.
    Sizes,
    /// Seconds of life.
    Lifetimes,
    /// Seconds between connections of a closed loop.
    Thinking,
    /// The choices of balancers.
    Choices,
    /// Where the ports of a client begin.
    Ports,
}

/// Ranks by Zipf's law: rank k, from 1, has a share in proportion to k^-s.
///
/// Rejection-inversion (Hörmann and Derflinger 1996): constant memory and about one draw each,
/// whatever the number of ranks.
#[derive(Clone, Debug)]
pub struct Zipf {
    count: f64,
    exponent: f64,
    first: f64,
    last: f64,
    shift: f64,
}

impl Zipf {
    /// Ranks up to `count` with this exponent, above 0.
    #[must_use]
    pub fn new(count: u32, exponent: f64) -> Self {
        let mut zipf = Self { count: count.into(), exponent, first: 0.0, last: 0.0, shift: 0.0 };
        zipf.first = zipf.integral(1.5) - 1.0;
        zipf.last = zipf.integral(zipf.count + 0.5);
        zipf.shift = 2.0 - zipf.inverse(zipf.integral(2.5) - zipf.density(2.0));
        zipf
    }

    /// A rank, from 0.
    pub fn draw(&self, stream: &mut Stream) -> u32 {
        loop {
            let u = self.last + stream.unit() * (self.first - self.last);
            let x = self.inverse(u);
            let rank = libm::round(x).clamp(1.0, self.count);
            // The first test accepts most draws without a power.
            if rank - x <= self.shift || u >= self.integral(rank + 0.5) - self.density(rank) {
                return rank as u32 - 1;
            }
        }
    }

    fn density(&self, x: f64) -> f64 {
        libm::exp(-self.exponent * libm::log(x))
    }

    /// The integral of the density; `(x^(1-s) - 1) / (1 - s)`, exact near s = 1 too.
    fn integral(&self, x: f64) -> f64 {
        let logarithm = libm::log(x);
        let power = (1.0 - self.exponent) * logarithm;
        let ratio = if power.abs() > 1e-8 { libm::expm1(power) / power } else { 1.0 + power / 2.0 };
        ratio * logarithm
    }

    fn inverse(&self, x: f64) -> f64 {
        let scaled = (x * (1.0 - self.exponent)).max(-1.0);
        let ratio =
            if scaled.abs() > 1e-8 { libm::log1p(scaled) / scaled } else { 1.0 - scaled / 2.0 };
        libm::exp(ratio * x)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stream() -> Stream {
        Stream::new(7, 0, Purpose::Sizes)
    }

    #[test]
    fn means_are_those_of_the_distributions() {
        let rows = [
            (Distribution::Constant(3.0), 3.0),
            (Distribution::Uniform(1.0, 3.0), 2.0),
            (Distribution::Exponential(2.0), 2.0),
            // shape / (shape - 1) * smallest
            (Distribution::Pareto(3.0, 2.0), 3.0),
            (Distribution::Samples(vec![1.0, 2.0, 6.0]), 3.0),
        ];
        for (distribution, mean) in rows {
            let mut stream = stream();
            let sum: f64 = (0..200_000).map(|_| stream.draw(&distribution)).sum();
            let error = (sum / 200_000.0 - mean).abs();
            assert!(error < 0.02 * mean, "{distribution:?}: {}", sum / 200_000.0);
        }
    }

    /// The distance of Kolmogorov and Smirnov: 1.95 / sqrt(n) is exceeded by one sample in a
    /// thousand.
    #[test]
    fn draws_have_the_distribution_functions_of_their_laws() {
        const COUNT: usize = 40_000;
        type Function = fn(f64) -> f64;
        let rows: [(Distribution, Function); 3] = [
            (Distribution::Uniform(1.0, 3.0), |x| (x - 1.0) / 2.0),
            (Distribution::Exponential(2.0), |x| 1.0 - (-x / 2.0).exp()),
            (Distribution::Pareto(1.5, 2.0), |x| 1.0 - (2.0 / x).powf(1.5)),
        ];
        for (distribution, function) in rows {
            let mut stream = stream();
            let mut draws: Vec<f64> = (0..COUNT).map(|_| stream.draw(&distribution)).collect();
            draws.sort_by(f64::total_cmp);
            let distance = draws.iter().zip(0..).fold(0.0f64, |distance, (&draw, rank)| {
                let (low, high) = (f64::from(rank), f64::from(rank) + 1.0);
                let share = function(draw) * COUNT as f64;
                distance.max(share - low).max(high - share)
            });
            assert!(distance < 1.95 * (COUNT as f64).sqrt(), "{distribution:?}: {distance}");
        }
    }

    #[test]
    fn the_heaviest_tails_end() {
        let mut stream = stream();
        let draws = (0..1000).map(|_| stream.draw(&Distribution::Pareto(0.01, 1.0)));
        assert!(draws.fold(0.0, f64::max) <= LARGEST);
    }

    #[test]
    fn zipf_has_the_shares_of_its_law() {
        for exponent in [0.5, 1.0, 1.3, 3.0] {
            let (zipf, mut stream) = (Zipf::new(100, exponent), stream());
            let mut counts = [0u32; 100];
            for _ in 0..400_000 {
                counts[zipf.draw(&mut stream) as usize] += 1;
            }
            let total: f64 = (1..=100).map(|rank| f64::from(rank).powf(-exponent)).sum();
            for rank in [1, 2, 10] {
                let expected = 400_000.0 * f64::from(rank).powf(-exponent) / total;
                let count = f64::from(counts[rank as usize - 1]);
                let deviations = (count - expected).abs() / expected.sqrt();
                assert!(deviations < 5.0, "s {exponent}, rank {rank}: {count} for {expected}");
            }
        }
    }

    #[test]
    fn purposes_have_streams_of_their_own() {
        let first = |part, purpose| Stream::new(1, part, purpose).bits();
        let bits = [
            first(0, Purpose::Sizes),
            first(1, Purpose::Sizes),
            first(0, Purpose::Clients),
            first(1, Purpose::Clients),
        ];
        assert!((0..4).all(|i| (0..i).all(|j| bits[i] != bits[j])));
    }
}

//! Times as histograms: constant memory however many there are.

use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

/// Nanoseconds that are told from longer ones.
const LONGEST: u64 = 600_000_000_000;

/// Times while they are measured.
#[derive(Clone, Debug)]
pub(crate) struct Times(Histogram<u64>);

impl Times {
    pub(crate) fn new() -> Self {
        Self(Histogram::new_with_bounds(1, LONGEST, 3).expect("these bounds are valid"))
    }

    pub(crate) fn record(&mut self, time: Duration) {
        self.0.saturating_record(u64::try_from(time.as_nanos()).unwrap_or(LONGEST).max(1));
    }

    pub(crate) fn merge(&mut self, other: &Self) {
        self.0.add(&other.0).expect("both have the same bounds");
    }

    pub(crate) fn summary(&self) -> Latencies {
        let at = |share: f64| micros(self.0.value_at_quantile(share));
        let is_empty = self.0.is_empty();
        let unless_empty = |value: f64| if is_empty { 0.0 } else { value };
        Latencies {
            count: self.0.len(),
            mean_us: self.0.mean() / 1e3,
            max_us: unless_empty(micros(self.0.max())),
            p50_us: unless_empty(at(0.5)),
            p90_us: unless_empty(at(0.9)),
            p99_us: unless_empty(at(0.99)),
            p999_us: unless_empty(at(0.999)),
            buckets: self
                .0
                .iter_recorded()
                .map(|bucket| {
                    (micros(bucket.value_iterated_to()), bucket.count_since_last_iteration())
                })
                .collect(),
        }
    }
}

fn micros(ns: u64) -> f64 {
    ns as f64 / 1e3
}

/// A histogram of times, with three significant digits; zeros without any.
#[derive(Clone, Debug, Serialize)]
pub struct Latencies {
    /// How many there are.
    pub count: u64,
    /// In the mean.
    pub mean_us: f64,
    /// The longest.
    pub max_us: f64,
    /// Quantiles.
    pub p50_us: f64,
    /// Nine of ten are no longer.
    pub p90_us: f64,
    /// 99 of 100.
    pub p99_us: f64,
    /// 999 of 1,000.
    pub p999_us: f64,
    /// The upper bound of each bucket that is not empty, in µs, and how many times it has.
    pub buckets: Vec<(f64, u64)>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_right_to_three_digits() {
        let mut times = Times::new();
        for micros in 1..=1000 {
            times.record(Duration::from_micros(micros));
        }
        let summary = times.summary();
        assert_eq!((summary.count, summary.buckets.iter().map(|b| b.1).sum::<u64>()), (1000, 1000));
        for (value, right) in [
            (summary.p50_us, 500.0),
            (summary.p90_us, 900.0),
            (summary.p99_us, 990.0),
            (summary.p999_us, 999.0),
            (summary.max_us, 1000.0),
            (summary.mean_us, 500.5),
        ] {
            assert!((value / right - 1.0).abs() < 2e-3, "{value} is not {right}");
        }
    }

    #[test]
    fn without_times_all_is_zero() {
        let summary = Times::new().summary();
        assert_eq!((summary.count, summary.p999_us, summary.max_us), (0, 0.0, 0.0));
        assert!(summary.buckets.is_empty());
    }
}

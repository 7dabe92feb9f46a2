//! Connect times: how long backends take until they answer a client's SYN with a SYN-ACK.
//!
//! Theory of operation. A flow that begins with a SYN notes the moment in a field that nothing else
//! uses until the backend has sent something ([`Tracking::note_syn`]), so a flow stays as large as
//! it was, and only the slow path, which takes every SYN-ACK, looks at it. The span goes into a
//! histogram of the backend. Counts of backends that are forgotten go to their service port, as
//! their traffic does.
//!
//! - The first SYN to a backend counts, not the one that was answered: a client waits from the
//!   first one on. Repeated SYNs move nothing.
//! - Refusals (RST), handshakes without an answer, and simultaneous opens have no connect time.
//! - In the datapath `first-packet` the engine sees the SYN alone; the kernel's events tell of the
//!   answer ([`crate::Engine::note_answer`]).
//!
//! [`Tracking::note_syn`]: crate::conntrack::tcp::Tracking::note_syn

/// Longest span of each bucket, in nanoseconds; one more bucket takes all that is longer. Clients
/// repeat their SYN after 1 s and 3 s, so the last ones tell how often.
pub const CONNECT_BOUNDS: [u64; 13] = [
    250_000,
    500_000,
    1_000_000,
    2_500_000,
    5_000_000,
    10_000_000,
    25_000_000,
    50_000_000,
    100_000_000,
    250_000_000,
    500_000_000,
    1_000_000_000,
    3_000_000_000,
];

/// A histogram of connect times.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ConnectTimes {
    /// Connections by [`CONNECT_BOUNDS`], the longer ones last.
    pub counts: [u64; CONNECT_BOUNDS.len() + 1],
    /// Nanoseconds of all together.
    pub nanoseconds: u64,
}

impl ConnectTimes {
    /// Counts a connection.
    pub(crate) fn note(&mut self, nanoseconds: u64) {
        let bucket = CONNECT_BOUNDS.partition_point(|&bound| bound < nanoseconds);
        self.counts[bucket] += 1;
        self.nanoseconds = self.nanoseconds.saturating_add(nanoseconds);
    }

    /// Counts the connections of another histogram as well.
    pub(crate) fn add(&mut self, other: &Self) {
        for (count, more) in self.counts.iter_mut().zip(other.counts) {
            *count += more;
        }
        self.nanoseconds = self.nanoseconds.saturating_add(other.nanoseconds);
    }

    /// Connections that were measured.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// The seconds within which this share of the connections was answered, as Prometheus'
    /// `histogram_quantile` reckons it: evenly spread within a bucket, and at most the last bound.
    /// `None` where there were none.
    #[must_use]
    pub fn quantile(&self, share: f64) -> Option<f64> {
        let rank = share * self.count() as f64;
        let (mut before, mut lower) = (0u64, 0);
        for (&count, &upper) in self.counts.iter().zip(&CONNECT_BOUNDS) {
            if count > 0 && (before + count) as f64 >= rank {
                let part = ((rank - before as f64) / count as f64).max(0.0);
                return Some((lower as f64 + (upper - lower) as f64 * part) / 1e9);
            }
            (before, lower) = (before + count, upper);
        }
        (self.count() > 0).then_some(lower as f64 / 1e9)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn times(nanoseconds: &[u64]) -> ConnectTimes {
        let mut times = ConnectTimes::default();
        nanoseconds.iter().for_each(|&each| times.note(each));
        times
    }

    #[test]
    fn a_bound_belongs_to_its_bucket() {
        for (bucket, &bound) in CONNECT_BOUNDS.iter().enumerate() {
            let counted = times(&[bound, bound + 1]);
            assert_eq!((counted.counts[bucket], counted.counts[bucket + 1]), (1, 1), "{bound}");
            assert_eq!(counted.nanoseconds, 2 * bound + 1);
        }
        assert_eq!(times(&[0]).counts[0], 1);
        assert_eq!(times(&[u64::MAX, u64::MAX]).nanoseconds, u64::MAX, "it stays at the most");
    }

    #[test]
    #[allow(clippy::float_cmp)]
    fn quantiles_are_those_of_prometheus() {
        assert_eq!(times(&[]).quantile(0.5), None);
        // Four within (25, 50] ms and one beyond the last bound.
        let five = times(&[30_000_000, 31_000_000, 40_000_000, 50_000_000, 9_000_000_000]);
        assert_eq!(five.quantile(0.4), Some(0.0375));
        assert_eq!(five.quantile(0.8), Some(0.05));
        assert_eq!(five.quantile(0.99), Some(3.0), "no more is known of the last one");
        assert_eq!(times(&[1, 2]).quantile(1.0), Some(0.000_25));
    }

    #[test]
    fn sums_count_both() {
        let (mut one, other) = (times(&[1, 2_000_000]), times(&[3_000_000]));
        one.add(&other);
        assert_eq!(one, times(&[1, 2_000_000, 3_000_000]));
        assert_eq!(one.count(), 3);
    }
}

//! Decaying peaks of connect times, by which `peak-ewma` compares backends.
//!
//! A time above the average replaces it at once; lower ones pull it down slowly, and silence lets
//! it fade (Finagle's Peak EWMA). So a backend that was slow is tried again after a while. The
//! engine's books keep one for each backend that has answered, and a balancer reads them with the
//! loads.

use std::num::NonZeroU32;

use crate::clock::Tick;

/// A backend's connect time, as it is remembered.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Latency {
    /// 0 before the first answer.
    nanoseconds: u32,
    /// When it was noted.
    at: Tick,
}

impl Latency {
    /// The rest of it, in nanoseconds; at least one. `None` before the first answer.
    #[inline]
    pub(super) fn rest(self, now: Tick, half_life: HalfLife) -> Option<u32> {
        let age = now.saturating_sub(self.at);
        (self.nanoseconds > 0).then(|| half_life.rest(self.nanoseconds, age).max(1))
    }

    /// The average once the backend has answered after so many nanoseconds.
    pub(crate) fn note(self, nanoseconds: u64, now: Tick, half_life: HalfLife) -> Self {
        // A client that waits for more than four seconds waits for very long.
        let latest = u32::try_from(nanoseconds).unwrap_or(u32::MAX).max(1);
        let rest = self.rest(now, half_life).unwrap_or(0);
        // The former average loses what the latest time gains in weight.
        let gained = latest - half_life.rest(latest, now.saturating_sub(self.at));
        let average = if self.nanoseconds == 0 { latest } else { rest.saturating_add(gained) };
        Self { nanoseconds: average.max(latest), at: now }
    }
}

/// The time in which a latency fades to a half, in 1/1024 of a tick.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct HalfLife(u64);

impl HalfLife {
    /// For a strategy that lets a latency fade to 1/e in so many milliseconds, or in the default.
    pub(crate) fn of(decay: Option<NonZeroU32>) -> Self {
        let decay = u64::from(decay.unwrap_or(DECAY).get());
        // By the natural logarithm of 2, in nanoseconds; a tick is 2^26 of them.
        Self((decay * 693_147 / (1 << (26 - FRACTION))).max(1))
    }

    /// `value * 2^-(age / half-life)`, within 0.3 %, in integers.
    #[inline]
    fn rest(self, value: u32, age: Tick) -> u32 {
        let halvings = (u64::from(age) << (FRACTION + 16)) / self.0;
        let (whole, part) = (halvings >> 16, halvings & 0xffff);
        // The parabola through 1, the root of a half, and a half.
        let share = (1 << 16) - ((part * (44_012 - ((11_244 * part) >> 16))) >> 16);
        let value = u64::from(value).checked_shr(whole.min(64) as u32).unwrap_or(0);
        ((value * share) >> 16) as u32
    }
}

/// Milliseconds in which a latency fades to 1/e, unless it is said.
// No zero: else this does not compile.
pub(super) const DECAY: NonZeroU32 = NonZeroU32::new(10_000).unwrap();
const FRACTION: u32 = 10;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::ticks;

    const TEN_SECONDS: Option<NonZeroU32> = NonZeroU32::new(10_000);

    #[test]
    fn it_fades_to_one_in_e() {
        let half_life = HalfLife::of(TEN_SECONDS);
        for seconds in [0.0, 0.5, 1.0, 3.0, 6.93, 10.0, 25.0, 60.0] {
            let age = ticks(seconds);
            let exact = 1e9 * (-f64::from(age) * 0.067_108_864 / 10.0).exp();
            let rest = f64::from(half_life.rest(1_000_000_000, age));
            assert!((rest - exact).abs() <= exact * 0.004 + 1.0, "{seconds} s: {rest}, {exact}");
        }
        assert_eq!(half_life.rest(u32::MAX, u32::MAX), 0);
        assert_eq!(HalfLife::of(NonZeroU32::new(1)).rest(u32::MAX, 0), u32::MAX);
    }

    #[test]
    fn a_peak_counts_in_full_and_less_pulls_it_down() {
        let half_life = HalfLife::of(TEN_SECONDS);
        let first = Latency::default().note(1_000_000, 5, half_life);
        assert_eq!(first, Latency { nanoseconds: 1_000_000, at: 5 });
        let peak = first.note(50_000_000, 6, half_life);
        assert_eq!(peak.nanoseconds, 50_000_000);
        assert_eq!(peak.note(1_000_000, 6, half_life), peak, "at once it changes nothing");
        let later = peak.note(1_000_000, 6 + ticks(10.0), half_life);
        // 50 / e and 1 - 1 / e.
        assert!((18_900_000..19_200_000).contains(&later.nanoseconds), "{later:?}");
        assert_eq!(Latency::default().note(u64::MAX, 9, half_life).nanoseconds, u32::MAX);
    }

    #[test]
    fn silence_forgets_all_but_that_there_was_an_answer() {
        let half_life = HalfLife::of(TEN_SECONDS);
        let latency = Latency::default().note(1_000_000_000, 0, half_life);
        assert_eq!(latency.rest(ticks(3600.0), half_life), Some(1));
        assert_eq!(Latency::default().rest(ticks(3600.0), half_life), None);
        // A clock that went back: it is as if no time had passed.
        assert_eq!(Latency { at: 9, ..latency }.rest(3, half_life), Some(1_000_000_000));
    }
}

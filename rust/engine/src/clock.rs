//! The engine's time: nanoseconds of the caller's monotonic clock, kept in ticks.

/// Nanoseconds of a tick, as a shift: 2^26 ns, 67 ms. A deadline is rounded up to a tick and over
/// when a later one begins, so it is late by up to two ticks and never early; 32 bits last for nine
/// years.
const TICK_SHIFT: u32 = 26;

/// A moment, in ticks since the engine's first packet.
pub(crate) type Tick = u32;

/// A moment of the caller's clock in units of 1,024 ns, of which 32 bits last for 73 minutes: to
/// measure short spans where 64 bits have no room.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Stamp(pub(crate) u32);

impl Stamp {
    /// A moment in the caller's nanoseconds.
    #[inline(always)]
    pub(crate) fn at(now: u64) -> Self {
        Self((now >> STAMP_SHIFT) as u32)
    }

    /// Nanoseconds since an earlier moment; `None` for what lies ahead, or behind by half of what
    /// 32 bits hold: the clock has jumped.
    pub(crate) fn since(self, earlier: Self) -> Option<u64> {
        let units = i32::try_from(self.0.wrapping_sub(earlier.0)).ok()?;
        Some(u64::from(units.unsigned_abs()) << STAMP_SHIFT)
    }
}

const STAMP_SHIFT: u32 = 10;

/// Follows the time that callers hand in. A clock that jumps back stands still until it has caught
/// up (F52).
#[derive(Clone, Debug, Default)]
pub(crate) struct Clock {
    origin: Option<u64>,
    /// As callers have handed it in last.
    now: u64,
    tick: Tick,
    /// The first nanosecond that belongs to a later tick.
    next: u64,
}

impl Clock {
    /// Takes note of `now`, in nanoseconds, and returns it in ticks.
    #[inline]
    pub(crate) fn advance(&mut self, now: u64) -> Tick {
        self.now = now;
        if now >= self.next {
            self.tick_over(now);
        }
        self.tick
    }

    #[inline(never)]
    fn tick_over(&mut self, now: u64) {
        self.tick = self.at(now);
        self.origin.get_or_insert(now);
        self.next = self.after(self.tick);
    }

    /// The tick that [`Clock::advance`] would return; the clock stays.
    #[inline]
    pub(crate) fn at(&self, now: u64) -> Tick {
        let origin = self.origin.unwrap_or(now);
        let tick = Tick::try_from(now.saturating_sub(origin) >> TICK_SHIFT).unwrap_or(Tick::MAX);
        tick.max(self.tick)
    }

    /// The latest moment that was seen.
    #[inline]
    pub(crate) fn tick(&self) -> Tick {
        self.tick
    }

    /// The moment that was handed in last.
    #[inline(always)]
    pub(crate) fn stamp(&self) -> Stamp {
        Stamp::at(self.now)
    }

    /// When a tick began, in the caller's nanoseconds.
    pub(crate) fn beginning(&self, tick: Tick) -> u64 {
        self.origin.unwrap_or(0).saturating_add(u64::from(tick) << TICK_SHIFT)
    }

    /// A moment in the caller's nanoseconds, the first at which [`Clock::advance`] is past `tick`.
    pub(crate) fn after(&self, tick: Tick) -> u64 {
        let ticks = (u64::from(tick) + 1) << TICK_SHIFT;
        self.origin.unwrap_or(0).saturating_add(ticks)
    }
}

/// The time from one moment to another. What an earlier engine or the kernel knows may have begun
/// ahead of this engine's first packet: such moments are numbers from the top of the range down.
pub(crate) fn between(earlier: Tick, later: Tick) -> Tick {
    later.wrapping_sub(earlier)
}

/// A span of seconds in ticks, rounded up.
pub(crate) fn ticks(seconds: f64) -> Tick {
    (seconds * 1e9 / f64::from(1u32 << TICK_SHIFT)).ceil() as Tick
}

/// A span of nanoseconds in ticks, rounded down.
pub(crate) fn whole_ticks(nanoseconds: u64) -> Tick {
    Tick::try_from(nanoseconds >> TICK_SHIFT).unwrap_or(Tick::MAX)
}

/// A number of ticks in seconds.
pub(crate) fn seconds(ticks: Tick) -> f64 {
    f64::from(ticks) * f64::from(1u32 << TICK_SHIFT) / 1e9
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn f52_clock_jumps() {
        let year = 365 * 86_400 * 1_000_000_000u64;
        let mut clock = Clock::default();
        assert_eq!(clock.advance(year), 0);
        assert_eq!(clock.advance(0), 0, "a jump back stands still");
        let later = clock.advance(year + 1_000_000_000);
        assert_eq!(later, 14);
        assert_eq!(clock.advance(year), later);
        assert_eq!(clock.at(year), later, "nor does a look at it");
        assert_eq!(
            clock.advance(u64::MAX),
            ((u64::MAX - year) >> 26).try_into().unwrap_or(Tick::MAX)
        );
    }

    #[test]
    fn f52_a_span_across_a_jump_is_none() {
        let span = |from: u64, to: u64| Stamp::at(to).since(Stamp::at(from));
        assert_eq!(span(5, 5), Some(0));
        assert_eq!(span(0, 50_000_000), Some(49_999_872), "in whole units");
        // The units run over, the span does not.
        let over = u64::from(u32::MAX) << 10;
        assert_eq!(span(over, over + 3_000_000_000), Some(2_999_999_488));
        assert_eq!(span(1_000_000, 0), None, "back");
        assert_eq!(span(0, 3600 * 1_000_000_000), None, "an hour ahead");
    }

    #[test]
    fn a_deadline_is_never_early() {
        let mut clock = Clock::default();
        clock.advance(5);
        let deadline = clock.tick() + ticks(30.0);
        assert!(clock.at(5 + 30_000_000_000) <= deadline);
        assert!(clock.at(clock.after(deadline)) > deadline);
        assert!(clock.after(deadline) < 5 + 30_200_000_000);
    }
}

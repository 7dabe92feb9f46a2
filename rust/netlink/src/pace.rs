//! How soon everything may be read again after the kernel has dropped messages.
//!
//! A flood that overruns a socket once overruns it again at once, and reading everything takes
//! longer than reading a message. So under a flood the readings come ever more rarely, and what
//! they would have told comes later, but the thread that reads goes on with its other work.

use std::time::{Duration, Instant};

/// Says when to read everything after losses: at once after quiet, and under a flood after rests
/// that grow from [`Pace::SHORTEST`] to [`Pace::LONGEST`].
#[derive(Debug)]
pub struct Pace {
    is_wanted: bool,
    rest: Duration,
    /// The end of the rest.
    next: Option<Instant>,
}

impl Pace {
    /// The first rest; a quiet time of the length of a rest brings it back.
    pub const SHORTEST: Duration = Duration::from_millis(100);
    /// Rests grow no longer.
    pub const LONGEST: Duration = Duration::from_secs(10);

    /// Nothing was lost yet.
    #[must_use]
    pub fn new() -> Self {
        Self { is_wanted: false, rest: Self::SHORTEST, next: None }
    }

    /// Takes note of a loss; returns whether its reading must rest first.
    pub fn lose(&mut self, now: Instant) -> bool {
        self.is_wanted = true;
        !self.is_due(now)
    }

    /// Whether everything is to be read now.
    #[must_use]
    pub fn is_due(&self, now: Instant) -> bool {
        self.is_wanted && self.next.is_none_or(|next| next <= now)
    }

    /// How long a reading still rests; `None`: there is none to come.
    #[must_use]
    pub fn patience(&self, now: Instant) -> Option<Duration> {
        let rest = self.next.map_or(Duration::ZERO, |next| next.saturating_duration_since(now));
        self.is_wanted.then_some(rest)
    }

    /// Takes note that everything has been read, from `started` on.
    pub fn read(&mut self, started: Instant, now: Instant) {
        if !std::mem::take(&mut self.is_wanted) {
            return;
        }
        let is_quiet = self.next.is_none_or(|next| next + self.rest <= started);
        self.rest = if is_quiet { Self::SHORTEST } else { (self.rest * 2).min(Self::LONGEST) };
        self.next = Some(now + self.rest);
    }
}

impl Default for Pace {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_of_losses_is_read_ever_more_rarely() {
        let start = Instant::now();
        let mut pace = Pace::new();
        assert!(!pace.is_due(start) && pace.patience(start).is_none(), "nothing was lost");
        let (mut now, mut readings) = (start, Vec::new());
        // A loss every millisecond for a minute.
        while now < start + Duration::from_secs(60) {
            let rests = pace.lose(now);
            assert_eq!(rests, !pace.is_due(now));
            if !rests {
                readings.push(now - start);
                pace.read(now, now);
            }
            now += Duration::from_millis(1);
        }
        assert_eq!(readings.first(), Some(&Duration::ZERO), "the first at once");
        assert!(readings.len() < 14, "{readings:?}");
        let pauses: Vec<_> = readings.windows(2).map(|pair| pair[1] - pair[0]).collect();
        assert!(pauses.is_sorted() && pauses.iter().all(|pause| *pause >= Pace::SHORTEST));
        assert!(pauses.iter().all(|pause| *pause <= Pace::LONGEST + Duration::from_millis(1)));
        // The last loss is read, too, and after quiet the next one at once.
        assert!(pace.patience(now).is_some_and(|rest| rest <= Pace::LONGEST));
        now += Pace::LONGEST;
        assert!(pace.is_due(now));
        pace.read(now, now);
        now += Pace::LONGEST * 2;
        assert!(!pace.lose(now));
        pace.read(now, now);
        assert_eq!(pace.patience(now), None);
        assert!(pace.lose(now));
        assert_eq!(pace.patience(now), Some(Pace::SHORTEST));
    }
}

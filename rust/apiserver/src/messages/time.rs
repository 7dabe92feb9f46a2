//! Moments, as RFC 3339 writes them.

use prost::Message;

use crate::error::Fault;
use crate::json::Value;

/// A moment in seconds since 1970. JSON has no fractions of them.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Time {
    #[prost(int64, optional, tag = "1")]
    seconds: Option<i64>,
    #[prost(int32, optional, tag = "2")]
    nanos: Option<i32>,
}

impl Time {
    pub(super) fn is_set(&self) -> bool {
        self.seconds.is_some() || self.nanos.is_some()
    }
}

impl Value for Time {
    fn write(&self, text: &mut Vec<u8>) -> Result<(), Fault> {
        let seconds = self.seconds.unwrap_or_default();
        let written =
            rfc3339(seconds).ok_or_else(|| Fault::new(format!("{seconds} s is no time")))?;
        written.write(text)
    }
}

/// The text in UTC; `None` outside of the years 0 to 9999.
fn rfc3339(seconds: i64) -> Option<String> {
    let days = seconds.div_euclid(86_400) + DAYS_BEFORE_1970;
    let time = seconds.rem_euclid(86_400);
    // Years that begin in March have their odd day last. 400 of them are always as long.
    let (era, day) = (days.div_euclid(DAYS_IN_ERA), days.rem_euclid(DAYS_IN_ERA));
    let year_of_era = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day_of_year = day - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    // From March on, five months have 153 days, and again.
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day_of_month = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = 400 * era + year_of_era + i64::from(month <= 2);
    let (hour, minute, second) = (time / 3_600, time / 60 % 60, time % 60);
    (0..=9999).contains(&year).then(|| {
        format!("{year:04}-{month:02}-{day_of_month:02}T{hour:02}:{minute:02}:{second:02}Z")
    })
}

/// From the first of March of the year 0.
const DAYS_BEFORE_1970: i64 = 719_468;
const DAYS_IN_ERA: i64 = 146_097;

#[cfg(test)]
mod tests {
    use super::rfc3339;

    #[test]
    fn moments_are_written_in_utc() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (-1, "1969-12-31T23:59:59Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_709_251_199, "2024-02-29T23:59:59Z"),
            (1_795_856_451, "2026-11-28T09:00:51Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
            (-62_167_219_200, "0000-01-01T00:00:00Z"),
            (253_402_300_799, "9999-12-31T23:59:59Z"),
        ] {
            assert_eq!(rfc3339(seconds).as_deref(), Some(text));
        }
        for seconds in [-62_167_219_201, 253_402_300_800, i64::MIN, i64::MAX] {
            assert_eq!(rfc3339(seconds), None, "{seconds}");
        }
    }

    #[test]
    fn a_day_follows_each_day() {
        let days: Vec<String> = (0..200_000)
            .filter_map(|day| rfc3339(day * 86_400))
            .map(|text| text[..10].to_owned())
            .collect();
        assert_eq!(days.len(), 200_000);
        assert!(days.is_sorted() && days.windows(2).all(|pair| pair[0] != pair[1]));
    }
}

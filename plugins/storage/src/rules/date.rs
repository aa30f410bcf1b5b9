//! Dates as documents of S3 write them, and days as S3 counts them: from midnight to midnight, UTC.

use hirsel_model::WallTime;

/// A day.
pub const DAY_MS: u64 = 24 * 60 * 60 * 1_000;

/// Reads `2026-01-31`, or `2026-01-31T10:00:00Z` with or without a fraction, or with another offset. None before 1970.
pub fn parse(text: &str) -> Option<WallTime> {
    let ms = match text.parse::<jiff::Timestamp>() {
        Ok(moment) => moment.as_millisecond(),
        Err(_) => {
            let day: jiff::civil::Date = text.parse().ok().filter(|_| text.len() == 10)?;
            jiff::tz::Offset::UTC.to_timestamp(day.at(0, 0, 0, 0)).ok()?.as_millisecond()
        }
    };
    u64::try_from(ms).ok().map(WallTime)
}

/// How long the days are that rules count in, in milliseconds and at least one: a day, but for tests that cannot wait for one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Day(pub u64);

impl Day {
    /// From midnight to midnight.
    pub const REAL: Day = Day(DAY_MS);

    /// The first midnight at or after this.
    pub fn midnight(self, time: WallTime) -> WallTime {
        let ms = self.0.max(1);
        WallTime(time.0.div_ceil(ms).saturating_mul(ms))
    }

    /// When something that is `days` old is due: the midnight after so many whole days (S3).
    pub fn days_after(self, time: WallTime, days: u32) -> WallTime {
        self.midnight(WallTime(time.0.saturating_add(u64::from(days).saturating_mul(self.0))))
    }
}

/// As headers of HTTP write it.
pub fn http(time: WallTime) -> String {
    // The year 9999 is the last that can be written.
    let most = 253_402_300_799_000;
    httpdate::fmt_http_date(std::time::UNIX_EPOCH + std::time::Duration::from_millis(time.0.min(most)))
}

/// As XML and JSON write it: `2026-01-31T10:00:00.000Z`.
pub fn iso(time: WallTime) -> String {
    let moment = i64::try_from(time.0).ok().and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok());
    format!("{:.3}", moment.unwrap_or(jiff::Timestamp::MAX))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn dates_are_read_as_they_are_usually_written() {
        assert_eq!(parse("1970-01-02"), Some(WallTime(DAY_MS)));
        assert_eq!(parse("2026-01-01T00:00:00Z"), Some(WallTime(1_767_225_600_000)));
        assert_eq!(parse("2026-01-01T01:00:00.250+01:00"), Some(WallTime(1_767_225_600_250)));
        for bad in ["", "soon", "2026-13-01", "2026-02-30", "1969-12-31", "20260101", "2026-01-01T00:00:00"] {
            assert_eq!(parse(bad), None, "{bad}");
        }
        assert_eq!(iso(WallTime(1_767_225_600_250)), "2026-01-01T00:00:00.250Z");
        assert_eq!(http(WallTime(1_767_225_600_250)), "Thu, 01 Jan 2026 00:00:00 GMT");
        assert!(!http(WallTime(u64::MAX)).is_empty() && !iso(WallTime(u64::MAX)).is_empty());
    }

    #[test]
    fn days_end_at_midnight() {
        let noon = WallTime(10 * DAY_MS + DAY_MS / 2);
        let day = Day::REAL;
        assert_eq!(day.days_after(noon, 1), WallTime(12 * DAY_MS), "a day later, and then the next midnight");
        assert_eq!(day.days_after(WallTime(10 * DAY_MS), 1), WallTime(11 * DAY_MS));
        assert_eq!(day.midnight(WallTime(10 * DAY_MS)), WallTime(10 * DAY_MS));
        assert_eq!(Day(10).days_after(WallTime(101), 3), WallTime(140), "a shorter day ends as often");
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(ms in 0_u64..253_402_300_799_000) {
            prop_assert_eq!(parse(&iso(WallTime(ms))), Some(WallTime(ms)));
        }
    }
}

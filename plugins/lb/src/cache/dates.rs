//! Dates as HTTP writes them (RFC 9110, section 5.6.7), in seconds since 1970.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use hirsel_model::WallTime;
use http::header::HeaderName;
use http::{HeaderMap, HeaderValue};
use httpdate::HttpDate;

/// The date that `name` says; none if there is none, or another one besides, or it is none.
pub fn said(headers: &HeaderMap, name: &HeaderName) -> Option<u64> {
    let mut lines = headers.get_all(name).iter();
    let (first, second) = (lines.next()?, lines.next());
    if second.is_some_and(|second| second != first) {
        return None;
    }
    read(first)
}

/// The date that this says.
pub fn read(value: &HeaderValue) -> Option<u64> {
    let date: HttpDate = value.to_str().ok()?.parse().ok()?;
    Some(SystemTime::from(date).duration_since(UNIX_EPOCH).ok()?.as_secs())
}

/// That moment as HTTP writes it.
pub fn written(at: WallTime) -> Option<HeaderValue> {
    // What the format has no room for no clock says.
    const YEAR_9999_S: u64 = 253_402_300_800;
    let seconds = at.0 / 1_000;
    let at = UNIX_EPOCH.checked_add(Duration::from_secs(seconds)).filter(|_| seconds < YEAR_9999_S)?;
    HeaderValue::try_from(HttpDate::from(at).to_string()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_read_in_all_three_forms_and_written_in_the_first() {
        let read = |text: &str| read(&HeaderValue::try_from(text).unwrap());
        for text in ["Sun, 06 Nov 1994 08:49:37 GMT", "Sunday, 06-Nov-94 08:49:37 GMT", "Sun Nov  6 08:49:37 1994"] {
            assert_eq!(read(text), Some(784_111_777), "{text}");
        }
        for text in ["0", "", "-1", "Sun, 06 Nov 1994 08:49:37 CET", "Sun, 32 Nov 1994 08:49:37 GMT"] {
            assert_eq!(read(text), None, "{text}");
        }
        assert_eq!(written(WallTime(784_111_777_999)).unwrap(), "Sun, 06 Nov 1994 08:49:37 GMT");
        assert_eq!(written(WallTime(u64::MAX)), None);
    }
}

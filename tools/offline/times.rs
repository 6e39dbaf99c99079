//! Times as people read them.

use jiff::Timestamp;
use jiff::tz::TimeZone;

/// `2026-11-21T22:53:54.123Z`; what is no time of the calendar stays a number.
pub fn rfc3339(ms: i64) -> String {
    match Timestamp::from_millisecond(ms) {
        Ok(time) => format!("{time:.3}"),
        Err(_) => format!("{ms}ms"),
    }
}

/// In the local zone, in a format of [`jiff::fmt::strtime`].
pub fn local(ms: i64, format: &str) -> String {
    match Timestamp::from_millisecond(ms) {
        Ok(time) => time.to_zoned(TimeZone::system()).strftime(format).to_string(),
        Err(_) => format!("{ms}ms"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written() {
        assert_eq!(rfc3339(1_795_301_634_123), "2026-11-21T22:53:54.123Z");
        assert_eq!(rfc3339(i64::MAX), format!("{}ms", i64::MAX));
    }
}

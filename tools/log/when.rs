//! Times as people write them.

use jiff::civil::{Date, DateTime};
use jiff::tz::TimeZone;
use jiff::{Span, Timestamp, Zoned};

/// Milliseconds since 1970 of a time: `2026-11-21T22:53:54Z`, `2026-11-21 22:53` (local), `2026-11-21`, `now`, a span
/// such as `10m` or `2h 30m` before now, or milliseconds since 1970.
pub fn parse(text: &str) -> Result<i64, String> {
    let now = Zoned::now();
    if text == "now" {
        return Ok(now.timestamp().as_millisecond());
    }
    if let Ok(ms) = text.parse::<i64>() {
        return Ok(ms);
    }
    if let Ok(time) = text.parse::<Timestamp>() {
        return Ok(time.as_millisecond());
    }
    let civil = text.parse::<DateTime>().or_else(|_| text.parse::<Date>().map(DateTime::from));
    if let Ok(time) = civil.and_then(|time| time.to_zoned(TimeZone::system())) {
        return Ok(time.timestamp().as_millisecond());
    }
    if let Ok(time) = text.parse::<Span>().and_then(|span| now.checked_sub(span)) {
        return Ok(time.timestamp().as_millisecond());
    }
    Err("expected a time such as 2026-11-21T22:53:54Z, 2026-11-21 22:53:54, 2026-11-21, now, or 10m (ago)".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read() {
        assert_eq!(parse("2026-11-21T22:53:54.123Z"), Ok(1_795_301_634_123));
        assert_eq!(parse("1795301634123"), Ok(1_795_301_634_123));
        let now = parse("now").unwrap();
        assert!((now - 3_700_000..now - 3_590_000).contains(&parse("1h").unwrap()));
        assert!(parse("2026-11-21").unwrap() < parse("2026-11-21 22:53:54").unwrap());
        assert!(parse("yesterdayish").is_err());
    }
}

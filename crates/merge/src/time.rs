//! Instants in time.

use chrono::{DateTime, SecondsFormat};

/// An instant with a resolution of one nanosecond, because devices send timestamps with up to nine fractional digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
pub struct Time {
    /// Microseconds since 2000-01-01 UTC: the value of a `timestamptz` of PostgreSQL.
    micros: i64,
    /// Additional nanoseconds, less than 1000.
    nanos: u16,
}

/// 2000-01-01 UTC in Unix time, in seconds.
const POSTGRES_EPOCH_UNIX: i64 = 946_684_800;

/// How far the timestamp of a device may be ahead of the `created_at` that the server gave the change, in microseconds.
const MAX_CLOCK_SKEW_MICROS: i64 = 5 * 60 * 1_000_000;

impl Time {
    /// Converts a `timestamptz` of PostgreSQL. Its infinities become the least and the greatest instant.
    pub const fn from_micros(micros: i64) -> Time {
        Time { micros, nanos: 0 }
    }

    /// Converts to a `timestamptz` of PostgreSQL. The fraction of a microsecond is cut off.
    pub const fn micros(self) -> i64 {
        self.micros
    }

    /// Parses an RFC 3339 timestamp. Returns `None` for any other text.
    pub fn parse(text: &[u8]) -> Option<Time> {
        let time = DateTime::parse_from_rfc3339(std::str::from_utf8(text).ok()?).ok()?;
        // chrono represents a leap second by 10^9 nanoseconds or more. It counts as the second that follows.
        let nanos = i64::from(time.timestamp_subsec_nanos());
        let micros = (time.timestamp() - POSTGRES_EPOCH_UNIX) * 1_000_000 + nanos / 1000;
        Some(Time { micros, nanos: (nanos % 1000) as u16 })
    }

    /// Returns whether the timestamp of a device is credible, for a change that the server recorded at `created_at`. A timestamp that is
    /// more than five minutes ahead is not credible. Otherwise a device with a wrong clock would win over all later writes.
    pub fn is_credible(self, created_at: Time) -> bool {
        self <= Time { micros: created_at.micros.saturating_add(MAX_CLOCK_SKEW_MICROS), nanos: created_at.nanos }
    }

    /// Formats the instant as an RFC 3339 timestamp in UTC, with as many fractional digits as needed. Returns an empty string for an
    /// instant that RFC 3339 cannot represent.
    pub fn to_rfc3339(self) -> String {
        let (seconds, micros) = (self.micros.div_euclid(1_000_000), self.micros.rem_euclid(1_000_000));
        let nanos = micros as u32 * 1000 + u32::from(self.nanos);
        let time =
            seconds.checked_add(POSTGRES_EPOCH_UNIX).and_then(|seconds| DateTime::from_timestamp(seconds, nanos));
        time.map(|time| time.to_rfc3339_opts(SecondsFormat::AutoSi, true)).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timestamps_are_compared_as_instants() {
        let time = |text: &str| Time::parse(text.as_bytes());
        assert!(time("2026-01-01T00:00:05Z") < time("2026-01-01T00:00:05.500Z"));
        assert_eq!(time("2026-01-01T00:00:05Z"), time("2026-01-01T02:00:05.000+02:00"));
        assert!(time("2026-01-01T00:00:00.0000001Z") < time("2026-01-01T00:00:00.0000002Z"));
        assert!(time("0001-01-01T00:00:00Z") < time("1999-12-31T23:59:59.999999999Z"));
        assert!(time("2016-12-31T23:59:59.999Z") < time("2016-12-31T23:59:60Z"));
        for text in ["", "yesterday", "2026-01-01", "2026-13-01T00:00:00Z", "1767225605", "2026-01-01T00:00:05"] {
            assert_eq!(time(text), None, "{text}");
        }
    }

    #[test]
    fn a_formatted_time_parses_to_the_same_instant() {
        for (text, printed) in [
            ("2026-01-01T02:00:05.500+02:00", "2026-01-01T00:00:05.500Z"),
            ("2026-01-01T00:00:05.000Z", "2026-01-01T00:00:05Z"),
            ("1985-04-12T23:20:50.123456789Z", "1985-04-12T23:20:50.123456789Z"),
        ] {
            let time = Time::parse(text.as_bytes()).unwrap();
            assert_eq!(time.to_rfc3339(), printed);
            assert_eq!(Time::parse(printed.as_bytes()), Some(time));
            assert_eq!(postcard::from_bytes(&postcard::to_stdvec(&time).unwrap()), Ok(time));
        }
        assert_eq!(Time::from_micros(i64::MAX).to_rfc3339(), "");
    }

    #[test]
    fn five_minutes_ahead_is_credible_and_more_is_not() {
        let created_at = Time::parse(b"2026-01-01T00:00:00Z").unwrap();
        assert!(Time::parse(b"2026-01-01T00:05:00Z").unwrap().is_credible(created_at));
        assert!(!Time::parse(b"2026-01-01T00:05:00.000000001Z").unwrap().is_credible(created_at));
        assert!(Time::from_micros(i64::MAX).is_credible(Time::from_micros(i64::MAX)));
    }
}

//! Times on the wire: new fields are RFC 3339 with `Z`, the original's are naive UTC.

use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use jiff::civil::DateTime;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A moment, written as RFC 3339 in UTC (`2026-11-21T10:00:00.123456Z`). Resolution: 1 µs;
/// range: the years 1970 to 9999.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Timestamp(jiff::Timestamp);

impl Timestamp {
    /// From microseconds since the Unix epoch; what lies outside the range is moved to its edge.
    #[must_use]
    pub fn from_unix_micros(micros: i64) -> Self {
        let clamped = micros.clamp(0, jiff::Timestamp::MAX.as_second() * 1_000_000);
        Self(jiff::Timestamp::from_microsecond(clamped).unwrap_or(jiff::Timestamp::UNIX_EPOCH))
    }

    /// From whole seconds since the Unix epoch.
    #[must_use]
    pub fn from_unix_seconds(seconds: u64) -> Self {
        Self::from_unix_micros(i64::try_from(seconds).unwrap_or(i64::MAX).saturating_mul(1_000_000))
    }

    /// Microseconds since the Unix epoch.
    #[must_use]
    pub fn unix_micros(self) -> i64 {
        self.0.as_microsecond()
    }

    /// Whole seconds since the Unix epoch.
    #[must_use]
    pub fn unix_seconds(self) -> u64 {
        u64::try_from(self.0.as_second()).unwrap_or(0)
    }

    /// This moment, `duration` later.
    #[must_use]
    pub fn plus(self, duration: Duration) -> Self {
        let micros = i64::try_from(duration.as_micros()).unwrap_or(i64::MAX);
        Self::from_unix_micros(self.unix_micros().saturating_add(micros))
    }

    /// How long ago `earlier` was at this moment; zero if it was not.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        let micros = self.unix_micros().saturating_sub(earlier.unix_micros());
        Duration::from_micros(u64::try_from(micros).unwrap_or(0))
    }

    /// The same moment as the original writes it.
    #[must_use]
    pub const fn naive(self) -> NaiveUtc {
        NaiveUtc(self)
    }
}

impl From<SystemTime> for Timestamp {
    fn from(time: SystemTime) -> Self {
        let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
        Self::from_unix_micros(i64::try_from(since.as_micros()).unwrap_or(i64::MAX))
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl std::str::FromStr for Timestamp {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parsed: jiff::Timestamp = text
            .parse()
            .map_err(|_| "not a time in RFC 3339 form, such as 2026-11-21T10:00:00Z".to_owned())?;
        Ok(Self::from_unix_micros(parsed.as_microsecond()))
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// A text that is no span of time.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{}' is not a span of time: write 90m, 2h, 1h30m, 7d or 2w", crate::text::printable(.0, 32))]
pub struct SpanError(String);

/// Whole seconds of a span as a person writes it: numbers each with `s`, `m`, `h`, `d` or `w`, the largest
/// unit first (`90m`, `1h30m`, `7d`). Upper case and spaces are read as well.
///
/// # Errors
/// [`SpanError`] for anything else: no unit, a unit twice or out of order, nothing at all, more than fits.
pub fn seconds_of(text: &str) -> Result<u64, SpanError> {
    const UNITS: [(char, u64); 5] =
        [('w', 7 * 86_400), ('d', 86_400), ('h', 3_600), ('m', 60), ('s', 1)];
    let wrong = || SpanError(text.to_owned());
    let (mut seconds, mut number, mut next_unit) = (0_u64, None::<u64>, 0);
    for letter in text.chars().filter(|c| *c != ' ') {
        if let Some(digit) = letter.to_digit(10) {
            let more =
                number.unwrap_or(0).checked_mul(10).and_then(|n| n.checked_add(digit.into()));
            number = Some(more.ok_or_else(wrong)?);
            continue;
        }
        let letter = letter.to_ascii_lowercase();
        let at = UNITS.iter().position(|(unit, _)| *unit == letter).filter(|at| *at >= next_unit);
        let (at, count) = at.zip(number.take()).ok_or_else(wrong)?;
        let part = count.checked_mul(UNITS[at].1);
        seconds = part.and_then(|part| seconds.checked_add(part)).ok_or_else(wrong)?;
        next_unit = at + 1;
    }
    if number.is_some() || next_unit == 0 { Err(wrong()) } else { Ok(seconds) }
}

/// Seconds in words, in their two largest units: `5 min 12 s`, `2 d 7 h`.
#[must_use]
pub fn in_words(seconds: u64) -> String {
    match (seconds / 86_400, seconds / 3_600 % 24, seconds / 60 % 60, seconds % 60) {
        (0, 0, 0, s) => format!("{s} s"),
        (0, 0, m, s) => format!("{m} min {s} s"),
        (0, h, m, _) => format!("{h} h {m} min"),
        (d, h, _, _) => format!("{d} d {h} h"),
    }
}

/// A moment in the original's form: UTC without `Z`, six decimals
/// (`2026-11-21T00:33:16.155948`). Reading also accepts an offset and fewer decimals.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NaiveUtc(pub Timestamp);

impl fmt::Display for NaiveUtc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let time = self.0.0.to_zoned(jiff::tz::TimeZone::UTC).datetime();
        write!(
            f,
            "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.{:06}",
            time.year(),
            time.month(),
            time.day(),
            time.hour(),
            time.minute(),
            time.second(),
            time.subsec_nanosecond() / 1_000,
        )
    }
}

impl Serialize for NaiveUtc {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for NaiveUtc {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        if let Ok(timestamp) = text.parse::<Timestamp>() {
            return Ok(Self(timestamp));
        }
        let naive: DateTime = text.parse().map_err(serde::de::Error::custom)?;
        let zoned = naive.to_zoned(jiff::tz::TimeZone::UTC).map_err(serde::de::Error::custom)?;
        Ok(Self(Timestamp::from_unix_micros(zoned.timestamp().as_microsecond())))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn both_forms_read_back() {
        let moment = Timestamp::from_unix_micros(1_795_221_196_155_948);
        assert_eq!(moment.to_string(), "2026-11-21T00:33:16.155948Z");
        assert_eq!(moment.naive().to_string(), "2026-11-21T00:33:16.155948");
        let json = serde_json::to_string(&moment.naive()).unwrap();
        assert_eq!(serde_json::from_str::<NaiveUtc>(&json).unwrap().0, moment);
        assert_eq!("2026-11-21T01:33:16.155948+01:00".parse::<Timestamp>().unwrap(), moment);
        let whole = Timestamp::from_unix_seconds(0);
        assert_eq!(whole.naive().to_string(), "1970-01-01T00:00:00.000000");
    }

    #[test]
    fn the_edges_hold() {
        let last = Timestamp::from_unix_micros(i64::MAX).to_string();
        assert!(last.starts_with("9999-12-3"), "{last}");
        assert_eq!(Timestamp::from_unix_micros(-5).unix_micros(), 0);
        assert!("yesterday".parse::<Timestamp>().is_err());
    }

    #[test]
    fn spans_are_read_as_people_write_them() {
        for (text, seconds) in [
            ("90m", 5_400),
            ("2h", 7_200),
            ("1h30m", 5_400),
            ("7d", 604_800),
            ("1W 1s", 604_801),
            ("0s", 0),
        ] {
            assert_eq!(seconds_of(text), Ok(seconds), "{text}");
        }
        for text in [
            "",
            "7",
            "h",
            "2h2h",
            "1m1h",
            "-1h",
            "1.5h",
            "99999999999999999999s",
            "9999999999999999999w",
        ] {
            assert!(seconds_of(text).is_err(), "{text}");
        }
    }

    #[test]
    fn durations_are_told_in_two_units() {
        for (seconds, words) in
            [(0, "0 s"), (312, "5 min 12 s"), (8_000, "2 h 13 min"), (200_000, "2 d 7 h")]
        {
            assert_eq!(in_words(seconds), words);
        }
    }
}

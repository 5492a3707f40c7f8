//! Moments as certificates state them: whole seconds since the Unix epoch, before 1970 and up to the end of year 9999.

use std::borrow::Cow;
use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Seconds in a day.
pub const DAY: i64 = 86_400;

/// A moment in whole seconds since 1970-01-01T00:00:00Z; negative before it.
///
/// Not `jiff::Timestamp`: RFC 5280 section 4.1.2.5 uses 99991231235959Z for "no end", which lies beyond that type's range.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UnixTime(pub i64);

impl UnixTime {
    /// Seconds from `self` until `later`; negative where it lies before.
    pub fn seconds_until(self, later: Self) -> i64 {
        later.0.saturating_sub(self.0)
    }

    /// The moment `seconds` later.
    pub fn plus(self, seconds: i64) -> Self {
        Self(self.0.saturating_add(seconds))
    }
}

impl UnixTime {
    /// Reads a moment of RFC 3339 section 5.6, with whatever offset and fraction of a second, as the API server takes it; the fraction is dropped.
    pub fn parse_rfc_3339(text: &str) -> Option<Self> {
        let (moment, rest) = text.split_at_checked(19)?;
        let is_between = |(at, allowed): (usize, &str)| moment.get(at..=at).is_some_and(|byte| allowed.contains(byte));
        let shape = [(4, "-"), (7, "-"), (10, "Tt"), (13, ":"), (16, ":")].into_iter().all(is_between);
        let (year, month, day) = (number(moment, 0..4)?, number(moment, 5..7)?, number(moment, 8..10)?);
        let (hour, minute, second) = (number(moment, 11..13)?, number(moment, 14..16)?, number(moment, 17..19)?);
        let date = (1..=12).contains(&month).then(|| days(year, month, day))?;
        // A leap second is the first one of the next minute.
        let exists = civil(date) == (year, month, day) && hour < 24 && minute < 60 && second <= 60;
        let rest = match rest.strip_prefix('.') {
            Some(fraction) if fraction.starts_with(is_digit) => fraction.trim_start_matches(is_digit),
            _ => rest,
        };
        let ahead = match rest.as_bytes() {
            b"Z" | b"z" => 0,
            [sign @ (b'+' | b'-'), _, _, b':', _, _] => {
                let (hours, minutes) = (number(rest, 1..3)?, number(rest, 4..6)?);
                let seconds = (hours < 24 && minutes < 60).then_some(hours * 3600 + minutes * 60)?;
                if *sign == b'+' { seconds } else { -seconds }
            }
            _ => return None,
        };
        (shape && exists).then_some(Self(date * DAY + hour * 3600 + minute * 60 + second - ahead))
    }
}

/// What [`UnixTime::parse_rfc_3339`] reads, as far as a pattern can say it: the API server's own check of `date-time` lets more through.
const PATTERN: &str =
    r"^[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt][0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]+)?([Zz]|[+-]([01][0-9]|2[0-3]):[0-5][0-9])$";

/// A number of digits alone: no sign, no blank.
fn number(text: &str, range: std::ops::Range<usize>) -> Option<i64> {
    let digits = text.get(range)?;
    digits.chars().all(is_digit).then(|| digits.parse().ok())?
}

fn is_digit(character: char) -> bool {
    character.is_ascii_digit()
}

/// RFC 3339 in UTC, such as `2026-11-23T20:21:00Z`.
impl fmt::Display for UnixTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let days = self.0.div_euclid(DAY);
        let second = self.0.rem_euclid(DAY);
        let (year, month, day) = civil(days);
        let (h, m, s) = (second / 3600, second / 60 % 60, second % 60);
        write!(f, "{year:04}-{month:02}-{day:02}T{h:02}:{m:02}:{s:02}Z")
    }
}

impl Serialize for UnixTime {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for UnixTime {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse_rfc_3339(&text).ok_or_else(|| D::Error::custom(format!("{text:?} is no moment of RFC 3339")))
    }
}

impl JsonSchema for UnixTime {
    fn schema_name() -> Cow<'static, str> {
        "UnixTime".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "format": "date-time", "pattern": PATTERN })
    }
}

/// The time between two moments in words for a person: `12 days`, `3 hours`, `expired 2 days ago`.
pub fn time_left(now: UnixTime, end: UnixTime) -> String {
    let seconds = now.seconds_until(end);
    if seconds <= 0 { format!("expired {} ago", in_words(-seconds)) } else { in_words(seconds) }
}

/// A length of time in the largest unit that leaves two of it or more.
pub fn in_words(seconds: i64) -> String {
    let (count, unit) = match seconds {
        s if s >= 2 * 365 * DAY => (s / (365 * DAY), "year"),
        s if s >= 2 * DAY => (s / DAY, "day"),
        s if s >= 2 * 3600 => (s / 3600, "hour"),
        s if s >= 120 => (s / 60, "minute"),
        s => (s, "second"),
    };
    format!("{count} {unit}{}", if count == 1 { "" } else { "s" })
}

/// Days since the epoch to (year, month, day) in the proleptic Gregorian calendar.
fn civil(days: i64) -> (i64, i64, i64) {
    // Eras of 400 years that start on 1 March, so that a leap day is the last day of its year.
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_index = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_index + 2) / 5 + 1;
    let month = if month_index < 10 { month_index + 3 } else { month_index - 9 };
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

/// The inverse of [`civil`].
fn days(year: i64, month: i64, day: i64) -> i64 {
    let year = year - i64::from(month <= 2);
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_print_as_rfc_3339_over_the_whole_range() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (-1, "1969-12-31T23:59:59Z"),
            (-631_152_000, "1950-01-01T00:00:00Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (2_524_608_000, "2050-01-01T00:00:00Z"),
            (253_402_300_799, "9999-12-31T23:59:59Z"),
        ] {
            assert_eq!(UnixTime(seconds).to_string(), text);
            assert_eq!(UnixTime::parse_rfc_3339(text), Some(UnixTime(seconds)));
        }
    }

    #[test]
    fn whatever_rfc_3339_and_the_pattern_allow_is_read_and_nothing_else() {
        let pattern = regex::Regex::new(PATTERN).unwrap();
        let noon = UnixTime(1_795_867_200);
        for (text, seconds) in [
            ("2026-11-28T12:00:00Z", 0),
            ("2026-11-28T12:00:00+00:00", 0),
            ("2026-11-28T12:00:00-00:00", 0),
            ("2026-11-28T20:00:00+08:00", 0),
            ("2026-11-28T00:30:00-11:30", 0),
            ("2026-11-29T02:00:00.999999999+14:00", 0),
            ("2026-11-28t12:00:01.5z", 1),
            ("2026-11-28T11:59:60Z", 0),
        ] {
            assert_eq!(UnixTime::parse_rfc_3339(text), Some(noon.plus(seconds)), "{text}");
            assert!(pattern.is_match(text), "{text}");
        }
        // The first five are such as Kubernetes 1.34 takes for a date-time.
        for text in [
            "2026-11-28T12:00:00x5Z",
            "2026-11-28T12:00:00ZT",
            "2026-11-28T12:00:00Zt12:00:00Z",
            "2026-11-28T12:00:00+99:99",
            "2026-11-28T12:00:00+24:00",
            "2026-11-28 12:00:00Z",
            "2026-11-28T12:00:00",
            "2026-11-28T12:00:00+0800",
            "2026-11-28T12:00:00.Z",
            "+026-11-28T12:00:00Z",
            "",
            "2026-11-28T12:00:0\u{e4}Z",
        ] {
            assert_eq!(UnixTime::parse_rfc_3339(text), None, "{text}");
            assert!(!pattern.is_match(text), "{text}");
        }
        // What only the calendar knows.
        for text in ["2026-02-29T12:00:00Z", "2026-13-01T12:00:00Z", "2026-11-28T24:00:00Z", "2026-11-31T12:00:00Z"] {
            assert_eq!(UnixTime::parse_rfc_3339(text), None, "{text}");
        }
    }

    #[test]
    fn time_left_is_said_in_the_largest_fitting_unit() {
        let now = UnixTime(1_000_000_000);
        for (seconds, words) in [
            (1, "1 second"),
            (119, "119 seconds"),
            (7_199, "119 minutes"),
            (2 * DAY - 1, "47 hours"),
            (12 * DAY + 5, "12 days"),
            (3_650 * DAY, "10 years"),
            (0, "expired 0 seconds ago"),
            (-2 * DAY, "expired 2 days ago"),
        ] {
            assert_eq!(time_left(now, now.plus(seconds)), words);
        }
    }
}

//! Lengths of time as people write them in Prometheus' configuration.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::time::DAY;

/// A length of time in whole seconds, written as Prometheus does: `30d`, `1h30m`, `90s`; units y (365 d), w, d, h, m, s, each at most once and in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Duration(pub i64);

/// A text that is no duration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no duration; write a number and a unit (y, w, d, h, m, s), such as 30d or 1h30m")]
pub struct InvalidDuration(String);

const UNITS: [(char, i64); 6] = [('y', 365 * DAY), ('w', 7 * DAY), ('d', DAY), ('h', 3600), ('m', 60), ('s', 1)];

impl FromStr for Duration {
    type Err = InvalidDuration;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        parse(text).map(Self).ok_or_else(|| InvalidDuration(text.to_owned()))
    }
}

fn parse(text: &str) -> Option<i64> {
    let (mut rest, mut units) = (text, UNITS.iter());
    let mut seconds: i64 = 0;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit())?;
        let (number, tail) = rest.split_at(digits);
        let unit = tail.chars().next()?;
        let (_, length) = units.find(|(name, _)| *name == unit)?;
        seconds = seconds.checked_add(number.parse::<i64>().ok()?.checked_mul(*length)?)?;
        rest = &tail[unit.len_utf8()..];
    }
    (!text.is_empty()).then_some(seconds)
}

impl fmt::Display for Duration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Weeks and years are read but not written: 30d says more than 4w2d.
        let mut rest = self.0;
        for (unit, length) in &UNITS[2..] {
            if rest >= *length {
                write!(f, "{}{unit}", rest / length)?;
                rest %= length;
            }
        }
        if self.0 == 0 { f.write_str("0s") } else { Ok(()) }
    }
}

impl Serialize for Duration {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Duration {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Cow::<str>::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

impl JsonSchema for Duration {
    fn schema_name() -> Cow<'static, str> {
        "Duration".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "description": "A number and a unit, in the order y, w, d, h, m, s: 30d, 1h30m.",
            // No look-ahead: Go's validators (Helm) know none.
            "minLength": 2,
            "pattern": "^([0-9]+y)?([0-9]+w)?([0-9]+d)?([0-9]+h)?([0-9]+m)?([0-9]+s)?$",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_prometheus_reads_them() {
        for (text, seconds) in [("30d", 30 * DAY), ("1h30m", 5_400), ("1y2w", 379 * DAY), ("90s", 90), ("0s", 0)] {
            assert_eq!(text.parse(), Ok(Duration(seconds)));
        }
        for text in
            ["", "30", "d", "1m1h", "1d1d", "-1d", "1.5h", "30 d", "99999999999999999999d", "9999999999999y", "1µ"]
        {
            assert!(text.parse::<Duration>().is_err(), "{text}");
        }
    }

    #[test]
    fn durations_are_written_so_that_they_read_back() {
        for (seconds, text) in [(0, "0s"), (30 * DAY, "30d"), (5_400, "1h30m"), (DAY + 1, "1d1s")] {
            assert_eq!(Duration(seconds).to_string(), text);
            assert_eq!(text.parse(), Ok(Duration(seconds)));
        }
    }
}

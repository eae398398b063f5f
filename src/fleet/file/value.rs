//! Values as a person writes them: sizes, durations, times of day, numbers of snapshots.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{self, Deserializer, Visitor};
use serde::{Deserialize, Serialize};

use crate::record::retention;

/// A number of bytes, with a unit (`512MiB`) or without.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size(pub u64);

/// A duration: `30s`, `10m`, `1h 30m`, `2days`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Period(pub Duration);

/// A time of day: `02:30`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TimeOfDay(pub jiff::civil::Time);

/// How many snapshots a rule keeps: a number, or `unlimited`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Keep(pub retention::Count);

/// A duration of the calendar: `1y5m7d2h`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeepWithin {
    text: String,
    /// What it means.
    pub within: retention::Within,
}

/// A part of the whole: `all`, or a percentage as in `5%`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Part {
    /// 0 to 100.
    pub percent: u8,
}

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bytes = parse_size::Config::new().with_binary().parse_size(text);
        bytes.map(Self).map_err(|error| format!("'{text}' is no size such as 512MiB: {error}"))
    }
}

impl FromStr for Period {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let period = humantime::parse_duration(text);
        period.map(Self).map_err(|error| format!("'{text}' is no duration such as 30s, 10m or 1h 30m: {error}"))
    }
}

impl FromStr for TimeOfDay {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let time = jiff::civil::Time::strptime("%H:%M", text);
        time.map(Self).map_err(|_| format!("'{text}' is no time of day such as 02:30"))
    }
}

impl FromStr for Keep {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        text.parse().map(Self)
    }
}

impl FromStr for KeepWithin {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Ok(Self { text: text.to_owned(), within: text.parse()? })
    }
}

impl FromStr for Part {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = if text == "all" { "100" } else { text.trim_end_matches('%') };
        let percent = number.parse().ok().filter(|percent| *percent <= 100);
        percent.map(|percent| Self { percent }).ok_or_else(|| "it is 'all', or '0%' to '100%'".to_owned())
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}B", self.0)
    }
}

impl fmt::Display for Period {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        humantime::format_duration(self.0).fmt(f)
    }
}

impl fmt::Display for TimeOfDay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.strftime("%H:%M").fmt(f)
    }
}

impl fmt::Display for Keep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.0 {
            u32::MAX => f.write_str("unlimited"),
            count => count.fmt(f),
        }
    }
}

impl fmt::Display for KeepWithin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}%", self.percent)
    }
}

/// A text, or a whole number where one can stand for it.
struct Written<T> {
    expected: &'static str,
    number: fn(u64) -> Option<T>,
}

impl<T: FromStr<Err = String>> Visitor<'_> for Written<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.expected)
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<T, E> {
        text.parse().map_err(E::custom)
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<T, E> {
        let value = u64::try_from(number).ok().and_then(self.number);
        value.ok_or_else(|| E::invalid_value(de::Unexpected::Signed(number), &self))
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<T, E> {
        (self.number)(number).ok_or_else(|| E::invalid_value(de::Unexpected::Unsigned(number), &self))
    }
}

macro_rules! written {
    ($type:ident, $expected:literal, $number:expr, $schema:tt) => {
        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                from.deserialize_any(Written { expected: $expected, number: $number })
            }
        }

        impl Serialize for $type {
            fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
                to.collect_str(self)
            }
        }

        impl JsonSchema for $type {
            fn schema_name() -> Cow<'static, str> {
                stringify!($type).into()
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!($schema)
            }
        }
    };
}

written!(Size, "a size such as \"512MiB\"", |number| Some(Size(number)), {
    "type": ["string", "integer"], "minimum": 0, "description": "A number of bytes, with a unit (\"512MiB\") or without."
});
written!(Period, "a duration such as \"30s\", \"10m\" or \"1h 30m\"", |_| None, {
    "type": "string", "description": "A duration such as \"30s\", \"10m\", \"1h 30m\" or \"2days\"."
});
written!(TimeOfDay, "a time of day such as \"02:30\"", |_| None, {
    "type": "string", "pattern": "^[0-2]?[0-9]:[0-5][0-9]$", "description": "A time of day such as \"02:30\", on this host's clock."
});
written!(
    Keep,
    "a number or \"unlimited\"",
    |number| u32::try_from(number).ok().map(|count| Keep(retention::Count(count))),
    { "anyOf": [{ "type": "integer", "minimum": 0 }, { "type": "string" }], "description": "A number, or \"unlimited\"." }
);
written!(KeepWithin, "a duration of the calendar such as \"1y5m7d2h\"", |_| None, {
    "type": "string", "pattern": "^([0-9]+[ymdh])+$", "description": "Years, months, days and hours, such as \"1y5m7d2h\"."
});
written!(Part, "\"all\", or a percentage such as \"5%\"", |_| None, {
    "type": "string", "pattern": "^(all|[0-9]{1,3}%?)$", "description": "\"all\", or a percentage such as \"5%\"."
});

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_read_as_they_are_printed() {
        assert_eq!("512MiB".parse(), Ok(Size(512 << 20)));
        assert_eq!("1h 30m".parse(), Ok(Period(Duration::from_secs(5400))));
        assert_eq!("02:30".parse::<TimeOfDay>().unwrap().to_string(), "02:30");
        assert_eq!("unlimited".parse::<Keep>().unwrap().to_string(), "unlimited");
        assert_eq!("1y2m".parse::<KeepWithin>().unwrap().to_string(), "1y2m");
        assert_eq!("5%".parse(), Ok(Part { percent: 5 }));
        for bad in ["101%", "half"] {
            assert!(bad.parse::<Part>().is_err(), "{bad}");
        }
        for bad in ["24:00", "2h", ""] {
            assert!(bad.parse::<TimeOfDay>().is_err(), "{bad}");
        }
    }
}

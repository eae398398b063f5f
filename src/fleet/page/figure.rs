//! Numbers as a page shows them: few digits, a unit, and no line break between the two.

use std::fmt::Display;

use jiff::Timestamp;
use jiff::tz::TimeZone;

/// Between a number and its unit.
const SPACE: char = '\u{a0}';
const MINUTE: f64 = 60.0;
const HOUR: f64 = 3600.0;
const DAY: f64 = 86_400.0;

/// A number with its unit, in three digits or so.
pub(super) fn with_unit(number: f64, unit: impl Display) -> String {
    let tenths = (number * 10.0).round();
    let digits = usize::from(tenths.abs() < 99.5 && tenths % 10.0 != 0.0);
    format!("{number:.digits$}{SPACE}{unit}")
}

/// Bytes.
pub(super) fn size(bytes: f64) -> String {
    let (unit, of_unit) = size_unit(bytes);
    with_unit(bytes / of_unit, unit)
}

/// The unit in which so many bytes are told, and its bytes.
pub(super) fn size_unit(bytes: f64) -> (&'static str, f64) {
    let units = [("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)].map(|(name, bits)| (name, f64::from(bits).exp2()));
    units.into_iter().find(|(_, of_unit)| bytes.abs() >= 0.995 * of_unit).unwrap_or(("B", 1.0))
}

/// What something took, or how old it is: in one unit, or in hours and minutes.
pub(super) fn duration(seconds: f64) -> String {
    match seconds {
        _ if seconds < 99.5 => with_unit(seconds.round(), "s"),
        _ if seconds < 99.5 * MINUTE => with_unit((seconds / MINUTE).round(), "min"),
        _ if seconds < 2.0 * DAY => {
            let minutes = (seconds / MINUTE).round();
            let (hours, rest) = ((minutes / 60.0).floor(), minutes % 60.0);
            if hours >= 10.0 || rest < 0.5 {
                with_unit((seconds / HOUR).round(), "h")
            } else {
                format!("{}{SPACE}{}", with_unit(hours, "h"), with_unit(rest, "min"))
            }
        }
        _ => with_unit((seconds / DAY).floor(), "days"),
    }
}

/// A part of the whole.
pub(super) fn percent(part: f64) -> String {
    with_unit((part * 100.0).round(), "%")
}

/// A day and a time of day.
pub(super) fn time(at: Timestamp, zone: &TimeZone) -> String {
    at.to_zoned_datetime(zone.clone()).strftime("%-d %b %Y, %H:%M").to_string()
}

/// So many things.
pub(super) fn count(number: usize, one: &str, many: &str) -> String {
    format!("{number}{SPACE}{}", if number == 1 { one } else { many })
}

#[expect(clippy::cast_precision_loss, reason = "figures for people have three digits")]
pub(super) fn float(number: u64) -> f64 {
    number as f64
}

#[expect(clippy::cast_precision_loss, reason = "there are few of anything on a page")]
pub(super) fn few(number: usize) -> f64 {
    number as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_have_few_digits() {
        let plain = |text: String| text.replace(SPACE, " ");
        for (bytes, shown) in [
            (0.0, "0 B"),
            (1000.0, "1000 B"),
            (1536.0, "1.5 KiB"),
            (8.2 * 1_073_741_824.0, "8.2 GiB"),
            (1_073_000_000.0, "1 GiB"),
        ] {
            assert_eq!(plain(size(bytes)), shown);
        }
        for (seconds, shown) in [
            (0.2, "0 s"),
            (61.0, "61 s"),
            (120.0, "2 min"),
            (7260.0, "2 h 1 min"),
            (36_900.0, "10 h"),
            (129_600.0, "36 h"),
            (200_000.0, "2 days"),
        ] {
            assert_eq!(plain(duration(seconds)), shown);
        }
        assert_eq!(plain(percent(0.377)), "38 %");
        assert_eq!(plain(count(1, "night", "nights")), "1 night");
    }
}

//! `Range` of a download and `Content-Range` of an upload: pure.

use std::ops::Range;

/// What a download's `Range` asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wanted {
    /// Everything: no range, one that can't be read, or several (RFC 9110, section 14.2, lets a server ignore those).
    Whole,
    /// These bytes, at least one.
    Part(Range<u64>),
    /// Nothing that is there: 416.
    Beyond,
}

impl Wanted {
    /// Reads the header's value, for a blob of `size` bytes.
    #[must_use]
    pub fn parse(value: Option<&str>, size: u64) -> Self {
        let Some((first, last)) = value.and_then(|value| value.trim().strip_prefix("bytes=")?.split_once('-')) else {
            return Self::Whole;
        };
        let wanted = match (number(first), number(last)) {
            (Some(first), Some(last)) if first <= last => first..last.saturating_add(1).min(size),
            (Some(first), None) if last.is_empty() => first..size,
            (None, Some(count)) if first.is_empty() => size.saturating_sub(count)..size,
            _ => return Self::Whole,
        };
        if wanted.is_empty() { Self::Beyond } else { Self::Part(wanted) }
    }
}

/// Which bytes of a blob a part of an upload says that it is, both ends inclusive (distribution specification, "Pushing a
/// blob in chunks"). Some clients write the form of RFC 9110, `bytes 0-99/*`.
#[must_use]
pub fn of_part(value: &str) -> Option<Range<u64>> {
    let value = value.trim();
    let value =
        value.strip_prefix("bytes ").map_or(value, |rest| rest.split_once('/').map_or(rest, |(range, _)| range));
    let (first, last) = value.split_once('-')?;
    let (first, last) = (number(first)?, number(last)?);
    (first <= last).then_some(first..last.checked_add(1)?)
}

/// How far an upload got, as a session says it. Nothing and one byte look alike: that is how registries answer.
#[must_use]
pub fn received(bytes: u64) -> String {
    format!("0-{}", bytes.saturating_sub(1))
}

/// Digits alone: `u64`'s own parser also takes a sign.
fn number(text: &str) -> Option<u64> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_download_gets_what_is_there() {
        for (value, wanted) in [
            ("bytes=0-0", Wanted::Part(0..1)),
            ("bytes=2-4", Wanted::Part(2..5)),
            ("bytes=2-", Wanted::Part(2..10)),
            ("bytes=2-99", Wanted::Part(2..10)),
            ("bytes=-3", Wanted::Part(7..10)),
            ("bytes=-99", Wanted::Part(0..10)),
            ("bytes=0-18446744073709551615", Wanted::Part(0..10)),
            ("bytes=10-", Wanted::Beyond),
            ("bytes=10-12", Wanted::Beyond),
            ("bytes=-0", Wanted::Beyond),
            ("bytes=4-2", Wanted::Whole),
            ("bytes=0-1,3-4", Wanted::Whole),
            ("bytes=-", Wanted::Whole),
            ("bytes=+1-2", Wanted::Whole),
            ("bytes=99999999999999999999-", Wanted::Whole),
            ("lines=0-1", Wanted::Whole),
            ("", Wanted::Whole),
        ] {
            assert_eq!(Wanted::parse(Some(value), 10), wanted, "{value}");
        }
        assert_eq!(Wanted::parse(None, 10), Wanted::Whole);
        assert_eq!(Wanted::parse(Some("bytes=0-"), 0), Wanted::Beyond);
    }

    #[test]
    fn a_part_says_where_it_begins() {
        for (value, range) in
            [("0-9", Some(0..10)), ("5-5", Some(5..6)), ("bytes 5-9/*", Some(5..10)), (" 0-1 ", Some(0..2))]
        {
            assert_eq!(of_part(value), range, "{value}");
        }
        for bad in ["", "-", "5", "9-5", "a-b", "-5", "5-", "0-18446744073709551615", "+1-2", "bytes=0-1"] {
            assert_eq!(of_part(bad), None, "{bad}");
        }
        assert_eq!((received(0), received(1), received(10)), ("0-0".into(), "0-0".into(), "0-9".into()));
    }
}

//! What a tar says of an entry besides its name, its attributes and its content.

use super::header::{BLOCK_BYTES, number};

/// Kind, permissions, owner and time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Facts {
    /// What it is, as `find -type` calls it; 0 for one more name of a file.
    pub kind: u8,
    /// Permissions, set-id bits and sticky bit.
    pub mode: u32,
    /// Owner and group.
    pub owner: (u32, u32),
    /// When the content changed: seconds since 1970, and nanoseconds.
    pub modified: (i64, u32),
    /// Of a device its number.
    pub number: (u32, u32),
}

/// What PAX records say of it instead.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PaxFacts {
    owner: (Option<u32>, Option<u32>),
    modified: Option<(i64, u32)>,
}

impl Facts {
    /// By a header block. A number that is none is 0: readers don't agree on what it would be.
    pub(super) fn of(block: &[u8; BLOCK_BYTES]) -> Self {
        let small = |field: &[u8]| number(field).and_then(|value| u32::try_from(value).ok()).unwrap_or(0);
        let seconds = number(&block[136..148]).and_then(|value| i64::try_from(value).ok()).unwrap_or(0);
        let kind = match block[156] {
            b'1' => 0,
            b'2' => b'l',
            b'3' => b'c',
            b'4' => b'b',
            b'5' => b'd',
            b'6' => b'p',
            _ => b'f',
        };
        Self {
            kind,
            mode: small(&block[100..108]) & 0o7777,
            owner: (small(&block[108..116]), small(&block[116..124])),
            modified: (seconds, 0),
            number: (small(&block[329..337]), small(&block[337..345])),
        }
    }

    /// With what the entry's PAX records say.
    #[must_use]
    pub fn with(self, pax: &PaxFacts) -> Self {
        let owner = (pax.owner.0.unwrap_or(self.owner.0), pax.owner.1.unwrap_or(self.owner.1));
        Self { owner, modified: pax.modified.unwrap_or(self.modified), ..self }
    }
}

impl PaxFacts {
    /// Takes a record, if it is one of these.
    pub(super) fn record(&mut self, key: &[u8], value: &[u8]) {
        let text = std::str::from_utf8(value).unwrap_or_default();
        match key {
            b"uid" => self.owner.0 = text.parse().ok(),
            b"gid" => self.owner.1 = text.parse().ok(),
            b"mtime" => self.modified = moment(text),
            _ => {}
        }
    }
}

/// A decimal number of seconds: -1.5 is 2 s before the epoch and half a second on.
fn moment(text: &str) -> Option<(i64, u32)> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let digits = fraction.bytes().chain(std::iter::repeat(b'0')).take(9);
    let nanos = digits
        .map(|digit| u32::from(digit.wrapping_sub(b'0')))
        .try_fold(0_u32, |value, digit| (digit < 10).then_some(value * 10 + digit))?;
    let seconds: i64 = whole.parse().ok()?;
    let is_before = whole.starts_with('-') && nanos > 0;
    Some(if is_before { (seconds.checked_sub(1)?, 1_000_000_000 - nanos) } else { (seconds, nanos) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_beat_the_header() {
        let mut block = [0; BLOCK_BYTES];
        block[100..107].copy_from_slice(b"0104755");
        block[108..115].copy_from_slice(b"0001750");
        block[136..147].copy_from_slice(b"07346545000");
        let facts = Facts::of(&block);
        assert_eq!((facts.mode, facts.owner, facts.modified), (0o4755, (1000, 0), (1_000_000_000, 0)));
        let mut pax = PaxFacts::default();
        for (key, value) in [("gid", "4294967294"), ("mtime", "-1.5"), ("path", "x")] {
            pax.record(key.as_bytes(), value.as_bytes());
        }
        let facts = facts.with(&pax);
        assert_eq!((facts.owner, facts.modified), ((1000, u32::MAX - 1), (-2, 500_000_000)));
        assert_eq!((moment("7.000000001"), moment("7"), moment("-7")), (Some((7, 1)), Some((7, 0)), Some((-7, 0))));
        assert_eq!((moment("x"), moment("1.x"), moment("-0.25")), (None, None, Some((-1, 750_000_000))));
    }
}

//! Patterns as basic regular expressions (POSIX, plus `\|`), for a find elsewhere in which a character is a byte (`LC_ALL=C`).

use super::glob::{Glob, Part, Token};

/// What no regular expression that is text stands for.
const UNTOLD: &str = "a class of other than ASCII characters can't be told to a guest's find";

impl Glob {
    /// Over whole `./path` names; none where no path matches.
    pub(super) fn to_posix(&self) -> Result<Option<String>, &'static str> {
        let alternatives: Vec<_> = self.0.iter().filter_map(|parts| path(parts)).collect();
        if alternatives.is_empty() {
            return Ok(None);
        }
        let alternatives = String::from_utf8(alternatives.join(&br"\|"[..])).map_err(|_| UNTOLD)?;
        Ok(Some(format!(r"\./\({alternatives}\)")))
    }
}

fn path(parts: &[Part]) -> Option<Vec<u8>> {
    let mut regex = Vec::new();
    let (last, above) = parts.split_last()?;
    for part in above {
        match part {
            Part::Names => regex.extend(br"\(.*/\)*"),
            Part::Name(tokens) => {
                name(tokens, &mut regex)?;
                regex.push(b'/');
            }
        }
    }
    match last {
        Part::Names => regex.extend(b".*"),
        Part::Name(tokens) => name(tokens, &mut regex)?,
    }
    Some(regex)
}

fn name(tokens: &[Token], regex: &mut Vec<u8>) -> Option<()> {
    for token in tokens {
        match token {
            Token::Byte(byte) => literal(*byte, regex),
            Token::Any => regex.extend(b"[^/]"),
            Token::Star => regex.extend(b"[^/]*"),
            Token::Class(is_negated, ranges) => class(*is_negated, ranges, regex)?,
        }
    }
    Some(())
}

fn literal(byte: u8, regex: &mut Vec<u8>) {
    if br".[]*^$\".contains(&byte) {
        regex.push(b'\\');
    }
    regex.push(byte);
}

/// None if nothing is in it. A slash never is, and what has a meaning in brackets stands where it has none.
fn class(is_negated: bool, ranges: &[(u8, u8)], regex: &mut Vec<u8>) -> Option<()> {
    let has = |byte: u8| ranges.iter().any(|(from, to)| (*from..=*to).contains(&byte));
    let is_in = |byte: u8| if byte == b'/' { is_negated } else { has(byte) };
    let special = |byte: &u8| matches!(byte, b']' | b'[' | b'^' | b'-');
    let mut body: Vec<u8> = Some(b']').filter(|byte| is_in(*byte)).into_iter().collect();
    body.extend((1..=u8::MAX).filter(|byte| !special(byte) && is_in(*byte)));
    body.extend(Some(b'[').filter(|byte| is_in(*byte)));
    match (body.is_empty(), is_in(b'-'), is_in(b'^')) {
        (true, false, false) => return None,
        (true, false, true) => {
            literal(b'^', regex);
            return Some(());
        }
        // Not first, and the dash at an end.
        (true, true, true) => body.extend(b"-^"),
        (_, dash, caret) => {
            body.extend([(caret, b'^'), (dash, b'-')].iter().filter(|(is_in, _)| *is_in).map(|(_, byte)| byte));
        }
    }
    regex.extend(if is_negated { &b"[^"[..] } else { b"[" });
    regex.append(&mut body);
    regex.push(b']');
    Some(())
}

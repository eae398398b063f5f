//! One pattern, held against paths: bytes, for names need not be text.
//!
//! `*` and `?` stay within one name, as does a class (`[a-z]`, `[!0-9]`); `**` as a whole name stands for any number of
//! names, at the end for one at least; `{a,b}` for one of several; a backslash takes what follows as it is.
//! A pattern is made of few parts, and each is gone through once for each place where the last star before it may end: no
//! pattern takes a path apart in exponentially many ways.

/// Bytes of a pattern: one of a path of 4 KiB, which is Linux's longest, has three times as many at most.
const PATTERN_BYTES_MAX: usize = 16 << 10;
/// So many patterns may one with alternatives stand for.
const ALTERNATIVES_MAX: usize = 1000;
/// Bytes of all of those.
const WRITTEN_OUT_BYTES_MAX: usize = 256 << 10;

/// A pattern with its alternatives written out.
#[derive(Debug, Clone)]
pub(super) struct Glob(pub(super) Vec<Vec<Part>>);

/// What stands between slashes.
#[derive(Debug, Clone)]
pub(super) enum Part {
    /// `**`.
    Names,
    /// A name, byte by byte.
    Name(Vec<Token>),
}

#[derive(Debug, Clone)]
pub(super) enum Token {
    Byte(u8),
    /// `?`.
    Any,
    /// `*`.
    Star,
    /// A class, as ranges, and whether it is of what is in none of them.
    Class(bool, Vec<(u8, u8)>),
}

impl Glob {
    /// # Errors
    /// Why this is no pattern.
    pub(super) fn new(pattern: &str) -> Result<Self, &'static str> {
        if pattern.len() > PATTERN_BYTES_MAX {
            return Err("it is longer than 16 KiB");
        }
        alternatives(pattern.as_bytes())?.iter().map(|one| parts(one)).collect::<Result<_, _>>().map(Self)
    }

    pub(super) fn matches(&self, path: &[u8]) -> bool {
        self.0.iter().any(|parts| fits(parts, path))
    }
}

/// Writes out the first group of alternatives, and so on in what comes of it.
fn alternatives(pattern: &[u8]) -> Result<Vec<Vec<u8>>, &'static str> {
    const MANY: &str = "it has too many alternatives";
    let (mut left, mut written_out, mut bytes) = (vec![pattern.to_vec()], Vec::new(), 0);
    while let Some(one) = left.pop() {
        let borders = first_group(&one)?;
        let ([begin, ..], [.., end]) = (&borders[..], &borders[..]) else {
            bytes += one.len();
            if bytes > WRITTEN_OUT_BYTES_MAX {
                return Err(MANY);
            }
            written_out.push(one);
            continue;
        };
        if written_out.len() + left.len() + borders.len() - 1 > ALTERNATIVES_MAX {
            return Err(MANY);
        }
        let written =
            borders.windows(2).map(|pair| [&one[..*begin], &one[pair[0] + 1..pair[1]], &one[end + 1..]].concat());
        left.extend(written);
    }
    Ok(written_out)
}

/// Where the first group of alternatives begins, its commas are, and it ends; nothing where there is none.
fn first_group(pattern: &[u8]) -> Result<Vec<usize>, &'static str> {
    let (mut depth, mut borders, mut at) = (0_usize, Vec::new(), 0);
    while let Some(byte) = pattern.get(at) {
        match byte {
            b'\\' => at += 1,
            b'[' => at = class(pattern, at)?.1 - 1,
            b'{' => {
                depth += 1;
                borders.extend((depth == 1).then_some(at));
            }
            b',' if depth == 1 => borders.push(at),
            b'}' if depth == 0 => return Err("a '}' has no '{' before it"),
            b'}' => {
                depth -= 1;
                if depth == 0 {
                    borders.push(at);
                    return Ok(borders);
                }
            }
            _ => {}
        }
        at += 1;
    }
    if depth == 0 { Ok(borders) } else { Err("a '{' has no '}' behind it") }
}

/// The parts of a pattern without alternatives.
fn parts(pattern: &[u8]) -> Result<Vec<Part>, &'static str> {
    let (mut parts, mut name, mut at) = (Vec::new(), Vec::new(), 0);
    let end = |name: &mut Vec<Token>| match name[..] {
        [Token::Star, Token::Star] => {
            name.clear();
            Part::Names
        }
        _ => Part::Name(std::mem::take(name)),
    };
    while let Some(byte) = pattern.get(at) {
        at += 1;
        name.push(match byte {
            b'/' => {
                parts.push(end(&mut name));
                continue;
            }
            b'?' => Token::Any,
            b'*' => Token::Star,
            b'[' => {
                let (token, behind) = class(pattern, at - 1)?;
                at = behind;
                token
            }
            b'\\' if pattern.get(at) == Some(&b'/') => continue,
            b'\\' => {
                at += 1;
                Token::Byte(*pattern.get(at - 1).ok_or("nothing stands behind the last backslash")?)
            }
            byte => Token::Byte(*byte),
        });
    }
    parts.push(end(&mut name));
    Ok(parts)
}

/// The class that begins at `at`, and where it ends. A `]` that comes first is one of its bytes, as is a `-` at an end.
fn class(pattern: &[u8], at: usize) -> Result<(Token, usize), &'static str> {
    const OPEN: &str = "a '[' has no ']' behind it";
    let mut at = at + 1;
    let is_negated = matches!(pattern.get(at), Some(b'!' | b'^'));
    at += usize::from(is_negated);
    let (mut ranges, first) = (Vec::new(), at);
    loop {
        let from = *pattern.get(at).ok_or(OPEN)?;
        if from == b']' && at > first {
            return Ok((Token::Class(is_negated, ranges), at + 1));
        }
        let (to, width) = match pattern.get(at + 1..at + 3) {
            Some([b'-', to]) if *to != b']' => (*to, 3),
            _ => (from, 1),
        };
        if to < from {
            return Err("a range in a class ends before it begins");
        }
        at += width;
        ranges.push((from, to));
    }
}

/// Names, one after the other: each fits as early as it can, and where one doesn't, what stands since the last `**` begins a
/// name later.
fn fits(parts: &[Part], path: &[u8]) -> bool {
    let (mut parts, mut rest, mut again) = (parts, Some(path), None);
    loop {
        match (parts, rest) {
            ([], None) => return true,
            ([Part::Names], rest) => return rest.is_some(),
            ([Part::Names, later @ ..], _) => {
                again = Some((later, rest));
                parts = later;
                continue;
            }
            ([Part::Name(name), later @ ..], Some(path)) => {
                let (first, behind) = first_name(path);
                if fits_name(name, first) {
                    (parts, rest) = (later, behind);
                    continue;
                }
            }
            _ => {}
        }
        let Some((later, Some(path))) = again else { return false };
        let (_, behind) = first_name(path);
        (parts, rest, again) = (later, behind, Some((later, behind)));
    }
}

fn first_name(path: &[u8]) -> (&[u8], Option<&[u8]>) {
    match path.iter().position(|byte| *byte == b'/') {
        Some(at) => (&path[..at], Some(&path[at + 1..])),
        None => (path, None),
    }
}

/// The same within a name, byte by byte.
fn fits_name(tokens: &[Token], name: &[u8]) -> bool {
    let (mut tokens, mut rest, mut again) = (tokens, name, None);
    loop {
        match (tokens, rest) {
            ([], []) => return true,
            ([Token::Star, later @ ..], _) => {
                again = Some((later, rest));
                tokens = later;
                continue;
            }
            ([token, later @ ..], [byte, behind @ ..]) if token.is(*byte) => {
                (tokens, rest) = (later, behind);
                continue;
            }
            _ => {}
        }
        let Some((later, [_, behind @ ..])) = again else { return false };
        (tokens, rest, again) = (later, behind, Some((later, behind)));
    }
}

impl Token {
    fn is(&self, byte: u8) -> bool {
        match self {
            Self::Byte(own) => *own == byte,
            Self::Any => true,
            Self::Star => false,
            Self::Class(is_negated, ranges) => {
                ranges.iter().any(|(from, to)| (*from..=*to).contains(&byte)) != *is_negated
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use globset::GlobBuilder;

    use super::*;

    /// globset takes the same patterns, and was what matched them before; but its classes of what is not in them hold slashes.
    #[test]
    fn paths_match_as_globset_has_them() {
        const PIECES: [&str; 24] = [
            "a",
            "b",
            "ab",
            ".",
            "-",
            "ä",
            "*",
            "?",
            "**",
            "/",
            "/",
            "/**/",
            "**/",
            "/**",
            "[ab]",
            "[!a/]",
            "[a-c]",
            "[]-]",
            "{a,b}",
            "{a/b,?c}",
            "{b,{ä,c}*}",
            "\\*",
            "\\",
            "[",
        ];
        const NAMES: [&str; 10] = ["a", "b", "c", "ab", "ba", "ä", "*", "-", ".", "]"];
        let mut random = fastrand::Rng::with_seed(19);
        let (mut matched, mut refused) = (0, 0);
        for _ in 0..40_000 {
            let pattern: String = (0..random.usize(1..6)).map(|_| PIECES[random.usize(..PIECES.len())]).collect();
            // A name without a byte is in no path, and what globset makes of one in a pattern is its own.
            if pattern.contains("//") || pattern.starts_with('/') || pattern.ends_with('/') {
                continue;
            }
            let theirs = GlobBuilder::new(&pattern).literal_separator(true).build();
            let ours = Glob::new(&pattern);
            assert_eq!(ours.is_err(), theirs.is_err(), "{pattern}: {ours:?}, {theirs:?}");
            let (Ok(ours), Ok(theirs)) = (ours, theirs) else {
                refused += 1;
                continue;
            };
            let theirs = theirs.compile_matcher();
            for _ in 0..4 {
                let name = |random: &mut fastrand::Rng| -> String {
                    (0..random.usize(1..3)).map(|_| NAMES[random.usize(..NAMES.len())]).collect()
                };
                let path: Vec<_> = (0..random.usize(1..5)).map(|_| name(&mut random)).collect();
                let path = path.join("/");
                let is_match = theirs.is_match(&path);
                matched += usize::from(is_match);
                assert_eq!(ours.matches(path.as_bytes()), is_match, "{pattern} and {path}");
            }
        }
        assert!(matched > 2000 && refused > 2000, "{matched} matched, {refused} refused");
    }

    #[test]
    fn no_pattern_takes_for_ever() {
        let path = ["a".repeat(200).as_str(); 200].join("/");
        assert!(!Glob::new(&("**/".repeat(50) + &"*a".repeat(100) + "b")).unwrap().matches(path.as_bytes()));
        assert!(Glob::new(&"{a,b}".repeat(20)).is_err());
        let nested = |depth: usize| "{".repeat(depth) + "a" + &"}".repeat(depth);
        for fits in [nested(5000), "{a}".repeat(5000)] {
            assert!(!Glob::new(&fits).unwrap().matches(b"b"));
        }
        let long = "a".repeat(1000);
        for large in
            [nested(20_000), "{a}".repeat(20_000), "a".repeat(17 << 10), "{,".repeat(500) + &long, ",".repeat(5000)]
        {
            assert!(Glob::new(&format!("{{{large}}}{long}")).is_err());
        }
    }
}

//! Patterns of entries to leave out.
//!
//! A pattern without a slash matches a name anywhere (`*.pyc`, `node_modules`). One with a slash is anchored at the root
//! of what is frozen (`/var/cache/apt`, `home/*/.cache`). `*` and `?` stay within one name, `**` does not. A folder that
//! matches is left out with everything below it.

use crate::error::{Error, Result};
use crate::text;

mod glob;
mod posix;

use glob::Glob;

/// So much of a pattern is named in an error.
const NAMED_MAX: usize = 200;

/// A pattern of words that are no paths: names of machines, values of labels. A slash is a byte like any other.
#[derive(Debug, Clone)]
pub(crate) struct Word(Glob);

impl Word {
    /// # Errors
    /// Why this is no pattern.
    pub(crate) fn new(pattern: &str) -> Result<Self, &'static str> {
        if pattern.is_empty() {
            return Err("the pattern is empty");
        }
        Glob::new(&Self::as_name(pattern)).map(Self)
    }

    pub(crate) fn matches(&self, word: &str) -> bool {
        self.0.matches(Self::as_name(word).as_bytes())
    }

    /// One name of a path: never empty, and without slashes.
    fn as_name(word: &str) -> String {
        format!("={}", word.replace('/', "\u{1}"))
    }
}

/// A compiled set of patterns. The default set matches nothing.
#[derive(Debug, Clone, Default)]
pub struct Exclude {
    patterns: Vec<String>,
    globs: Vec<Glob>,
}

impl Exclude {
    /// Compiles `patterns`.
    ///
    /// # Errors
    /// [`crate::error::Kind::Usage`] with the pattern that is none.
    pub fn new<S: AsRef<str>>(patterns: &[S]) -> Result<Self> {
        let mut globs = Vec::new();
        for pattern in patterns {
            let pattern = pattern.as_ref();
            let refused = |reason: &str| {
                let more = if pattern.chars().nth(NAMED_MAX).is_some() { "..." } else { "" };
                let named: String = pattern.chars().take(NAMED_MAX).collect();
                Error::usage("reading --exclude", format!("'{named}{more}'"), reason)
            };
            let trimmed = pattern.trim_start_matches("./").trim_end_matches('/');
            let glob = match trimmed.strip_prefix('/') {
                _ if trimmed.trim_matches('/').is_empty() => return Err(refused("the pattern is empty")),
                Some(anchored) => anchored.to_owned(),
                None if trimmed.contains('/') => trimmed.to_owned(),
                None => format!("**/{trimmed}"),
            };
            globs.push(Glob::new(&glob).map_err(refused)?);
        }
        Ok(Self { patterns: patterns.iter().map(|pattern| pattern.as_ref().to_owned()).collect(), globs })
    }

    /// The patterns as they were given.
    #[must_use]
    pub fn patterns(&self) -> &[String] {
        &self.patterns
    }

    /// The same for a guest's find: one regular expression for each pattern that may match, over whole `./path` names.
    ///
    /// # Errors
    /// [`crate::error::Kind::Usage`] for one that can't be told.
    pub fn to_posix(&self) -> Result<Vec<String>> {
        let told = self.patterns.iter().zip(&self.globs).map(|(pattern, glob)| {
            let refused = |reason| Error::usage("reading --exclude", text::quoted(pattern.as_bytes()), reason);
            match glob.to_posix() {
                Ok(Some(regex)) if regex.contains('\n') => Err(refused("a guest's list has no line breaks")),
                told => told.map_err(refused),
            }
        });
        told.filter_map(Result::transpose).collect()
    }

    /// Whether the entry at `path` itself matches. `path` is relative to the root, without `./` and without a slash at
    /// its end. A walk that leaves out a folder never asks for what is below it.
    #[must_use]
    pub fn matches(&self, path: &[u8]) -> bool {
        self.globs.iter().any(|glob| glob.matches(path))
    }

    /// Whether the entry at `path`, or a folder above it, matches.
    #[must_use]
    pub fn matches_within(&self, path: &[u8]) -> bool {
        if self.globs.is_empty() {
            return false;
        }
        let slashes = path.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(at, _)| at);
        slashes.chain([path.len()]).any(|end| self.matches(&path[..end]))
    }
}

/// What to do about the entry at `path`, which can't be read or kept: in words that can be pasted into a shell.
#[must_use]
pub fn hint(path: &[u8]) -> String {
    format!("leave it out with --exclude '/{}'", pattern(path))
}

/// A pattern that matches this path. A byte that has no place in a line or between quotes is any byte.
fn pattern(path: &[u8]) -> String {
    let mut pattern = String::new();
    for chunk in path.utf8_chunks() {
        for char in chunk.valid().chars() {
            match char {
                '*' | '?' | '[' | ']' | '{' | '}' => pattern.extend(['[', char, ']']),
                '\'' | '\\' => pattern.push('?'),
                char if text::is_hidden(char) => pattern.extend(std::iter::repeat_n('?', char.len_utf8())),
                char => pattern.push(char),
            }
        }
        pattern.extend(std::iter::repeat_n('?', chunk.invalid().len()));
    }
    pattern
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_as_documented() {
        let exclude = Exclude::new(&["*.pyc", "/var/cache/apt", "home/*/.cache", "deep/**/end", "/top/"]).unwrap();
        for path in ["a.pyc", "x/y/a.pyc", "var/cache/apt", "home/u/.cache", "deep/a/b/end", "top", "x\u{e9}\n/b.pyc"] {
            assert!(exclude.matches(path.as_bytes()), "{path}");
        }
        for path in ["x/var/cache/apt", "home/u/v/.cache", "var/cache", "x/top", "a.pyc.bak"] {
            assert!(!exclude.matches(path.as_bytes()), "{path}");
        }
        assert!(exclude.matches(b"\xff/\xfe.pyc"), "names need not be UTF-8");
        assert!(exclude.matches_within(b"var/cache/apt/archives/x.deb"));
        assert!(!exclude.matches_within(b"var/cache/apt2/archives"));
        assert!(!Exclude::default().matches_within(b"anything"));
    }

    #[test]
    fn a_hint_matches_what_it_is_about() {
        let mut random = fastrand::Rng::with_seed(17);
        let parts: Vec<Vec<u8>> = (1..=255_u8)
            .filter(|byte| *byte != b'/')
            .map(|byte| vec![byte])
            .chain(
                ["ä", "日", "\u{202e}", "se[c]ret", "{a,b}", "**", "a'b", "k\\x1b"]
                    .map(|text| text.as_bytes().to_vec()),
            )
            .collect();
        for part in &parts {
            let more = &parts[random.usize(..parts.len())];
            let path = [b"a", &part[..], b"/", more, b"z"].concat();
            let hint = hint(&path);
            let pasted = hint.strip_prefix("leave it out with --exclude '").unwrap().strip_suffix('\'').unwrap();
            assert!(!pasted.contains(|char: char| char == '\'' || text::is_hidden(char)), "{hint}");
            assert!(Exclude::new(&[pasted]).unwrap().matches(&path), "{hint} for {path:?}");
            assert!(!Exclude::new(&[pasted]).unwrap().matches(b"another"), "{hint}");
        }
    }

    #[test]
    fn a_pattern_that_is_none_is_named() {
        for bad in ["[", "", "/"] {
            let error = Exclude::new(&[bad]).unwrap_err().to_string();
            assert!(error.contains(&format!("'{bad}'")), "{error}");
        }
    }
}

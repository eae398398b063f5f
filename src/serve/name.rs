//! The names that a request holds, by the distribution specification's grammar: pure, and all there is between a path
//! and the disk.

use std::fmt;

use super::fault::{Code, Fault};
use crate::oci::Digest;
use crate::text;

/// Bytes of a repository's name; with a registry's name in front most clients take no more than 255 in all.
const REPOSITORY_BYTES_MAX: usize = 255;
/// Bytes of a tag.
const TAG_BYTES_MAX: usize = 128;

/// A repository: components of lower-case letters and digits, separated by `/`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Repository(String);

impl Repository {
    /// Reads a name.
    ///
    /// # Errors
    /// `NAME_INVALID` for anything that the grammar has not, `..` and empty components among it.
    pub fn parse(text: &str) -> Result<Self, Fault> {
        if text.len() <= REPOSITORY_BYTES_MAX && text.split('/').all(is_component) {
            Ok(Self(text.to_owned()))
        } else {
            Err(Fault::new(Code::NameInvalid, format!("'{}' is no repository's name", shown(text))))
        }
    }
}

/// `layout`.
impl Default for Repository {
    fn default() -> Self {
        Self("layout".to_owned())
    }
}

impl fmt::Display for Repository {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*`
fn is_component(text: &str) -> bool {
    let is_word = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = text.as_bytes();
    let mut separators = bytes.split(|byte| is_word(*byte));
    bytes.first().is_some_and(|byte| is_word(*byte))
        && bytes.last().is_some_and(|byte| is_word(*byte))
        && separators.all(|between| matches!(between, b"" | b"." | b"_" | b"__") || between.iter().all(|b| *b == b'-'))
}

/// A tag: letters, digits, `_`, `.` and `-`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Tag(String);

impl Tag {
    /// Reads a tag; none if it is no tag.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let is_word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
        let is_first = |text: &str| text.bytes().next().is_some_and(is_word);
        let fits = text.len() <= TAG_BYTES_MAX && text.bytes().all(|byte| is_word(byte) || b".-".contains(&byte));
        (fits && is_first(text)).then(|| Self(text.to_owned()))
    }

    /// The tag as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// What a manifest is asked by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reference {
    /// A name that can move.
    Tag(Tag),
    /// The manifest itself.
    Digest(Digest),
}

impl Reference {
    /// Reads a tag or a digest.
    ///
    /// # Errors
    /// `DIGEST_INVALID` for another digest than sha256, `MANIFEST_INVALID` for what is neither.
    pub fn parse(text: &str) -> Result<Self, Fault> {
        if text.contains(':') {
            return digest(text).map(Self::Digest);
        }
        let invalid = || Fault::new(Code::ManifestInvalid, format!("'{}' is neither tag nor digest", shown(text)));
        Tag::parse(text).map(Self::Tag).ok_or_else(invalid)
    }
}

/// Reads a digest.
///
/// # Errors
/// `DIGEST_INVALID`; other algorithms than sha256 are refused by name.
pub fn digest(text: &str) -> Result<Digest, Fault> {
    let refuse = |reason: &str| Fault::new(Code::DigestInvalid, format!("'{}': {reason}", shown(text)));
    match text.split_once(':') {
        Some((algorithm, _)) if algorithm != "sha256" => Err(refuse("only sha256 is kept here")),
        _ => text.parse().map_err(|_| refuse("a digest is sha256:<64 lower-case hex digits>")),
    }
}

/// The value of a key of a query, decoded; the first, if there are several.
#[must_use]
pub fn query(text: Option<&str>, key: &str) -> Option<String> {
    let pairs = url::form_urlencoded::parse(text?.as_bytes());
    pairs.into_iter().find(|(name, _)| name == key).map(|(_, value)| value.into_owned())
}

/// Names may come back in an answer, but not all of them and not their control characters.
pub fn shown(text: &str) -> String {
    text::line(&text.chars().take(80).collect::<String>()).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_repository_is_what_the_grammar_says() {
        let longest = "a".repeat(255);
        for good in ["a", "0", "a.b", "a_b", "a__b", "a-b", "a---b", "team/app", "a/b/c/d", &longest] {
            assert_eq!(Repository::parse(good).unwrap().to_string(), good);
        }
        let too_long = "a".repeat(256);
        let bad = [
            "", "/", "a/", "/a", "a//b", ".", "..", "a/..", "../a", "a/./b", "A", "a..b", "a___b", "a._b", "-a", "a-",
            "a b", "a\0", "a%2fb", "a\\b", "ä", "a:b", &too_long,
        ];
        for bad in bad {
            assert!(Repository::parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_reference_is_a_tag_or_a_digest_of_sha256() {
        let digest = format!("sha256:{}", "a1".repeat(32));
        assert_eq!(Reference::parse(&digest).unwrap(), Reference::Digest(digest.parse().unwrap()));
        for good in ["v1", "_", "1.0-rc.1", &"t".repeat(128)] {
            assert!(matches!(Reference::parse(good).unwrap(), Reference::Tag(tag) if tag.as_str() == good));
        }
        let sha512 = format!("sha512:{}", "a1".repeat(64));
        for bad in
            ["", ".", "..", "-a", ".a", "a/b", "a b", &"t".repeat(129), "sha256:12", &digest.to_uppercase(), &sha512]
        {
            assert!(Reference::parse(bad).is_err(), "{bad:?}");
        }
        assert!(Reference::parse(&sha512).unwrap_err().to_string().contains("only sha256"));
    }

    #[test]
    fn a_query_is_decoded() {
        assert_eq!(query(Some("a=1&digest=sha256%3Aab&digest=x"), "digest").as_deref(), Some("sha256:ab"));
        assert_eq!(query(Some("digest"), "digest").as_deref(), Some(""));
        assert_eq!((query(Some("a=1"), "b"), query(None, "b")), (None, None));
    }
}

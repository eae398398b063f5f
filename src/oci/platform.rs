//! Platforms, and the one table of architectures: what a kernel or a compiler calls a processor, and what images do.

use std::fmt;
use std::str::FromStr;

use serde_json::Value;

/// What an image runs on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Platform {
    /// The system: `linux`.
    pub os: String,
    /// The architecture, in Go's words.
    pub architecture: String,
    /// The architecture's variant: `v7`.
    pub variant: Option<String>,
}

/// An architecture in Go's words, which images use: of what `uname -m` says, of Rust's, and of Go's.
#[must_use]
pub fn architecture(word: &str) -> &str {
    match word {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "x86" | "i386" | "i486" | "i586" | "i686" => "386",
        "armv8l" | "armv7l" | "armv6l" | "armv5tel" => "arm",
        // Of Rust; nobody builds for the other byte order any more.
        "powerpc64" => "ppc64le",
        "loongarch64" => "loong64",
        other => other,
    }
}

impl Platform {
    /// This host's architecture, and the system of every image that we make.
    #[must_use]
    pub fn host() -> Self {
        let architecture = architecture(std::env::consts::ARCH).to_owned();
        Self { os: "linux".to_owned(), architecture, variant: None }
    }

    /// What a descriptor, or a config, says; none where it says nothing.
    pub(crate) fn read(value: &Value) -> Option<Self> {
        let word = |key: &str| value[key].as_str().filter(|word| !word.is_empty()).map(str::to_owned);
        Some(Self { os: word("os")?, architecture: word("architecture")?, variant: word("variant") })
    }

    /// How well an image for `other` does for this; none where it doesn't. Less is better.
    pub(crate) fn distance(&self, other: &Self) -> Option<usize> {
        if self.os != other.os || self.architecture != other.architecture {
            return None;
        }
        match &self.variant {
            Some(_) => (self.variant() == other.variant()).then_some(0),
            None => Some(usize::from(other.variant() != usual_variant(&other.architecture))),
        }
    }

    fn variant(&self) -> &str {
        self.variant.as_deref().unwrap_or(usual_variant(&self.architecture))
    }
}

/// What an image that names no variant is for: what all processors have, or nearly all.
fn usual_variant(architecture: &str) -> &'static str {
    match architecture {
        "amd64" => "v1",
        "arm64" => "v8",
        "arm" => "v7",
        _ => "",
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        self.variant.iter().try_for_each(|variant| write!(f, "/{variant}"))
    }
}

impl FromStr for Platform {
    type Err = String;

    /// `OS/ARCH[/VARIANT]`, the architecture in anybody's words.
    fn from_str(text: &str) -> Result<Self, String> {
        let is_word = |word: &&str| {
            !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
        };
        let words: Vec<_> = text.split('/').collect();
        if !words.iter().all(is_word) || !(2..=3).contains(&words.len()) {
            return Err("a platform is OS/ARCH or OS/ARCH/VARIANT, such as linux/arm64".to_owned());
        }
        let variant = words.get(2).map(|variant| (*variant).to_owned());
        Ok(Self { os: words[0].to_owned(), architecture: architecture(words[1]).to_owned(), variant })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn platforms_are_read_and_held_against_each_other() {
        let platform = |text: &str| text.parse::<Platform>().unwrap();
        assert_eq!(platform("linux/x86_64"), platform("linux/amd64"));
        assert_eq!(platform("linux/arm/v7").to_string(), "linux/arm/v7");
        for (wanted, there, distance) in [
            ("linux/amd64", "linux/amd64", Some(0)),
            ("linux/amd64", "linux/amd64/v3", Some(1)),
            ("linux/amd64/v3", "linux/amd64", None),
            ("linux/arm64", "linux/arm64/v8", Some(0)),
            ("linux/arm64/v8", "linux/arm64", Some(0)),
            ("linux/arm", "linux/arm/v6", Some(1)),
            ("linux/arm", "linux/arm/v7", Some(0)),
            ("linux/arm/v6", "linux/arm/v7", None),
            ("linux/amd64", "windows/amd64", None),
            ("linux/amd64", "linux/386", None),
        ] {
            assert_eq!(platform(wanted).distance(&platform(there)), distance, "{wanted} of {there}");
        }
        for bad in ["", "linux", "linux/", "/amd64", "linux/a/b/c", "linux/a m"] {
            assert!(bad.parse::<Platform>().is_err(), "{bad}");
        }
    }
}

//! The data of the OCI image specification as this crate uses it: digests, diff_ids, descriptors, compressions.
//!
//! A [`Digest`] names stored bytes and a [`DiffId`] names an uncompressed tar. They are different types, so that one can
//! never stand where the other belongs. Both can only be made by hashing to the end (`stage::digest`) or by parsing.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

pub mod index;
pub mod json;
pub mod media;
pub mod platform;

pub use media::{CONFIG_MEDIA_TYPE, INDEX_MEDIA_TYPE, MANIFEST_MEDIA_TYPE, Media};
pub use platform::Platform;

/// SHA-256 of a blob's stored bytes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest([u8; 32]);

/// SHA-256 of a layer's uncompressed tar.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DiffId([u8; 32]);

macro_rules! sha256_name {
    ($name:ident) => {
        impl $name {
            pub(crate) fn from_bytes(bytes: [u8; 32]) -> Self {
                Self(bytes)
            }

            /// The 64 lower-case hex digits, without `sha256:`.
            #[must_use]
            pub fn hex(&self) -> String {
                self.0.iter().map(|byte| format!("{byte:02x}")).collect()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "sha256:{}", self.hex())
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{self}")
            }
        }

        impl FromStr for $name {
            type Err = String;

            /// Only the canonical form of the specification is taken: `sha256:` and 64 lower-case hex digits.
            fn from_str(text: &str) -> Result<Self, String> {
                parse_sha256(text).map(Self).ok_or_else(|| format!("'{text}' is not sha256:<64 lower-case hex digits>"))
            }
        }

        impl Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

sha256_name!(Digest);
sha256_name!(DiffId);

fn parse_sha256(text: &str) -> Option<[u8; 32]> {
    let hex = text.strip_prefix("sha256:")?.as_bytes();
    let mut bytes = [0; 32];
    if hex.len() != 64 {
        return None;
    }
    for (byte, pair) in bytes.iter_mut().zip(hex.chunks_exact(2)) {
        *byte = nibble(pair[0])? << 4 | nibble(pair[1])?;
    }
    Some(bytes)
}

fn nibble(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    }
}

/// How a layer is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Compression {
    /// One zstd frame a layer.
    Zstd,
    /// Gzip members of 1 MiB of input each, one after the other (RFC 1952, section 2.2).
    Gzip,
    /// The tar as it is.
    None,
}

impl Compression {
    /// The layer media type of the OCI image specification for this compression.
    #[must_use]
    pub fn media_type(self) -> &'static str {
        Media::Layer(self).written()
    }

    /// The compression that a layer's media type states, Docker's types included; none for a foreign type.
    #[must_use]
    pub fn from_media_type(media_type: &str) -> Option<Self> {
        match Media::of(media_type)? {
            Media::Layer(compression) => Some(compression),
            _ => None,
        }
    }
}

impl fmt::Display for Compression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Zstd => "zstd",
            Self::Gzip => "gzip",
            Self::None => "none",
        })
    }
}

/// A blob's name: digest and size of its stored bytes, and their media type.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// What the bytes are.
    pub media_type: String,
    /// SHA-256 of the stored bytes.
    pub digest: Digest,
    /// Stored bytes.
    pub size: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_canonical_form_parses() {
        let text = format!("sha256:{}", "0af".repeat(22).split_at(64).0);
        assert_eq!(text.parse::<Digest>().unwrap().to_string(), text);
        for bad in [text.to_uppercase(), text[..70].to_owned(), text.replace("sha256", "sha512"), format!("{text}0")] {
            assert!(bad.parse::<DiffId>().is_err(), "{bad}");
        }
    }
}

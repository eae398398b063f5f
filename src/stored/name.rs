//! How a stored thing is named.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use crate::error::{Error, Result};
use crate::plan::LayoutName;

/// What an artifact's path ends in.
const ARTIFACT_SUFFIX: &str = ".smolmachine";
/// What stands in front of an artifact's path that ends in something else.
const ARTIFACT_PREFIX: &str = "pack:";

/// The name of something that is stored: an artifact, a layout's image, a registry's image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoredName {
    /// A path that ends in `.smolmachine`, or `pack:PATH`.
    Artifact(PathBuf),
    /// `oci:DIR[:TAG][@DIGEST]`.
    Layout(LayoutName),
    /// A reference; it is judged where it is used, since to `thaw` it may be the name of something else.
    Registry(String),
}

impl FromStr for StoredName {
    type Err = Error;

    /// By its form alone, so that a name means the same whatever lies in the working directory.
    fn from_str(text: &str) -> Result<Self> {
        let by_suffix = Some(text).filter(|text| text.ends_with(ARTIFACT_SUFFIX) && !text.starts_with("oci:"));
        if let Some(path) = text.strip_prefix(ARTIFACT_PREFIX).or(by_suffix) {
            if path.is_empty() {
                let reason = "an artifact is pack:PATH, or a path that ends in .smolmachine";
                return Err(Error::usage("reading the name", format_args!("'{text}'"), reason));
            }
            return Ok(Self::Artifact(path.into()));
        }
        match LayoutName::parse(text) {
            Some(layout) => layout.map(Self::Layout),
            None => Ok(Self::Registry(text.to_owned())),
        }
    }
}

impl fmt::Display for StoredName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Artifact(path) => {
                let path = path.display().to_string();
                let prefix = if path.ends_with(ARTIFACT_SUFFIX) { "" } else { ARTIFACT_PREFIX };
                write!(f, "{prefix}{path}")
            }
            Self::Layout(layout) => layout.fmt(f),
            Self::Registry(reference) => f.write_str(reference),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_told_by_its_form() {
        let artifact = |path: &str| StoredName::Artifact(path.into());
        assert_eq!("./dev.smolmachine".parse::<StoredName>().unwrap(), artifact("./dev.smolmachine"));
        assert_eq!("pack:/a/b".parse::<StoredName>().unwrap(), artifact("/a/b"));
        let layout = LayoutName { folder: "/a".into(), tag: Some("v1".to_owned()), digest: None };
        assert_eq!("oci:/a:v1".parse::<StoredName>().unwrap(), StoredName::Layout(layout));
        let reference = StoredName::Registry("registry.example/dev:v1".to_owned());
        assert_eq!("registry.example/dev:v1".parse::<StoredName>().unwrap(), reference);
        assert!("pack:".parse::<StoredName>().is_err());
        let digest = format!("oci:/a:team/app:v1@sha256:{}", "1".repeat(64));
        for name in ["./dev.smolmachine", "pack:/a/b", "oci:/a", "oci:/a:v1", &digest, "registry.example/dev:v1"] {
            assert_eq!(name.parse::<StoredName>().unwrap().to_string(), name);
        }
    }
}

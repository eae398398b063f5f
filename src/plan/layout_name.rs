//! `oci:DIR[:TAG][@DIGEST]`: how the images of layout folders are named, for whoever writes or reads one.

use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::oci::Digest;
use crate::text;

/// What stands in front of a layout's folder.
const PREFIX: &str = "oci:";
/// Bytes of a name; nothing longer fits everywhere.
const TAG_BYTES_MAX: usize = 255;

/// An image of a layout folder, as a user names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayoutName {
    /// The folder.
    pub folder: PathBuf,
    /// The name in its index (`org.opencontainers.image.ref.name`), where one is given.
    pub tag: Option<String>,
    /// The manifest's digest, where one is given.
    pub digest: Option<Digest>,
}

impl LayoutName {
    /// Reads `oci:…`; none where `text` does not begin so.
    pub(crate) fn parse(text: &str) -> Option<Result<Self>> {
        let refuse = |reason: &str| {
            Err(Error::usage("reading a layout's name", text::quoted(text.as_bytes()), reason)
                .hint("give oci:DIR, or oci:DIR:TAG"))
        };
        let rest = text.strip_prefix(PREFIX)?;
        let (rest, digest) = match rest.rsplit_once('@') {
            Some((rest, digest)) if digest.starts_with("sha256:") => match digest.parse() {
                Ok(digest) => (rest, Some(digest)),
                Err(_) => return Some(refuse("what follows the @ is no digest")),
            },
            _ => (rest, None),
        };
        let (folder, tag) = split(rest);
        if folder.is_empty() {
            return Some(refuse("it names no folder"));
        }
        if tag.is_some_and(|tag| !is_tag(tag)) {
            let reason = "a tag has letters, digits and '_', between them '.', '-', '+', ':', '@' or '/', and begins with no dot or dash";
            return Some(refuse(reason));
        }
        Some(Ok(Self { folder: folder.into(), tag: tag.map(str::to_owned), digest }))
    }
}

impl std::fmt::Display for LayoutName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{PREFIX}{}", self.folder.display())?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

/// The folder ends at the first colon that a name follows, as for skopeo and buildah, and the name may hold others
/// (`oci:DIR:team/app:v1`). But a colon within the path of a layout, or of a folder, that is there belongs to the path.
fn split(text: &str) -> (&str, Option<&str>) {
    let ends = text.match_indices(['/', ':']).map(|(at, _)| at).chain([text.len()]);
    let known = |is_there: fn(&Path) -> bool, after: &[u8]| {
        let fits = |at: &usize| text.as_bytes().get(*at).is_none_or(|next| after.contains(next));
        ends.clone().filter(fits).rfind(|at| is_there(Path::new(&text[..*at])))
    };
    let layout = known(|folder| folder.join("oci-layout").exists(), b":");
    let known = layout.or_else(|| known(Path::is_dir, b"/")).unwrap_or(0);
    let mut colons = text[known..].match_indices(':').map(|(at, _)| (&text[..known + at], &text[known + at + 1..]));
    let last = colons.clone().next_back();
    match colons.find(|(_, tag)| is_tag(tag)).or(last) {
        Some((folder, tag)) => (folder, Some(tag)),
        None => (text, None),
    }
}

/// The grammar of the annotation, a little more generous (OCI image specification, annotations.md).
fn is_tag(text: &str) -> bool {
    let is_word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    let is_part = |part: &str| {
        part.bytes().next().is_some_and(is_word) && part.bytes().all(|byte| is_word(byte) || b".-+:@".contains(&byte))
    };
    text.len() <= TAG_BYTES_MAX && text.split('/').all(is_part)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> (String, Option<String>) {
        let name = LayoutName::parse(text).unwrap().unwrap();
        assert_eq!(LayoutName::parse(&name.to_string()).unwrap().unwrap(), name, "{text}");
        (name.folder.display().to_string(), name.tag)
    }

    #[test]
    fn the_folder_ends_at_the_first_colon_unless_it_is_there() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name).display().to_string();
        let tag = |tag: &str| Some(tag.to_owned());
        assert_eq!(parsed(&format!("oci:{}", at("new"))), (at("new"), None));
        assert_eq!(parsed(&format!("oci:{}:v1", at("new"))), (at("new"), tag("v1")));
        assert_eq!(parsed(&format!("oci:{}:team/app:v2", at("new"))), (at("new"), tag("team/app:v2")));
        assert_eq!(parsed(&format!("oci:{}:v1", at("a: b"))), (at("a: b"), tag("v1")));
        // A folder above it has a colon.
        std::fs::create_dir(at("10:30")).unwrap();
        assert_eq!(parsed(&format!("oci:{}", at("10:30/new"))), (at("10:30/new"), None));
        assert_eq!(parsed(&format!("oci:{}:v1", at("10:30/new"))), (at("10:30/new"), tag("v1")));
        // So has a layout itself; and what looks like a folder of another one is its tag.
        for layout in ["a", "a:b"] {
            std::fs::create_dir(at(layout)).unwrap();
            std::fs::write(at(layout) + "/oci-layout", "").unwrap();
        }
        assert_eq!(parsed(&format!("oci:{}", at("a:b"))), (at("a:b"), None));
        assert_eq!(parsed(&format!("oci:{}:v1", at("a:b"))), (at("a:b"), tag("v1")));
        assert_eq!(parsed(&format!("oci:{}:c/d:v1", at("a"))), (at("a"), tag("c/d:v1")));
    }

    #[test]
    fn a_digest_may_follow() {
        let digest = format!("sha256:{}", "1".repeat(64));
        for (text, tag) in [("oci:new", None), ("oci:new:v1", Some("v1")), ("oci:new:a/b:v1", Some("a/b:v1"))] {
            let name = LayoutName::parse(&format!("{text}@{digest}")).unwrap().unwrap();
            assert_eq!((name.folder.to_str(), name.tag.as_deref()), (Some("new"), tag), "{text}");
            assert_eq!(name.digest.unwrap().to_string(), digest);
        }
    }

    #[test]
    fn what_is_no_name_is_refused() {
        assert!(LayoutName::parse("registry.example/oci:v1").is_none());
        for bad in ["oci:", "oci::x", "oci:new:", "oci:new:.b", "oci:new:b c", "oci:new:a//b", "oci:new@sha256:12"] {
            let error = LayoutName::parse(bad).unwrap().unwrap_err().to_string();
            assert!(error.contains(&format!("'{bad}'")), "{error}");
        }
    }
}

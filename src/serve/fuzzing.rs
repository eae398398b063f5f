//! What a request is parsed by, held to what must be so of any input. For `fuzz/` and tests only.

use super::admit::{self, Target};
use super::entries;
use super::manifest::Manifest;
use super::name::{self, Reference, Repository};
use super::range::{self, Wanted};
use crate::oci::json::DOCUMENT_BYTES_MAX;

/// Parses everything that a request can hold.
///
/// # Panics
/// When a name could lead out of the layout, or a range out of a blob.
pub fn check(text: &str, size: u64) {
    if let Ok(target) = Target::parse(text) {
        let endpoint = target.endpoint;
        assert!(endpoint.starts_with('/') && !endpoint.contains('%'), "'{endpoint}' is no endpoint");
        if let Some(repository) = target.repository {
            repository_is_safe(&repository);
        }
    }
    if let Ok(repository) = Repository::parse(text) {
        assert_eq!(repository.to_string(), text);
        repository_is_safe(&repository);
    }
    match Reference::parse(text) {
        Ok(Reference::Tag(tag)) => {
            assert!(tag.as_str() == text && !text.contains(['/', '\0', ':']) && !text.starts_with('.'));
        }
        Ok(Reference::Digest(digest)) => {
            assert!(digest.to_string() == text && digest.hex().bytes().all(|byte| byte.is_ascii_hexdigit()));
        }
        Err(_) => {}
    }
    if let Wanted::Part(part) = Wanted::parse(Some(text), size) {
        assert!(part.start < part.end && part.end <= size, "{part:?} of {size} bytes");
    }
    if let Some(part) = range::of_part(text) {
        assert!(part.start < part.end, "{part:?} is no part");
    }
    assert!(range::received(size).starts_with("0-"));
    for key in ["digest", "mount", "n", "last", "artifactType"] {
        let _ = name::query(Some(text), key);
    }
    if admit::is_meant(Some(text), &[]) {
        let is_name = text.to_ascii_lowercase().starts_with("localhost");
        assert!(is_name || text.starts_with(|first: char| first == '[' || first.is_ascii_digit()), "'{text}' is meant");
    }
    check_document(text);
}

fn check_document(text: &str) {
    if let Ok(manifest) = Manifest::parse(text.as_bytes(), None) {
        assert!(text.len() as u64 <= DOCUMENT_BYTES_MAX);
        assert!(manifest.blobs.is_empty() || manifest.manifests.is_empty(), "it is both");
        assert!(manifest.needed().count() <= manifest.blobs.len() + manifest.manifests.len());
    }
    if let (Ok(serde_json::Value::Array(listed)), Ok(home)) = (serde_json::from_str(text), Repository::parse("home")) {
        for entry in entries::read(&listed, &home) {
            repository_is_safe(&entry.repository);
        }
    }
}

fn repository_is_safe(repository: &Repository) {
    let name = repository.to_string();
    let is_safe = |part: &str| !part.is_empty() && !part.starts_with('.') && !part.contains(['\\', '\0', '%', ' ']);
    assert!(name.len() <= 255 && name.split('/').all(is_safe), "'{name}' is a repository");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_a_request_holds() {
        let words = [
            "/v2/",
            "a",
            "team/app",
            "/blobs/",
            "/manifests/",
            "uploads/",
            "..",
            "%2f",
            "%3A",
            "sha256:",
            &"ab".repeat(32),
            "\0",
            "bytes=",
            "0",
            "-",
            "18446744073709551615",
            ",",
            "[",
            "::1",
            "]",
            ":5000",
            "localhost",
            "?",
            "digest=",
            "ü",
            "{",
            "}",
        ];
        let mut random = fastrand::Rng::with_seed(0x5eed);
        for _ in 0..20_000 {
            let text: String = (0..random.usize(1..7)).map(|_| words[random.usize(..words.len())]).collect();
            check(&text, random.u64(..20));
        }
    }
}

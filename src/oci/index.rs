//! What a manifest is, and which of an index is meant (OCI image specification, image-index.md): pure.

use serde_json::Value;

use super::media::Media;
use super::platform::Platform;
use super::{Descriptor, Digest, json};

/// The annotation that names an entry of a layout's index (OCI image specification, annotations.md).
pub const REF_NAME: &str = "org.opencontainers.image.ref.name";

/// A manifest's bytes, told by what they are.
#[derive(Debug)]
pub enum Document {
    /// That of an image, and its media type.
    Image(String),
    /// A list of others.
    Index(Vec<Entry>),
}

/// An entry of an index, as far as it is understood.
#[derive(Debug)]
pub struct Entry {
    /// The manifest; its media type may be empty. Or why it can't be read.
    pub manifest: Result<Descriptor, String>,
    /// What it is for.
    pub platform: Option<Platform>,
    /// Its name in a layout.
    pub name: Option<String>,
    /// Something about another entry, such as how it was built, and no image.
    is_about_another: bool,
}

impl Document {
    /// Reads a manifest; `stated` is the media type that came with it, which may say nothing.
    ///
    /// # Errors
    /// Where it is none, or could be taken for two things (CVE-2021-41190).
    pub fn read(bytes: &[u8], stated: &str) -> Result<Self, String> {
        let none = |why: &str| {
            let begin = String::from_utf8_lossy(&bytes[..bytes.len().min(40)]).into_owned();
            format!("it is no image manifest and no index, but '{begin}' of media type '{stated}': {why}")
        };
        let document: Value = json::read(bytes).map_err(|error| none(&error))?;
        let own = document["mediaType"].as_str().unwrap_or_default();
        let has = |key: &str| document.get(key).is_some();
        let (is_index, is_image) = (has("manifests"), has("layers") || has("config"));
        if is_index && is_image {
            return Err("it could be an image's manifest and an index, so it is taken for neither".to_owned());
        }
        let fits = |media_type: &str| match Media::of(media_type) {
            Some(Media::Index) => is_index,
            Some(Media::Manifest) => is_image,
            Some(_) => false,
            None => true,
        };
        if let Some(other) = [own, stated].into_iter().find(|media_type| !fits(media_type)) {
            return Err(format!("it is not of its media type '{other}'"));
        }
        match (is_index, is_image) {
            (true, _) => Ok(Self::Index(entries(document["manifests"].as_array().map_or(&[], Vec::as_slice)))),
            (_, true) => {
                let known = [own, stated].into_iter().find(|media_type| Media::of(media_type).is_some());
                Ok(Self::Image(known.unwrap_or(Media::Manifest.written()).to_owned()))
            }
            _ if document["schemaVersion"] == 1 => Err(none("schema 1 of Docker is too old; push the image again")),
            _ => Err(none("it lists neither layers nor manifests")),
        }
    }
}

impl Document {
    /// A manifest's media type, where nobody stated one: its own word, or what its fields say.
    #[must_use]
    pub fn media_type(bytes: &[u8]) -> &'static str {
        match Self::read(bytes, "") {
            Ok(Self::Index(_)) => Media::Index.written(),
            _ => Media::Manifest.written(),
        }
    }
}

/// The entries of an index, in its order.
#[must_use]
pub fn entries(manifests: &[Value]) -> Vec<Entry> {
    manifests.iter().map(Entry::read).collect()
}

impl Entry {
    fn read(value: &Value) -> Self {
        let annotation = |key: &str| value["annotations"][key].as_str();
        Self {
            manifest: descriptor(value),
            platform: Platform::read(&value["platform"]),
            name: annotation(REF_NAME).map(str::to_owned),
            is_about_another: annotation("vnd.docker.reference.type").is_some(),
        }
    }
}

/// A descriptor of somebody's, who need not say what it is of.
///
/// # Errors
/// Why it can't be read.
pub fn descriptor(value: &Value) -> Result<Descriptor, String> {
    let digest = value["digest"].as_str().ok_or("it has no digest")?;
    let digest: Digest = digest.parse().map_err(|_| format!("its digest is '{digest}', and only sha256 is read"))?;
    let size = value["size"].as_u64().ok_or_else(|| format!("{digest} has no size"))?;
    Ok(Descriptor { media_type: value["mediaType"].as_str().unwrap_or_default().to_owned(), digest, size })
}

/// The entry for a platform; where none says what it is for, the only one.
///
/// # Errors
/// Why there is none, in words that follow "it".
pub fn pick<'a>(entries: &[&'a Entry], wanted: &Platform) -> Result<&'a Descriptor, String> {
    let images = || entries.iter().copied().filter(|entry| !entry.is_about_another);
    let distance = |entry: &&'a Entry| entry.platform.as_ref().and_then(|platform| wanted.distance(platform));
    let nearest = images().filter(|entry| distance(entry).is_some()).min_by_key(distance);
    let found = nearest.or_else(|| {
        let mut silent = images().filter(|entry| entry.platform.is_none());
        silent.next().filter(|_| silent.next().is_none())
    });
    if let Some(entry) = found {
        return entry.manifest.as_ref().map_err(|why| format!("has an image for {wanted} that can't be read: {why}"));
    }
    let there =
        images().map(|entry| entry.platform.as_ref().map_or("nobody knows what".to_owned(), ToString::to_string));
    Err(match there.collect::<Vec<_>>() {
        none if none.is_empty() => "lists no image".to_owned(),
        there => format!("has no image for {wanted}, only for {}", shortened(&there)),
    })
}

/// A list as people read it.
#[must_use]
pub fn shortened(words: &[String]) -> String {
    const SHOWN_MAX: usize = 20;
    let shown = words[..words.len().min(SHOWN_MAX)].join(", ");
    if words.len() > SHOWN_MAX { format!("{shown} and {} more", words.len() - SHOWN_MAX) } else { shown }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::oci::media::{DOCKER_MANIFEST_MEDIA_TYPE, INDEX_MEDIA_TYPE, MANIFEST_MEDIA_TYPE};

    fn entry(platform: Option<&str>, fill: char) -> Value {
        let mut entry = json!({ "digest": format!("sha256:{}", fill.to_string().repeat(64)), "size": 1 });
        if let Some(platform) = platform {
            let platform: Platform = platform.parse().unwrap();
            entry["platform"] = json!({ "os": platform.os, "architecture": platform.architecture });
            entry["platform"]["variant"] = platform.variant.into();
        }
        entry
    }

    fn picked(manifests: &[Value], wanted: &str) -> Result<char, String> {
        let entries = entries(manifests);
        pick(&entries.iter().collect::<Vec<_>>(), &wanted.parse().unwrap())
            .map(|found| found.digest.hex().chars().next().unwrap())
    }

    #[test]
    fn the_platform_that_is_asked_for_is_taken() {
        let mut about = entry(Some("linux/amd64"), '0');
        about["annotations"] = json!({ "vnd.docker.reference.type": "attestation-manifest" });
        let both = [
            about,
            entry(Some("linux/amd64/v3"), 'a'),
            entry(Some("linux/amd64"), 'b'),
            entry(Some("linux/arm64/v8"), 'c'),
            entry(None, 'd'),
        ];
        for (wanted, found) in
            [("linux/amd64", 'b'), ("linux/amd64/v3", 'a'), ("linux/arm64", 'c'), ("linux/riscv64", 'd')]
        {
            assert_eq!(picked(&both, wanted), Ok(found), "{wanted}");
        }
        let words = picked(&both[..4], "linux/s390x").unwrap_err();
        assert_eq!(words, "has no image for linux/s390x, only for linux/amd64/v3, linux/amd64, linux/arm64/v8");
        let two = [entry(None, 'a'), entry(None, 'b')];
        assert!(picked(&two, "linux/amd64").unwrap_err().contains("nobody knows what"));
        assert_eq!(picked(&[], "linux/amd64").unwrap_err(), "lists no image");
        let mut long = entry(Some("linux/amd64"), 'a');
        long["digest"] = "sha512:12".into();
        assert!(picked(&[long], "linux/amd64").unwrap_err().contains("'sha512:12', and only sha256"));
    }

    #[test]
    fn a_document_is_one_thing() {
        let read = |document: Value, stated: &str| Document::read(document.to_string().as_bytes(), stated);
        let is_index = |document, stated| matches!(read(document, stated), Ok(Document::Index(_)));
        assert!(is_index(json!({ "manifests": null }), ""));
        assert!(is_index(json!({ "manifests": [] }), "application/json"));
        for (own, stated, wanted) in [
            (MANIFEST_MEDIA_TYPE, "", MANIFEST_MEDIA_TYPE),
            ("", DOCKER_MANIFEST_MEDIA_TYPE, DOCKER_MANIFEST_MEDIA_TYPE),
            ("", "application/octet-stream", MANIFEST_MEDIA_TYPE),
        ] {
            let found = read(json!({ "layers": [], "mediaType": own }), stated);
            assert!(matches!(found, Ok(Document::Image(found)) if found == wanted), "{own} {stated}");
        }
        for (document, stated, words) in [
            (json!({ "layers": [], "manifests": [] }), "", "taken for neither"),
            (json!({ "layers": [] }), INDEX_MEDIA_TYPE, "not of its media type"),
            (json!({ "manifests": [], "mediaType": MANIFEST_MEDIA_TYPE }), INDEX_MEDIA_TYPE, "not of its media type"),
            (json!({ "fsLayers": [], "schemaVersion": 1 }), "", "schema 1"),
            (json!("text"), "text/html", "neither layers nor manifests"),
        ] {
            let error = read(document, stated).unwrap_err();
            assert!(error.contains(words), "{error}");
        }
        assert!(Document::read(b"<html>", "text/html").unwrap_err().contains("'<html>' of media type 'text/html'"));
    }
}

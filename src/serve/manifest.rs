//! What a manifest says of itself (OCI image specification, manifest.md and image-index.md): pure.

use std::collections::BTreeMap;

use axum::http::StatusCode;
use serde::Deserialize;

use super::fault::{Code, Fault};
use crate::oci::json::{self, DOCUMENT_BYTES_MAX};
use crate::oci::{Descriptor, Digest, Media};

/// A manifest that was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    /// Its media type.
    pub media_type: String,
    /// Config and layers.
    pub blobs: Vec<Descriptor>,
    /// An index' manifests.
    pub manifests: Vec<Descriptor>,
    /// The manifest that this one is about.
    pub subject: Option<Digest>,
    /// What it holds, if it is no image: its own word, or its config's media type.
    pub artifact_type: Option<String>,
    /// Its annotations.
    pub annotations: BTreeMap<String, String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Stored {
    schema_version: u64,
    media_type: Option<String>,
    artifact_type: Option<String>,
    config: Option<Descriptor>,
    layers: Option<Vec<Descriptor>>,
    manifests: Option<Vec<Descriptor>>,
    subject: Option<Descriptor>,
    annotations: Option<BTreeMap<String, String>>,
}

impl Manifest {
    /// Reads a manifest; `stated` is the media type that came with it.
    ///
    /// # Errors
    /// `MANIFEST_INVALID` where it is none of the kinds that the specification and Docker have, or could be read as two
    /// of them; `SIZE_INVALID` past 4 MiB.
    pub fn parse(bytes: &[u8], stated: Option<&str>) -> Result<Self, Fault> {
        let refuse = |reason: String| Fault::new(Code::ManifestInvalid, reason);
        if bytes.len() as u64 > DOCUMENT_BYTES_MAX {
            return Err(too_large());
        }
        let stored: Stored = json::read(bytes).map_err(refuse)?;
        let media_type = match (stored.media_type, stated) {
            (Some(own), Some(stated)) if own != stated => {
                return Err(refuse("its mediaType and the Content-Type are not the same".to_owned()));
            }
            (Some(own), _) => own,
            (None, Some(stated)) => stated.to_owned(),
            (None, None) => return Err(refuse("it has no mediaType, and there was no Content-Type".to_owned())),
        };
        let is_index = match Media::of(&media_type) {
            Some(Media::Index) => true,
            Some(Media::Manifest) => false,
            _ => return Err(refuse("its media type is none of a manifest's or an index'".to_owned())),
        };
        if stored.schema_version != 2 {
            return Err(refuse("only schemaVersion 2 is known".to_owned()));
        }
        // What is both could mean one thing to a scanner and another to a runtime (CVE-2021-41190).
        let (blobs, manifests) = match (stored.config, stored.layers, stored.manifests) {
            (Some(config), Some(mut layers), None) if !is_index => {
                layers.insert(0, config);
                (layers, Vec::new())
            }
            (None, None, Some(manifests)) if is_index => (Vec::new(), manifests),
            _ if is_index => return Err(refuse("an index has manifests, and neither config nor layers".to_owned())),
            _ => return Err(refuse("a manifest has config and layers, and no manifests".to_owned())),
        };
        let config_type = blobs.first().map(|config| config.media_type.clone());
        Ok(Self {
            media_type,
            blobs,
            manifests,
            subject: stored.subject.map(|subject| subject.digest),
            artifact_type: stored.artifact_type.filter(|text| !text.is_empty()).or(config_type),
            annotations: stored.annotations.unwrap_or_default(),
        })
    }

    /// Everything that has to be there before the manifest can be: all but layers that are never sent to a registry.
    pub fn needed(&self) -> impl Iterator<Item = &Descriptor> {
        let is_sent = |blob: &&Descriptor| Media::of(&blob.media_type) != Some(Media::ForeignLayer);
        self.blobs.iter().filter(is_sent).chain(&self.manifests)
    }
}

/// 413, for a manifest that nobody needs.
pub fn too_large() -> Fault {
    Fault::new(Code::SizeInvalid, "a manifest has at most 4 MiB").with_status(StatusCode::PAYLOAD_TOO_LARGE)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::oci::media::{DOCKER_MANIFEST_MEDIA_TYPE as DOCKER_MANIFEST, INDEX_MEDIA_TYPE, MANIFEST_MEDIA_TYPE};

    fn blob(media_type: &str) -> Value {
        json!({"mediaType": media_type, "digest": format!("sha256:{}", "ab".repeat(32)), "size": 1})
    }

    fn image() -> Value {
        json!({"schemaVersion": 2, "mediaType": MANIFEST_MEDIA_TYPE, "config": blob("c/d"), "layers": [blob("e/f")]})
    }

    fn parse(value: &Value, stated: Option<&str>) -> Result<Manifest, Fault> {
        Manifest::parse(value.to_string().as_bytes(), stated)
    }

    #[test]
    fn images_and_indexes_are_read() {
        let manifest = parse(&image(), None).unwrap();
        assert_eq!((manifest.blobs.len(), manifest.artifact_type.as_deref()), (2, Some("c/d")));
        let mut docker = image();
        docker["mediaType"] = DOCKER_MANIFEST.into();
        docker["layers"] = json!([blob("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip")]);
        assert_eq!(parse(&docker, Some(DOCKER_MANIFEST)).unwrap().needed().count(), 1);
        let index = json!({"schemaVersion": 2, "manifests": [blob(MANIFEST_MEDIA_TYPE)], "subject": blob("x/y"), "artifactType": "a/b"});
        let index = parse(&index, Some(INDEX_MEDIA_TYPE)).unwrap();
        assert_eq!((index.needed().count(), index.artifact_type.as_deref()), (1, Some("a/b")));
        assert!(index.subject.is_some());
    }

    #[test]
    fn what_is_neither_or_both_is_refused() {
        let change = |key: &str, value: Value| {
            let mut changed = image();
            changed[key] = value;
            changed
        };
        let mut sha512 = blob("c/d");
        sha512["digest"] = format!("sha512:{}", "ab".repeat(64)).into();
        for bad in [
            json!({}),
            json!([]),
            change("schemaVersion", 1.into()),
            change("mediaType", "text/plain".into()),
            change("mediaType", INDEX_MEDIA_TYPE.into()),
            change("manifests", json!([])),
            change("config", Value::Null),
            change("config", sha512),
            change("layers", "all".into()),
        ] {
            assert!(parse(&bad, None).is_err(), "{bad}");
        }
        assert!(parse(&image(), Some(DOCKER_MANIFEST)).is_err());
        assert!(Manifest::parse(&vec![b' '; 5 << 20], None).unwrap_err().to_string().contains("4 MiB"));
    }
}

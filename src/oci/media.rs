//! Media types: the one table of what OCI and Docker call the same thing.

use super::Compression;

/// The media type of an image manifest.
pub const MANIFEST_MEDIA_TYPE: &str = "application/vnd.oci.image.manifest.v1+json";
/// The media type of an image index.
pub const INDEX_MEDIA_TYPE: &str = "application/vnd.oci.image.index.v1+json";
/// The media type of an image config.
pub const CONFIG_MEDIA_TYPE: &str = "application/vnd.oci.image.config.v1+json";
/// Docker's media type of an image manifest.
pub const DOCKER_MANIFEST_MEDIA_TYPE: &str = "application/vnd.docker.distribution.manifest.v2+json";

/// What a blob is, whoever named it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Media {
    /// An image's manifest.
    Manifest,
    /// A list of manifests.
    Index,
    /// An image's config.
    Config,
    /// A layer.
    Layer(Compression),
    /// A layer that is never sent to a registry.
    ForeignLayer,
}

/// Of several types for one thing the first is the one that is written.
const TABLE: &[(&str, Media)] = &[
    (MANIFEST_MEDIA_TYPE, Media::Manifest),
    (DOCKER_MANIFEST_MEDIA_TYPE, Media::Manifest),
    (INDEX_MEDIA_TYPE, Media::Index),
    ("application/vnd.docker.distribution.manifest.list.v2+json", Media::Index),
    (CONFIG_MEDIA_TYPE, Media::Config),
    ("application/vnd.docker.container.image.v1+json", Media::Config),
    ("application/vnd.oci.image.layer.v1.tar+zstd", Media::Layer(Compression::Zstd)),
    ("application/vnd.docker.image.rootfs.diff.tar.zstd", Media::Layer(Compression::Zstd)),
    ("application/vnd.oci.image.layer.v1.tar+gzip", Media::Layer(Compression::Gzip)),
    ("application/vnd.docker.image.rootfs.diff.tar.gzip", Media::Layer(Compression::Gzip)),
    ("application/vnd.oci.image.layer.v1.tar", Media::Layer(Compression::None)),
    ("application/vnd.docker.image.rootfs.diff.tar", Media::Layer(Compression::None)),
    ("application/vnd.oci.image.layer.nondistributable.v1.tar", Media::ForeignLayer),
    ("application/vnd.oci.image.layer.nondistributable.v1.tar+gzip", Media::ForeignLayer),
    ("application/vnd.oci.image.layer.nondistributable.v1.tar+zstd", Media::ForeignLayer),
    ("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", Media::ForeignLayer),
];

impl Media {
    /// What a media type says; none for one that is not in the table.
    #[must_use]
    pub fn of(media_type: &str) -> Option<Self> {
        TABLE.iter().find(|(known, _)| *known == media_type).map(|(_, media)| *media)
    }

    /// The type that is written for it.
    #[must_use]
    pub fn written(self) -> &'static str {
        TABLE.iter().find(|(_, media)| *media == self).map_or("application/octet-stream", |(written, _)| written)
    }

    /// What a client that reads images accepts: every manifest and every index.
    #[must_use]
    pub fn accepted() -> String {
        let documents = TABLE.iter().filter(|(_, media)| matches!(media, Self::Manifest | Self::Index));
        documents.map(|(media_type, _)| *media_type).collect::<Vec<_>>().join(", ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_type_is_one_thing_and_what_is_written_is_ocis() {
        for (at, (media_type, media)) in TABLE.iter().enumerate() {
            assert!(TABLE[..at].iter().all(|(other, _)| other != media_type), "{media_type} is there twice");
            assert_eq!(Media::of(media_type), Some(*media));
            assert!(media.written().starts_with("application/vnd.oci."), "{media:?}");
        }
        assert_eq!(Media::of("text/html"), None);
    }
}

//! The image around the layers: config and manifest (OCI image specification, config.md and manifest.md).

use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;
use oci_spec::image::{
    ConfigBuilder, Descriptor as SpecDescriptor, HistoryBuilder, ImageConfigurationBuilder, ImageManifestBuilder,
    MediaType, RootFsBuilder, Sha256Digest,
};

use crate::error::{Error, Kind, Result, Side};
use crate::oci::{CONFIG_MEDIA_TYPE, Descriptor, DiffId, MANIFEST_MEDIA_TYPE};
use crate::sink::Image;
use crate::stage::digest::DigestHasher;

/// A layer's annotation in the manifest, and what it says of one that holds nothing but what is below `/workspace`.
pub const LAYER_ANNOTATION: (&str, &str) = ("smolfreeze.layer", "workspace");

/// What an image says about running it, and about itself.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct ImageOptions {
    /// The user that commands run as.
    pub user: Option<String>,
    /// The working directory of commands.
    pub workdir: Option<String>,
    /// Environment variables, `NAME=VALUE`.
    pub env: Vec<String>,
    /// The entrypoint.
    pub entrypoint: Vec<String>,
    /// The command, or the entrypoint's default arguments.
    pub cmd: Vec<String>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// The architecture, in Go's words (`amd64`, `arm64`).
    pub architecture: String,
    /// When the image was made, as RFC 3339 has it.
    pub created: String,
    /// What was frozen, for history and annotations.
    pub source: String,
}

/// One layer, as an image lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageLayer {
    /// SHA-256 of its tar.
    pub diff_id: DiffId,
    /// Its blob.
    pub descriptor: Descriptor,
    /// Every entry lies below `/workspace`: the manifest says so, for an artifact that is made of the image later.
    pub workspace: bool,
}

/// Config and manifest for `layers`. The same input gives the same bytes.
///
/// # Errors
/// When the specification's types refuse a value.
pub fn build(options: &ImageOptions, layers: &[ImageLayer]) -> Result<Image> {
    let config_bytes = config(options, layers).map_err(|error| failed("config", error))?;
    let config = describe(CONFIG_MEDIA_TYPE, config_bytes);
    let manifest_bytes = manifest(options, &config.0, layers).map_err(|error| failed("manifest", error))?;
    Ok(Image { config, manifest: describe(MANIFEST_MEDIA_TYPE, manifest_bytes) })
}

fn describe(media_type: &str, bytes: Vec<u8>) -> (Descriptor, Bytes) {
    let descriptor =
        Descriptor { media_type: media_type.to_owned(), digest: DigestHasher::of(&bytes), size: bytes.len() as u64 };
    (descriptor, bytes.into())
}

fn config(options: &ImageOptions, layers: &[ImageLayer]) -> Result<Vec<u8>, Box<dyn std::error::Error + Send + Sync>> {
    let mut running = ConfigBuilder::default();
    if let Some(user) = &options.user {
        running = running.user(user.clone());
    }
    if let Some(workdir) = &options.workdir {
        running = running.working_dir(workdir.clone());
    }
    if !options.env.is_empty() {
        running = running.env(options.env.clone());
    }
    if !options.entrypoint.is_empty() {
        running = running.entrypoint(options.entrypoint.clone());
    }
    if !options.cmd.is_empty() {
        running = running.cmd(options.cmd.clone());
    }
    if !options.labels.is_empty() {
        running = running.labels(options.labels.clone().into_iter().collect::<HashMap<_, _>>());
    }
    let history = |number: usize| {
        let by = format!("smolfreeze freeze {} (layer {} of {})", options.source, number + 1, layers.len());
        HistoryBuilder::default().created(options.created.clone()).created_by(by).build()
    };
    let diff_ids: Vec<_> = layers.iter().map(|layer| layer.diff_id.to_string()).collect();
    let config = ImageConfigurationBuilder::default()
        .architecture(options.architecture.as_str())
        .os("linux")
        .created(options.created.clone())
        .config(running.build()?)
        .rootfs(RootFsBuilder::default().typ("layers").diff_ids(diff_ids).build()?)
        .history((0..layers.len()).map(history).collect::<Result<Vec<_>, _>>()?)
        .build()?;
    canonical(&config)
}

fn manifest(
    options: &ImageOptions,
    config: &Descriptor,
    layers: &[ImageLayer],
) -> Result<Vec<u8>, Box<dyn std::error::Error + Send + Sync>> {
    let spec = |blob: &Descriptor| -> Result<SpecDescriptor, Box<dyn std::error::Error + Send + Sync>> {
        let digest: Sha256Digest = blob.digest.hex().parse()?;
        Ok(SpecDescriptor::new(MediaType::from(blob.media_type.as_str()), blob.size, digest))
    };
    let described = |layer: &ImageLayer| {
        let mut described = spec(&layer.descriptor)?;
        let (key, value) = LAYER_ANNOTATION;
        described.set_annotations(layer.workspace.then(|| HashMap::from([(key.to_owned(), value.to_owned())])));
        Ok::<_, Box<dyn std::error::Error + Send + Sync>>(described)
    };
    let annotations = HashMap::from([
        ("org.opencontainers.image.created".to_owned(), options.created.clone()),
        ("org.opencontainers.image.title".to_owned(), options.source.clone()),
    ]);
    let manifest = ImageManifestBuilder::default()
        .schema_version(2_u32)
        .media_type(MANIFEST_MEDIA_TYPE)
        .config(spec(config)?)
        .layers(layers.iter().map(described).collect::<Result<Vec<_>, _>>()?)
        .annotations(annotations)
        .build()?;
    canonical(&manifest)
}

/// JSON with sorted keys: maps of the specification's types have no order of their own.
fn canonical(value: &impl serde::Serialize) -> Result<Vec<u8>, Box<dyn std::error::Error + Send + Sync>> {
    Ok(serde_json::to_vec(&serde_json::to_value(value)?)?)
}

fn failed(what: &str, error: impl std::fmt::Display) -> Error {
    Error::new(Kind::Internal, Side::Stage, "building the image", what, error)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::Compression;

    fn options() -> ImageOptions {
        ImageOptions {
            user: Some("node".to_owned()),
            env: vec!["A=1".to_owned()],
            labels: (0..20).map(|at| (format!("label{at}"), at.to_string())).collect(),
            architecture: "amd64".to_owned(),
            created: "2026-01-01T00:00:00Z".to_owned(),
            source: "dir:/usr".to_owned(),
            ..ImageOptions::default()
        }
    }

    #[test]
    fn the_same_input_gives_the_same_image() {
        let hex = "0af".repeat(22)[..64].to_owned();
        let layer = ImageLayer {
            diff_id: format!("sha256:{hex}").parse().unwrap(),
            descriptor: Descriptor {
                media_type: Compression::Zstd.media_type().to_owned(),
                digest: DigestHasher::of(b"x"),
                size: 1,
            },
            workspace: false,
        };
        let workspace = ImageLayer { workspace: true, ..layer.clone() };
        let image = build(&options(), &[layer.clone(), workspace.clone()]).unwrap();
        assert_eq!(image.manifest, build(&options(), &[layer, workspace]).unwrap().manifest);
        let config: serde_json::Value = serde_json::from_slice(&image.config.1).unwrap();
        assert_eq!(config["rootfs"]["diff_ids"][1], format!("sha256:{hex}"));
        assert_eq!(config["config"]["User"], "node");
        assert_eq!(config["history"].as_array().unwrap().len(), 2);
        let manifest: serde_json::Value = serde_json::from_slice(&image.manifest.1).unwrap();
        assert_eq!(manifest["layers"][0]["mediaType"], Compression::Zstd.media_type());
        assert!(manifest["layers"][0].get("annotations").is_none());
        assert_eq!(manifest["layers"][1]["annotations"], serde_json::json!({ "smolfreeze.layer": "workspace" }));
        assert_eq!(manifest["config"]["digest"], image.config.0.digest.to_string());
    }
}

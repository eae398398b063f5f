//! `smolfreeze inspect`.

use std::process::ExitCode;

use clap::Args;
use smolfreeze::error::Result;
use smolfreeze::stored::{Inspected, InspectedArtifact, InspectedImage, Stored, StoredName};
use smolfreeze::text;

use super::given::Given;
use super::{PlatformArgument, RegistryArguments};

/// Show what an image, or a .smolmachine file, says about itself.
#[derive(Args)]
pub struct Inspect {
    /// A reference, oci:DIR[:TAG] (in a layout that was served also oci:DIR:NAME:TAG), or an artifact: a path that ends in
    /// .smolmachine, or pack:PATH.
    image: String,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    platform: PlatformArgument,
    #[command(flatten)]
    registry: RegistryArguments,
}

impl Inspect {
    /// Reads manifest and config, and prints them.
    pub async fn run(self, given: &Given) -> Result<ExitCode> {
        let name: StoredName = self.image.parse()?;
        given.check_read(&self.image, matches!(name, StoredName::Registry(_)))?;
        let wanted = self.platform.of(&name);
        let stored = Stored::open(wanted, self.registry.options(), RegistryArguments::context()).await?;
        let inspected = stored.inspect(&self.image).await?;
        if self.json {
            return super::print(&serde_json::to_string_pretty(&inspected).unwrap_or_default());
        }
        super::print(&match inspected {
            Inspected::Image(image) => image_lines(&image),
            Inspected::Artifact(artifact) => artifact_lines(&artifact),
        })
    }
}

fn size(bytes: u64) -> String {
    humansize::format_size(bytes, humansize::BINARY)
}

fn artifact_lines(artifact: &InspectedArtifact) -> String {
    let shown = |text: &str| if text.is_empty() { "-".to_owned() } else { text.to_owned() };
    let words = |words: &[String]| {
        if words.is_empty() { "-".to_owned() } else { serde_json::to_string(words).unwrap_or_default() }
    };
    let network = if artifact.network { "yes" } else { "no" };
    let mut lines = vec![
        format!("artifact      {} of {}", artifact.name, size(artifact.stored_bytes)),
        format!("created       {} for smolvm {}", shown(&artifact.created), shown(&artifact.smolvm_version)),
        format!("platform      {}", shown(&artifact.platform)),
        format!("machine       {} CPUs, {} MiB, network: {network}", artifact.cpus, artifact.memory_mib),
        format!("image         {}@{}", shown(&artifact.image), shown(&artifact.digest)),
        format!("user          {}", shown(artifact.user.as_deref().unwrap_or_default())),
        format!("workdir       {}", shown(artifact.workdir.as_deref().unwrap_or_default())),
        format!("env           {}", words(&artifact.env)),
        format!("entrypoint    {}", words(&artifact.entrypoint)),
        format!("cmd           {}", words(&artifact.cmd)),
        format!("workspace     {}", artifact.workspace_bytes.map_or("-".to_owned(), size)),
    ];
    let total = artifact.layers.iter().fold(0, |total: u64, layer| total.saturating_add(layer.size));
    lines.push(format!("layers        {} of {} of tar in all", artifact.layers.len(), size(total)));
    for (at, layer) in artifact.layers.iter().enumerate() {
        lines.push(format!("{:>5}  {}  {:>10}", at + 1, shown(&layer.digest), size(layer.size)));
    }
    text::lines(lines)
}

fn image_lines(image: &InspectedImage) -> String {
    let config = &image.config;
    let shown = |value: &serde_json::Value| match value {
        serde_json::Value::Null => "-".to_owned(),
        serde_json::Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    // What was asked for by a digest has it already; of an index it is another one.
    let name = image.name.split("@sha256:").next().unwrap_or_default();
    let mut lines = vec![
        format!("image         {name}@{}", image.manifest.digest),
        format!("created       {}", shown(&config["created"])),
        format!("platform      {}/{}", shown(&config["os"]), shown(&config["architecture"])),
    ];
    for (label, key) in [
        ("user", "User"),
        ("workdir", "WorkingDir"),
        ("env", "Env"),
        ("entrypoint", "Entrypoint"),
        ("cmd", "Cmd"),
        ("labels", "Labels"),
    ] {
        lines.push(format!("{label:13} {}", shown(&config["config"][key])));
    }
    let total = image.layers.iter().fold(0, |total: u64, layer| total.saturating_add(layer.size));
    lines.push(format!("layers        {} of {} in all", image.layers.len(), size(total)));
    for (at, layer) in image.layers.iter().enumerate() {
        lines.push(format!("{:>5}  {}  {:>10}  {}", at + 1, layer.digest, size(layer.size), layer.media_type));
    }
    text::lines(lines)
}

//! `smolfreeze inspect`.

use std::process::ExitCode;

use clap::Args;
use smolfreeze::error::Result;
use smolfreeze::stored::{Inspected, Stored};

use super::RegistryArguments;

/// Show an image's layers and config.
#[derive(Args)]
pub struct Inspect {
    /// The image: a reference, or oci:DIR[:TAG]; in a layout that was served also oci:DIR:NAME:TAG.
    image: String,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    registry: RegistryArguments,
}

impl Inspect {
    /// Reads manifest and config, and prints them.
    pub async fn run(self) -> Result<ExitCode> {
        let stored = Stored::open(&self.image, self.registry.options(), RegistryArguments::context()).await?;
        let inspected = stored.inspect(&self.image).await?;
        if self.json {
            return super::print(&serde_json::to_string_pretty(&inspected).unwrap_or_default());
        }
        super::print(&lines(&inspected))
    }
}

fn lines(image: &Inspected) -> String {
    let size = |bytes: u64| humansize::format_size(bytes, humansize::BINARY);
    let config = &image.config;
    let text = |value: &serde_json::Value| match value {
        serde_json::Value::Null => "-".to_owned(),
        serde_json::Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    let mut lines = vec![
        format!("image         {}@{}", image.name, image.manifest.digest),
        format!("created       {}", text(&config["created"])),
        format!("platform      {}/{}", text(&config["os"]), text(&config["architecture"])),
    ];
    for (label, key) in [
        ("user", "User"),
        ("workdir", "WorkingDir"),
        ("env", "Env"),
        ("entrypoint", "Entrypoint"),
        ("cmd", "Cmd"),
        ("labels", "Labels"),
    ] {
        lines.push(format!("{label:13} {}", text(&config["config"][key])));
    }
    let total = image.layers.iter().map(|layer| layer.size).sum();
    lines.push(format!("layers        {} of {} in all", image.layers.len(), size(total)));
    for (at, layer) in image.layers.iter().enumerate() {
        lines.push(format!("{:>5}  {}  {:>10}  {}", at + 1, layer.digest, size(layer.size), layer.media_type));
    }
    lines.join("\n")
}

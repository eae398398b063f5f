//! Makes a `.smolmachine` of a root filesystem, for tests: `smolvm machine create --from` takes what this writes.
//!
//! `cargo run --example make_machine -- --agent-rootfs FILE --root FOLDER_OR_TAR OUT.smolmachine --user 1000`

#[path = "../support/packed.rs"]
mod packed;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use clap::Parser;
use smolfreeze::oci::Compression;
use smolfreeze::pipeline::gather::Layer;
use smolfreeze::sink::artifact::{ArtifactOptions, ArtifactSink, Lookup, MachineSettings};

/// Makes a `.smolmachine` of a root filesystem.
#[derive(Debug, Parser)]
struct Arguments {
    /// Where the artifact goes.
    out: PathBuf,
    /// The root filesystem: a folder, or a tar of one.
    #[arg(long)]
    root: PathBuf,
    /// What is in /workspace at the first start: a folder.
    #[arg(long)]
    workspace: Option<PathBuf>,
    /// smolvm's agent root filesystem.
    #[arg(long)]
    agent_rootfs: Option<PathBuf>,
    /// The image's USER.
    #[arg(long)]
    user: Option<String>,
    /// The image's working directory.
    #[arg(long)]
    workdir: Option<String>,
    /// KEY=VALUE in the image's environment.
    #[arg(long)]
    env: Vec<String>,
    /// The image's command, one word each time.
    #[arg(long)]
    cmd: Vec<String>,
    /// Layers in the image: the root filesystem, and above it layers that hold one file each, `/layers/N`.
    #[arg(long, default_value_t = 1)]
    layers: usize,
    /// The release of smolvm that the agent is from.
    #[arg(long)]
    smolvm_version: Option<String>,
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments = Arguments::parse();
    let agent = Lookup::from_environment(arguments.agent_rootfs.clone(), None).find()?;
    let mut layers = vec![packed::layer(0, &tar_at(&arguments.root)?, Compression::Zstd)];
    for number in 1..arguments.layers {
        layers.push(packed::layer(number, &layer_of_one_file(number)?, Compression::Zstd));
    }
    let sink = ArtifactSink::create(&arguments.out, ArtifactOptions::new(agent)).await?;
    for layer in &layers {
        sink.put(layer).await?;
    }
    if let Some(folder) = &arguments.workspace {
        let layer = packed::layer(layers.len(), &tar_of_folder(folder, "workspace")?, Compression::Zstd);
        sink.put_workspace(&layer).await?;
        layers.push(layer);
    }
    let settings = MachineSettings { smolvm_version: arguments.smolvm_version.clone(), ..MachineSettings::new("test") };
    sink.commit(&image(&arguments, &layers), &settings).await?;
    Ok(())
}

fn image(arguments: &Arguments, layers: &[Arc<Layer>]) -> smolfreeze::sink::Image {
    let mut run = serde_json::json!({ "Env": arguments.env, "Cmd": arguments.cmd });
    if let Some(user) = &arguments.user {
        run["User"] = user.as_str().into();
    }
    if let Some(folder) = &arguments.workdir {
        run["WorkingDir"] = folder.as_str().into();
    }
    packed::image(layers, &run)
}

fn tar_at(path: &Path) -> std::io::Result<Vec<u8>> {
    if path.is_file() { std::fs::read(path) } else { tar_of_folder(path, ".") }
}

/// Through the host's own GNU tar, which keeps owners, links, attributes and holes; all of it below `prefix`.
fn tar_of_folder(folder: &Path, prefix: &str) -> std::io::Result<Vec<u8>> {
    let mut tar = Command::new("tar");
    tar.args(["--numeric-owner", "--xattrs", "--xattrs-include=*", "--sort=name", "-cf", "-"]);
    tar.arg(format!("--transform=s,^\\.,{prefix},S")).arg("-C").arg(folder).arg(".");
    let output = tar.stderr(std::process::Stdio::inherit()).output()?;
    if output.status.success() { Ok(output.stdout) } else { Err(std::io::Error::other("tar failed")) }
}

fn layer_of_one_file(number: usize) -> std::io::Result<Vec<u8>> {
    let mut tar = tar::Builder::new(Vec::new());
    let mut folder = tar::Header::new_gnu();
    folder.set_entry_type(tar::EntryType::Directory);
    folder.set_mode(0o755);
    folder.set_size(0);
    tar.append_data(&mut folder, "layers/", &[][..])?;
    let content = format!("layer {number}\n");
    let mut file = tar::Header::new_gnu();
    file.set_mode(0o644);
    file.set_size(content.len() as u64);
    tar.append_data(&mut file, format!("layers/{number}"), content.as_bytes())?;
    tar.into_inner()
}

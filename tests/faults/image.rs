//! What is in an image, unpacked by GNU tar, one layer after the other.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::case::Output;
use crate::support::sidecar;
use crate::trees::inventory;
use crate::world::World;

/// All entries of the image at `output`.
pub fn unpacked(world: &World, output: Output) -> Result<BTreeMap<PathBuf, String>, String> {
    let into = world.host.path("unpacked");
    let _ = fs::remove_dir_all(&into);
    fs::create_dir(&into).unwrap();
    let root = match output {
        Output::Artifact => sidecar::unpacked(&world.artifact(), &into),
        Output::Layout => of_layout(&world.layout(), &into)?,
        Output::Registry | Output::Serve => {
            let pulled = into.join("pulled");
            let (from, to) =
                (format!("docker://{}", world.plain_name(output)), format!("oci:{}:tag", pulled.display()));
            done(Command::new("skopeo").args(["copy", "--quiet", "--src-tls-verify=false", &from, &to]))?;
            of_layout(&pulled, &into)?
        }
    };
    let found = inventory(&root, world.keeps);
    let _ = fs::remove_dir_all(&into);
    Ok(found)
}

/// The digest that a name stands for; none where there is no such name.
pub fn digest(world: &World, output: Output) -> Option<String> {
    match output {
        Output::Artifact => {
            let file = world.artifact();
            let bytes = fs::read(file).ok()?;
            Some(crate::support::layers::descriptor("artifact", &bytes).digest.to_string())
        }
        Output::Layout => named(&world.layout()).map(|manifest| manifest["digest"].to_string()),
        Output::Registry | Output::Serve => {
            let name = format!("docker://{}", world.plain_name(output));
            let raw = Command::new("skopeo").args(["inspect", "--tls-verify=false", "--raw", &name]).output().unwrap();
            raw.status.success().then(|| crate::support::layers::descriptor("raw", &raw.stdout).digest.to_string())
        }
    }
}

/// The index entry with the tag.
fn named(layout: &Path) -> Option<Value> {
    let index: Value = serde_json::from_slice(&fs::read(layout.join("index.json")).ok()?).ok()?;
    let mut manifests = index["manifests"].as_array()?.iter();
    manifests.find(|entry| entry["annotations"]["org.opencontainers.image.ref.name"] == "tag").cloned()
}

fn of_layout(layout: &Path, into: &Path) -> Result<PathBuf, String> {
    let entry = named(layout).ok_or("the layout has no such tag")?;
    let blob = |descriptor: &Value| {
        let digest = descriptor["digest"].as_str().unwrap_or_default().trim_start_matches("sha256:").to_owned();
        layout.join("blobs/sha256").join(digest)
    };
    let manifest = fs::read(blob(&entry)).map_err(|error| format!("the manifest: {error}"))?;
    let manifest: Value = serde_json::from_slice(&manifest).map_err(|error| format!("the manifest: {error}"))?;
    let root = into.join("root");
    fs::create_dir(&root).unwrap();
    for layer in manifest["layers"].as_array().ok_or("no layers")? {
        let mut tar = Command::new("tar");
        tar.args(["--numeric-owner", "--warning=no-timestamp", "--xattrs", "--xattrs-include=*"]);
        tar.args(["--delay-directory-restore", "-xpf"]).arg(blob(layer)).arg("-C").arg(&root);
        // By its media type: GNU tar looks at a file's first bytes itself, but for those of no compression.
        done(&mut tar)?;
    }
    Ok(root)
}

/// Runs it, which has to work.
pub fn done(command: &mut Command) -> Result<(), String> {
    let output = command.output().unwrap();
    if output.status.success() {
        return Ok(());
    }
    Err(format!("{command:?}: {}", String::from_utf8_lossy(&output.stderr)))
}

//! What smolvm's own code makes of a `.smolmachine` artifact, and what GNU tar unpacks of that.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use sha2::{Digest as _, Sha256};

/// Stands in for smolvm's agent root filesystem: a folder of this name below `parent`.
pub fn agent(parent: &Path) -> PathBuf {
    let agent = parent.join("agent");
    fs::create_dir_all(agent.join("sbin")).expect("a folder");
    fs::write(agent.join("sbin/init"), "the agent").expect("a file");
    agent
}

/// Whole by its checksum, with a manifest.
pub fn is_whole(artifact: &Path) -> bool {
    smolvm_pack::read_footer_from_sidecar(artifact)
        .is_ok_and(|footer| smolvm_pack::verify_sidecar_checksum(artifact, &footer).is_ok_and(|right| right))
        && smolvm_pack::read_manifest_from_sidecar(artifact).is_ok()
}

/// [`is_whole`], and its manifest.
pub fn assert_whole(artifact: &Path) -> smolvm_pack::PackManifest {
    let footer = smolvm_pack::read_footer_from_sidecar(artifact).expect("a footer");
    assert!(smolvm_pack::verify_sidecar_checksum(artifact, &footer).expect("its bytes"), "the checksum");
    smolvm_pack::read_manifest_from_sidecar(artifact).expect("a manifest")
}

/// The root filesystem that a new machine has: the workspace from its seed, and all layers over each other. The layer
/// files are what their names say; none has anything below `/workspace`.
pub fn unpacked(artifact: &Path, into: &Path) -> PathBuf {
    let (manifest, assets, root) = extracted(artifact, into);
    if let Some(seed) = &manifest.assets.workspace_seed {
        fs::create_dir(root.join("workspace")).expect("a folder");
        untar(&assets.join(&seed.path), &root.join("workspace"));
    }
    for layer in &manifest.assets.layers {
        let listed = Command::new("tar").arg("-tf").arg(assets.join(&layer.path)).output().expect("tar").stdout;
        let hidden = |name: &[u8]| name.starts_with(b"workspace/") || name.starts_with(b"./workspace/");
        assert!(!listed.split(|byte| *byte == b'\n').any(hidden), "smolvm would hide it");
    }
    lay(&manifest, &assets, &root);
    root
}

/// The image in an artifact that smolvm packed, with what a machine of it does not show: `/workspace`.
pub fn image_of(artifact: &Path, into: &Path) -> PathBuf {
    let (manifest, assets, root) = extracted(artifact, into);
    assert!(manifest.assets.workspace_seed.is_none(), "a seed");
    lay(&manifest, &assets, &root);
    root
}

/// The manifest, the folder with what is in the artifact, and an empty one.
fn extracted(artifact: &Path, into: &Path) -> (smolvm_pack::PackManifest, PathBuf, PathBuf) {
    let manifest = assert_whole(artifact);
    let footer = smolvm_pack::read_footer_from_sidecar(artifact).expect("a footer");
    let _ = fs::remove_dir_all(into);
    let (assets, root) = (into.join("assets"), into.join("root"));
    fs::create_dir_all(&root).expect("a folder");
    smolvm_pack::extract::extract_sidecar(artifact, &assets, &footer, true, false).expect("to be extracted");
    assert_eq!(fs::read(assets.join("agent-rootfs/sbin/init")).expect("the agent"), b"the agent");
    (manifest, assets, root)
}

/// All layers over each other.
fn lay(manifest: &smolvm_pack::PackManifest, assets: &Path, root: &Path) {
    for layer in &manifest.assets.layers {
        let tar = assets.join(&layer.path);
        assert_eq!(sha256(&tar), layer.digest);
        untar(&tar, root);
    }
}

fn untar(tar: &Path, folder: &Path) {
    let mut command = Command::new("tar");
    command
        .args([
            "--numeric-owner",
            "--warning=no-timestamp",
            "--xattrs",
            "--xattrs-include=*",
            "--delay-directory-restore",
            "-xpf",
        ])
        .arg(tar)
        .arg("-C")
        .arg(folder);
    assert!(command.status().expect("tar").success(), "{}", tar.display());
}

fn sha256(file: &Path) -> String {
    let mut hash = Sha256::new();
    std::io::copy(&mut fs::File::open(file).expect("a layer"), &mut HashWriter(&mut hash)).expect("its bytes");
    hash.finalize().iter().fold("sha256:".to_owned(), |text, byte| format!("{text}{byte:02x}"))
}

struct HashWriter<'a>(&'a mut Sha256);

impl std::io::Write for HashWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

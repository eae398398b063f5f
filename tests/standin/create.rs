//! `machine create --from` and `machine delete`: a machine's root is the overlay of an artifact's layers.

use std::fs;
use std::path::Path;
use std::process::Command;

use smolvm_pack::PackManifest;

use crate::state::{Failure, Machine, State};
use crate::{CreateArguments, faults, guest};

/// Where a machine keeps what its artifact has for `/workspace`, until it is started.
pub(crate) const SEED: &str = "workspace-seed.tar";

pub(crate) fn create(state: &State, arguments: &CreateArguments) -> Result<(), Failure> {
    if faults::take(state, "create-locked")?.is_some() {
        return Err(Failure::new("STORAGE_ERROR", "storage operation failed: database is locked"));
    }
    let from = &arguments.from;
    if !from.exists() {
        let words = format!("config operation failed: create from .smolmachine: file not found: {}", from.display());
        return Err(Failure::new("CONFIG_ERROR", words));
    }
    let footer = smolvm_pack::read_footer_from_sidecar(from)
        .map_err(|error| Failure::agent(format!("read checkpoint footer: {error}")))?;
    let right = smolvm_pack::verify_sidecar_checksum(from, &footer).map_err(Failure::agent)?;
    if !right {
        let name = from.file_name().unwrap_or_default().display();
        return Err(Failure::agent(format!("verify checkpoint checksum: checksum mismatch for {name}")));
    }
    let folder = state.folder(&arguments.name);
    if folder.exists() && !folder.join("machine.json").exists() {
        // The data of a create that did not finish, which smolvm removes as well.
        fs::remove_dir_all(&folder)?;
    }
    if fs::create_dir(&folder).is_err() {
        let words = format!(
            "config operation failed: create machine: machine '{}' already exists or is being created",
            arguments.name
        );
        return Err(Failure::new("CONFLICT", words));
    }
    say("Extracting .smolmachine assets...");
    if let Some(millis) = faults::take(state, "create-slow")? {
        std::thread::sleep(std::time::Duration::from_millis(millis));
    }
    let made = unpack(state, arguments, &folder);
    if made.is_err() {
        let _ = fs::remove_dir_all(&folder);
    }
    made?;
    say(&format!("Created machine: {}", arguments.name));
    Ok(())
}

fn unpack(state: &State, arguments: &CreateArguments, folder: &Path) -> Result<(), Failure> {
    let footer = smolvm_pack::read_footer_from_sidecar(&arguments.from).map_err(Failure::agent)?;
    let manifest = smolvm_pack::read_manifest_from_sidecar(&arguments.from).map_err(Failure::agent)?;
    let pack = folder.join("pack");
    smolvm_pack::extract::extract_sidecar(&arguments.from, &pack, &footer, true, false)?;
    let mut lower = Vec::new();
    for (number, layer) in manifest.assets.layers.iter().enumerate() {
        // Short and relative: all names of an overlay's folders have to fit into a page.
        let name = format!("layers/{number}");
        fs::create_dir_all(folder.join(&name))?;
        unpack_tar(&pack.join(&layer.path), &folder.join(&name))?;
        lower.push(name);
    }
    lower.reverse();
    if let Some(seed) = &manifest.assets.workspace_seed {
        fs::rename(pack.join(&seed.path), folder.join(SEED))?;
    }
    fs::remove_dir_all(&pack)?;
    let machine = describe(arguments, &manifest, lower.join(":"))?;
    let text = serde_json::to_vec(&machine).map_err(std::io::Error::other)?;
    // Only now smolvm lists it.
    let whole = state.path().join(format!(".{}.json", arguments.name));
    fs::write(&whole, text)?;
    fs::rename(whole, folder.join("machine.json"))?;
    Ok(())
}

fn describe(arguments: &CreateArguments, manifest: &PackManifest, rootfs: String) -> Result<Machine, Failure> {
    let user = manifest.user.as_deref().unwrap_or("0");
    let (uid, gid) = user.split_once(':').unwrap_or((user, user));
    let number = |text: &str| {
        text.parse().map_err(|_| Failure::agent(format!("create: unable to find user {text} in the stand-in")))
    };
    Ok(Machine {
        name: arguments.name.clone(),
        image: Some(manifest.image.clone()),
        rootfs: rootfs.into(),
        uid: number(uid)?,
        gid: number(gid)?,
        workdir: manifest.workdir.clone().unwrap_or_else(|| "/".to_owned()),
        env: manifest.env.clone(),
        entrypoint: manifest.entrypoint.clone(),
        cmd: manifest.cmd.clone(),
        labels: std::collections::BTreeMap::new(),
        volumes: Vec::new(),
        var_tmp_bytes: None,
        cpus: arguments.cpus.unwrap_or(manifest.cpus),
        memory_mib: arguments.mem.unwrap_or(manifest.mem),
        network: arguments.net || manifest.network,
        created_at: std::time::UNIX_EPOCH.elapsed().map_or(0, |now| now.as_secs()),
        overlay: String::new(),
    })
}

fn unpack_tar(tar: &Path, folder: &Path) -> Result<(), Failure> {
    let options = ["--delay-directory-restore", "--numeric-owner", "--xattrs", "--xattrs-include=*", "-xpf"];
    let done = Command::new("tar").args(options).arg(tar).arg("-C").arg(folder).output()?;
    if done.status.success() {
        return Ok(());
    }
    Err(Failure::agent(format!("extract: {}", String::from_utf8_lossy(&done.stderr))))
}

pub(crate) fn delete(state: &State, name: &str, force: bool) -> Result<(), Failure> {
    let machine = state.machine(name)?;
    if !force {
        return Err(Failure::agent(format!(
            "delete: machine '{name}' needs confirmation but stdin is not a terminal; pass --force to delete it, or \
             --cascade to remove it together with any machines branched from it"
        )));
    }
    guest::stop(state, &machine)?;
    say(&format!("Cleaning up data directory for vm: {name}"));
    fs::remove_dir_all(state.folder(name))?;
    say(&format!("Deleted machine: {name}"));
    Ok(())
}

#[expect(clippy::print_stdout, reason = "a command line")]
fn say(words: &str) {
    println!("{words}");
}

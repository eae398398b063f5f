//! `pack create`: pulls an image from its registry, and packs it as smolvm does.

use std::fs;
use std::io::Read;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use smolvm_pack::assets::AssetCollector;
use smolvm_pack::{PackManifest, Packer};

use crate::state::{Failure, State};
use crate::{PackArguments, faults};

pub(crate) fn create(state: &State, arguments: &PackArguments) -> Result<(), Failure> {
    let output = arguments.output.display().to_string();
    if let Some(stub) = output.strip_suffix(".smolmachine") {
        return Err(Failure::new(
            "CONFIG_ERROR",
            format!(
                "config operation failed: pack create: --output names the executable stub, not the .smolmachine \
                 sidecar (which is created automatically as '<output>.smolmachine'). Use --output {stub} instead."
            ),
        ));
    }
    let staging = std::env::var_os("SMOLVM_PACK_STAGING");
    let work = tempfile::tempdir_in(staging.as_deref().map_or(state.path(), Path::new))?;
    let layout = work.path().join("image");
    pull(&arguments.image, &layout)?;
    let manifest = pulled(&layout)?;
    let config = read_json(&blob(&layout, &manifest["config"]))?;
    let mut assets = AssetCollector::new(work.path().join("staging")).map_err(Failure::agent)?;
    let agent = work.path().join("agent");
    fs::create_dir_all(agent.join("sbin"))?;
    fs::write(agent.join("sbin/init"), "the agent")?;
    assets.collect_agent_rootfs(&agent).map_err(Failure::agent)?;
    let layers = manifest["layers"].as_array().into_iter().flatten();
    let diff_ids = config["rootfs"]["diff_ids"].as_array().into_iter().flatten();
    for (layer, diff_id) in layers.zip(diff_ids) {
        let tar = decoded(&blob(&layout, layer), layer["mediaType"].as_str().unwrap_or_default())?;
        assets.add_layer(diff_id.as_str().unwrap_or_default(), &tar).map_err(Failure::agent)?;
    }
    let mut packed = describe(arguments, &config);
    packed.assets = assets.inventory().clone();
    fs::write(work.path().join("stub"), "#!/bin/sh\n")?;
    let writer = Packer::new(packed).with_stub(work.path().join("stub")).with_asset_collector(assets);
    half(state, arguments)?;
    writer.pack(&arguments.output).map_err(Failure::agent)?;
    if faults::take(state, "pack-flip")?.is_some() {
        let sidecar = fs::File::options().read(true).write(true).open(sidecar(arguments))?;
        let (at, mut byte) = (sidecar.metadata()?.len() / 2, [0]);
        sidecar.read_exact_at(&mut byte, at)?;
        sidecar.write_all_at(&[byte[0] ^ 0x20], at)?;
    }
    Ok(())
}

/// What smolvm leaves where it ends too early.
fn half(state: &State, arguments: &PackArguments) -> Result<(), Failure> {
    let (slow, fail) = (faults::take(state, "pack-slow")?, faults::take(state, "pack-fail")?);
    if slow.is_some() || fail.is_some() {
        fs::write(&arguments.output, "#!/bin/sh\n")?;
        fs::write(sidecar(arguments), "half of it")?;
    }
    if let Some(millis) = slow {
        // smolvm packs in a machine, whose process is not its own.
        Command::new("sleep").arg(format!("{}.{:03}", millis / 1000, millis % 1000)).status()?;
    }
    match fail {
        Some(_) => Err(Failure::agent("pack: write layer: No space left on device (os error 28)")),
        None => Ok(()),
    }
}

fn sidecar(arguments: &PackArguments) -> PathBuf {
    smolvm_pack::packer::sidecar_path_for(&arguments.output)
}

fn pull(image: &str, layout: &Path) -> Result<(), Failure> {
    // The machine that pulls is kept from the host's loopback.
    if image.starts_with("127.") && std::env::var_os("SMOLVM_ALLOW_HOST_LOOPBACK").is_none() {
        return Err(Failure::agent(format!("fetching manifest {image}: connect: permission denied")));
    }
    let mut skopeo = Command::new("skopeo");
    skopeo.args(["copy", "--quiet", "--src-tls-verify=false"]);
    let done = skopeo.arg(format!("docker://{image}")).arg(format!("oci:{}:it", layout.display())).output()?;
    if done.status.success() {
        return Ok(());
    }
    Err(Failure::agent(format!("pull {image}: {}", String::from_utf8_lossy(&done.stderr).trim())))
}

fn pulled(layout: &Path) -> Result<Value, Failure> {
    let index = read_json(&layout.join("index.json"))?;
    read_json(&blob(layout, &index["manifests"][0]))
}

fn blob(layout: &Path, descriptor: &Value) -> PathBuf {
    let hex = descriptor["digest"].as_str().unwrap_or_default().trim_start_matches("sha256:");
    layout.join("blobs/sha256").join(hex)
}

fn read_json(path: &Path) -> Result<Value, Failure> {
    Ok(serde_json::from_slice(&fs::read(path)?).map_err(std::io::Error::other)?)
}

fn decoded(path: &Path, media_type: &str) -> Result<Vec<u8>, Failure> {
    let stored = fs::File::open(path)?;
    let mut tar = Vec::new();
    let mut from: Box<dyn Read> = match media_type.rsplit('+').next() {
        Some("zstd") => Box::new(zstd::Decoder::new(stored)?),
        Some("gzip") => Box::new(flate2::read::MultiGzDecoder::new(stored)),
        _ => Box::new(stored),
    };
    std::io::copy(&mut from, &mut tar)?;
    Ok(tar)
}

fn describe(arguments: &PackArguments, config: &Value) -> PackManifest {
    let text = |key: &str| config[key].as_str().unwrap_or_default().to_owned();
    let platform = format!("{}/{}", text("os"), text("architecture"));
    let mut packed = PackManifest::new(arguments.image.clone(), "none".to_owned(), platform.clone(), platform);
    let run = &config["config"];
    let words = |key: &str| -> Vec<String> {
        run[key].as_array().into_iter().flatten().filter_map(|word| Some(word.as_str()?.to_owned())).collect()
    };
    (packed.entrypoint, packed.cmd, packed.env) = (words("Entrypoint"), words("Cmd"), words("Env"));
    packed.workdir = run["WorkingDir"].as_str().map(str::to_owned);
    packed.user = run["User"].as_str().filter(|user| !user.is_empty()).map(str::to_owned);
    packed
}

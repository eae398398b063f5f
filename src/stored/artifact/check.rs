//! An artifact's assets, held against its manifest.

use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Read};

use smolvm_pack::PackManifest;
use smolvm_pack::format::LayerEntry;

use crate::oci::{Compression, DiffId};
use crate::stage::decode::decoder;
use crate::stage::header::Kind;
use crate::stage::walk::{Entry, Walk};
use crate::stored::aside::Aside;
use crate::text;

/// Faults that are told one by one.
const FAULTS_TOLD: usize = 100;
/// Bytes of a layer that are passed over at a time.
const STEP_BYTES: usize = 64 << 10;

/// What the assets were found to be.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Checked {
    /// Layers that were read.
    pub layers: usize,
    /// Entries in them.
    pub entries: u64,
    /// Stored bytes of all assets.
    pub stored_bytes: u64,
    /// Bytes of tar of all layers.
    pub tar_bytes: u64,
    /// Everything that is not what the manifest says.
    pub faults: Vec<String>,
}

/// What the manifest says must be there, by path; what was found is taken out.
struct Expected {
    layers: BTreeMap<Vec<u8>, (DiffId, u64)>,
    /// The agent's root filesystem and the workspace seed.
    others: BTreeMap<Vec<u8>, u64>,
}

/// Reads the assets from their first byte to their last.
pub(super) fn assets(
    manifest: &PackManifest,
    stored: impl BufRead,
    mut told: impl FnMut(&Checked),
) -> io::Result<Checked> {
    let mut checked = Checked::default();
    let mut expected = Expected::of(manifest, &mut checked.faults);
    let mut walk = Walk::new(decoder(stored, Compression::Zstd)?);
    let end = loop {
        match walk.next() {
            Ok(Some(entry)) => {
                if let Err(error) = expected.found(&entry, &mut walk, &mut checked, &mut told) {
                    break Err(error);
                }
            }
            Ok(None) => break walk.finish(),
            Err(error) => break Err(error),
        }
        limit(&mut checked.faults);
    };
    if let Err(error) = end {
        let error = not_ours(error)?;
        checked.faults.push(format!("its assets can't be read past layer {}: {}", checked.layers, words(&error)));
    } else {
        let missing = expected.layers.keys().chain(expected.others.keys());
        checked.faults.extend(missing.map(|path| format!("{} is missing", text::name(path))));
    }
    limit(&mut checked.faults);
    Ok(checked)
}

impl Expected {
    fn of(manifest: &PackManifest, faults: &mut Vec<String>) -> Self {
        let mut expected = Self { layers: BTreeMap::new(), others: BTreeMap::new() };
        for layer in &manifest.assets.layers {
            match name_of(layer) {
                Ok(diff_id) => {
                    if expected.layers.insert(layer.path.clone().into_bytes(), (diff_id, layer.size)).is_some() {
                        faults.push(format!("layer {} is listed twice", text::line(&layer.digest)));
                    }
                }
                Err(fault) => faults.push(fault),
            }
            limit(faults);
        }
        let agent = &manifest.assets.agent_rootfs;
        for asset in manifest.assets.workspace_seed.iter().chain([agent]) {
            expected.others.insert(asset.path.clone().into_bytes(), asset.size);
        }
        expected
    }

    /// Takes in one entry of the assets. Only an error of the assets as a whole is one; a layer's own are faults.
    fn found<R: Read>(
        &mut self,
        entry: &Entry,
        walk: &mut Walk<R>,
        checked: &mut Checked,
        told: &mut impl FnMut(&Checked),
    ) -> io::Result<()> {
        let name = text::name(&entry.name);
        if let Some((diff_id, size)) = self.layers.remove(&entry.name) {
            check_layer(walk, (diff_id, size), checked)?;
            told(checked);
        } else if let Some(size) = self.others.remove(&entry.name) {
            if entry.kind != Kind::File || entry.size != size {
                checked.faults.push(format!("{name} should have {size} bytes, and has {}", entry.size));
            }
        } else if is_layer_name(&entry.name) {
            // smolvm takes every tar right below `layers/` for a layer.
            checked.faults.push(format!("{name} is a layer that the manifest does not list"));
        }
        Ok(())
    }
}

/// The diff_id of a layer that the manifest lists, if its path is made of it.
fn name_of(layer: &LayerEntry) -> Result<DiffId, String> {
    let diff_id: DiffId = layer.digest.parse().map_err(|error| format!("the manifest's layers: {error}"))?;
    let path = format!("layers/{}.tar", diff_id.hex());
    if layer.path == path {
        return Ok(diff_id);
    }
    Err(format!("layer {diff_id} should be at {path}, and the manifest says {}", text::line(&layer.path)))
}

fn is_layer_name(name: &[u8]) -> bool {
    let inside = name.strip_prefix(b"layers/").and_then(|name| name.strip_suffix(b".tar"));
    inside.is_some_and(|name| !name.contains(&b'/'))
}

fn check_layer<R: Read>(walk: &mut Walk<R>, (diff_id, size): (DiffId, u64), checked: &mut Checked) -> io::Result<()> {
    let (read, (found, tar_bytes)) = std::thread::scope(|scope| {
        let mut content = Hashing { from: walk, hasher: Aside::new(scope) };
        let read = read_tar(BufReader::with_capacity(STEP_BYTES, &mut content));
        // To the layer's end, whatever its tar is: the name is the hash of all bytes.
        let mut step = vec![0; STEP_BYTES];
        while content.read(&mut step)? > 0 {}
        io::Result::Ok((read, content.hasher.finish()))
    })?;
    checked.layers += 1;
    checked.tar_bytes += tar_bytes;
    match read {
        Ok(entries) => checked.entries += entries,
        Err(error) => checked.faults.push(format!("layer {diff_id}: {}", words(&error))),
    }
    if tar_bytes != size {
        checked.faults.push(format!("layer {diff_id}: the size should be {size}, and is {tar_bytes}"));
    }
    if found != diff_id {
        checked.faults.push(format!("layer {diff_id}: its bytes are {found}"));
    }
    Ok(())
}

fn read_tar(from: impl Read) -> io::Result<u64> {
    let (mut walk, mut entries) = (Walk::new(from), 0);
    while walk.next()?.is_some() {
        entries += 1;
    }
    walk.finish()?;
    Ok(entries)
}

/// Keeps the list of faults short: a file may have as many as it likes.
fn limit(faults: &mut Vec<String>) {
    if faults.len() > FAULTS_TOLD {
        faults.truncate(FAULTS_TOLD);
        faults.push("and more".to_owned());
    }
}

/// An error of this crate ends the reading; any other is the file's.
fn not_ours(error: io::Error) -> io::Result<io::Error> {
    match error.downcast::<crate::error::Error>() {
        Ok(ours) => Err(io::Error::other(ours)),
        Err(error) => Ok(error),
    }
}

fn words(error: &io::Error) -> String {
    if error.kind() == io::ErrorKind::UnexpectedEof {
        return "the tar, or its compression, ends early; it was cut off".to_owned();
    }
    error.to_string()
}

struct Hashing<'scope, 'env, R> {
    from: R,
    hasher: Aside<'scope, 'env>,
}

impl<R: Read> Read for Hashing<'_, '_, R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let count = self.from.read(into)?;
        self.hasher.update(&into[..count]);
        Ok(count)
    }
}

//! An image as a folder, by other hands than ours: by umoci, by GNU tar layer by layer under overlayfs, and out of an
//! artifact by smolvm's own code.

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::tars::UNPACK;
use crate::tree::inventory::Inventory;
use crate::tree::layers;
use crate::work::Work;

/// Go's hash panics at times when umoci closes a blob that another of its threads still reads.
const UMOCI_TRIES: usize = 5;

/// A layout with one image, and how its layers are stored.
pub struct Layout {
    pub path: PathBuf,
    layers: Vec<(PathBuf, String)>,
}

impl Layout {
    pub fn read(path: PathBuf) -> Self {
        let index = json(&path.join("index.json"));
        let manifest = json(&blob(&path, &index["manifests"][0]));
        let layers = manifest["layers"].as_array().unwrap().iter();
        let layers = layers.map(|layer| (blob(&path, layer), layer["mediaType"].as_str().unwrap().to_owned()));
        Self { layers: layers.collect(), path }
    }

    /// What comes from a registry, as it is there.
    pub fn pulled(work: &Work, name: &str) -> Self {
        work.shell(&format!("skopeo copy --quiet --src-tls-verify=false docker://{name} oci:pulled:it"));
        Self::read(work.path("pulled"))
    }

    pub fn layers(&self) -> usize {
        self.layers.len()
    }

    /// By umoci, which unpacks one layer over the other.
    pub fn by_umoci(&self, work: &Work) -> PathBuf {
        let mut image = self.path.clone();
        if self.layers.iter().any(|(_, kind)| kind.ends_with("+zstd")) {
            // This umoci reads no zstd.
            image = work.path("gzipped");
            let from = self.path.display();
            work.shell(&format!(
                "skopeo copy --quiet --dest-compress-format gzip --dest-compress-level 1 oci:{from} oci:gzipped:it"
            ));
        }
        let tag =
            json(&image.join("index.json"))["manifests"][0]["annotations"]["org.opencontainers.image.ref.name"].clone();
        let (image, tag) = (image.display(), tag.as_str().unwrap());
        for _ in 0..UMOCI_TRIES {
            let output = work.try_shell(&format!("rm -rf by-umoci; umoci raw unpack --image {image}:{tag} by-umoci"));
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            if output.status.success() {
                return work.path("by-umoci");
            }
            assert!(said.contains("panic: d.nx != 0"), "umoci: {}", said.chars().take(500).collect::<String>());
        }
        panic!("umoci: it panics {UMOCI_TRIES} times");
    }

    /// Each layer in a folder of its own, by GNU tar, and overlayfs over them.
    pub fn under_overlayfs(&self, work: &Work) -> Mounted {
        let folder = work.folder("lower");
        for (number, (blob, kind)) in self.layers.iter().enumerate() {
            let reader = match kind.rsplit_once('+') {
                Some((_, "zstd")) => "zstd -dcq",
                Some((_, "gzip")) => "gzip -dc",
                _ => "cat",
            };
            work.shell(&format!("mkdir lower/{number}; {reader} {} | {UNPACK} -C lower/{number}", blob.display()));
        }
        // One folder alone is not stacked.
        work.shell("mkdir lower/none lower/all");
        let mut lower: Vec<_> = (0..self.layers.len()).rev().map(|number| number.to_string()).collect();
        lower.push("none".into());
        work.shell(&format!("cd lower; mount -t overlay overlay -o ro,lowerdir={} all", lower.join(":")));
        Mounted(folder.join("all"))
    }

    /// By reading alone.
    pub fn by_reading(&self) -> Inventory {
        let mut found = Inventory::new();
        for (blob, kind) in &self.layers {
            let file = BufReader::new(File::open(blob).unwrap());
            let tar: Box<dyn Read> = match kind.rsplit_once('+') {
                Some((_, "zstd")) => Box::new(zstd::Decoder::with_buffer(file).unwrap()),
                Some((_, "gzip")) => Box::new(flate2::bufread::MultiGzDecoder::new(file)),
                _ => Box::new(file),
            };
            layers::lay(tar, &mut found);
        }
        layers::sorted(&found)
    }
}

/// A mount that goes with this.
pub struct Mounted(PathBuf);

impl Mounted {
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

fn json(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

fn blob(layout: &Path, descriptor: &Value) -> PathBuf {
    layout.join("blobs").join(descriptor["digest"].as_str().unwrap().replace(':', "/"))
}

//! A `.smolmachine` file, read back: footer, manifest, and through all of its assets.
//!
//! The file is untrusted. Sizes are held against the file and against limits before anything is allocated, and the assets
//! are a stream: whatever the file says, a window of zstd and a few blocks are held.

mod check;
mod file;

use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use smolvm_pack::format::{FOOTER_SIZE, PackMode};
use smolvm_pack::{PackFooter, PackManifest};

use self::file::Watched;
use super::Verified;
use crate::error::{Error, Kind, Result, Side};
use crate::progress::Observer;
use crate::stop::Stop;

pub use check::Checked;

/// Most bytes of manifest: thousands of layers.
const MANIFEST_BYTES_MAX: u64 = 8 << 20;
/// Bytes that one read of the file takes.
const READ_BYTES: usize = 256 << 10;

/// The bytes of an artifact whose footer and manifest make sense.
#[derive(Debug)]
pub struct Artifact<F> {
    file: F,
    footer: PackFooter,
    manifest: PackManifest,
}

/// What `inspect` shows of an artifact.
#[derive(Debug, Clone, serde::Serialize)]
pub struct InspectedArtifact {
    /// Where it is.
    pub name: String,
    /// Bytes of the file.
    pub stored_bytes: u64,
    /// `container`: layers of an image; `vm`: the disks of a machine, which smolvm itself packed.
    pub mode: PackMode,
    /// When it was made.
    pub created: String,
    /// The release of smolvm that its agent belongs to.
    pub smolvm_version: String,
    /// The guest's platform.
    pub platform: String,
    /// Virtual CPUs of a machine made from it.
    pub cpus: u8,
    /// Memory of a machine made from it, in MiB.
    pub memory_mib: u32,
    /// Whether that machine may reach the network.
    pub network: bool,
    /// The image that it was made from.
    pub image: String,
    /// The digest of that image's manifest.
    pub digest: String,
    /// The user that commands run as.
    pub user: Option<String>,
    /// Where commands start.
    pub workdir: Option<String>,
    /// `KEY=VALUE`.
    pub env: Vec<String>,
    /// The entrypoint.
    pub entrypoint: Vec<String>,
    /// The command.
    pub cmd: Vec<String>,
    /// The layers, bottom first.
    pub layers: Vec<InspectedLayer>,
    /// Bytes of the tar that fills `/workspace` at the first start.
    pub workspace_bytes: Option<u64>,
}

/// One layer of an artifact.
#[derive(Debug, Clone, serde::Serialize)]
pub struct InspectedLayer {
    /// SHA-256 of its tar.
    pub digest: String,
    /// Bytes of its tar.
    pub size: u64,
}

impl<F: Read + Seek> Artifact<F> {
    /// Reads footer and manifest.
    ///
    /// # Errors
    /// `InvalidData` where they are not those of an artifact; whatever reading gives.
    pub fn read(mut file: F) -> io::Result<Self> {
        let file_bytes = file.seek(SeekFrom::End(0))?;
        let content_bytes = file_bytes
            .checked_sub(FOOTER_SIZE as u64)
            .ok_or_else(|| invalid(format!("{file_bytes} bytes are too few for an artifact")))?;
        file.seek(SeekFrom::Start(content_bytes))?;
        let mut bytes = [0; FOOTER_SIZE];
        file.read_exact(&mut bytes)?;
        let footer = PackFooter::from_bytes(&bytes)
            .map_err(|error| invalid(format!("it does not end as an artifact: {error}")))?;
        if footer.assets_offset != 0 || footer.manifest_offset != footer.assets_size {
            return Err(invalid(
                "it is no sidecar: its assets do not begin the file, or its manifest is not behind them",
            ));
        }
        if footer.assets_size.checked_add(footer.manifest_size) != Some(content_bytes) {
            let (assets, manifest) = (footer.assets_size, footer.manifest_size);
            let reason = format!("{assets} bytes of assets and {manifest} of manifest are not its {content_bytes}");
            return Err(invalid(format!("{reason}; it was cut off, or is damaged")));
        }
        if footer.manifest_size > MANIFEST_BYTES_MAX {
            return Err(invalid(format!("{} bytes are too many for a manifest", footer.manifest_size)));
        }
        file.seek(SeekFrom::Start(footer.manifest_offset))?;
        let mut json =
            vec![0; usize::try_from(footer.manifest_size).map_err(|_| invalid("a manifest past all bounds"))?];
        file.read_exact(&mut json)?;
        let manifest = PackManifest::from_json(&json).map_err(|error| invalid(format!("its manifest: {error}")))?;
        Ok(Self { file, footer, manifest })
    }

    /// Whether the checksum is that of the bytes, as smolvm itself checks it.
    ///
    /// # Errors
    /// When the file can't be read.
    pub fn checksum_is_right(&mut self) -> io::Result<bool> {
        self.file.seek(SeekFrom::Start(0))?;
        let mut left = (&mut self.file).take(self.footer.assets_size + self.footer.manifest_size);
        let (mut hasher, mut buffer) = (crc32fast::Hasher::new(), vec![0; READ_BYTES]);
        loop {
            match left.read(&mut buffer)? {
                0 => return Ok(left.limit() == 0 && hasher.finalize() == self.footer.checksum),
                count => hasher.update(&buffer[..count]),
            }
        }
    }

    /// Reads all assets and holds them against the manifest. `told` hears of each layer that is done.
    ///
    /// # Errors
    /// When the file can't be read; what is wrong with it is among the faults.
    pub fn check(&mut self, told: impl FnMut(&Checked)) -> io::Result<Checked> {
        let right = self.checksum_is_right()?;
        self.file.seek(SeekFrom::Start(0))?;
        let assets = BufReader::with_capacity(READ_BYTES, (&mut self.file).take(self.footer.assets_size));
        let mut checked = check::assets(&self.manifest, assets, told)?;
        checked.stored_bytes = self.footer.assets_size;
        if !right {
            checked.faults.insert(0, "its checksum is not that of its bytes".to_owned());
        }
        Ok(checked)
    }

    /// What it says about itself.
    pub fn describe(&self, name: &str) -> InspectedArtifact {
        let said = self.manifest.clone();
        let layer =
            |layer: &smolvm_pack::format::LayerEntry| InspectedLayer { digest: layer.digest.clone(), size: layer.size };
        InspectedArtifact {
            name: name.to_owned(),
            stored_bytes: self.footer.assets_size + self.footer.manifest_size + FOOTER_SIZE as u64,
            mode: said.mode,
            created: said.created,
            smolvm_version: said.smolvm_version,
            platform: said.platform,
            cpus: said.cpus,
            memory_mib: said.mem,
            network: said.network,
            image: said.image,
            digest: said.digest,
            user: said.user,
            workdir: said.workdir,
            env: said.env,
            entrypoint: said.entrypoint,
            cmd: said.cmd,
            layers: said.assets.layers.iter().map(layer).collect(),
            workspace_bytes: said.assets.workspace_seed.map(|seed| seed.size),
        }
    }
}

/// An artifact on a disk.
#[derive(Debug)]
pub struct StoredArtifact {
    path: PathBuf,
    stop: Stop,
    said: Box<InspectedArtifact>,
}

impl StoredArtifact {
    /// Opens the file and reads footer and manifest.
    ///
    /// # Errors
    /// [`Kind::Sink`] when it can't be read, [`Kind::Corrupt`] when it is no artifact.
    pub async fn open(path: &Path, stop: Stop) -> Result<Self> {
        let said = on_file(path, &stop, |artifact| Ok(Box::new(artifact.describe("")))).await?;
        Ok(Self { path: path.to_owned(), stop, said })
    }

    /// What it says about itself.
    #[must_use]
    pub fn inspect(&self, name: &str) -> InspectedArtifact {
        InspectedArtifact { name: name.to_owned(), ..(*self.said).clone() }
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// How many layers it has.
    #[must_use]
    pub fn layers(&self) -> usize {
        self.said.layers.len()
    }

    /// Holds the checksum against the bytes. `observer` is told how many there are, and of those that were read.
    ///
    /// # Errors
    /// [`Kind::Corrupt`] when it is another one.
    pub async fn verify_checksum(&self, observer: &Arc<dyn Observer>) -> Result<()> {
        observer.expected(self.said.stored_bytes);
        let observer = Arc::clone(observer);
        let reading = on_file(&self.path, &self.stop, move |artifact| {
            artifact.file.observed_by(observer);
            artifact.checksum_is_right()
        });
        if reading.await? {
            return Ok(());
        }
        let reason = "its checksum is not that of its bytes; it was damaged, or was not copied to its end";
        Err(Error::new(Kind::Corrupt, Side::Sink, "reading the artifact", named(&self.path), reason))
    }

    /// Reads all of it: the checksum, and each layer's name, size, and tar from its first byte to its last.
    ///
    /// # Errors
    /// When it can't be read; what is wrong with it is in [`Verified::faults`].
    pub async fn verify(&self, observer: &Arc<dyn Observer>) -> Result<Verified> {
        // Once for the checksum, once for the layers.
        observer.expected(self.said.stored_bytes.saturating_mul(2));
        let observer = Arc::clone(observer);
        let reading = on_file(&self.path, &self.stop, move |artifact| {
            artifact.file.observed_by(observer);
            artifact.check(|_| ())
        });
        let Checked { layers, entries, stored_bytes, tar_bytes, faults } = reading.await?;
        Ok(Verified { layers, entries, compared: None, stored_bytes, tar_bytes, faults })
    }
}

/// Does something with an artifact's file on a thread that may block; it ends early when stopped.
async fn on_file<T: Send + 'static>(
    path: &Path,
    stop: &Stop,
    work: impl FnOnce(&mut Artifact<Watched>) -> io::Result<T> + Send + 'static,
) -> Result<T> {
    let (path, stop) = (path.to_owned(), stop.clone());
    let done = tokio::task::spawn_blocking(move || {
        let opened = File::open(&path).and_then(|file| Artifact::read(Watched::new(file, stop)?));
        opened.and_then(|mut artifact| work(&mut artifact)).map_err(|error| failed(&path, error))
    });
    done.await.map_err(|_| Error::hung_up("reading the artifact"))?
}

fn failed(path: &Path, error: io::Error) -> Error {
    let error = match error.downcast::<Error>() {
        Ok(ours) => return ours,
        Err(error) => error,
    };
    let kind = match error.kind() {
        io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof => Kind::Corrupt,
        _ => Kind::Sink,
    };
    Error::new(kind, Side::Sink, "reading the artifact", named(path), &error).because(error)
}

fn named(path: &Path) -> String {
    format!("'{}'", path.display())
}

fn invalid(reason: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, reason.into())
}

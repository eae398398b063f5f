//! An artifact that smolvm packs: the image goes into a layout of our own, smolvm pulls it from there over loopback.
//!
//! ```text
//! layers ▸ layout ─▶ registry 127.0.0.1:PORT ◀─pull─ smolvm pack create ▸ launcher, sidecar ▸ renamed
//! └──────────────────── all in one temporary folder beside the artifact ──────────────────┘
//! ```
//! The folder is on the artifact's own disk, so that the names appear by renames; it is locked while its run lives, and
//! the next run that packs to the same place removes what a killed one left.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::net::TcpListener;

use super::artifact::{failed, io_failed};
use super::layout::LayoutSink;
use super::{Committed, Image, Put, SinkContext, artifact};
use crate::error::{Error, Kind, Result, Side};
use crate::oci::Descriptor;
use crate::pipeline::gather::{Layer, LiveLayer};
use crate::place::{Place, free_bytes, place_of};
use crate::serve::{Access, ServeOptions, Server};
use crate::smolvm::{Call, Program, Trouble};
use crate::stop::Stop;

/// What all temporary folders begin with.
const PREFIX: &str = ".smolfreeze-pack-";
/// The image's tag.
const TAG: &str = "latest";
/// Where smolvm stages what it packs.
const STAGING: &str = "SMOLVM_PACK_STAGING";
/// What packing may take: smolvm boots a machine, pulls in it, and compresses the whole image.
const PACK_LIMIT: Duration = Duration::from_secs(4 * 3600);
/// How long smolvm may tidy up once stopped. It has a helper machine to end; the user waits.
const PACK_GRACE: Duration = Duration::from_secs(3);

/// What smolvm packs, and where to.
#[derive(Debug, Clone)]
pub struct PackedOptions {
    /// Where the launcher goes; with none it is not kept. smolvm finds a launcher's sidecar by its name: this and
    /// `.smolmachine`.
    pub launcher: Option<PathBuf>,
    /// Where the sidecar goes.
    pub sidecar: PathBuf,
    /// The smolvm executable.
    pub smolvm: Program,
    /// What was frozen; smolvm shows its name in that of the machine's image.
    pub source: String,
    /// What tells the temporary folder of this run from those of others, see [`temporary_folder`].
    pub run: u64,
    /// Bytes that the layers will take, where that is known: a disk with less is refused.
    pub image_bytes: Option<u64>,
}

/// Where the run `run` works on an artifact at `sidecar`.
#[must_use]
pub fn temporary_folder(sidecar: &Path, run: u64) -> PathBuf {
    place_of(folder_of(sidecar), PREFIX, run)
}

/// An image on its way to smolvm. Dropped without a commit, it leaves nothing.
pub struct PackedSink {
    options: PackedOptions,
    image: LayoutSink,
    /// smolvm at work: kept here, so that it can be ended in good order when nobody waits for it any more.
    packing: tokio::sync::Mutex<Option<Call>>,
    place: Mutex<Option<Place>>,
    stop: Stop,
}

impl PackedSink {
    /// Begins in a temporary folder beside the sidecar, whose own folder exists.
    ///
    /// # Errors
    /// When there is no room, or the folder can't be written to.
    pub fn open(options: PackedOptions, context: &SinkContext) -> Result<Self> {
        let parent = folder_of(&options.sidecar);
        let taken =
            [options.launcher.as_ref(), Some(&options.sidecar)].into_iter().flatten().find(|path| path.is_dir());
        if let Some(path) = taken {
            return Err(Error::usage("creating the artifact", path.display(), "it must name a file"));
        }
        if !parent.is_dir() {
            return Err(failed("creating the artifact", &options.sidecar, "its folder is not there"));
        }
        let (needed, free) = (options.image_bytes.unwrap_or(0), free_bytes(parent)?);
        if free < needed {
            let reason = format!("smolvm is handed about {needed} bytes of layers there, and {free} are free");
            return Err(failed("making room for the artifact", &options.sidecar, reason).hint("name another disk"));
        }
        let place = Place::below(parent, PREFIX, options.run)?;
        let image = LayoutSink::open(&place.path().join("image"), TAG, Arc::clone(&context.observer))?;
        let (packing, place, stop) = (tokio::sync::Mutex::default(), Mutex::new(Some(place)), context.stop.clone());
        Ok(Self { options, image, packing, place, stop })
    }

    /// Where the artifact will be.
    #[must_use]
    pub fn name(&self) -> String {
        self.options.sidecar.display().to_string()
    }

    /// Takes a layer.
    ///
    /// # Errors
    /// When the disk does not take it.
    pub async fn put(&self, layer: &Layer) -> Result<Put> {
        self.image.put(layer).await
    }

    /// Takes a layer that is still being made.
    ///
    /// # Errors
    /// As [`Self::put`], and when the packer hung up.
    pub async fn put_live(&self, layer: LiveLayer) -> Result<Descriptor> {
        self.image.put_live(layer).await
    }

    /// Serves the image on a free port of loopback while smolvm packs it, and checks what came out.
    ///
    /// # Errors
    /// When smolvm fails, with its own words, or what it wrote is not whole.
    pub async fn prepare(&self, image: &Image) -> Result<()> {
        self.image.commit(image).await?;
        let made = self.made()?;
        let server = self.server().await?;
        let reference = format!("{}/{}:{TAG}", server.address(), repository(&self.options.source));
        let words = ["pack", "create", "--image", &reference, "-o"].map(OsString::from);
        let arguments = words.into_iter().chain([made.launcher.clone().into()]).collect();
        let mut packing = self.packing.lock().await;
        let call = Call::start(&self.options.smolvm, arguments, &self.environment())
            .map_err(|trouble| self.not_packed(&trouble))?;
        let (call, over) = (packing.insert(call), Stop::new());
        let pack = async {
            let answer = call.answer(PACK_LIMIT).await;
            over.interrupt();
            answer?.done()
        };
        let (packed, ()) = tokio::join!(pack, server.run(&over));
        packed.map_err(|trouble| self.not_packed(&trouble))?;
        let (sidecar, stop) = (self.options.sidecar.clone(), self.stop.clone());
        off_the_runtime(move || made.check(&sidecar, &stop)).await
    }

    /// Gives launcher and sidecar their names, in place of what had them. The sidecar comes last: the launcher is the same
    /// for all, and means nothing alone.
    ///
    /// # Errors
    /// When the folder does not let it.
    pub fn publish(&self, image: &Image) -> Result<Committed> {
        let (made, PackedOptions { launcher, sidecar, .. }) = (self.made()?, &self.options);
        let naming = |error| io_failed("naming the artifact", sidecar, error);
        let was_there = launcher.as_ref().is_some_and(|launcher| launcher.exists());
        if let Some(launcher) = launcher {
            fs::rename(&made.launcher, launcher).map_err(naming)?;
        }
        if let Err(error) = fs::rename(&made.sidecar, sidecar) {
            if let Some(launcher) = launcher.as_ref().filter(|_| !was_there) {
                let _ = fs::remove_file(launcher);
            }
            return Err(naming(error));
        }
        let bytes = fs::metadata(sidecar).map_err(naming)?.len();
        File::open(folder_of(sidecar)).and_then(|folder| folder.sync_all()).map_err(naming)?;
        // The artifact is there: a folder that could not be removed is the next run's to remove.
        drop(self.take_place());
        Ok(Committed {
            name: self.name(),
            digest: image.manifest.0.digest,
            artifact_bytes: Some(bytes),
            launcher: launcher.clone(),
        })
    }

    /// Ends smolvm and removes everything, unless the artifact has its name.
    ///
    /// # Errors
    /// When the temporary folder can't be removed; the next run that packs to the same folder will.
    pub async fn abort(&self) -> Result<()> {
        if let Some(call) = self.packing.lock().await.take() {
            call.terminate(PACK_GRACE).await;
        }
        let Some(place) = self.take_place() else { return Ok(()) };
        // A write may still be under way: from now on it gives nothing a name in the folder.
        let closed = self.image.abort();
        place.close().and(closed)
    }

    fn take_place(&self) -> Option<Place> {
        self.place.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// What smolvm makes, in the temporary folder and under the names it will have.
    fn made(&self) -> Result<Made> {
        let place = self.place.lock().unwrap_or_else(PoisonError::into_inner);
        let folder = place.as_ref().ok_or_else(|| Error::hung_up("the artifact"))?.path();
        let sidecar = folder.join(self.options.sidecar.file_name().unwrap_or_default());
        Ok(Made { launcher: sidecar.with_extension(""), sidecar })
    }

    async fn server(&self) -> Result<Server> {
        let listening = |error: io::Error| Error::sink("listening", "127.0.0.1", &error).because(error);
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.map_err(listening)?;
        let folder = temporary_folder(&self.options.sidecar, self.options.run).join("image");
        let home = Some(repository(&self.options.source));
        let options = ServeOptions { access: Access::ReadOnly, home, ..ServeOptions::default() };
        off_the_runtime(move || Server::open(&folder, listener, options)).await
    }

    /// Without the first, smolvm 1.32 keeps the machine that pulls from the host's loopback. What it stages is ours to
    /// remove, unless the user has named a place for it.
    fn environment(&self) -> Vec<(&'static str, OsString)> {
        let staging = temporary_folder(&self.options.sidecar, self.options.run);
        let staging =
            std::env::var_os(STAGING).unwrap_or_else(|| std::path::absolute(&staging).unwrap_or(staging).into());
        vec![("SMOLVM_ALLOW_HOST_LOOPBACK", "1".into()), (STAGING, staging)]
    }

    fn not_packed(&self, trouble: &Trouble) -> Error {
        let error = failed("packing by smolvm", &self.options.sidecar, trouble);
        match trouble {
            Trouble::NotStarted(_) => error.hint("is smolvm installed? --smolvm names it"),
            _ => error.hint("an artifact written without smolvm needs none of this: --pack-with own"),
        }
    }
}

/// The two files of an artifact that smolvm made.
struct Made {
    launcher: PathBuf,
    sidecar: PathBuf,
}

impl Made {
    /// Whole, and on the disk: all that an artifact needs but its name.
    fn check(&self, target: &Path, stop: &Stop) -> Result<()> {
        let reading = |error| io_failed("reading what smolvm packed", target, error);
        for file in [&self.launcher, &self.sidecar] {
            File::open(file).and_then(|file| file.sync_all()).map_err(reading)?;
        }
        if !artifact::checksum(&self.sidecar, stop).map_err(reading)? {
            let reason = "its checksum is not that of its bytes";
            return Err(Error::new(Kind::Corrupt, Side::Sink, "reading what smolvm packed", target.display(), reason));
        }
        Ok(())
    }
}

/// The folder that `path` is in; a bare name is in the working directory.
fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// A source's name as a repository may have it (OCI distribution specification): lower case, one separator at a time.
fn repository(source: &str) -> String {
    let last = source.rsplit(['/', ':']).find(|part| !part.is_empty()).unwrap_or_default().to_lowercase();
    let words: Vec<_> =
        last.split(|char: char| !char.is_ascii_alphanumeric()).filter(|word| !word.is_empty()).collect();
    if words.is_empty() { "image".to_owned() } else { words.join("-") }
}

async fn off_the_runtime<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(|_| Error::hung_up("a read"))?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_source_has_a_repository() {
        for (source, name) in [
            ("dev", "dev"),
            ("Bot_-7.b", "bot-7-b"),
            ("dir:/srv/root fs/", "root-fs"),
            ("dir:/", "dir"),
            ("tar:-", "image"),
            ("dir:/täß", "t"),
        ] {
            assert_eq!(repository(source), name, "{source}");
        }
    }
}

//! The places that snapshots are in: what stands under a name there, and taking it away.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tokio::sync::Mutex;

use crate::error::{Error, Kind, Result};
use crate::fleet::file::Destination;
use crate::fleet::night::Snapshot;
use crate::layout::{Layout, collect::collect};
use crate::oci::Digest;
use crate::oci::index::REF_NAME;
use crate::plan::OutputSpec;
use crate::progress::{Meters, Silent};
use crate::record::store::{Listing, Standing};
use crate::record::{Output, Record};
use crate::sink::SinkContext;
use crate::sink::registry::{RegistryOptions, RegistryTags, Untagged, repository_and_tag};
use crate::stop::Stop;
use crate::stored::StoredArtifact;

/// One question, or one removal, takes no longer.
const LIMIT: Duration = Duration::from_secs(300);

/// What stands under a snapshot's name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum There {
    /// The snapshot.
    Itself,
    /// Nothing.
    Nothing,
    /// Something else, in words.
    Other(String),
}

/// What became of a snapshot that was to be removed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Gone {
    /// It is gone.
    Removed,
    /// It was left alone, because of what stands there; not by us.
    Left(String),
    /// This place removes nothing.
    Never(String),
}

/// All places of one run.
pub(super) struct Places {
    stop: Stop,
    /// By repository; none where it could not be reached.
    registries: Mutex<HashMap<String, Option<Arc<RegistryTags>>>>,
}

impl Places {
    pub(super) fn new(stop: &Stop) -> Self {
        Self { stop: stop.clone(), registries: Mutex::default() }
    }

    /// What stands under the snapshot's name.
    pub(super) async fn look(
        &self,
        snapshot: &Snapshot,
        destination: &Destination,
        listing: &Listing,
    ) -> Result<There> {
        let looking = async {
            match spec(snapshot, destination)? {
                OutputSpec::Registry(reference) => {
                    let tag = repository_and_tag(&reference)?.1;
                    let found = self.registry(&reference, destination).await?.digest(&tag).await?;
                    Ok(standing(found, snapshot.digest))
                }
                OutputSpec::Layout { folder, tag } => {
                    let digest = snapshot.digest;
                    off_the_runtime(move || look_into(&folder, &tag, digest)).await
                }
                OutputSpec::Artifact(path) | OutputSpec::Packed { sidecar: path, .. } => {
                    self.look_at(&path, snapshot, listing).await
                }
            }
        };
        limited(looking, &snapshot.name).await
    }

    /// Removes a snapshot from a registry, or an artifact, if it is still what stands there.
    pub(super) async fn remove(
        &self,
        snapshot: &Snapshot,
        destination: &Destination,
        listing: &Listing,
    ) -> Result<Gone> {
        let removing = async {
            match spec(snapshot, destination)? {
                OutputSpec::Registry(reference) => {
                    let tag = repository_and_tag(&reference)?.1;
                    let tags = self.registry(&reference, destination).await?;
                    Ok(match tags.remove(&tag, snapshot.digest).await? {
                        Untagged::Removed | Untagged::Absent => Gone::Removed,
                        Untagged::Other(digest) => Gone::Left(format!("{digest} has its name now")),
                        Untagged::Shared(tag) => {
                            Gone::Left(format!("the registry removes no single tags, and '{tag}' is the same image"))
                        }
                        Untagged::Refused(words) => Gone::Never(words),
                    })
                }
                // Many at a time: see `untag`.
                OutputSpec::Layout { folder, tag } => {
                    let names = vec![(tag, snapshot.digest)];
                    off_the_runtime(move || untag(&folder, &names)).await.map(|()| Gone::Removed)
                }
                OutputSpec::Artifact(path) | OutputSpec::Packed { sidecar: path, .. } => {
                    match self.look_at(&path, snapshot, listing).await? {
                        There::Other(what) => return Ok(Gone::Left(what)),
                        There::Nothing => return Ok(Gone::Removed),
                        There::Itself => {}
                    }
                    match output_of(snapshot, destination, listing) {
                        Some((_, output)) => Listing::remove_artifact(output)?,
                        None => remove_file(&path)?,
                    }
                    Ok(Gone::Removed)
                }
            }
        };
        limited(removing, &snapshot.name).await
    }

    async fn registry(&self, reference: &str, destination: &Destination) -> Result<Arc<RegistryTags>> {
        let repository = repository_and_tag(reference)?.0;
        let mut registries = self.registries.lock().await;
        if let Some(known) = registries.get(&repository) {
            let again = || Error::sink("reaching the registry", &repository, "it did not answer a moment ago");
            return known.clone().ok_or_else(again);
        }
        let connected = RegistryTags::connect(reference, registry_options(destination), context(&self.stop)).await;
        let connected = connected.map(Arc::new);
        registries.insert(repository, connected.as_ref().ok().cloned());
        connected
    }

    /// An artifact says of which image it is. What smolvm packs doesn't: then its record knows.
    async fn look_at(&self, path: &Path, snapshot: &Snapshot, listing: &Listing) -> Result<There> {
        if !path.exists() {
            return Ok(There::Nothing);
        }
        let said = match StoredArtifact::open(path, self.stop.clone()).await {
            Ok(artifact) => artifact.inspect("").digest.parse::<Digest>().ok(),
            Err(error) if error.kind() == Kind::Corrupt => None,
            Err(error) => return Err(error),
        };
        if let Some(digest) = said {
            return Ok(standing(Some(digest), snapshot.digest));
        }
        let record = snapshot.record.as_ref().and_then(|id| listing.records.iter().find(|record| record.id == *id));
        let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        let is_ours = record.is_some_and(|record| {
            let output = record.outputs.iter().find(|output| output.path.as_ref() == Some(&absolute));
            output.is_some_and(|output| {
                output.digest == snapshot.digest
                    && listing.standing(record, &absolute, output.bytes) == Standing::Present
            })
        });
        Ok(if is_ours { There::Itself } else { There::Other("another file".to_owned()) })
    }
}

/// How a destination's registry is spoken to.
pub(super) fn registry_options(destination: &Destination) -> RegistryOptions {
    RegistryOptions {
        ca_cert: destination.ca_cert.clone(),
        plain_http: destination.plain_http,
        ..RegistryOptions::default().with_patience(destination.patience.map(|patience| patience.0.min(LIMIT)))
    }
}

/// For whoever only reads, and removes.
pub(super) fn context(stop: &Stop) -> SinkContext {
    SinkContext { observer: Arc::new(Silent), meters: Arc::new(Meters::default()), stop: stop.clone() }
}

/// Where a snapshot is, by its name.
pub(super) fn spec(snapshot: &Snapshot, destination: &Destination) -> Result<OutputSpec> {
    match destination.pack {
        Some(_) => Ok(OutputSpec::Artifact(PathBuf::from(&snapshot.name))),
        None => snapshot.name.parse(),
    }
}

/// The record of a snapshot, and the output in it that the snapshot is.
pub(super) fn output_of<'a>(
    snapshot: &Snapshot,
    destination: &Destination,
    listing: &'a Listing,
) -> Option<(&'a Record, &'a Output)> {
    let (id, spec) = (snapshot.record.as_ref()?, spec(snapshot, destination).ok()?);
    let record = listing.records.iter().find(|record| record.id == *id)?;
    let output = record.outputs.iter().find(|output| output.digest == snapshot.digest && output.is_at(&spec))?;
    Some((record, output))
}

fn standing(found: Option<Digest>, wanted: Digest) -> There {
    match found {
        None => There::Nothing,
        Some(digest) if digest == wanted => There::Itself,
        Some(digest) => There::Other(digest.to_string()),
    }
}

fn is_called(manifest: &Value, tag: &str) -> bool {
    manifest["annotations"][REF_NAME].as_str() == Some(tag)
}

fn look_into(folder: &Path, tag: &str, digest: Digest) -> Result<There> {
    if !folder.join("oci-layout").exists() {
        return Ok(There::Nothing);
    }
    let manifests = Layout::open(folder)?.manifests()?;
    let named: Vec<_> = manifests.iter().filter(|manifest| is_called(manifest, tag)).collect();
    let is_it = |manifest: &&&Value| manifest["digest"].as_str() == Some(&digest.to_string());
    Ok(match named.first() {
        None => There::Nothing,
        Some(_) if named.iter().any(|manifest| is_it(&manifest)) => There::Itself,
        Some(other) => There::Other(other["digest"].as_str().unwrap_or("another image").to_owned()),
    })
}

/// Takes names away that stand for these images, all at once. What else is in the index stays as it is.
pub(super) fn untag(folder: &Path, names: &[(String, Digest)]) -> Result<()> {
    Layout::open(folder)?.change_index(|manifests| {
        manifests.retain(|manifest| {
            !names.iter().any(|(tag, digest)| {
                is_called(manifest, tag) && manifest["digest"].as_str() == Some(&digest.to_string())
            })
        });
        Ok(())
    })
}

/// Removes the blobs that no image of a layout needs any more, as `gc` does: what is younger than `age_min` may be another
/// program's, on its way to a name.
pub(super) fn sweep(folder: &Path, age_min: Duration) -> Result<()> {
    if !folder.join("oci-layout").exists() {
        return Ok(());
    }
    collect(folder, age_min, true).map(drop)
}

fn remove_file(path: &Path) -> Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(Error::sink("removing", format_args!("'{}'", path.display()), &error).because(error))
        }
        _ => Ok(()),
    }
}

/// The disk blocks, and so may a lock.
pub(super) async fn off_the_runtime<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(|_| Error::hung_up("the disk"))?
}

async fn limited<T>(work: impl Future<Output = Result<T>>, name: &str) -> Result<T> {
    let late = || Error::sink("asking for a snapshot", name, format_args!("no answer within {} s", LIMIT.as_secs()));
    tokio::time::timeout(LIMIT, work).await.unwrap_or_else(|_| Err(late()))
}

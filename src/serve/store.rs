//! The layout folder as the registry's store: blobs to read, manifests to find, and the index to change. All of it
//! blocks, so it is called off the runtime.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::Read as _;
use std::path::Path;

use tempfile::NamedTempFile;

use super::entries::{self, Entries, Entry};
use super::fault::{Code, Fault};
use super::manifest::Manifest;
use super::name::{Reference, Repository};
use crate::error::{Error, Result};
use crate::layout::{self, Layout, io_failed};
use crate::oci::index::Document;
use crate::oci::json::DOCUMENT_BYTES_MAX;
use crate::oci::{Descriptor, Digest, Media};

/// The layout and what its plain tags mean.
#[derive(Debug)]
pub struct Store {
    layout: Layout,
    home: Repository,
}

impl Store {
    /// The layout at `folder`, made where it is missing.
    ///
    /// # Errors
    /// When it is none, or can't be written to.
    pub fn make(folder: &Path, home: Repository) -> Result<Self> {
        let layout = Layout::make(folder)?;
        // A layout has an index, even an empty one.
        layout.change_index(|_| Ok::<_, Error>(()))?;
        Ok(Self { layout, home })
    }

    /// The layout at `folder`, which is only read.
    ///
    /// # Errors
    /// When there is none.
    pub fn open(folder: &Path, home: Repository) -> Result<Self> {
        let layout = Layout::open(folder)?;
        layout.manifests()?;
        Ok(Self { layout, home })
    }

    /// A blob and its size. Its bytes were hashed, the first time that it was asked for: what is rotten is not there, so
    /// whoever has it sends it again.
    ///
    /// # Errors
    /// `BLOB_UNKNOWN`; when the disk fails.
    pub fn blob(&self, digest: Digest) -> Result<(File, u64), Fault> {
        self.layout.proven(digest)?.ok_or_else(|| {
            let rotten = self.layout.blob_path(digest).exists().then_some(", only a file whose bytes are others");
            Fault::new(Code::BlobUnknown, format!("there is no blob {digest}{}", rotten.unwrap_or_default()))
        })
    }

    /// Whether the blob is there, whole.
    #[must_use]
    pub fn has(&self, blob: &Descriptor) -> bool {
        self.layout.has(blob.digest, blob.size)
    }

    /// A file for a blob that is on its way.
    ///
    /// # Errors
    /// When the disk does not take it.
    pub fn temporary_blob(&self) -> Result<NamedTempFile> {
        self.layout.temporary_blob()
    }

    /// Gives a complete blob its name. After this it is there, whatever happens.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn publish(&self, file: NamedTempFile, digest: Digest) -> Result<()> {
        let path = self.layout.blob_path(digest);
        file.as_file().sync_all().map_err(|error| io_failed("writing a blob", &path, error))?;
        file.persist(&path).map_err(|error| io_failed("writing a blob", &path, error.error))?;
        self.layout.wrote(digest);
        self.layout.sync_blobs()
    }

    /// All entries of the index.
    ///
    /// # Errors
    /// When the index can't be read.
    pub fn entries(&self) -> Result<Vec<Entry>> {
        Ok(entries::read(&self.layout.manifests()?, &self.home))
    }

    /// A repository's entries; there has to be one.
    ///
    /// # Errors
    /// `NAME_UNKNOWN`; when the index can't be read.
    pub fn repository(&self, repository: &Repository) -> Result<Vec<Entry>, Fault> {
        let mut entries = self.entries()?;
        entries.retain(|entry| entry.repository == *repository);
        if entries.is_empty() {
            return Err(Fault::new(Code::NameUnknown, format!("there is nothing in a repository '{repository}'")));
        }
        Ok(entries)
    }

    /// Finds a manifest of a repository, and reads it.
    ///
    /// # Errors
    /// `MANIFEST_UNKNOWN`; `BLOB_UNKNOWN` where its bytes are rotten; when the disk fails.
    pub fn manifest(&self, repository: &Repository, reference: &Reference) -> Result<(Descriptor, Vec<u8>), Fault> {
        let unknown = || Fault::new(Code::ManifestUnknown, format!("there is no such manifest in '{repository}'"));
        let mut entries = self.entries()?.into_iter().filter(|entry| entry.repository == *repository);
        let found = match reference {
            Reference::Tag(tag) => entries.rfind(|entry| entry.tag.as_ref() == Some(tag)).map(|entry| entry.manifest),
            Reference::Digest(digest) => {
                let roots = entries.map(|entry| entry.manifest).collect();
                self.walk(roots).find(|manifest| manifest.digest == *digest)
            }
        };
        let mut manifest = found.ok_or_else(unknown)?;
        let bytes = self.read_manifest(manifest.digest)?;
        if manifest.media_type.is_empty() {
            Document::media_type(&bytes).clone_into(&mut manifest.media_type);
        }
        Ok((manifest, bytes))
    }

    /// Adds a manifest to a repository, once all that it needs is there.
    ///
    /// # Errors
    /// `MANIFEST_BLOB_UNKNOWN` for what is missing; when the disk fails.
    pub fn put_manifest(&self, entry: &Entry, manifest: &Manifest, bytes: &[u8]) -> Result<(), Fault> {
        let mut file = self.temporary_blob()?;
        std::io::Write::write_all(&mut file, bytes)
            .map_err(|error| io_failed("writing a manifest", self.layout.folder(), error))?;
        // Blobs that another wrote are hashed before anybody waits for the lock.
        let _ = manifest.needed().find(|blob| !self.has(blob));
        // Under the index' lock, so that nothing it needs is deleted between this look and the entry.
        self.layout.change_index(|manifests| {
            if let Some(missing) = manifest.needed().find(|blob| !self.has(blob)) {
                let words = format!("it needs {} of {} bytes, which is not there", missing.digest, missing.size);
                return Err(Fault::new(Code::ManifestBlobUnknown, words));
            }
            self.publish(file, entry.manifest.digest)?;
            Entries { manifests, home: &self.home }.put(entry);
            Ok(())
        })
    }

    /// Takes a tag away, or a manifest with all its tags. The manifest's own blob goes if nothing else needs it.
    ///
    /// # Errors
    /// `MANIFEST_UNKNOWN`; when the disk fails.
    pub fn remove_manifest(&self, repository: &Repository, reference: &Reference) -> Result<(), Fault> {
        let was_there = self.layout.change_index(|manifests| {
            let mut entries = Entries { manifests, home: &self.home };
            Ok::<_, Fault>(match reference {
                Reference::Tag(tag) => entries.remove_tag(repository, tag),
                Reference::Digest(digest) => entries.remove_manifest(repository, *digest),
            })
        })?;
        if !was_there {
            return Err(Fault::new(Code::ManifestUnknown, format!("there is no such manifest in '{repository}'")));
        }
        if let Reference::Digest(digest) = reference {
            // Nobody sees it any more; where it is still needed, it stays.
            let _ = self.remove_blob(*digest);
        }
        Ok(())
    }

    /// Deletes a blob that nothing in the layout needs, whoever wrote it and whether we understand it or not.
    ///
    /// # Errors
    /// `BLOB_UNKNOWN`; `DENIED` while it is needed, or somebody else writes to the layout and may count on it.
    pub fn remove_blob(&self, digest: Digest) -> Result<(), Fault> {
        let in_use = |words: &str| {
            Err(Fault::new(Code::Denied, format!("{digest} {words}")).with_status(axum::http::StatusCode::CONFLICT))
        };
        let locked = self.layout.lock()?;
        let path = self.layout.blob_path(digest);
        if !path.is_file() {
            return Err(Fault::new(Code::BlobUnknown, format!("there is no blob {digest}")));
        }
        if layout::reach(&self.layout, &locked.manifests()?)?.contains(&digest.hex()) {
            return in_use("is part of an image; delete that first");
        }
        match locked.alone(|| fs::remove_file(&path))? {
            Some(removed) => Ok(removed.map_err(|error| io_failed("removing a blob", &path, error))?),
            None => in_use("can't go while somebody else writes to the layout"),
        }
    }

    /// A manifest's bytes, which are those of its digest.
    ///
    /// # Errors
    /// `BLOB_UNKNOWN` where they are not; when the disk fails.
    fn read_manifest(&self, digest: Digest) -> Result<Vec<u8>, Fault> {
        let (file, _) = self.blob(digest)?;
        let mut bytes = Vec::new();
        let mut limited = file.take(DOCUMENT_BYTES_MAX + 1);
        std::io::copy(&mut limited, &mut bytes)
            .map_err(|error| io_failed("reading a manifest", &self.layout.blob_path(digest), error))?;
        Ok(bytes)
    }

    /// Some manifests, and all that they list in turn; each once.
    fn walk(&self, roots: Vec<Descriptor>) -> impl Iterator<Item = Descriptor> + '_ {
        let (mut open, mut seen) = (roots, HashSet::new());
        std::iter::from_fn(move || {
            loop {
                let next = open.pop()?;
                if seen.insert(next.digest) {
                    // An image's own manifest lists none, so it need not be read.
                    if matches!(Media::of(&next.media_type), Some(Media::Index) | None) {
                        open.extend(self.parse(&next).into_iter().flat_map(|index| index.manifests));
                    }
                    return Some(next);
                }
            }
        })
    }

    /// A manifest that is there; none where it can't be read. Docker's older ones don't say what they are.
    pub fn parse(&self, manifest: &Descriptor) -> Option<Manifest> {
        let bytes = self.read_manifest(manifest.digest).ok()?;
        let stated = Some(manifest.media_type.as_str()).filter(|stated| !stated.is_empty());
        Manifest::parse(&bytes, stated.or(Some(Document::media_type(&bytes)))).ok()
    }
}

//! Removing the blobs of a layout that no image needs.
//!
//! Only while nobody else uses the layout, under the index' lock, and only what is older than a time that the user gives:
//! skopeo and umoci know neither lock, and name what they wrote when they are done.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use serde::Serialize;

use super::{Layout, Locked, failed, io_failed, reach, sync_folder};
use crate::error::Result;

/// What a collection found, and whether it was removed.
#[derive(Debug, Default, Serialize)]
pub struct Collected {
    /// Whether what could go was removed.
    pub deleted: bool,
    /// Somebody else uses the layout, so that nothing can go now.
    pub in_use: bool,
    /// Blobs that nothing needs.
    pub blobs: Vec<Blob>,
    /// What dead writers left; not looked for while the layout is in use.
    pub leftovers: Vec<PathBuf>,
    /// What nothing needs, but is young.
    pub young: Sum,
    /// What is needed.
    pub needed: Sum,
}

/// A blob that nothing needs.
#[derive(Debug, Serialize)]
pub struct Blob {
    /// `ALGORITHM:HEX`.
    pub digest: String,
    /// Its size.
    pub bytes: u64,
    #[serde(skip)]
    path: PathBuf,
}

/// How many blobs, and how large.
#[derive(Debug, Default, Serialize)]
pub struct Sum {
    /// How many.
    pub count: u64,
    /// Bytes of all.
    pub bytes: u64,
}

impl Sum {
    fn add(&mut self, bytes: u64) {
        self.count += 1;
        self.bytes += bytes;
    }
}

/// Looks for what no image of the layout at `folder` needs and is older than `age_min`. With `delete` it is removed.
///
/// # Errors
/// When there is no layout, something that an image names can't be read, or somebody else uses the layout and something was
/// to be removed.
pub fn collect(folder: &Path, age_min: Duration, delete: bool) -> Result<Collected> {
    let layout = Layout::open(folder)?;
    let locked = layout.lock()?;
    let mut found = look(&layout, &locked, age_min)?;
    let alone = locked.alone(|| {
        found.leftovers = layout.leftovers();
        if delete { remove(&layout, &found) } else { Ok(()) }
    })?;
    match alone {
        Some(done) => done?,
        None if delete => {
            let reason = "a freeze, 'smolfreeze serve' or another run is using it";
            return Err(failed("collecting", folder, reason).hint("run it again when that is done"));
        }
        None => found.in_use = true,
    }
    found.deleted = delete;
    Ok(found)
}

fn look(layout: &Layout, locked: &Locked<'_>, age_min: Duration) -> Result<Collected> {
    // Whoever has no lock may have changed the index while we read what it names.
    let needed = loop {
        let manifests = locked.manifests()?;
        let needed = reach(layout, &manifests)?;
        if locked.manifests()? == manifests {
            break needed;
        }
    };
    let mut found = Collected::default();
    for (algorithm, digits) in [("sha256", 64), ("sha512", 128)] {
        let folder = layout.folder().join("blobs").join(algorithm);
        for entry in fs::read_dir(&folder).into_iter().flatten() {
            let unreadable = |error| io_failed("reading the layout", &folder, error);
            let entry = entry.map_err(unreadable)?;
            let Some(name) = entry.file_name().to_str().map(str::to_owned) else { continue };
            let metadata = entry.metadata().map_err(unreadable)?;
            let is_blob =
                metadata.is_file() && name.len() == digits && name.bytes().all(|byte| byte.is_ascii_hexdigit());
            if !is_blob {
                continue;
            }
            if needed.contains(&name) {
                found.needed.add(metadata.len());
            } else if age(&metadata) < age_min {
                found.young.add(metadata.len());
            } else {
                let digest = format!("{algorithm}:{name}");
                found.blobs.push(Blob { digest, bytes: metadata.len(), path: entry.path() });
            }
        }
    }
    found.blobs.sort_by(|one, other| one.digest.cmp(&other.digest));
    Ok(found)
}

/// How long it has been here. By the time of its last change, which unlike that of its content nobody can set: a blob that
/// `cp -a` brings is young.
fn age(metadata: &fs::Metadata) -> Duration {
    let changed = u64::try_from(metadata.ctime())
        .map_or(SystemTime::UNIX_EPOCH, |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds));
    SystemTime::now().duration_since(changed).unwrap_or_default()
}

fn remove(layout: &Layout, found: &Collected) -> Result<()> {
    let blobs = found.blobs.iter().map(|blob| &blob.path);
    for path in blobs.chain(&found.leftovers) {
        match fs::remove_file(path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(io_failed("removing a blob", path, error));
            }
            _ => {}
        }
    }
    let folders = found.blobs.iter().filter_map(|blob| blob.path.parent());
    let mut folders: Vec<_> = folders.chain([layout.folder()]).collect();
    folders.dedup();
    folders.into_iter().try_for_each(sync_folder)
}

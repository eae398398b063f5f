//! The state folder: the records of freezes, the artifacts that are kept with them, and the lock between the two.
//!
//! ```text
//! records/ID.json                     one freeze, see `record`
//! indexes/DIGEST-DIGEST               what the last image of a source that was made in one way holds, see `night`
//! indexes/DIGEST-alarm                that an image of the source was found wrong
//! artifacts/NAME/ID.smolmachine       the artifact of that freeze, where the user named no other place
//! lock                                held shared by every freeze that is under way
//! ```
//!
//! An artifact of ours is in use if its record is there or a freeze is alive; any other is what a crash left behind.

use std::fmt;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Component, Path, PathBuf};
use std::str::FromStr;

use jiff::Timestamp;
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Kind, Result, Side};
use crate::stage::digest::DigestHasher;

/// What the name of an artifact ends with.
const ARTIFACT: &str = ".smolmachine";
/// What the names of unfinished files begin with, in every room.
const TEMPORARY: &str = ".smolfreeze-";
/// Characters of the source's name that an ID keeps.
const NAME_CHARS_MAX: usize = 40;
/// Bytes of an ID: 16 of the time, the name, six at random, and two dashes.
const ID_BYTES_MAX: usize = 16 + NAME_CHARS_MAX + 6 + 2;

/// The name of a freeze: `20261124T140102Z-dev-3f9a1c`. It sorts by time, and is safe as a file's name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Id(String);

impl Id {
    /// The ID of a freeze of `source` that started at `started`; no other has it.
    #[must_use]
    pub fn new(started: Timestamp, source: &str) -> Self {
        let time = started.strftime("%Y%m%dT%H%M%SZ");
        Self(format!("{time}-{}-{:06x}", short_name(source), fastrand::u32(..1 << 24)))
    }
}

/// The last part of a source (`dev`, `dir:/srv/rootfs`, `tar:-`), as far as it can be part of a file's name.
fn short_name(source: &str) -> String {
    let last = source.rsplit(['/', ':']).find(|part| !part.is_empty()).unwrap_or_default();
    let safe = |char: char| if char.is_ascii_alphanumeric() || "-_.".contains(char) { char } else { '_' };
    let name: String = last.chars().map(safe).take(NAME_CHARS_MAX).collect();
    // `.` and `..` are folders that are there already.
    if name.trim_matches('.').is_empty() { "_".to_owned() } else { name }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<Id> for String {
    fn from(id: Id) -> Self {
        id.0
    }
}

impl TryFrom<String> for Id {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl FromStr for Id {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let is_safe = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        let in_time = |(at, byte): (usize, u8)| match at {
            8 => byte == b'T',
            15 => byte == b'Z',
            16 => byte == b'-',
            _ => byte.is_ascii_digit(),
        };
        let is_id = text.len() > 17
            && text.len() <= ID_BYTES_MAX
            && text.bytes().all(is_safe)
            && text.bytes().take(17).enumerate().all(in_time);
        if is_id { Ok(Self(text.to_owned())) } else { Err(format!("'{text}' is no ID of a freeze")) }
    }
}

/// The state folder of one user.
#[derive(Debug, Clone)]
pub struct State {
    folder: PathBuf,
}

/// Held by a freeze from before its artifact gets its name until its record is there: nothing is swept meanwhile.
#[derive(Debug)]
pub struct Hold {
    _lock: File,
}

/// What a sweep found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Swept {
    /// Artifacts without a record, and unfinished files, that were removed.
    pub removed: Vec<PathBuf>,
    /// Those that could not be removed, and why.
    pub left: Vec<String>,
}

impl State {
    /// The state folder at `folder`, which may not be there: nothing is made and nothing is looked at.
    ///
    /// # Errors
    /// When the path is relative and there is no working directory.
    pub fn at(folder: &Path) -> Result<Self> {
        let absolute = std::path::absolute(folder);
        Ok(Self { folder: absolute.map_err(|error| io_failed("opening the state folder", folder, error))? })
    }

    /// The state folder at `folder`, made if it is not there; nobody else may look into it.
    ///
    /// # Errors
    /// When it can't be made or written to.
    pub fn open(folder: &Path) -> Result<Self> {
        let state = Self::at(folder)?;
        for folder in [state.records(), state.artifacts()] {
            make_folder(&folder)?;
        }
        state.lock()?;
        Ok(state)
    }

    /// Where the records are.
    #[must_use]
    pub fn records(&self) -> PathBuf {
        self.folder.join("records")
    }

    /// The index of a source's last image that was made in this way.
    #[must_use]
    pub fn index_path(&self, canonical: &str, way: &str) -> PathBuf {
        let [source, way] = [canonical, way].map(|text| DigestHasher::of(text.as_bytes()).hex());
        self.indexes().join(format!("{}-{}", &source[..32], &way[..16]))
    }

    /// Where what was in each source's last images is.
    #[must_use]
    pub fn indexes(&self) -> PathBuf {
        self.folder.join("indexes")
    }

    /// Where the artifacts are, in a folder for each source's name.
    #[must_use]
    pub fn artifacts(&self) -> PathBuf {
        self.folder.join("artifacts")
    }

    /// The record of a freeze.
    #[must_use]
    pub fn record_path(&self, id: &Id) -> PathBuf {
        self.records().join(format!("{id}.json"))
    }

    /// The artifact of a freeze of `source`, where the user named no other place.
    #[must_use]
    pub fn artifact_path(&self, id: &Id, source: &str) -> PathBuf {
        self.artifacts().join(short_name(source)).join(format!("{id}{ARTIFACT}"))
    }

    /// Whether `path` is where this state folder keeps the artifact of `id`: only such a file is ever removed unasked.
    #[must_use]
    pub fn keeps(&self, path: &Path, id: &Id) -> bool {
        let Ok(below) = path.strip_prefix(self.artifacts()) else { return false };
        let mut parts = below.components();
        let (folder, file, end) = (parts.next(), parts.next(), parts.next());
        let name = format!("{id}{ARTIFACT}");
        matches!(folder, Some(Component::Normal(_)))
            && matches!(file, Some(Component::Normal(file)) if file == name.as_str())
            && end.is_none()
    }

    /// Makes the folder for the artifact of `id`, if `path` is where this state folder keeps it. Only while held: a sweep
    /// removes empty folders.
    ///
    /// # Errors
    /// When it can't be made.
    pub fn make_room(&self, path: &Path, id: &Id) -> Result<()> {
        let Some(folder) = path.parent().filter(|_| self.keeps(path, id)) else { return Ok(()) };
        make_folder(folder)
    }

    fn lock(&self) -> Result<File> {
        let path = self.folder.join("lock");
        let opened = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(&path);
        opened.map_err(|error| io_failed("opening the state folder", &path, error))
    }

    /// Keeps sweeps away until the hold is dropped. Waits for one that is under way.
    ///
    /// # Errors
    /// When the lock can't be had, on a file system without locks.
    pub fn hold(&self) -> Result<Hold> {
        let lock = self.lock()?;
        flock(&lock, FlockOperation::LockShared)
            .map_err(|error| io_failed("locking the state folder", &self.folder, error.into()))?;
        Ok(Hold { _lock: lock })
    }

    /// Removes what dead freezes left behind: artifacts of ours without a record, and unfinished files. `None` while a
    /// freeze is alive, whose artifact may have no record yet.
    ///
    /// # Errors
    /// When the folder can't be read. What can't be removed is in the result.
    pub fn sweep(&self) -> Result<Option<Swept>> {
        let lock = self.lock()?;
        if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
            return Ok(None);
        }
        let mut swept = Swept::default();
        let unfinished = listed(&self.folder.join("indexes")).unwrap_or_default();
        for (name, path) in listed(&self.records())?.into_iter().chain(unfinished) {
            if name.starts_with(TEMPORARY) {
                swept.remove(path);
            }
        }
        for (_, folder) in listed(&self.artifacts())? {
            if !folder.symlink_metadata().is_ok_and(|metadata| metadata.is_dir()) {
                continue;
            }
            for (name, path) in listed(&folder)? {
                let id = name.strip_suffix(ARTIFACT).and_then(|id| id.parse::<Id>().ok());
                if name.starts_with(TEMPORARY) || id.is_some_and(|id| !self.has_record(&id)) {
                    swept.remove(path);
                }
            }
            // Only an empty one goes.
            let _ = fs::remove_dir(&folder);
        }
        Ok(Some(swept))
    }

    /// Whatever has a record's name counts, readable or not.
    fn has_record(&self, id: &Id) -> bool {
        self.record_path(id).symlink_metadata().is_ok()
    }
}

impl Swept {
    fn remove(&mut self, path: PathBuf) {
        // What is left of an artifact that smolvm was packing is a folder.
        let is_folder = path.symlink_metadata().is_ok_and(|metadata| metadata.is_dir());
        let removed = if is_folder { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
        match removed {
            Ok(()) => self.removed.push(path),
            Err(error) => self.left.push(format!("{}: {error}", path.display())),
        }
    }
}

fn make_folder(folder: &Path) -> Result<()> {
    let made = DirBuilder::new().recursive(true).mode(0o700).create(folder);
    made.map_err(|error| io_failed("opening the state folder", folder, error))
}

/// The names in a folder that are UTF-8, as all of ours are.
fn listed(folder: &Path) -> Result<Vec<(String, PathBuf)>> {
    let failed = |error| io_failed("reading the state folder", folder, error);
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        if let Ok(name) = entry.file_name().into_string() {
            found.push((name, entry.path()));
        }
    }
    Ok(found)
}

fn io_failed(operation: &str, path: &Path, error: io::Error) -> Error {
    Error::new(Kind::Sink, Side::Plan, operation, format_args!("'{}'", path.display()), &error).because(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(source: &str) -> Id {
        Id::new("2026-11-24T14:01:02.9Z".parse().unwrap(), source)
    }

    #[test]
    fn ids_are_safe_as_names() {
        for (source, name) in [
            ("dev", "dev"),
            ("dir:/srv/root fs/", "root_fs"),
            ("tar:-", "-"),
            ("dir:/", "dir"),
            ("dir:..", "_"),
            ("dir:/täst\n", "t_st_"),
        ] {
            let made = id(source);
            let text = made.to_string();
            assert!(text.starts_with(&format!("20261124T140102Z-{name}-")), "{source}: {text}");
            assert_eq!(text.parse::<Id>().unwrap(), made);
        }
        let long = id(&"long".repeat(200));
        assert_eq!(long.to_string().parse(), Ok(long));
        for bad in
            ["", "x", "20261124T140102Z-", "20261124T140102Z-../x", "20261124T140102Zx", "2026112aT140102Z-dev-1"]
        {
            assert!(bad.parse::<Id>().is_err(), "{bad}");
        }
    }

    #[test]
    fn only_its_own_place_is_an_artifacts_place() {
        let state = State::at(Path::new("/state")).unwrap();
        let id = id("dev");
        assert!(state.keeps(&state.artifact_path(&id, "dev"), &id));
        let name = format!("{id}.smolmachine");
        for path in ["/state/artifacts/../", "/state/artifacts/a/b/", "/state/artifacts/", "/other/artifacts/dev/"] {
            assert!(!state.keeps(&Path::new(path).join(&name), &id), "{path}");
        }
        assert!(!state.keeps(Path::new("/state/artifacts/dev/other.smolmachine"), &id));
    }

    #[test]
    fn a_sweep_takes_what_nobody_needs() {
        let folder = tempfile::tempdir().unwrap();
        let state = State::open(folder.path()).unwrap();
        let (recorded, orphan) = (id("dev"), id("dev"));
        let broken = id("other");
        let place = |id: &Id, source| {
            let path = state.artifact_path(id, source);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, "x").unwrap();
            path
        };
        let kept = [
            place(&recorded, "dev"),
            place(&broken, "other"),
            place(&recorded, "dev").with_file_name("mine.smolmachine"),
        ];
        fs::write(&kept[2], "a user's").unwrap();
        let half = kept[0].with_file_name(".smolfreeze-pack-1");
        fs::create_dir(&half).unwrap();
        fs::write(half.join("image"), "half").unwrap();
        let gone = [
            place(&orphan, "alone"),
            kept[0].with_file_name(".smolfreeze-x.partial"),
            state.records().join(".smolfreeze-y"),
            half,
        ];
        fs::write(&gone[1], "half").unwrap();
        fs::write(&gone[2], "half").unwrap();
        fs::write(state.record_path(&recorded), "{}").unwrap();
        fs::write(state.record_path(&broken), "\0").unwrap();

        let holds = [state.hold().unwrap(), state.hold().unwrap()];
        assert_eq!(state.sweep().unwrap(), None, "a freeze is alive");
        drop(holds);
        let mut removed = state.sweep().unwrap().unwrap().removed;
        removed.sort();
        let mut expected = gone.to_vec();
        expected.sort();
        assert_eq!(removed, expected);
        assert!(kept.iter().all(|path| path.exists()));
        assert!(!gone[0].parent().unwrap().exists(), "an empty folder goes too");
        assert_eq!(state.sweep().unwrap(), Some(Swept::default()));
    }
}

//! The records of a state folder: written, listed, found, removed.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use jiff::tz::TimeZone;
use tempfile::NamedTempFile;

use crate::error::{Error, Kind, Result, Side};
use crate::state::State;

use super::retention::{Policy, Reason, keep};
use super::series::Series;
use super::{FORMAT, Output, OutputKind, Record};

/// A record of ours has some kilobytes; the names of a thousand long paths make it one megabyte.
const RECORD_BYTES_MAX: u64 = 16 << 20;

/// Writes a record beside its name, and gives it that name once it is safe.
pub(super) fn write(state: &State, record: &Record) -> io::Result<()> {
    let file = written(state, record)?;
    file.persist_noclobber(state.record_path(&record.id)).map_err(|failed| failed.error)?;
    File::open(state.records())?.sync_all()
}

fn written(state: &State, record: &Record) -> io::Result<NamedTempFile> {
    let folder = state.records();
    let mut file = tempfile::Builder::new().prefix(".smolfreeze-").suffix(".partial").tempfile_in(&folder)?;
    serde_json::to_writer_pretty(&mut file, record)?;
    file.write_all(b"\n")?;
    file.as_file().sync_all()?;
    Ok(file)
}

/// All that lies in a folder of records.
#[derive(Debug, Default)]
pub struct Listing {
    /// The records, oldest first.
    pub records: Vec<Record>,
    /// Files that are none, each with the reason.
    pub unreadable: Vec<(PathBuf, String)>,
}

/// Reads all records. A folder that is not there has none.
///
/// # Errors
/// When the folder can't be read.
pub fn list(state: &State) -> Result<Listing> {
    let folder = state.records();
    let failed = |error: io::Error| {
        Error::new(Kind::Source, Side::Plan, "reading the records", format_args!("'{}'", folder.display()), &error)
            .because(error)
    };
    let mut listing = Listing::default();
    let entries = match fs::read_dir(&folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(listing),
        entries => entries.map_err(failed)?,
    };
    for entry in entries {
        let path = entry.map_err(failed)?.path();
        // On its way to its name, or left by a crash.
        if path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b".smolfreeze-")) {
            continue;
        }
        match read(&path) {
            Ok(Some(record)) => listing.records.push(record),
            // Removed since it was listed.
            Ok(None) => {}
            Err(reason) => listing.unreadable.push((path, reason)),
        }
    }
    listing.records.sort_by(|one, other| (one.started, &one.id).cmp(&(other.started, &other.id)));
    listing.unreadable.sort();
    Ok(listing)
}

fn read(path: &Path) -> Result<Option<Record>, String> {
    #[derive(serde::Deserialize)]
    struct Format {
        version: u32,
    }
    let bytes = match read_bounded(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        bytes => bytes.map_err(|error| error.to_string())?,
    };
    let foreign = |error: serde_json::Error| format!("it is no record: {error}");
    let format: Format = serde_json::from_slice(&bytes).map_err(foreign)?;
    if format.version != FORMAT {
        return Err(format!("its format is {}, and this release of smolfreeze reads {FORMAT}", format.version));
    }
    let record: Record = serde_json::from_slice(&bytes).map_err(foreign)?;
    let name = format!("{}.json", record.id);
    if path.file_name().is_none_or(|file| file != name.as_str()) {
        return Err(format!("it is the record {}, under another name", record.id));
    }
    Ok(Some(record))
}

fn read_bounded(path: &Path) -> io::Result<Vec<u8>> {
    // A FIFO would have us wait.
    let metadata = fs::symlink_metadata(path)?;
    if !metadata.is_file() || metadata.len() > RECORD_BYTES_MAX {
        return Err(io::Error::other("it is no record: not a file, or too large"));
    }
    fs::read(path)
}

/// What became of a record's local artifact since.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Standing {
    /// It is there.
    Present,
    /// Nothing is there.
    Missing,
    /// What is there now is of another freeze, or of other size.
    Replaced,
}

impl Listing {
    /// The record with this ID, or the only one whose ID begins so.
    ///
    /// # Errors
    /// When there is none, or more than one.
    pub fn find(&self, prefix: &str) -> Result<&Record> {
        if let Some(record) = self.records.iter().find(|record| record.id.to_string() == prefix) {
            return Ok(record);
        }
        let wrong = |reason: String| Error::usage("finding the record", format_args!("'{prefix}'"), reason);
        let begins = |record: &&Record| !prefix.is_empty() && record.id.to_string().starts_with(prefix);
        let found: Vec<_> = self.records.iter().filter(begins).collect();
        match found[..] {
            [record] => Ok(record),
            [] => Err(wrong("there is none".to_owned()).hint("see 'smolfreeze ls'")),
            [first, .., last] => {
                let reason = format!("{} records begin so, from {} to {}", found.len(), first.id, last.id);
                Err(wrong(reason).hint("give more of the ID"))
            }
        }
    }

    /// What became of an artifact at `path`, which `record` says it made with so many bytes.
    #[must_use]
    pub fn standing(&self, record: &Record, path: &Path, bytes: u64) -> Standing {
        let same_path = |newer: &&Record| newer.artifacts().any(|(_, other)| other == path);
        let by_newer =
            self.records.iter().rev().take_while(|newer| newer.id != record.id).any(|newer| same_path(&newer));
        match fs::metadata(path) {
            Ok(metadata) if metadata.is_file() && metadata.len() == bytes && !by_newer => Standing::Present,
            Ok(_) => Standing::Replaced,
            Err(_) => Standing::Missing,
        }
    }

    /// Whether nothing can be left of a snapshot: it went to artifacts alone, and each was replaced, or is missing from
    /// the state folder. (What is missing elsewhere may be on a disk that is not mounted.)
    #[must_use]
    pub fn is_gone(&self, state: &State, record: &Record) -> bool {
        let gone = |(output, path): (&super::Output, &Path)| match self.standing(record, path, output.bytes) {
            Standing::Present => false,
            Standing::Missing => state.keeps(path, &record.id),
            Standing::Replaced => true,
        };
        record.outputs.iter().all(|output| output.kind == OutputKind::Artifact) && record.artifacts().all(gone)
    }
}

impl Listing {
    /// The records of each series, oldest first.
    #[must_use]
    pub fn by_series(&self) -> BTreeMap<Series, Vec<&Record>> {
        let mut groups = BTreeMap::<_, Vec<_>>::new();
        for record in &self.records {
            groups.entry(Series::of(record)).or_default().push(record);
        }
        groups
    }

    /// Why `policy` keeps each of these records of one series; for no reason, if it does not. One of which nothing is
    /// left does not count, or it would be kept in the place of one that is there.
    #[must_use]
    pub fn judge<'a>(
        &self,
        state: &State,
        records: &[&'a Record],
        policy: &Policy,
        zone: &TimeZone,
    ) -> Vec<(&'a Record, Vec<Reason>)> {
        let mut verdicts: Vec<_> = records.iter().map(|record| (*record, Vec::new())).collect();
        let counted: Vec<_> = (0..records.len()).filter(|at| !self.is_gone(state, records[*at])).collect();
        let times: Vec<_> = counted.iter().map(|at| records[*at].started.to_zoned_datetime(zone.clone())).collect();
        for kept in keep(&times, policy) {
            verdicts[counted[kept.index]].1 = kept.reasons;
        }
        verdicts
    }
}

/// What happens to artifacts that the user named a place for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Elsewhere {
    /// They stay.
    Keep,
    /// They are removed too, but not where a newer freeze replaced them.
    Remove,
}

/// What went with a record, and what is still there.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct Removed {
    /// Artifacts that were removed.
    pub artifacts: Vec<PathBuf>,
    /// Outputs that were not touched.
    pub left: Vec<String>,
}

impl Listing {
    /// Removes the artifact that an output of a record is, and its launcher. An image in a registry or a layout is for those
    /// who speak with them; [`Self::forget`] comes after either.
    ///
    /// # Errors
    /// When it can't be removed.
    pub fn remove_artifact(output: &Output) -> Result<()> {
        let (OutputKind::Artifact, Some(path)) = (output.kind, &output.path) else { return Ok(()) };
        // The launcher is found by what lies beside it.
        let launcher = output.launcher_beside(path);
        launcher.iter().chain([path]).try_for_each(|path| unlink(path))
    }

    /// Takes an output out of a record, since it is there no more; a record that has no other goes. What became of a record
    /// meanwhile is another's doing.
    ///
    /// # Errors
    /// When it can't be written.
    pub fn forget(&self, state: &State, record: &Record, output: &Output) -> Result<()> {
        let path = state.record_path(&record.id);
        let failed = |error: io::Error| {
            Error::new(Kind::Sink, Side::Plan, "changing the record", format_args!("'{}'", path.display()), &error)
                .because(error)
        };
        // So that nobody sweeps the new one away.
        let _held = state.hold()?;
        let Ok(Some(mut record)) = read(&path) else { return Ok(()) };
        record.outputs.retain(|other| other != output);
        if record.outputs.is_empty() {
            return unlink(&path);
        }
        let file = written(state, &record).map_err(failed)?;
        file.persist(&path).map_err(|error| failed(error.error))?;
        File::open(state.records()).and_then(|folder| folder.sync_all()).map_err(failed)
    }

    /// What [`remove`](Self::remove) will do.
    #[must_use]
    pub fn removal(&self, state: &State, record: &Record, elsewhere: Elsewhere) -> Removed {
        let mut removed = Removed::default();
        for output in &record.outputs {
            let (OutputKind::Artifact, Some(path)) = (output.kind, &output.path) else {
                removed.left.push(output.name.clone());
                continue;
            };
            let ours = state.keeps(path, &record.id);
            match self.standing(record, path, output.bytes) {
                Standing::Present if ours || elsewhere == Elsewhere::Remove => {
                    removed.artifacts.push(path.clone());
                    removed.artifacts.extend(output.launcher_beside(path));
                }
                Standing::Replaced if ours => removed.artifacts.push(path.clone()),
                Standing::Present => removed.left.push(path.display().to_string()),
                // What is there is of another freeze, or nobody's.
                Standing::Missing | Standing::Replaced => {}
            }
        }
        removed
    }

    /// Removes a record and the artifact that the state folder keeps for it; with [`Elsewhere::Remove`] also one that
    /// the user named a place for. Images in registries and layouts stay.
    ///
    /// The order makes a crash harmless. An artifact elsewhere goes first: its record then says that it is missing, and
    /// can be removed again. The state folder's own goes after its record, which would lie without it: what is left
    /// without a record, the next sweep removes.
    ///
    /// # Errors
    /// When something can't be removed.
    pub fn remove(&self, state: &State, record: &Record, elsewhere: Elsewhere) -> Result<Removed> {
        let removal = self.removal(state, record, elsewhere);
        let (ours, others): (Vec<_>, Vec<_>) = removal.artifacts.iter().partition(|path| state.keeps(path, &record.id));
        others.into_iter().try_for_each(|path| unlink(path))?;
        unlink(&state.record_path(&record.id))?;
        let folder = state.records();
        let synced = File::open(&folder).and_then(|folder| folder.sync_all());
        synced.map_err(|error| not_removed(&folder, error))?;
        ours.into_iter().try_for_each(|path| unlink(path))?;
        Ok(removal)
    }
}

/// Another run may have been faster.
fn unlink(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(not_removed(path, error)),
        _ => Ok(()),
    }
}

fn not_removed(path: &Path, error: io::Error) -> Error {
    Error::new(Kind::Sink, Side::Plan, "removing", format_args!("'{}'", path.display()), &error).because(error)
}

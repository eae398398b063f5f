//! The root filesystem of smolvm's guest agent, which every artifact carries: where it is, and how it gets in.
//!
//! It is looked for where smolvm itself looks (SMOLVM.md): `SMOLVM_AGENT_ROOTFS`, smolvm's data folder, beside its
//! executable. The wheel on `PyPI` has it, as a compressed tar, in the folder `smol`.

use std::env;
use std::fs::{self, File};
use std::io::{self, BufReader, Write};
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::oci::Compression;

use super::recode::recode;

/// The names it has in a folder, in the order of preference: what needs no work first.
const NAMES: [&str; 4] = ["agent-rootfs.tar.zst", "agent-rootfs", "agent-rootfs.tar", "agent-rootfs.tar.gz"];

/// What the guest's kernel starts, and so what every such root filesystem has.
const INIT: &str = "sbin/init";

/// Files that a running machine leaves in the folder; they mean nothing elsewhere and may be unreadable.
const READY_MARKER: &str = ".smolvm-ready";

/// zstd's own default: the speed of a disk, and near the best size.
const LEVEL: i32 = 3;

/// The agent's root filesystem, found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentRootfs(Form);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Form {
    Folder(PathBuf),
    Tar(PathBuf, Compression),
}

/// Where to look for the agent's root filesystem.
#[derive(Debug, Clone, Default)]
pub struct Lookup {
    /// `--agent-rootfs`: nothing else is tried when it is given.
    pub explicit: Option<PathBuf>,
    /// `SMOLVM_AGENT_ROOTFS`, which smolvm obeys as strictly.
    pub variable: Option<PathBuf>,
    /// Folders that may hold it, in order.
    pub folders: Vec<PathBuf>,
}

impl Lookup {
    /// What the environment says; `smolvm` is the executable in use, where there is one.
    #[must_use]
    pub fn from_environment(explicit: Option<PathBuf>, smolvm: Option<&Path>) -> Self {
        let mut folders = Vec::new();
        if let Some(data) = env::var_os("XDG_DATA_HOME").filter(|value| !value.is_empty()) {
            folders.push(Path::new(&data).join("smolvm"));
        }
        if let Some(home) = env::home_dir() {
            folders.push(home.join(".local/share/smolvm"));
            folders.push(home.join("Library/Application Support/smolvm"));
        }
        if let Some(executable) = smolvm.and_then(on_path) {
            folders.extend(beside(&executable));
        }
        let variable = env::var_os("SMOLVM_AGENT_ROOTFS").filter(|value| !value.is_empty()).map(PathBuf::from);
        Self { explicit, variable, folders }
    }

    /// Whether somebody said where it is: then it is nowhere else.
    #[must_use]
    pub fn is_told(&self) -> bool {
        self.explicit.is_some() || self.variable.is_some()
    }

    /// The first that is there and is one.
    ///
    /// # Errors
    /// When there is none; the message names every place that was tried.
    pub fn find(&self) -> Result<AgentRootfs> {
        if let Some(told) = self.explicit.as_ref().or(self.variable.as_ref()) {
            return AgentRootfs::at(told).map_err(|reason| {
                let hint = "give the folder or tar of smolvm's agent root filesystem with --agent-rootfs";
                Error::usage("finding smolvm's agent root filesystem", told.display(), reason).hint(hint)
            });
        }
        let places: Vec<PathBuf> =
            self.folders.iter().flat_map(|folder| NAMES.iter().map(|name| folder.join(name))).collect();
        places.iter().find_map(|place| AgentRootfs::at(place).ok()).ok_or_else(|| {
            let looked = self.folders.iter().map(|folder| folder.display().to_string()).collect::<Vec<_>>().join(", ");
            let hint = "name its folder or tar with --agent-rootfs or SMOLVM_AGENT_ROOTFS";
            let reason = format!("none in {}", if looked.is_empty() { "any known folder" } else { &looked });
            Error::usage("finding smolvm's agent root filesystem", "agent-rootfs", reason).hint(hint)
        })
    }
}

/// Where a command is, given its name or its path.
fn on_path(command: &Path) -> Option<PathBuf> {
    if command.components().count() > 1 {
        return Some(command.to_owned());
    }
    env::split_paths(&env::var_os("PATH")?).map(|folder| folder.join(command)).find(|path| path.is_file())
}

/// Where an installation keeps its assets: beside the executable itself, in its `share`, in a wheel's package folder.
fn beside(executable: &Path) -> Vec<PathBuf> {
    let real = fs::canonicalize(executable).unwrap_or_else(|_| executable.to_owned());
    let mut folders = Vec::new();
    for folder in [real.parent(), executable.parent()].into_iter().flatten() {
        folders.push(folder.to_owned());
        let Some(prefix) = folder.parent() else { continue };
        folders.push(prefix.join("share/smolvm"));
        folders.push(prefix.join("lib/smolvm"));
        // python3.11, python3.12, …: whichever has the wheel.
        let pythons = fs::read_dir(prefix.join("lib")).into_iter().flatten().flatten();
        folders.extend(pythons.map(|python| python.path().join("site-packages/smol")).filter(|wheel| wheel.is_dir()));
    }
    folders
}

impl AgentRootfs {
    /// What is at `path`, or why it can't be the agent's root filesystem.
    fn at(path: &Path) -> Result<Self, String> {
        let found = fs::metadata(path).map_err(|error| error.to_string())?;
        if found.is_dir() {
            // Usually a link to an absolute path of the guest's, so it is not followed.
            return match fs::symlink_metadata(path.join(INIT)) {
                Ok(_) => Ok(Self(Form::Folder(path.to_owned()))),
                Err(_) => Err(format!("it has no {INIT}")),
            };
        }
        let stored_as = match path.extension().and_then(|extension| extension.to_str()) {
            Some("zst") => Compression::Zstd,
            Some("gz") => Compression::Gzip,
            Some("tar") => Compression::None,
            _ => return Err("neither a folder nor a .tar, .tar.zst or .tar.gz".to_owned()),
        };
        Ok(Self(Form::Tar(path.to_owned(), stored_as)))
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        match &self.0 {
            Form::Folder(path) | Form::Tar(path, _) => path,
        }
    }

    /// Writes it as zstd frames of one tar; gives the tar's uncompressed size.
    pub(super) fn write_frames(&self, frames: impl Write) -> io::Result<u64> {
        match &self.0 {
            Form::Tar(path, stored_as) => recode(BufReader::new(File::open(path)?), *stored_as, frames),
            Form::Folder(path) => {
                let counted = Counting { to: zstd::Encoder::new(frames, LEVEL)?, bytes: 0 };
                let Counting { to: encoder, bytes } = tar_of(path, counted)?;
                encoder.finish()?.flush()?;
                Ok(bytes)
            }
        }
    }
}

/// The folder as smolvm itself packs it: entries by name, links as they are, without what running machines left.
fn tar_of<W: Write>(folder: &Path, to: W) -> io::Result<W> {
    let mut tar = tar::Builder::new(to);
    tar.follow_symlinks(false);
    let mut entries = fs::read_dir(folder)?.collect::<io::Result<Vec<_>>>()?;
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let name = entry.file_name();
        if name.as_encoded_bytes().starts_with(READY_MARKER.as_bytes()) {
            continue;
        }
        if entry.file_type()?.is_dir() {
            tar.append_dir_all(&name, entry.path())?;
        } else {
            tar.append_path_with_name(entry.path(), &name)?;
        }
    }
    tar.into_inner()
}

struct Counting<W> {
    to: W,
    bytes: u64,
}

impl<W: Write> Write for Counting<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let length = self.to.write(bytes)?;
        self.bytes += length as u64;
        Ok(length)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn agent_folder(path: &Path) {
        fs::create_dir_all(path.join("sbin")).unwrap();
        symlink("/usr/local/bin/smolvm-agent", path.join(INIT)).unwrap();
        fs::write(path.join(".smolvm-ready.1234"), "").unwrap();
    }

    fn names(tar: &[u8]) -> Vec<String> {
        let mut archive = tar::Archive::new(tar);
        let entries = archive.entries().unwrap();
        entries.map(|entry| entry.unwrap().path().unwrap().display().to_string()).collect()
    }

    #[test]
    fn what_was_told_is_taken_or_refused_and_nothing_else_is_tried() {
        let home = tempfile::tempdir().unwrap();
        agent_folder(&home.path().join("agent-rootfs"));
        let mut lookup = Lookup { folders: vec![home.path().to_owned()], ..Lookup::default() };
        assert_eq!(lookup.find().unwrap().path(), home.path().join("agent-rootfs"));
        lookup.explicit = Some(home.path().join("agent-rootfs/sbin"));
        assert!(lookup.find().unwrap_err().to_string().contains("it has no sbin/init"));
        lookup.explicit = Some(home.path().join("absent"));
        assert!(lookup.find().unwrap_err().to_string().contains("--agent-rootfs"));
    }

    #[test]
    fn where_there_is_none_every_place_is_named() {
        let lookup = Lookup { folders: vec!["/absent/one".into(), "/absent/two".into()], ..Lookup::default() };
        let error = lookup.find().unwrap_err().to_string();
        assert!(error.contains("/absent/one, /absent/two") && error.contains("SMOLVM_AGENT_ROOTFS"), "{error}");
    }

    #[test]
    fn a_wheel_is_found_from_the_executable_beside_it() {
        let prefix = tempfile::tempdir().unwrap();
        let wheel = prefix.path().join("lib/python3.11/site-packages/smol");
        fs::create_dir_all(&wheel).unwrap();
        fs::create_dir_all(prefix.path().join("bin")).unwrap();
        fs::write(wheel.join("agent-rootfs.tar.zst"), "").unwrap();
        let lookup = Lookup { folders: beside(&prefix.path().join("bin/smolvm")), ..Lookup::default() };
        assert_eq!(lookup.find().unwrap().path(), wheel.join("agent-rootfs.tar.zst"));
    }

    #[test]
    fn a_folder_becomes_a_tar_without_the_marks_of_running_machines() {
        let home = tempfile::tempdir().unwrap();
        agent_folder(home.path());
        let mut frames = Vec::new();
        let measured = AgentRootfs::at(home.path()).unwrap().write_frames(&mut frames).unwrap();
        let tar = zstd::decode_all(&frames[..]).unwrap();
        assert_eq!(tar.len() as u64, measured);
        assert_eq!(names(&tar), ["sbin/", "sbin/init"]);
    }
}

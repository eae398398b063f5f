//! What of a root filesystem is captured, in one form for all who read one: a folder of this host, our own reader in a
//! guest (as JSON), and the guest's tools (as words for `find`). Each only carries it out.
//!
//! All paths are relative to the root. What is mounted on another mount than the folder above it stays, empty, unless it
//! is in `include`, and so does what is in `hollow`; what `exclude` matches is left out with everything below it.

use std::path::{Path, PathBuf};

use super::Selection;

/// Folders whose contents belong to the running system, not to its image.
pub const EPHEMERAL: [&str; 6] = ["proc", "sys", "dev", "run", "tmp", "var/tmp"];

/// Spools of freezes in a guest, ours included, wherever they are.
const SPOOLS: [&str; 2] = ["/var/tmp/.smolfreeze*", "/tmp/.smolfreeze*"];

/// What is captured.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Wanted {
    /// Patterns, see [`crate::exclude`].
    pub exclude: Vec<String>,
    /// Mounts whose contents are wanted, and folders that would be hollow otherwise.
    pub include: Vec<PathBuf>,
    /// Folders that stay, empty. One in `include` does not; what leads from another to an included one is kept.
    pub hollow: Vec<PathBuf>,
    /// Folders that no hard link leads into or out of: a file with names on both sides becomes two.
    pub apart: Vec<PathBuf>,
    /// A folder that appears at another place (the first), where a link to it is.
    pub placed: Option<(PathBuf, PathBuf)>,
}

impl Wanted {
    /// Of a folder that is no root filesystem.
    #[must_use]
    pub fn of_folder(selection: &Selection) -> Self {
        Self {
            exclude: selection.exclude.patterns().to_vec(),
            include: selection.include_mounts.iter().map(|path| relative(path)).collect(),
            apart: selection.apart.clone(),
            ..Self::default()
        }
    }

    /// Of a root filesystem.
    #[must_use]
    pub fn of_root(selection: &Selection) -> Self {
        let mut wanted = Self::of_folder(selection);
        wanted.exclude.extend(SPOOLS.map(str::to_owned));
        wanted.hollow.extend(EPHEMERAL.map(PathBuf::from));
        wanted.hollow.retain(|folder| !wanted.include.contains(folder));
        wanted
    }
}

/// Without `/`, `./` and the like in front.
fn relative(path: &Path) -> PathBuf {
    path.components().filter(|part| matches!(part, std::path::Component::Normal(_))).collect()
}

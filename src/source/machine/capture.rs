//! What of a machine is captured: a pure decision over its mounts, and the same in the words of the guest's find.
//!
//! Captured: the root, and mounts that are *folders* of the machine's own storage disk. Left out: what the kernel or smolvm
//! puts there, smolvm's own view of its disks (they hold the root again, and all layers), and every mount that is not the
//! machine's own. A mount point that is left out stays as an empty directory.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::answer::Look;
use super::patterns;
use crate::error::{Error, Result};
use crate::source::Selection;
use crate::source::mounts::Mount;
use crate::source::wanted::{EPHEMERAL, Wanted};
use crate::text;

/// Where smolvm mounts its own disks: the root filesystem is in there once more.
const SMOLVM: [&str; 2] = ["storage", "oldroot"];
/// Has layers of its own, so no link leads into it.
const WORKSPACE: &str = "workspace";

/// What is captured.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Capture {
    /// For our own reader.
    pub wanted: Wanted,
    /// The same for `guest.sh`: text of the shell that defines `walk`, which runs find with an action.
    pub plan: String,
    /// Mounts whose contents are left out, relative to the root; smolvm's and the kernel's own are not among them.
    pub left_mounts: Vec<Vec<u8>>,
}

/// Decides what is captured of a machine that looks so.
///
/// # Errors
/// [`crate::error::Kind::Usage`] for a pattern or a mount that can't be selected.
pub fn decide(look: &Look, bare: bool, selection: &Selection) -> Result<Capture> {
    // The mount on top hides those below it.
    let mounts: BTreeMap<PathBuf, Mount> = look
        .mounts
        .iter()
        .filter_map(|line| Mount::read(line))
        .filter(|mount| mount.point != b"/")
        .map(|mount| Ok((relative(&mount.point)?, mount)))
        .collect::<Result<_>>()?;
    let storage = mounts.get(Path::new("storage")).filter(|mount| mount.root == b"/").map(|mount| &mount.device);
    let mut wanted = Wanted::of_root(selection);
    let asked = std::mem::take(&mut wanted.include);
    if let Some(missing) = asked.iter().find(|path| !mounts.contains_key(*path) && !is_one_of(&EPHEMERAL, path)) {
        return Err(Error::usage(
            "reading --include-mount",
            Path::new("/").join(missing).display(),
            "nothing is mounted there",
        ));
    }
    let smolvm = SMOLVM.iter().map(PathBuf::from).filter(|folder| bare || mounts.contains_key(folder));
    wanted.hollow.extend(smolvm.filter(|folder| !asked.contains(folder)));
    let nobodys = wanted.hollow.clone();
    let mut left_mounts = Vec::new();
    for (point, mount) in &mounts {
        if selection.exclude.matches_within(point.as_os_str().as_encoded_bytes()) {
            continue;
        }
        let is_nobodys = nobodys.iter().any(|folder| point.starts_with(folder));
        let is_own = storage == Some(&mount.device) && mount.root != b"/";
        if asked.contains(point) || is_own && !is_nobodys {
            wanted.include.push(point.clone());
        } else if !is_nobodys {
            wanted.hollow.push(point.clone());
            left_mounts.push(mount.point[1..].to_vec());
        }
    }
    if bare {
        wanted.exclude.push("/.smolvm-ready.*".to_owned());
    }
    wanted.exclude.push(format!("/{WORKSPACE}/.smolvm-workspace-seeded"));
    wanted.apart = vec![WORKSPACE.into()];
    let is_linked =
        look.workspace_link.as_deref().is_some_and(|link| link.trim_end_matches('/') == "/storage/workspace");
    if is_linked && !selection.exclude.matches(WORKSPACE.as_bytes()) {
        wanted.placed = Some((WORKSPACE.into(), "storage/workspace".into()));
        wanted.include.push(WORKSPACE.into());
    }
    Ok(Capture { plan: plan(&wanted)?, wanted, left_mounts })
}

fn is_one_of(folders: &[&str], path: &Path) -> bool {
    folders.iter().any(|folder| path == Path::new(folder))
}

/// [`Wanted`], in the words of a guest's find, GNU's or busybox's.
///
/// Each included folder is a start folder of its own, with a slash at its end: so it is told from the same folder seen
/// from above, which stands for its entry, and its own name can be passed over.
fn plan(wanted: &Wanted) -> Result<String> {
    let mut starts = vec![".".to_owned()];
    let (mut left_out, mut hollow) = (Vec::new(), Vec::new());
    for pattern in patterns::to_posix(&wanted.exclude)? {
        left_out.push(format!("-regex {}", quoted(&pattern)));
    }
    for folder in wanted.hollow.iter().filter(|folder| !wanted.include.contains(folder)) {
        hollow.push(format!("./{}", folder.display()));
    }
    for folder in &wanted.include {
        let path = format!("./{}", folder.display());
        if wanted.placed.as_ref().is_some_and(|(at, _)| at == folder) {
            // From above it is a link. Two slashes sort before every name that is in there.
            left_out.push(format!("-path {}", quoted(&path)));
            starts.push(format!("{path}//."));
            hollow.push(format!("{path}//."));
        } else {
            // What leads there from a folder that is hollow is not seen from above.
            let above = folder.ancestors().filter(|above| wanted.hollow.iter().any(|hollow| hollow == above)).last();
            let unseen = folder.ancestors().take_while(|on_the_way| above.is_some_and(|above| on_the_way != &above));
            starts.extend(unseen.clone().map(|on_the_way| format!("./{}", on_the_way.display())));
            hollow.extend(unseen.map(|on_the_way| format!("./{}", on_the_way.display())));
            hollow.push(path.clone());
        }
        starts.push(path + "/");
    }
    let hollow: Vec<String> = hollow.iter().map(|path| format!("-path {}", quoted(&escaped(path)))).collect();
    let starts: Vec<String> = starts.iter().map(|start| quoted(start)).collect();
    let apart: Vec<String> = wanted.apart.iter().map(|folder| quoted(&format!("./{}/*", folder.display()))).collect();
    // A hollow entry is taken itself, if it is no file: what is mounted on one is not the machine's.
    Ok(format!(
        "apart={}\nwalk() {{\n\trun find {} -xdev $(is_gnu find && echo -regextype posix-basic) \\( {} \\) -prune -o \\( {} \\) -prune ! -type d ! -type l -o -path '*[/]' -o \"$@\"\n}}\n",
        apart.join(" "),
        starts.join(" "),
        left_out.join(" -o "),
        hollow.join(" -o ")
    ))
}

/// A word of the shell.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// A pattern of find's `-path` that is this path alone.
fn escaped(path: &str) -> String {
    path.chars().flat_map(|c| matches!(c, '\\' | '*' | '?' | '[').then_some('\\').into_iter().chain([c])).collect()
}

/// A mount point relative to the root. A plan is made of lines of text, so what can't be one is refused.
fn relative(point: &[u8]) -> Result<PathBuf> {
    let refused = |reason: &str| Error::source("reading the mounts", text::name(point), reason);
    let text = std::str::from_utf8(point).map_err(|_| refused("the name of a mount point is not UTF-8"))?;
    if text.contains('\n') {
        return Err(refused("the name of a mount point has a line break in it"));
    }
    Ok(text.trim_matches('/').into())
}

#[cfg(test)]
mod tests {
    use super::*;

    const IMAGE: [&str; 11] = [
        "66 63 0:39 / / rw,relatime - overlay overlay rw,lowerdir=/a",
        "67 66 0:42 / /proc rw,relatime - proc proc rw",
        "70 66 0:44 / /run rw,relatime - tmpfs run rw,mode=755",
        "72 70 0:44 /x /run/smolvm/init rw,relatime - tmpfs run rw",
        "73 66 254:0 /overlays/persistent-1/tmp /tmp rw,relatime - ext4 /dev/vda rw",
        "74 66 254:0 /workspace /workspace rw,relatime - ext4 /dev/vda rw",
        "75 66 254:0 /volumes/my\\040data /my\\040data rw shared:1 - ext4 /dev/vda rw",
        "76 66 254:0 / /storage rw,relatime - ext4 /dev/vda rw",
        "77 76 0:39 / /storage/overlays/persistent-1/merged rw - overlay overlay rw",
        "78 66 0:50 / /mnt/host[1] rw - virtiofs tag rw",
        "garbage",
    ];

    fn look(lines: &[&str]) -> Look {
        Look { mounts: lines.iter().map(|line| line.as_bytes().to_vec()).collect(), ..Look::default() }
    }

    fn texts(paths: &[PathBuf]) -> Vec<&str> {
        paths.iter().map(|path| path.to_str().unwrap()).collect()
    }

    #[test]
    fn only_folders_of_the_storage_disk_are_followed() {
        let capture = decide(&look(&IMAGE), false, &Selection::default()).unwrap();
        assert_eq!(texts(&capture.wanted.include), ["my data", "workspace"]);
        let hollow = ["proc", "sys", "dev", "run", "tmp", "var/tmp", "storage", "mnt/host[1]"];
        assert_eq!(texts(&capture.wanted.hollow), hollow);
        assert!(capture.plan.contains(r"-path './mnt/host\[1]'"), "{}", capture.plan);
        assert!(capture.plan.contains("find '.' './my data/' './workspace/' -xdev"), "{}", capture.plan);
        assert_eq!(capture.left_mounts, [b"mnt/host[1]"]);
    }

    #[test]
    fn a_mount_is_brought_back() {
        let include_mounts = vec!["mnt/host[1]".into(), "/tmp".into(), "/var/tmp".into(), "/run".into()];
        let selection = Selection { include_mounts, ..Selection::default() };
        let wanted = decide(&look(&IMAGE), false, &selection).unwrap().wanted;
        assert_eq!(texts(&wanted.include), ["mnt/host[1]", "my data", "run", "tmp", "workspace"]);
        assert_eq!(texts(&wanted.hollow), ["proc", "sys", "dev", "storage", "run/smolvm/init"]);
        let selection = Selection { include_mounts: vec!["/srv".into()], ..Selection::default() };
        assert!(decide(&look(&IMAGE), false, &selection).is_err());
    }

    #[test]
    fn a_bare_machines_workspace_is_at_its_place() {
        let mut bare = look(&[
            "1 0 0:9 / / rw - overlay o rw",
            "2 1 254:0 / /storage rw - ext4 /dev/vda rw",
            "3 1 0:7 / /oldroot rw - virtiofs r rw",
        ]);
        bare.workspace_link = Some("/storage/workspace".to_owned());
        let capture = decide(&bare, true, &Selection::default()).unwrap();
        assert_eq!(capture.wanted.placed, Some(("workspace".into(), "storage/workspace".into())));
        assert!(capture.plan.contains("find '.' './workspace//.' './workspace/' -xdev"), "{}", capture.plan);
        assert!(capture.left_mounts.is_empty());
        let exclude = crate::exclude::Exclude::new(&["/work*"]).unwrap();
        let without = decide(&bare, true, &Selection { exclude, ..Selection::default() }).unwrap();
        assert!(without.wanted.placed.is_none() && !without.plan.contains("'./workspace/'"), "{}", without.plan);
    }

    #[test]
    fn hostile_mounts_do_no_harm() {
        for line in
            ["", " ", "- - - -", "1 2 3 4 5 6 -", "1 2 0:1 / relative rw - ext4 x rw", "1 2 0:1 / /x rw -", "\\777"]
        {
            let _ = decide(&look(&[line]), false, &Selection::default());
        }
        assert!(decide(&look(&["1 2 0:1 / /a\\012b rw - ext4 x rw"]), false, &Selection::default()).is_err());
    }
}

//! What of a machine is captured: a pure decision over its mounts, as lines of a plan for `guest.sh`.
//!
//! Captured: the root, and mounts that are *folders* of the machine's own storage disk. Left out: what the kernel or smolvm
//! puts there, smolvm's own view of its disks (they hold the root again, and all layers), and every mount that is not the
//! machine's own. A mount point that is left out stays as an empty directory.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::answer::Look;
use super::patterns;
use crate::error::{Error, Result};
use crate::source::Selection;

/// Folders whose contents mean nothing in an image.
const EPHEMERAL: [&str; 6] = ["/proc", "/sys", "/dev", "/run", "/tmp", "/var/tmp"];
/// Where smolvm mounts its own disks: the root filesystem is in there once more.
const SMOLVM: [&str; 2] = ["/storage", "/oldroot"];

/// One line of mountinfo, as far as it matters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// `major:minor` of the filesystem.
    pub device: String,
    /// The folder of that filesystem which is mounted; `/` is all of it.
    pub root: Vec<u8>,
    /// Where.
    pub point: Vec<u8>,
    /// The filesystem's type.
    pub kind: String,
}

impl Mount {
    /// Reads a line of `/proc/self/mountinfo` (proc(5)); none for what is no such line.
    #[must_use]
    pub fn read(line: &[u8]) -> Option<Self> {
        let words: Vec<&[u8]> = line.split(|byte| *byte == b' ').collect();
        let dash = words.iter().position(|word| *word == b"-")?;
        let (device, root, point, kind) = (words.get(2)?, words.get(3)?, words.get(4)?, words.get(dash + 1)?);
        let (root, point) = (unescape(root), unescape(point));
        (dash >= 6 && root.starts_with(b"/") && point.starts_with(b"/")).then(|| Self {
            device: String::from_utf8_lossy(device).into_owned(),
            root,
            point,
            kind: String::from_utf8_lossy(kind).into_owned(),
        })
    }
}

/// Space, tab, line break and backslash are written as `\ooo`.
fn unescape(word: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(word.len());
    let mut rest = word;
    while let [byte, after @ ..] = rest {
        rest = after;
        match (byte, after) {
            (b'\\', [a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', after @ ..]) => {
                bytes.push((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'));
                rest = after;
            }
            _ => bytes.push(*byte),
        }
    }
    bytes
}

/// What is captured.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Capture {
    /// Lines for `guest.sh`: `<base> <kind> <value>`.
    pub plan: String,
    /// The same for our own reader, which sees the machine's folders at their places; none where one is elsewhere.
    pub wanted: Option<Wanted>,
    /// Mounts whose contents are left out, relative to the root; smolvm's and the kernel's own are not among them.
    pub left_mounts: Vec<Vec<u8>>,
}

/// What our own reader in the guest is to read: everything below `/` but this. Travels as JSON.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Wanted {
    /// Patterns, see [`crate::exclude`].
    pub exclude: Vec<String>,
    /// Mounts that are wanted.
    pub include_mounts: Vec<String>,
    /// Folders that stay empty.
    pub hollow: Vec<String>,
}

/// Decides what is captured of a machine that looks so.
///
/// # Errors
/// [`crate::error::Kind::Usage`] for a pattern or a mount that can't be selected.
pub fn decide(look: &Look, bare: bool, selection: &Selection) -> Result<Capture> {
    // The mount on top hides those below it.
    let mounts: BTreeMap<Vec<u8>, Mount> =
        look.mounts.iter().filter_map(|line| Mount::read(line)).map(|mount| (mount.point.clone(), mount)).collect();
    let storage = mounts.get(&b"/storage"[..]).filter(|mount| mount.root == b"/").map(|mount| mount.device.clone());
    let included: Vec<Vec<u8>> = selection.include_mounts.iter().map(|path| absolute(path)).collect();
    let mut capture = Capture::default();
    let mut whole = Base::new(0, "/", ".");
    for folder in EPHEMERAL {
        whole.leave(folder.as_bytes(), &included)?;
    }
    for folder in SMOLVM.iter().filter(|folder| bare || mounts.contains_key(folder.as_bytes())) {
        whole.leave(folder.as_bytes(), &included)?;
    }
    for (point, mount) in mounts.iter().filter(|(point, _)| *point != b"/") {
        let owned_by_others = EPHEMERAL.iter().chain(&SMOLVM).any(|folder| within(point, folder.as_bytes()));
        let own_folder = storage.as_ref() == Some(&mount.device) && mount.root != b"/";
        if included.contains(point) || own_folder && !owned_by_others {
            whole.add_root(point)?;
        } else if !owned_by_others {
            whole.leave(point, &included)?;
            capture.left_mounts.push(point[1..].to_vec());
        }
    }
    if let Some(missing) = included.iter().find(|point| {
        !mounts.contains_key(*point) && !EPHEMERAL.iter().any(|folder| point.as_slice() == folder.as_bytes())
    }) {
        return Err(Error::usage(
            "reading --include-mount",
            String::from_utf8_lossy(missing),
            "nothing is mounted there",
        ));
    }
    // Spools of freezes, ours included, wherever they are.
    whole.line("path", "./var/tmp/.smolfreeze*");
    whole.line("path", "./tmp/.smolfreeze*");
    let mut bases = vec![];
    let mut wanted = whole.wanted.clone();
    wanted.exclude = selection.exclude.patterns().to_vec();
    if bare {
        whole.line("path", "./.smolvm-ready.*");
        wanted.exclude.push("/.smolvm-ready.*".to_owned());
    }
    let seeded = "./workspace/.smolvm-workspace-seeded";
    wanted.exclude.push(seeded.to_owned());
    capture.wanted = Some(wanted);
    if look.workspace_link.as_deref().is_some_and(|link| link.trim_end_matches('/') == "/storage/workspace") {
        whole.line("path", "./workspace");
        let mut workspace = Base::new(1, "/storage", "./workspace");
        workspace.line("path", seeded);
        bases.push(workspace);
        capture.wanted = None;
    } else {
        whole.line("path", seeded);
    }
    bases.insert(0, whole);
    let patterns = patterns::to_posix(selection.exclude.patterns())?;
    for mut base in bases {
        for pattern in &patterns {
            base.line("regex", pattern);
        }
        capture.plan += &base.lines;
    }
    Ok(capture)
}

/// The lines of one start folder.
struct Base {
    index: usize,
    lines: String,
    wanted: Wanted,
}

impl Base {
    fn new(index: usize, folder: &str, root: &str) -> Self {
        let mut base = Self { index, lines: String::new(), wanted: Wanted::default() };
        base.line("base", folder);
        base.line("root", root);
        base
    }

    fn line(&mut self, kind: &str, value: &str) {
        let _ = writeln!(self.lines, "{} {kind} {value}", self.index);
    }

    /// Descends into the mount at `point`.
    fn add_root(&mut self, point: &[u8]) -> Result<()> {
        let path = relative(point)?;
        self.line("root", &path);
        self.wanted.include_mounts.push(path);
        Ok(())
    }

    /// Keeps the entry at `point` and leaves out what is below it; not what was asked for.
    fn leave(&mut self, point: &[u8], included: &[Vec<u8>]) -> Result<()> {
        if !included.iter().any(|wanted| wanted == point) {
            let path = relative(point)?;
            let pattern: String = path
                .chars()
                .flat_map(|c| matches!(c, '\\' | '*' | '?' | '[').then_some('\\').into_iter().chain([c]))
                .collect();
            self.line("path", &pattern);
            self.line("left", &path);
            self.wanted.hollow.push(path);
        }
        Ok(())
    }
}

/// `./path` as a plan has it. A plan is made of lines of text, so what can't be one is refused.
fn relative(point: &[u8]) -> Result<String> {
    let refused =
        |reason: &str| Error::source("reading the mounts", String::from_utf8_lossy(point).escape_debug(), reason);
    let text = std::str::from_utf8(point).map_err(|_| refused("the name of a mount point is not UTF-8"))?;
    if text.contains('\n') {
        return Err(refused("the name of a mount point has a line break in it"));
    }
    Ok(format!(".{text}"))
}

fn absolute(path: &std::path::Path) -> Vec<u8> {
    let text = path.to_string_lossy();
    format!("/{}", text.trim_start_matches("./").trim_matches('/')).into_bytes()
}

fn within(point: &[u8], folder: &[u8]) -> bool {
    point.strip_prefix(folder).is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/"))
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

    #[test]
    fn only_folders_of_the_storage_disk_are_followed() {
        let capture = decide(&look(&IMAGE), false, &Selection::default()).unwrap();
        let roots: Vec<&str> = capture.plan.lines().filter_map(|line| line.strip_prefix("0 root ")).collect();
        assert_eq!(roots, [".", "./my data", "./workspace"]);
        let left: Vec<&str> = capture.plan.lines().filter_map(|line| line.strip_prefix("0 left ")).collect();
        assert_eq!(left, ["./proc", "./sys", "./dev", "./run", "./tmp", "./var/tmp", "./storage", "./mnt/host[1]"]);
        assert!(capture.plan.contains("0 path ./mnt/host\\[1]\n"), "{}", capture.plan);
        assert_eq!(capture.left_mounts, [b"mnt/host[1]"]);
    }

    #[test]
    fn a_mount_is_brought_back() {
        let selection = Selection { include_mounts: vec!["mnt/host[1]".into(), "/tmp".into()], ..Selection::default() };
        let capture = decide(&look(&IMAGE), false, &selection).unwrap();
        assert!(
            capture.plan.contains("0 root ./mnt/host[1]\n") && capture.plan.contains("0 root ./tmp\n"),
            "{}",
            capture.plan
        );
        assert!(!capture.plan.contains("0 left ./tmp\n") && capture.left_mounts.is_empty());
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
        assert!(capture.plan.contains("1 base /storage\n1 root ./workspace\n"), "{}", capture.plan);
        assert!(capture.plan.contains("0 path ./workspace\n") && !capture.plan.contains("0 left ./workspace"));
        assert!(capture.left_mounts.is_empty());
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

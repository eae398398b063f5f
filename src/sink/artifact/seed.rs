//! The first content of a machine's `/workspace`, made from the image's layers.
//!
//! smolvm mounts its own `/workspace` over the image's, and fills it at the first start from a tar of its content
//! (`./file`) in the artifact. The image's layers have the same entries below `workspace/`. So their headers are written
//! anew and their content is passed through; whatever else a header or its extensions say is kept byte for byte.

use std::collections::HashSet;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher as _;
use std::io::{self, BufWriter, Read, Write};
use std::path::Path;

use super::side::SideFile;
use crate::stage::header::{BLOCK_BYTES, Kind};
use crate::stage::stack;
use crate::stage::walk::{Entry, Walk};
use crate::text;

/// What is in front of every entry's path, in the image.
const FOLDER: &[u8] = b"workspace";

/// The end mark of a tar.
const END: [u8; 2 * BLOCK_BYTES] = [0; 2 * BLOCK_BYTES];

/// Fast: `/workspace` is recoded while the freeze runs, and is small as a rule.
const LEVEL: i32 = 1;

/// The tar of a workspace that is being put together, compressed, in a file without a name.
pub(crate) struct Seed {
    frames: zstd::Encoder<'static, BufWriter<SideFile>>,
    tar_bytes: u64,
    folders: Folders,
}

/// The hashes of folders that are in, of a key that nobody knows: what layers below have of them does not count.
#[derive(Default)]
struct Folders {
    key: RandomState,
    above: HashSet<u64>,
    /// Those of the layer at hand.
    now: HashSet<u64>,
}

impl Folders {
    /// Whether an entry at `path` is a folder that layers above had.
    fn has(&mut self, entry: &Entry, path: &[u8]) -> bool {
        if !entry.is_folder() {
            return false;
        }
        let name = self.key.hash_one(path);
        self.now.insert(name);
        self.above.contains(&name)
    }

    fn end_layer(&mut self) {
        self.above.extend(self.now.drain());
    }
}

impl std::fmt::Debug for Seed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Seed").field("tar_bytes", &self.tar_bytes).finish_non_exhaustive()
    }
}

impl Seed {
    /// An empty one, on the same disk as `artifact`.
    pub(crate) fn beside(artifact: &Path) -> io::Result<Self> {
        let side = SideFile::beside(artifact)?;
        let frames = zstd::Encoder::new(BufWriter::new(side), LEVEL)?;
        Ok(Self { frames, tar_bytes: 0, folders: Folders::default() })
    }

    /// Adds what this tar has below `workspace/`; gives its bytes in the seed.
    pub(super) fn add(&mut self, layer: impl Read) -> io::Result<u64> {
        let bytes = reroot(layer, &mut self.folders, &mut self.frames)?;
        self.tar_bytes += bytes;
        self.end_layer();
        Ok(bytes)
    }

    /// Whether nothing is in it.
    pub(super) fn is_empty(&self) -> bool {
        self.tar_bytes == 0
    }

    /// What comes next is of a layer below.
    pub(super) fn end_layer(&mut self) {
        self.folders.end_layer();
    }

    /// Adds one entry that lies below `workspace`, at `path`; a hard link to `link` where that is given.
    pub(crate) fn put(
        &mut self,
        entry: &Entry,
        path: &[u8],
        link: Option<&[u8]>,
        content: &mut dyn Read,
    ) -> io::Result<()> {
        if !self.folders.has(entry, path) {
            self.tar_bytes += write(entry, path, link, content, &mut self.frames)?;
        }
        Ok(())
    }

    /// The zstd frames, and the size of the tar in them.
    pub(super) fn finish(mut self) -> io::Result<(SideFile, u64)> {
        self.frames.write_all(&END)?;
        let side = self.frames.finish()?.into_inner().map_err(io::IntoInnerError::into_error)?;
        Ok((side, self.tar_bytes + END.len() as u64))
    }
}

/// Copies what `layer` has below `workspace/`, without marks of deletions and the end mark; gives the bytes that were
/// written. Several layers may follow each other, the upper ones first.
fn reroot(layer: impl Read, folders: &mut Folders, mut seed: impl Write) -> io::Result<u64> {
    let (mut walk, mut written_bytes) = (Walk::new(layer), 0);
    while let Some(entry) = walk.next()? {
        let path = entry.path()?;
        if moved(&path).is_some() && !stack::is_mark(&path) && !folders.has(&entry, &path) {
            written_bytes += write(&entry, &path, None, &mut walk, &mut seed)?;
        }
    }
    Ok(written_bytes)
}

/// Writes one entry of `/workspace`; gives the bytes that were written.
fn write(
    entry: &Entry,
    path: &[u8],
    link: Option<&[u8]>,
    content: &mut (impl Read + ?Sized),
    seed: &mut impl Write,
) -> io::Result<u64> {
    let outside = |path: &[u8]| invalid(&format!("{} links to {}", text::name(path), text::name(&entry.link)));
    let mut name = moved(path).unwrap_or_default();
    if entry.is_folder() && !name.ends_with(b"/") {
        name.push(b'/');
    }
    let link = match entry.kind {
        Kind::HardLink => Some(
            moved(&link.map_or_else(|| entry.link_path(), |link| Ok(link.to_vec()))?).ok_or_else(|| outside(path))?,
        ),
        _ => None,
    };
    let head = entry.renamed(&name, link.as_deref())?;
    seed.write_all(&head)?;
    let copied = io::copy(content, seed)?;
    seed.write_all(&[0; BLOCK_BYTES][..entry.padding()])?;
    Ok(head.len() as u64 + copied + entry.padding() as u64)
}

/// `workspace/a` is `./a`, and the folder itself is `./`.
fn moved(path: &[u8]) -> Option<Vec<u8>> {
    let rest = path.strip_prefix(FOLDER)?;
    match rest.strip_prefix(b"/") {
        Some(rest) => Some([b"./", rest].concat()),
        None => rest.is_empty().then(|| b"./".to_vec()),
    }
}

fn invalid(reason: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, reason.to_owned())
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::os::unix::fs::symlink;
    use std::path::PathBuf;
    use std::process::{Command, Stdio};

    use super::*;

    /// A workspace with all that makes headers hard: long names and links, holes, bytes that are no UTF-8.
    fn workspace(root: &Path) -> PathBuf {
        let folder = root.join("workspace");
        let long = "a-long-name-".repeat(12);
        fs::create_dir_all(folder.join("deep").join(&long)).unwrap();
        fs::write(folder.join("deep").join(&long).join(&long), "long").unwrap();
        fs::write(folder.join("plain"), vec![7; 5000]).unwrap();
        fs::hard_link(folder.join("deep").join(&long).join(&long), folder.join("hard-long")).unwrap();
        fs::hard_link(folder.join("plain"), folder.join("hard")).unwrap();
        symlink("plain", folder.join("soft")).unwrap();
        symlink(format!("/workspace/{long}/{long}"), folder.join("soft-long")).unwrap();
        symlink("workspace/plain", folder.join("soft-unchanged")).unwrap();
        let sparse = File::create(folder.join("sparse")).unwrap();
        for hole in 0..30_u64 {
            std::os::unix::fs::FileExt::write_all_at(&sparse, b"data", hole * 100_000).unwrap();
        }
        sparse.set_len(4_000_000).unwrap();
        fs::write(folder.join("w".repeat(98)), "just too long with its folder").unwrap();
        let odd = std::os::unix::ffi::OsStrExt::from_bytes(b"odd-\xff");
        let odd: &std::ffi::OsStr = odd;
        fs::write(folder.join(odd), "odd").unwrap();
        folder
    }

    fn tar(arguments: &[&str], folder: &Path, input: &[u8]) -> Vec<u8> {
        let mut tar = Command::new("tar");
        tar.arg("-C").arg(folder).args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = tar.spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        std::thread::scope(|scope| {
            scope.spawn(move || stdin.write_all(input));
            let output = child.wait_with_output().unwrap();
            assert!(output.status.success());
            output.stdout
        })
    }

    #[test]
    fn what_gnu_tar_unpacks_is_the_workspace() {
        let root = tempfile::tempdir().unwrap();
        let folder = workspace(root.path());
        fs::write(root.path().join("elsewhere"), vec![1; 700]).unwrap();
        fs::write(root.path().join("workspaces"), "not below it").unwrap();
        let canonical = ["--sort=name", "--format=pax", "--pax-option=delete=atime,delete=ctime", "-cf", "-", "."];
        for format in ["gnu", "pax", "ustar"] {
            if format == "ustar" {
                // It can't say these.
                fs::remove_file(folder.join("soft-long")).unwrap();
                fs::remove_file(folder.join("hard-long")).unwrap();
                fs::remove_dir_all(folder.join("deep")).unwrap();
            }
            // Most formats have whole seconds.
            let touch = ["-exec", "touch", "-h", "-d", "@1000000000", "{}", "+"];
            assert!(Command::new("find").arg(&folder).args(touch).status().unwrap().success());
            let format = format!("--format={format}");
            let sparse = if format.ends_with("ustar") { "--no-xattrs" } else { "--sparse" };
            let layer = tar(&["--sort=name", &format, sparse, "-cf", "-", "."], root.path(), b"");
            let mut seed = Vec::new();
            assert_eq!(reroot(&layer[..], &mut Folders::default(), &mut seed).unwrap(), seed.len() as u64);
            seed.extend(END);
            let unpacked = tempfile::tempdir().unwrap();
            tar(&["-xpf", "-"], unpacked.path(), &seed);
            assert!(tar(&canonical, unpacked.path(), b"") == tar(&canonical, &folder, b""), "{format}");
        }
    }

    #[test]
    fn a_link_out_of_the_workspace_is_refused() {
        let mut layer = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Link);
        header.set_size(0);
        layer.append_link(&mut header, "workspace/link", "etc/passwd").unwrap();
        let error = reroot(&layer.into_inner().unwrap()[..], &mut Folders::default(), io::sink()).unwrap_err();
        assert_eq!(error.to_string(), "workspace/link links to etc/passwd");
    }

    #[test]
    fn a_layer_that_is_cut_off_or_nonsense_is_refused() {
        let root = tempfile::tempdir().unwrap();
        workspace(root.path());
        let layer = tar(&["--format=pax", "-cf", "-", "."], root.path(), b"");
        for length in [0, 100, 512, 1000, 20_000] {
            assert!(reroot(&layer[..length], &mut Folders::default(), io::sink()).is_err(), "{length}");
        }
    }
}

//! The first content of a machine's `/workspace`, made from the image's layers.
//!
//! smolvm mounts its own `/workspace` over the image's, and fills it at the first start from a tar of its content
//! (`./file`) in the artifact. The image's layers have the same entries below `workspace/`. So their headers are written
//! anew and their content is passed through; whatever else a header or its extensions say is kept byte for byte.

use std::io::{self, BufWriter, Read, Write};
use std::path::Path;

use tar::{EntryType, Header};

use super::side::SideFile;
use crate::text;

/// What is in front of every entry's path, in the image.
const FOLDER: &[u8] = b"workspace";

const BLOCK_BYTES: usize = 512;

/// The end mark of a tar.
const END: [u8; 2 * BLOCK_BYTES] = [0; 2 * BLOCK_BYTES];

/// The most that an extension (a long name, a set of PAX records) may take: 1 MiB, as GNU tar has it.
const EXTENSION_BYTES_MAX: u64 = 1 << 20;

/// The longest name that a header itself can hold.
const NAME_BYTES_MAX: usize = 100;

/// Fast: `/workspace` is recoded while the freeze runs, and is small as a rule.
const LEVEL: i32 = 1;

/// The tar of a workspace that is being put together, compressed, in a file without a name.
pub(super) struct Seed {
    frames: zstd::Encoder<'static, BufWriter<SideFile>>,
    tar_bytes: u64,
}

impl std::fmt::Debug for Seed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Seed").field("tar_bytes", &self.tar_bytes).finish_non_exhaustive()
    }
}

impl Seed {
    /// An empty one, on the same disk as `artifact`.
    pub(super) fn beside(artifact: &Path) -> io::Result<Self> {
        let side = SideFile::beside(artifact)?;
        Ok(Self { frames: zstd::Encoder::new(BufWriter::new(side), LEVEL)?, tar_bytes: 0 })
    }

    /// Adds what this tar has below `workspace/`; gives its bytes in the seed.
    pub(super) fn add(&mut self, layer: impl Read) -> io::Result<u64> {
        let bytes = reroot(layer, &mut self.frames)?;
        self.tar_bytes += bytes;
        Ok(bytes)
    }

    /// The zstd frames, and the size of the tar in them.
    pub(super) fn finish(mut self) -> io::Result<(SideFile, u64)> {
        self.frames.write_all(&END)?;
        let side = self.frames.finish()?.into_inner().map_err(io::IntoInnerError::into_error)?;
        Ok((side, self.tar_bytes + END.len() as u64))
    }
}

/// What came before a header and belongs to it.
#[derive(Debug, Default)]
struct Extensions {
    long_name: Option<Vec<u8>>,
    long_link: Option<Vec<u8>>,
    records: Vec<(Vec<u8>, Vec<u8>)>,
}

/// Copies what `layer` has below `workspace/`, without the end mark; gives the bytes that were written. Several layers
/// may follow each other.
fn reroot(mut layer: impl Read, mut seed: impl Write) -> io::Result<u64> {
    let (mut extensions, mut written_bytes) = (Extensions::default(), 0);
    while let Some(header) = next_header(&mut layer)? {
        let size = extensions.size()?.map_or_else(|| header.entry_size(), Ok)?;
        if extensions.take_in(&header, size, &mut layer)? {
            continue;
        }
        let moved = std::mem::take(&mut extensions).moved(header)?;
        let padded =
            size.checked_next_multiple_of(BLOCK_BYTES as u64).ok_or_else(|| invalid("a size past all bounds"))?;
        if let Some((front, sparse)) = moved {
            seed.write_all(&front)?;
            written_bytes += front.len() as u64;
            if sparse {
                written_bytes += copy_sparse_map(&mut layer, &mut seed)?;
            }
            copy_exactly(&mut layer, padded, &mut seed)?;
            written_bytes += padded;
        } else {
            copy_exactly(&mut layer, padded, &mut io::sink())?;
        }
    }
    Ok(written_bytes)
}

fn next_header(layer: &mut impl Read) -> io::Result<Option<Header>> {
    let mut header = Header::new_old();
    layer.read_exact(header.as_mut_bytes())?;
    Ok(header.as_bytes().iter().any(|byte| *byte != 0).then_some(header))
}

impl Extensions {
    /// The size that a PAX record gives, which beats the header's.
    fn size(&self) -> io::Result<Option<u64>> {
        let Some(text) = self.record(b"size") else { return Ok(None) };
        let size = std::str::from_utf8(text).ok().and_then(|text| text.parse().ok());
        size.map(Some).ok_or_else(|| invalid("a PAX size that is no number"))
    }

    fn record(&self, key: &[u8]) -> Option<&[u8]> {
        self.records.iter().rev().find(|(name, _)| name == key).map(|(_, value)| &value[..])
    }

    fn remove(&mut self, key: &[u8]) {
        self.records.retain(|(name, _)| name != key);
    }

    /// Reads an extension; false where `header` is that of an entry.
    fn take_in(&mut self, header: &Header, size: u64, layer: &mut impl Read) -> io::Result<bool> {
        let kind = header.entry_type();
        if !(kind.is_gnu_longname() || kind.is_gnu_longlink() || kind.is_pax_local_extensions()) {
            return Ok(false);
        }
        if size > EXTENSION_BYTES_MAX {
            return Err(invalid("a header extension of more than 1 MiB"));
        }
        let mut body = Vec::new();
        copy_exactly(layer, size.next_multiple_of(BLOCK_BYTES as u64), &mut body)?;
        body.truncate(usize::try_from(size).unwrap_or(usize::MAX));
        if kind.is_pax_local_extensions() {
            self.records.extend(records_of(&body)?);
        } else {
            body.truncate(body.iter().position(|byte| *byte == 0).unwrap_or(body.len()));
            *(if kind.is_gnu_longname() { &mut self.long_name } else { &mut self.long_link }) = Some(body);
        }
        Ok(true)
    }

    /// The entry's headers at its new place, and whether a sparse map follows them; nothing if it is elsewhere.
    fn moved(mut self, mut header: Header) -> io::Result<Option<(Vec<u8>, bool)>> {
        let sparse_name = self.record(b"GNU.sparse.name").map(<[u8]>::to_vec);
        let named = self.record(b"path").map(<[u8]>::to_vec).or(self.long_name.take());
        let path = sparse_name.clone().or(named).unwrap_or_else(|| header.path_bytes().into_owned());
        let Some(new_path) = below_folder(&path) else { return Ok(None) };
        let mut front = Vec::new();
        if header.entry_type() == EntryType::Link {
            let told = self.record(b"linkpath").map(<[u8]>::to_vec).or(self.long_link.take());
            let link = told.or_else(|| header.link_name_bytes().map(std::borrow::Cow::into_owned)).unwrap_or_default();
            let outside = || invalid(&format!("{} links to {}", text::name(&path), text::name(&link)));
            let new_link = below_folder(&link).ok_or_else(outside)?;
            self.remove(b"linkpath");
            set_name(&mut header.as_old_mut().linkname, &new_link, EntryType::GNULongLink, &mut front);
        } else if let Some(link) = &self.long_link {
            push_extension(EntryType::GNULongLink, &[link, &[0][..]].concat(), &mut front);
        }
        if sparse_name.is_some() {
            self.remove(b"GNU.sparse.name");
            self.records.push((b"GNU.sparse.name".to_vec(), new_path.clone()));
        }
        self.remove(b"path");
        // Where a name is cut in two, the first part is in the prefix: all of it is in the name now.
        if let Some(ustar) = header.as_ustar_mut() {
            ustar.prefix = [0; 155];
        }
        set_name(&mut header.as_old_mut().name, &new_path, EntryType::GNULongName, &mut front);
        if !self.records.is_empty() {
            push_extension(EntryType::XHeader, &records_as_bytes(&self.records), &mut front);
        }
        header.set_cksum();
        let sparse =
            header.as_gnu().is_some_and(|gnu| header.entry_type() == EntryType::GNUSparse && gnu.is_extended());
        front.extend(header.as_bytes());
        Ok(Some((front, sparse)))
    }
}

/// `workspace/a` is `./a`, and the folder itself is `./`.
fn below_folder(path: &[u8]) -> Option<Vec<u8>> {
    let path = path.strip_prefix(b"./").unwrap_or(path);
    let rest = path.strip_prefix(FOLDER)?;
    match rest.strip_prefix(b"/") {
        Some(rest) => Some([b"./", rest].concat()),
        None => rest.is_empty().then(|| b"./".to_vec()),
    }
}

/// A name that does not fit is told in front of the header too.
fn set_name(field: &mut [u8; NAME_BYTES_MAX], name: &[u8], long: EntryType, front: &mut Vec<u8>) {
    if name.len() > NAME_BYTES_MAX {
        push_extension(long, &[name, &[0]].concat(), front);
    }
    let fits = name.len().min(NAME_BYTES_MAX);
    *field = [0; NAME_BYTES_MAX];
    field[..fits].copy_from_slice(&name[..fits]);
}

fn push_extension(kind: EntryType, body: &[u8], front: &mut Vec<u8>) {
    let mut header = if kind.is_pax_local_extensions() { Header::new_ustar() } else { Header::new_gnu() };
    header.as_old_mut().name[..13].copy_from_slice(b"././@LongLink");
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(body.len() as u64);
    header.set_entry_type(kind);
    header.set_cksum();
    front.extend(header.as_bytes());
    front.extend(body);
    front.resize(front.len().next_multiple_of(BLOCK_BYTES), 0);
}

/// PAX records: `<length> <key>=<value>\n`, where the length counts itself and may not be trusted.
fn records_of(mut body: &[u8]) -> io::Result<Vec<(Vec<u8>, Vec<u8>)>> {
    let mut records = Vec::new();
    while !body.is_empty() {
        let broken = || invalid("a PAX record that is broken");
        let blank = body.iter().position(|byte| *byte == b' ').ok_or_else(broken)?;
        let length = std::str::from_utf8(&body[..blank]).ok().and_then(|text| text.parse::<usize>().ok());
        let length = length.filter(|length| *length <= body.len() && *length > blank + 1).ok_or_else(broken)?;
        let record = body[blank + 1..length].strip_suffix(b"\n").ok_or_else(broken)?;
        let equals = record.iter().position(|byte| *byte == b'=').ok_or_else(broken)?;
        records.push((record[..equals].to_vec(), record[equals + 1..].to_vec()));
        body = &body[length..];
    }
    Ok(records)
}

fn records_as_bytes(records: &[(Vec<u8>, Vec<u8>)]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (key, value) in records {
        let rest = key.len() + value.len() + 3;
        let mut length = rest + 1;
        while length != rest + length.to_string().len() {
            length = rest + length.to_string().len();
        }
        bytes.extend([length.to_string().as_bytes(), b" ", key, b"=", value, b"\n"].concat());
    }
    bytes
}

/// The blocks of an old GNU sparse map that did not fit into the header; the last one says so.
fn copy_sparse_map(layer: &mut impl Read, seed: &mut impl Write) -> io::Result<u64> {
    let mut copied_bytes = 0;
    loop {
        let mut block = [0; BLOCK_BYTES];
        layer.read_exact(&mut block)?;
        seed.write_all(&block)?;
        copied_bytes += BLOCK_BYTES as u64;
        if block[504] == 0 {
            return Ok(copied_bytes);
        }
    }
}

fn copy_exactly(from: &mut impl Read, length: u64, to: &mut impl Write) -> io::Result<()> {
    match io::copy(&mut from.take(length), to)? {
        copied if copied == length => Ok(()),
        _ => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the layer ends inside an entry")),
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
            assert_eq!(reroot(&layer[..], &mut seed).unwrap(), seed.len() as u64);
            seed.extend(END);
            let unpacked = tempfile::tempdir().unwrap();
            tar(&["-xpf", "-"], unpacked.path(), &seed);
            assert!(tar(&canonical, unpacked.path(), b"") == tar(&canonical, &folder, b""), "{format}");
        }
    }

    #[test]
    fn a_link_out_of_the_workspace_is_refused() {
        let mut layer = tar::Builder::new(Vec::new());
        let mut header = Header::new_gnu();
        header.set_entry_type(EntryType::Link);
        header.set_size(0);
        layer.append_link(&mut header, "workspace/link", "etc/passwd").unwrap();
        let error = reroot(&layer.into_inner().unwrap()[..], io::sink()).unwrap_err();
        assert_eq!(error.to_string(), "workspace/link links to etc/passwd");
    }

    #[test]
    fn a_layer_that_is_cut_off_or_nonsense_is_refused() {
        let root = tempfile::tempdir().unwrap();
        workspace(root.path());
        let layer = tar(&["--format=pax", "-cf", "-", "."], root.path(), b"");
        for length in [0, 100, 512, 1000, 20_000] {
            assert!(reroot(&layer[..length], io::sink()).is_err(), "{length}");
        }
        for broken in [&b"9 a=b\n"[..], b"7 ab\n", b"x a=b\n", b"0 a=b\n", b"6 a=b", b"18446744073709551616 a=b\n"] {
            assert!(records_of(broken).is_err(), "{}", broken.escape_ascii());
        }
    }
}

//! Which programs may become our own reader in a guest: found, and checked as far as this host can. Whether one runs there,
//! and is of this version, is tried there.

use std::fmt;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::text;

/// A larger program is not copied into a guest: one with all its debugging symbols, most likely.
const PROGRAM_BYTES_MAX: u64 = 32 << 20;
/// What the file of our own reader is called.
const NAME: &str = "smolfreeze-guest";
/// Where it may lie, from the folder of the program that it belongs to.
const FOLDERS: [&str; 3] = ["", "../lib/smolfreeze", "../libexec/smolfreeze"];
/// Architectures as `uname -m` has them, and their number in an ELF header. All have 64 bits, and the lowest byte first.
const MACHINES: [(&str, u16); 4] = [("x86_64", 62), ("aarch64", 183), ("riscv64", 243), ("loongarch64", 258)];
/// Bytes of an ELF header.
const HEADER_BYTES: usize = 64;

/// Who reads a guest's files.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Reader {
    /// The guest's own tools.
    #[default]
    Tools,
    /// The best that is found for this `smolfreeze`: a `smolfreeze-guest` for the guest's architecture beside it or in its
    /// library folder, then itself, then the guest's tools.
    FoundFor(PathBuf),
    /// This `smolfreeze-guest`, or `smolfreeze`, for Linux on the guest's architecture, and nobody else.
    File(PathBuf),
}

/// What matters of a guest.
pub(super) struct Guest<'a> {
    /// `uname -m`, in the guest's own words.
    pub(super) architecture: &'a str,
    /// Bytes that are free beside the chunks.
    pub(super) free_bytes: u64,
    /// Whether what it sends is not compressed, as our reader can't.
    pub(super) is_plain: bool,
}

/// Programs to try in a guest, the best first. It prints as what will happen, a line each.
#[derive(Debug, Clone, Default)]
pub(super) struct Offer {
    pub(super) programs: Vec<PathBuf>,
    /// Why others can't be used.
    pub(super) passed_over: Vec<String>,
    /// Whether nobody else may read.
    pub(super) is_only: bool,
}

impl Offer {
    /// # Errors
    /// When the one program that may read can't.
    pub(super) fn new(reader: &Reader, guest: &Guest<'_>) -> Result<Self> {
        let mut offer = Self { is_only: matches!(reader, Reader::File(_)), ..Self::default() };
        let candidates = match reader {
            Reader::FoundFor(executable) if guest.is_plain => candidates(executable, guest.architecture),
            Reader::FoundFor(_) | Reader::Tools => Vec::new(),
            Reader::File(path) if guest.is_plain => vec![path.clone()],
            Reader::File(path) => {
                let reason = "our own reader does not compress what crosses the link";
                return Err(refused(path, reason).hint("leave it out, or --guest-compression"));
            }
        };
        for path in candidates {
            match complaint(&path, guest) {
                None => offer.programs.push(path),
                Some(reason) => offer.pass_over(&path, &reason)?,
            }
        }
        Ok(offer)
    }

    /// Remembers that `path` can't be used; where only it may be, that is an error.
    pub(super) fn pass_over(&mut self, path: &Path, reason: &str) -> Result<()> {
        if self.is_only {
            let hint = "it takes a smolfreeze-guest of this version for Linux on the guest's architecture; `auto` takes the best one \
                        that is found, `tar` the guest's own tools";
            return Err(refused(path, reason).hint(hint));
        }
        self.passed_over.push(format!("{} can't be used: {reason}", quoted(path)));
        Ok(())
    }
}

impl fmt::Display for Offer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.programs.first() {
            Some(program) if self.is_only => write!(f, "a copy of {}", quoted(program))?,
            Some(program) => write!(f, "a copy of {}, where it runs", quoted(program))?,
            None => write!(f, "the guest's own tools")?,
        }
        self.passed_over.iter().try_for_each(|why| write!(f, "\n{why}"))
    }
}

fn quoted(path: &Path) -> String {
    text::quoted(path.as_os_str().as_encoded_bytes())
}

fn refused(path: &Path, reason: &str) -> Error {
    Error::usage("reading --guest-reader", quoted(path), reason)
}

/// What there is for guests of this architecture: the small ones first.
fn candidates(executable: &Path, architecture: &str) -> Vec<PathBuf> {
    // A guest's word becomes part of a name only where it is a known one.
    if machine(architecture).is_none() {
        return Vec::new();
    }
    let is_hosts = cfg!(target_os = "linux") && architecture == std::env::consts::ARCH;
    let executable = std::fs::canonicalize(executable).unwrap_or_else(|_| executable.to_owned());
    let own = format!("{NAME}-{architecture}");
    let names = [Some(own.as_str()), Some(NAME).filter(|_| is_hosts)];
    let folder = executable.parent().unwrap_or(Path::new(""));
    let paths = names.into_iter().flatten().flat_map(|name| FOLDERS.map(|beside| folder.join(beside).join(name)));
    paths.filter(|path| path.exists()).chain(is_hosts.then(|| executable.clone())).collect()
}

fn machine(architecture: &str) -> Option<u16> {
    MACHINES.iter().find(|(name, _)| *name == architecture).map(|(_, number)| *number)
}

/// Why a file can't be a reader in this guest; none where it may be one.
fn complaint(path: &Path, guest: &Guest<'_>) -> Option<String> {
    // Before it is opened: that of a pipe would wait.
    let metadata = match std::fs::metadata(path) {
        Ok(metadata) => metadata,
        Err(error) => return Some(error.to_string()),
    };
    let bytes = metadata.len();
    if !metadata.is_file() {
        return Some("it is no file".to_owned());
    }
    if bytes > PROGRAM_BYTES_MAX {
        let [size, most] = [bytes, PROGRAM_BYTES_MAX].map(|bytes| bytes.div_ceil(1 << 20));
        return Some(format!("it has {size} MiB, and {most} MiB are the most (`strip` makes it smaller)"));
    }
    let judged = File::open(path).and_then(|file| foreign(&file, bytes, guest.architecture));
    judged.unwrap_or_else(|error| Some(error.to_string())).or_else(|| {
        let reason = format!("the guest has no room for its {} KiB beside the chunks", bytes.div_ceil(1 << 10));
        (bytes > guest.free_bytes).then_some(reason)
    })
}

/// Why these bytes are no whole Linux program for this architecture.
fn foreign(file: &File, bytes: u64, architecture: &str) -> io::Result<Option<String>> {
    let wrong = |reason: &str| Ok(Some(reason.to_owned()));
    let mut header = [0; HEADER_BYTES];
    if bytes < HEADER_BYTES as u64 {
        return wrong("it is no Linux program");
    }
    file.read_exact_at(&mut header, 0)?;
    let short = |at: usize| u64::from(u16::from_le_bytes([header[at], header[at + 1]]));
    // 64 bits, lowest byte first, a program (2) or one that lies anywhere (3).
    if !header.starts_with(b"\x7fELF\x02\x01") || !matches!(short(16), 2 | 3) {
        return wrong("it is no Linux program");
    }
    if machine(architecture).map(u64::from) != Some(short(18)) {
        let own = MACHINES.iter().find(|(_, number)| u64::from(*number) == short(18));
        let own = own.map_or_else(|| "another architecture".to_owned(), |(name, _)| (*name).to_owned());
        return Ok(Some(format!("it is for {own}, and the guest is {}", text::line(architecture))));
    }
    // Segments, and the table of sections, which is what a linker writes last.
    let (segments, count, entry) = (long(&header, 32), short(56), short(54));
    let mut end = long(&header, 40).saturating_add(short(58) * short(60));
    for index in 0..count {
        let mut segment = [0; 56];
        match file.read_exact_at(&mut segment, segments.saturating_add(index * entry)) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return wrong("it is cut off"),
            read => read?,
        }
        end = end.max(long(&segment, 8).saturating_add(long(&segment, 32)));
    }
    if count == 0 || end > bytes { wrong("it is cut off") } else { Ok(None) }
}

fn long(bytes: &[u8], at: usize) -> u64 {
    bytes[at..at + 8].iter().rev().fold(0, |sum, byte| sum << 8 | u64::from(*byte))
}

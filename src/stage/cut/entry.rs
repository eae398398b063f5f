//! Reading one entry's headers: the extension headers in front of it, its own block, and what they say together.

use super::path;
use crate::error::Error;
use crate::exclude;
use crate::stage::extra::Extra;
use crate::stage::facts::Facts;
use crate::stage::header::{self, BLOCK_BYTES, Header, Kind, PaxRecords};
use crate::stage::sparse::{ContentMap, SparseMap};
pub(in crate::stage) use crate::text::quoted;

/// Most bytes of extension headers (PAX records, long names) that one entry may have: xattrs of 64 KiB and a path of
/// 64 KiB fit several times over.
const EXTENSION_BYTES_MAX: u64 = 1 << 20;

/// The largest size that a header's octal field can hold: 8 GiB less one.
const OCTAL_SIZE_MAX: u64 = 0o77_777_777_777;

/// The headers of one entry, as far as they came.
#[derive(Default)]
pub(in crate::stage) struct Pending {
    state: State,
    /// A block, or an extension's content, that is not complete.
    partial: Vec<u8>,
    header_bytes: u64,
    pax: Option<PaxRecords>,
    long_name: Option<Vec<u8>>,
    long_link: Option<Vec<u8>>,
    main: Option<Header>,
    /// Of GNU's old sparse format, and how long the file is.
    sparse: SparseMap,
    sparse_file_bytes: Option<u64>,
}

#[derive(Clone, Copy, Default)]
enum State {
    #[default]
    Block,
    /// An extension's content, then its padding.
    Extension { kind: Kind, content: usize, padding: usize },
    /// An extension block of GNU's old sparse format.
    SparseMap,
}

/// What a step of reading gave.
pub(in crate::stage) enum Read {
    /// The headers go on.
    More,
    /// A zero block stands where a header should.
    ZeroBlock,
    /// The headers are complete.
    Entry(Resolved),
}

/// An entry as all its headers describe it.
pub(in crate::stage) struct Resolved {
    /// Its name as written.
    pub(in crate::stage) name: Vec<u8>,
    /// Where it goes, relative to the root; empty where the name is hostile.
    pub(in crate::stage) path: Vec<u8>,
    /// Why the name must not go into an image.
    pub(in crate::stage) hostile: Option<&'static str>,
    /// Content bytes.
    pub(in crate::stage) size: u64,
    /// Bytes of all its headers.
    pub(in crate::stage) header_bytes: u64,
    pub(in crate::stage) is_directory: bool,
    /// What its header says that it is.
    pub(in crate::stage) kind: Kind,
    /// For a hard link, the path that it is a link to.
    pub(in crate::stage) link: Option<Vec<u8>>,
    /// It has attributes that are overlayfs's own marks.
    pub(in crate::stage) overlay_marks: bool,
    /// A checksum of its attributes and of a symbolic link's text.
    pub(in crate::stage) extra: u64,
    /// Permissions, owner and time.
    pub(in crate::stage) facts: Facts,
    /// The content begins with a sparse map.
    pub(in crate::stage) map: Option<Box<ContentMap>>,
}

/// Why an entry, or something in an entry's place, can't go into a layer.
pub(in crate::stage) struct Refusal {
    name: Vec<u8>,
    reason: String,
}

impl Refusal {
    pub(in crate::stage) fn of(name: &[u8], reason: &str) -> Self {
        Self { name: name.to_vec(), reason: reason.to_owned() }
    }

    /// The same, of `extension` where no entry is named.
    fn or_of(self, extension: &[u8]) -> Self {
        let named = format!("the entry of the extension header {}: {}", quoted(extension), self.reason);
        if self.name.is_empty() { Self { name: self.name, reason: named } } else { self }
    }

    pub(in crate::stage) fn error(&self, offset: u64) -> Error {
        if self.name.is_empty() {
            return Error::source("reading the tar", format_args!("byte {offset}"), &self.reason);
        }
        let error = Error::source("reading the tar", quoted(&self.name), &self.reason);
        match lenient(&self.name) {
            b"" => error,
            path => error.hint(exclude::hint(path)),
        }
    }
}

/// A name without `./` or `/` in front, for matching `--exclude` even where the name itself is refused.
pub(in crate::stage) fn lenient(name: &[u8]) -> &[u8] {
    let mut rest = name;
    while let Some(shorter) = rest.strip_prefix(b"./").or_else(|| rest.strip_prefix(b"/")) {
        rest = shorter;
    }
    rest.strip_suffix(b"/").unwrap_or(rest)
}

impl Pending {
    /// Takes bytes from the front of `rest`: how many were taken, and what they completed.
    pub(in crate::stage) fn read(&mut self, rest: &[u8]) -> Result<(usize, Read), Refusal> {
        match self.state {
            State::Extension { kind, content, padding } => {
                let now = rest.len().min(content);
                self.partial.extend_from_slice(&rest[..now]);
                let dropped = if now == content { padding.min(rest.len() - now) } else { 0 };
                self.state = State::Extension { kind, content: content - now, padding: padding - dropped };
                if now == content && dropped == padding {
                    self.state = State::Block;
                    self.extension(kind)?;
                }
                Ok((now + dropped, Read::More))
            }
            State::Block | State::SparseMap => {
                let now = rest.len().min(BLOCK_BYTES - self.partial.len());
                let mut block = [0; BLOCK_BYTES];
                if now == BLOCK_BYTES {
                    block.copy_from_slice(&rest[..now]);
                } else {
                    self.partial.extend_from_slice(&rest[..now]);
                    if self.partial.len() < BLOCK_BYTES {
                        return Ok((now, Read::More));
                    }
                    block.copy_from_slice(&self.partial);
                    self.partial.clear();
                }
                Ok((now, self.block(&block)?))
            }
        }
    }

    fn block(&mut self, block: &[u8; BLOCK_BYTES]) -> Result<Read, Refusal> {
        if matches!(self.state, State::SparseMap) {
            self.header_bytes += BLOCK_BYTES as u64;
            self.sparse.add_old(&block[..504]).map_err(|reason| self.refusal(reason))?;
            // GNU tar manual, "Old GNU Format": byte 504 says whether one more follows.
            return if block[504] == 0 { self.resolve() } else { self.bounded(Read::More) };
        }
        if block.iter().all(|byte| *byte == 0) {
            return if self.header_bytes == 0 {
                Ok(Read::ZeroBlock)
            } else {
                Err(self.refusal("its headers end without an entry"))
            };
        }
        let header = header::parse(block).map_err(|malformed| self.refusal(&malformed.to_string()))?;
        self.header_bytes += BLOCK_BYTES as u64;
        match header.kind {
            Kind::Pax | Kind::GlobalPax | Kind::LongName | Kind::LongLink => {
                let size = header.size;
                let padding = super::padded(size) - size;
                self.header_bytes = self.header_bytes.saturating_add(super::padded(size));
                // The entry's own name is yet to come; what archivers call its extension header tells of it.
                self.bounded(()).map_err(|refusal| refusal.or_of(&header.name))?;
                let (Ok(content), Ok(padding)) = (usize::try_from(size), usize::try_from(padding)) else {
                    return Err(self.refusal("its extension headers are too long"));
                };
                self.state = State::Extension { kind: header.kind, content, padding };
                if content == 0 {
                    self.state = State::Block;
                    self.extension(header.kind)?;
                }
                Ok(Read::More)
            }
            _ => {
                let (extended, kind) = (header.extended, header.kind);
                self.main = Some(header);
                if kind == Kind::OldSparse {
                    self.sparse_file_bytes = header::number(&block[483..495]);
                    self.sparse.add_old(&block[386..482]).map_err(|reason| self.refusal(reason))?;
                }
                if extended {
                    self.state = State::SparseMap;
                    return Ok(Read::More);
                }
                self.resolve()
            }
        }
    }

    fn extension(&mut self, kind: Kind) -> Result<(), Refusal> {
        let content = std::mem::take(&mut self.partial);
        let twice = |slot_is_full: bool| if slot_is_full { Err(()) } else { Ok(()) };
        let name = || nul_ended(&content).ok_or_else(|| self.refusal("a long name goes on behind a NUL"));
        let outcome = match kind {
            Kind::LongName => {
                let name = name()?;
                twice(self.long_name.replace(name).is_some())
            }
            Kind::LongLink => {
                let name = name()?;
                twice(self.long_link.replace(name).is_some())
            }
            Kind::GlobalPax => return self.global(&content),
            _ => {
                let records = header::parse_pax(&content).map_err(|malformed| self.refusal(&malformed.to_string()))?;
                twice(self.pax.replace(records).is_some())
            }
        };
        outcome.map_err(|()| self.refusal("two extension headers of one kind stand before one entry"))
    }

    /// A global PAX header may stand where it means nothing.
    fn global(&self, content: &[u8]) -> Result<(), Refusal> {
        if self.pax.is_some() || self.long_name.is_some() || self.long_link.is_some() {
            // Some readers take it for the entry that the headers before it are about.
            return Err(self.refusal("a global PAX header stands between it and its own headers"));
        }
        if header::only_comments(content) {
            Ok(())
        } else {
            Err(self.refusal("a global PAX header changes all entries after it"))
        }
    }

    /// Everything was read: what do the headers say together?
    fn resolve(&mut self) -> Result<Read, Refusal> {
        let whole = std::mem::take(self);
        let Some(main) = &whole.main else { return Err(whole.refusal("it has no header")) };
        let pax = whole.pax.as_ref();
        let (pax_name, pax_link, pax_size) =
            pax.map_or((None, None, None), |pax| (pax.name(), pax.link.as_ref(), pax.size));
        let agreed = |first: Option<&Vec<u8>>, second: Option<&Vec<u8>>, own: &Vec<u8>| match (first, second) {
            (Some(first), Some(second)) if first != second => {
                Err(whole.refusal("PAX and GNU extension headers give different names"))
            }
            (first, second) => Ok(first.or(second).unwrap_or(own).clone()),
        };
        let name = agreed(pax_name, whole.long_name.as_ref(), &main.name)?;
        let link = agreed(pax_link, whole.long_link.as_ref(), &main.link)?;
        let refuse = |reason: &str| Err(Refusal::of(&name, reason));
        let size = pax_size.unwrap_or(main.size);
        let has_content = matches!(main.kind, Kind::File | Kind::OldSparse);
        if size != main.size && (!has_content || (main.size != 0 && size <= OCTAL_SIZE_MAX)) {
            return refuse(&format!("its header says {} bytes and its PAX record says {size}", main.size));
        }
        if size > i64::MAX as u64 {
            return refuse("its size is out of all bounds");
        }
        // A reader that knows no sparse entries takes the name that is meant for it.
        let plain_name = pax.filter(|pax| pax.sparse_name.is_some()).map_or(Ok(Vec::new()), |pax| {
            path::normalise(pax.path.as_ref().or(whole.long_name.as_ref()).unwrap_or(&main.name))
        });
        let (path, hostile) = match plain_name.and_then(|_| path::normalise(&name)) {
            Ok(path) => (path, None),
            Err(reason) => (Vec::new(), Some(reason)),
        };
        // The pre-POSIX way to say directory: a plain file whose name ends in a slash. The whole name: where an extension
        // header has it, the field holds its first 100 bytes.
        let is_directory =
            main.kind == Kind::Directory || (main.kind == Kind::File && size == 0 && name.ends_with(b"/"));
        if path.is_empty() && hostile.is_none() && !is_directory {
            return refuse("only a directory can be the root");
        }
        let mut extra = pax.map_or_else(Extra::default, |pax| pax.extra);
        if main.kind == Kind::Symlink {
            extra.link_text(&link);
        }
        let link = match main.kind {
            Kind::HardLink => match path::normalise(&link) {
                Ok(target) if target == path => return refuse("it is a link to itself"),
                Ok(target) => Some(target),
                Err(reason) => return refuse(&format!("it is a link to {}: {reason}", quoted(&link))),
            },
            _ => None,
        };
        let map = whole.map(main.kind, size).map_err(|reason| Refusal::of(&name, reason))?;
        Ok(Read::Entry(Resolved {
            name,
            path,
            hostile,
            size,
            header_bytes: whole.header_bytes,
            is_directory,
            kind: main.kind,
            link,
            overlay_marks: pax.is_some_and(|pax| pax.overlay_marks),
            extra: extra.value(),
            facts: pax.map_or(main.facts, |pax| main.facts.with(&pax.facts)),
            map,
        }))
    }

    /// Checks the sparse map of an entry of `size` bytes; gives the one that its content begins with.
    fn map(&self, kind: Kind, size: u64) -> Result<Option<Box<ContentMap>>, &'static str> {
        match (kind, &self.pax) {
            (Kind::OldSparse, _) => {
                let file_bytes = self.sparse_file_bytes.ok_or("its sparse map is of a file of no size")?;
                self.sparse.fits(file_bytes, size).map(|()| None)
            }
            (Kind::File, Some(pax)) => pax.sparse.resolve(size).map(|map| map.map(Box::new)),
            _ => Ok(None),
        }
    }

    fn bounded<T>(&self, value: T) -> Result<T, Refusal> {
        if self.header_bytes > EXTENSION_BYTES_MAX {
            Err(self.refusal(&format!("it has more than {EXTENSION_BYTES_MAX} bytes of headers")))
        } else {
            Ok(value)
        }
    }

    /// A refusal that names the entry as far as its name is known.
    fn refusal(&self, reason: &str) -> Refusal {
        let pax_name = self.pax.as_ref().and_then(header::PaxRecords::name);
        let main_name = self.main.as_ref().map(|main| &main.name);
        let name = pax_name.or(self.long_name.as_ref()).or(main_name).cloned().unwrap_or_default();
        Refusal { name, reason: reason.to_owned() }
    }
}

/// The bytes before the first NUL, if there is nothing but NULs from there on.
fn nul_ended(content: &[u8]) -> Option<Vec<u8>> {
    let end = content.iter().position(|byte| *byte == 0).unwrap_or(content.len());
    content[end..].iter().all(|byte| *byte == 0).then(|| content[..end].to_vec())
}

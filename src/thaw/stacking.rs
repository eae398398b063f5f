//! Layers on their way into the artifact, from the top down: as they are where nothing in them is dead, else rewritten.

use std::collections::HashSet;
use std::io::{self, BufReader, Read, Write};
use std::path::{Path, PathBuf};

use crate::error::{Error, Kind, Result, Side};
use crate::oci::{Compression, Descriptor, DiffId};
use crate::pipeline::gather::LiveEnd;
use crate::sink::artifact::{Seed, SideFile};
use crate::stage::decode::decoder;
use crate::stage::digest::{DiffIdHasher, DigestHasher};
use crate::stage::header::BLOCK_BYTES;
use crate::stage::stack::{self, Above, Names, Output};
use crate::stage::walk::Entry;
use crate::stop::Stop;
use crate::stored::Listen;

/// What is rewritten is compressed fast.
const LEVEL: i32 = 1;
const END: [u8; 2 * BLOCK_BYTES] = [0; 2 * BLOCK_BYTES];

/// Keeps a layer's stored bytes beside the artifact or in it, and what names it has.
pub(super) struct Intake {
    pub(super) side: SideFile,
    pub(super) names: Names,
}

impl Listen for Intake {
    fn stored(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.side.write_all(bytes)
    }

    fn entry(&mut self, entry: &Entry) -> io::Result<()> {
        self.names.add(entry)
    }
}

/// A layer that was read and was what the image says.
pub(super) struct Arrived {
    pub(super) intake: Intake,
    pub(super) end: LiveEnd,
    /// All of it is of `/workspace`.
    pub(super) workspace: bool,
}

/// What of the image went into the artifact so far.
pub(super) struct Stacking {
    target: PathBuf,
    stop: Stop,
    above: Above,
    seed: Option<Seed>,
    /// The artifact's layers, the top one first.
    pub(super) layers: Vec<DiffId>,
    seen: HashSet<DiffId>,
}

impl Stacking {
    pub(super) fn new(target: &Path, above: Above, stop: Stop) -> Self {
        Self { target: target.to_owned(), stop, above, seed: None, layers: Vec::new(), seen: HashSet::new() }
    }

    /// The next layer below: what of it goes into the artifact, if anything.
    pub(super) fn next(&mut self, arrived: Arrived) -> Result<Option<(SideFile, LiveEnd)>> {
        let place = self.target.display().to_string();
        self.place(arrived).map_err(|error| failed(&place, error))
    }

    fn place(&mut self, arrived: Arrived) -> io::Result<Option<(SideFile, LiveEnd)>> {
        let Arrived { intake: Intake { side, names }, end, workspace } = arrived;
        let changes = self.above.changes(&names) || workspace;
        if !changes && !self.above.wants_folders(&names) {
            self.above.take_in(names)?;
            return Ok(self.listed(side, end));
        }
        let compression = Compression::from_media_type(&end.descriptor.media_type).unwrap_or(Compression::None);
        let tar = || decoder(BufReader::with_capacity(1 << 20, side.reading(&self.stop)), compression);
        let found = stack::look(tar()?, &mut self.above, &names)?;
        if !changes {
            self.above.take_in(names)?;
            return Ok(self.listed(side, end));
        }
        let mut split = Split {
            layer: Made::beside(&self.target)?,
            seed: &mut self.seed,
            target: &self.target,
            drop_rest: workspace,
        };
        stack::rewrite(tar()?, &found, &self.above, &names, &mut split)?;
        let made = split.layer;
        side.discard();
        self.above.take_in(names)?;
        if made.is_empty() { Ok(None) } else { made.finish().map(|(side, end)| self.listed(side, end)) }
    }

    /// Each layer once, where it is topmost.
    fn listed(&mut self, side: SideFile, end: LiveEnd) -> Option<(SideFile, LiveEnd)> {
        if !self.seen.insert(end.diff_id) {
            return None;
        }
        self.layers.push(end.diff_id);
        Some((side, end))
    }

    /// After the lowest layer: one on top of all, if folders have to be described again, and the content of `/workspace`.
    #[expect(clippy::type_complexity, reason = "a layer, and a seed")]
    pub(super) fn finish(&mut self) -> Result<(Option<(SideFile, LiveEnd)>, Option<Seed>)> {
        let place = self.target.display().to_string();
        let crown = self.crown().map_err(|error| failed(&place, error))?;
        Ok((crown, self.seed.take()))
    }

    fn crown(&mut self) -> io::Result<Option<(SideFile, LiveEnd)>> {
        let heads = std::mem::take(&mut self.above).finish()?;
        if heads.is_empty() {
            return Ok(None);
        }
        let mut made = Made::beside(&self.target)?;
        made.write_all(&heads)?;
        let (side, end) = made.finish()?;
        self.layers.insert(0, end.diff_id);
        Ok(Some((side, end)))
    }
}

fn failed(place: &str, error: io::Error) -> Error {
    let corrupt = matches!(error.kind(), io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof);
    match error.downcast::<Error>() {
        Ok(ours) => ours,
        Err(error) if corrupt => Error::new(Kind::Corrupt, Side::Source, "stacking the layers", place, &error),
        Err(error) => Error::sink("gathering a layer beside the artifact", place, &error).because(error),
    }
}

/// A layer that is made here.
struct Made {
    tar: zstd::Encoder<'static, Hashed>,
    diff_id: DiffIdHasher,
    bytes: u64,
}

struct Hashed {
    side: SideFile,
    digest: DigestHasher,
}

impl Write for Hashed {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.digest.update(bytes);
        self.side.write_all(bytes)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Write for Made {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.diff_id.update(bytes);
        self.bytes += bytes.len() as u64;
        self.tar.write_all(bytes)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Made {
    fn beside(target: &Path) -> io::Result<Self> {
        let hashed = Hashed { side: SideFile::beside(target)?, digest: DigestHasher::default() };
        Ok(Self { tar: zstd::Encoder::new(hashed, LEVEL)?, diff_id: DiffIdHasher::default(), bytes: 0 })
    }

    fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    fn finish(mut self) -> io::Result<(SideFile, LiveEnd)> {
        self.write_all(&END)?;
        let Hashed { side, digest } = self.tar.finish()?;
        let ((digest, size), (diff_id, tar_bytes)) = (digest.finish(), self.diff_id.finish());
        let descriptor = Descriptor { media_type: Compression::Zstd.media_type().to_owned(), digest, size };
        Ok((side, LiveEnd { descriptor, diff_id, tar_bytes }))
    }
}

/// Entries of `/workspace` go to its seed, others to the layer.
struct Split<'a> {
    layer: Made,
    seed: &'a mut Option<Seed>,
    target: &'a Path,
    /// The layer is one of `/workspace`: what is above that is only there to hold it.
    drop_rest: bool,
}

impl Output for Split<'_> {
    fn put(&mut self, entry: &Entry, path: &[u8], changed: Option<&[u8]>, content: &mut dyn Read) -> io::Result<()> {
        let below = stack::is_below(path, stack::WORKSPACE);
        if below {
            if self.seed.is_none() {
                *self.seed = Some(Seed::beside(self.target)?);
            }
            let Some(seed) = self.seed else { return Ok(()) };
            seed.put(entry, path, changed, content)?;
        }
        if self.drop_rest || (below && path != stack::WORKSPACE) {
            return Ok(());
        }
        if changed.is_none() && entry.path()? == path {
            self.layer.write_all(&entry.head)?;
        } else {
            self.layer.write_all(&entry.renamed(path, changed)?)?;
        }
        io::copy(content, &mut self.layer)?;
        self.layer.write_all(&END[..entry.padding()])
    }
}

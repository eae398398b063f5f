//! Layers on their way into the artifact, from the top down: as they are where nothing in them is dead, else rewritten.

use std::collections::HashSet;
use std::io::{self, BufReader, Write as _};
use std::path::{Path, PathBuf};

use crate::error::{Error, Kind, Result, Side};
use crate::oci::{Compression, DiffId};
use crate::pipeline::gather::LiveEnd;
use crate::sink::artifact::{Made, Seed, SideFile, Split};
use crate::stage::decode::decoder;
use crate::stage::stack::{self, Above, Names};
use crate::stage::walk::Entry;
use crate::stop::Stop;
use crate::stored::Listen;

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

//! What a seed stands for.

use std::fmt;

use fastrand::Rng;

use crate::tree::folder::pick;
use crate::tree::themes::{Scale, THEMES, Theme};

/// Where the tree comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    Folder,
    Tar { writer: Writer, packing: Packing, piped: bool },
    Machine(Reader),
}

/// Who writes a tar.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Writer {
    Gnu,
    OldGnu,
    Pax,
    Ustar,
    V7,
    Bsdtar,
    Busybox,
}

/// What is around a tar.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Packing {
    Plain,
    Gzip,
    Zstd,
}

/// Who reads in a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reader {
    Own,
    Gnu,
    Busybox,
}

/// Where the image goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Output {
    Layout,
    Registry,
    /// Our own, over a layout.
    Served,
    Artifact,
}

/// What happens to the tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    Rests,
    /// It changes while it is read.
    Changes,
    /// It is refused, for a name that means a deletion.
    IsRefused,
}

/// A tree and a freeze of it.
#[derive(Debug, Clone)]
pub struct Shape {
    pub seed: u64,
    pub theme: Theme,
    pub scale: Scale,
    pub source: Source,
    pub outputs: Vec<Output>,
    pub memory: Option<&'static str>,
    pub layer_size: Option<&'static str>,
    pub compression: &'static str,
    pub state: State,
    pub on_tmpfs: bool,
    /// In the tar, what has no data is left out.
    pub sparse_tar: bool,
}

impl Shape {
    /// Themes take turns, so that a run of some length has all of them.
    pub fn of(seed: u64) -> Self {
        let mut random = Rng::with_seed(seed ^ 0x5ead);
        let theme = THEMES[usize::try_from(seed % THEMES.len() as u64).expect("an index")];
        let scale = if random.u8(..25) == 0 { Scale::Huge } else { Scale::Usual };
        let mut source = source(&mut random);
        let is_readable = match source {
            _ if scale == Scale::Huge => source == Source::Folder,
            Source::Folder | Source::Machine(Reader::Own) => true,
            Source::Tar { writer, .. } => theme != Theme::Deep || writer == Writer::Pax,
            Source::Machine(_) => theme != Theme::Deep,
        };
        if !is_readable {
            source = Source::Folder;
        }
        let may_change = !matches!(source, Source::Tar { .. }) && scale == Scale::Usual && theme != Theme::Deep;
        let mut shape = Self {
            seed,
            theme,
            scale,
            source,
            outputs: outputs(&mut random),
            memory: if random.bool() { Some("96MiB") } else { None },
            layer_size: pick(&mut random, &[None, None, None, Some("0"), Some("256KiB"), Some("1MiB"), Some("4MiB")]),
            compression: pick(&mut random, &["zstd", "gzip", "gzip", "none"]),
            state: match random.u8(..50) {
                0 => State::IsRefused,
                1..=16 if may_change => State::Changes,
                _ => State::Rests,
            },
            on_tmpfs: random.bool(),
            sparse_tar: random.bool(),
        };
        shape.fit(&mut random);
        shape
    }

    /// What can't be together, isn't.
    fn fit(&mut self, random: &mut Rng) {
        if self.theme == Theme::Objects && random.bool() {
            self.layer_size = Some("64MiB");
        }
        if !self.is_unpackable() {
            self.outputs = vec![Output::Layout];
        }
        if let Source::Tar { piped, writer, .. } = &mut self.source {
            let piped = *piped;
            // They leave out a file whose name is too long for them, and take its links in.
            if matches!(self.theme, Theme::Names | Theme::Mixed) {
                *writer = match *writer {
                    Writer::Ustar => Writer::Gnu,
                    Writer::V7 => Writer::OldGnu,
                    other => other,
                };
            }
            // A link into an earlier layer is refused: in a pipe nobody saw it coming, and an artifact parts /workspace.
            if piped {
                self.layer_size = None;
            }
            if matches!(self.theme, Theme::Links | Theme::Mixed) {
                self.outputs.retain(|output| *output != Output::Artifact);
            }
        }
        if matches!(self.source, Source::Machine(_)) {
            self.on_tmpfs = false;
        }
        if self.outputs.is_empty() {
            self.outputs.push(Output::Layout);
        }
    }

    pub fn is_live(&self) -> bool {
        self.state == State::Changes
    }

    /// Whether umoci can unpack it, in reasonable time: it knows nothing of sparse entries of GNU's own kind, and takes
    /// milliseconds for each entry.
    pub fn is_for_umoci(&self) -> bool {
        let has_gnu_sparse =
            self.sparse_tar && matches!(self.source, Source::Tar { writer: Writer::Gnu | Writer::OldGnu, .. });
        let is_many = self.scale == Scale::Huge && matches!(self.theme, Theme::TinyFiles | Theme::Empty);
        self.is_unpackable() && !has_gnu_sparse && !is_many
    }

    /// Whether tools can unpack it, and a disk has room for it.
    pub fn is_unpackable(&self) -> bool {
        self.theme != Theme::Deep && (self.theme != Theme::Holes || self.scale != Scale::Huge)
    }
}

impl State {
    fn words(self) -> &'static str {
        match self {
            Self::Rests => "rests",
            Self::Changes => "changes",
            Self::IsRefused => "is refused",
        }
    }
}

fn source(random: &mut Rng) -> Source {
    let writers =
        [Writer::Gnu, Writer::OldGnu, Writer::Pax, Writer::Ustar, Writer::V7, Writer::Bsdtar, Writer::Busybox];
    match random.u8(..20) {
        0..=6 => Source::Folder,
        7..=14 => Source::Tar {
            writer: pick(random, &writers),
            packing: pick(random, &[Packing::Plain, Packing::Plain, Packing::Gzip, Packing::Zstd]),
            piped: random.u8(..4) == 0,
        },
        15..=16 => Source::Machine(Reader::Own),
        17..=18 => Source::Machine(Reader::Gnu),
        _ => Source::Machine(Reader::Busybox),
    }
}

fn outputs(random: &mut Rng) -> Vec<Output> {
    match random.u8(..10) {
        0..=3 => vec![Output::Layout],
        4 => vec![Output::Registry],
        5 => vec![Output::Served],
        6 => vec![Output::Artifact],
        7 => vec![Output::Layout, Output::Artifact],
        8 => vec![Output::Layout, Output::Registry],
        _ => vec![Output::Registry, Output::Artifact],
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { seed, theme, scale, source, outputs, compression, .. } = self;
        write!(formatter, "seed {seed}: {theme:?}, {scale:?}, from {source:?} into {outputs:?}, {compression}")?;
        self.memory.map_or(Ok(()), |memory| write!(formatter, ", memory {memory}"))?;
        self.layer_size.map_or(Ok(()), |bytes| write!(formatter, ", layer size {bytes}"))?;
        write!(formatter, ", it {}{}", self.state.words(), if self.on_tmpfs { ", on tmpfs" } else { "" })
    }
}

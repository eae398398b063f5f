//! A night's artifacts: flat, since smolvm knows no marks of deletions. What is alive in layers that stay comes from the last
//! artifact, or from an output that has them; fresh layers came like everywhere else.

use std::sync::Arc;

use tokio::sync::OnceCell;

use super::Chosen;
use super::outputs::Registries;
use crate::error::{Error, Kind, Result, Side};
use crate::night::flat::Flat;
use crate::night::index::{self, Extent, Kept, Part};
use crate::oci::{Compression, Descriptor, DiffId};
use crate::pipeline::gather::LiveEnd;
use crate::pipeline::run::Delivered;
use crate::plan::{LayoutName, OutputSpec};
use crate::sink::artifact::{ArtifactSink, LastArtifact, SideFile};
use crate::sink::{Sink, SinkContext};
use crate::stop::Stop;
use crate::stored::{self, EndOnDrop, Listen, Stored, StoredImage, StoredName, Wanted};

/// Where layers that stay come from.
pub(super) struct Nearest {
    last: Option<Arc<LastArtifact>>,
    outputs: Vec<OutputSpec>,
    registries: Registries,
    context: SinkContext,
    /// The outputs that have them, those of this host first.
    images: OnceCell<Vec<StoredImage>>,
}

/// What went into the artifacts, besides fresh layers.
#[derive(Debug, Default)]
pub(super) struct Filled {
    /// Layers that went in as they are, and their bytes.
    pub(super) copied: (u64, u64),
    /// Those of which something was left out.
    pub(super) flattened: u64,
    /// For each artifact, what stands for each layer that stays.
    stand_ins: Vec<Vec<Option<DiffId>>>,
}

pub(super) fn artifacts(sinks: &[Sink]) -> impl Iterator<Item = &ArtifactSink> {
    sinks.iter().filter_map(|sink| match sink {
        Sink::Artifact { artifact, .. } => Some(artifact),
        Sink::Layout(_) | Sink::Registry(_) | Sink::Packed(_) | Sink::Spare(_) => None,
    })
}

impl Nearest {
    /// Opens the nearest of those artifacts that are remembered, if any of `outputs` is one.
    pub(super) fn new(
        remembered: &[index::Artifact],
        outputs: &[OutputSpec],
        registries: Registries,
        context: SinkContext,
    ) -> Self {
        let is_wanted = outputs.iter().any(|output| matches!(output, OutputSpec::Artifact(_)));
        let mut there = remembered.iter().filter(|_| is_wanted).filter_map(|one| LastArtifact::open(one).ok());
        let last = there.next().map(Arc::new);
        Self { last, outputs: outputs.to_vec(), registries, context, images: OnceCell::new() }
    }

    /// Whether the last artifact has what is alive in the layer at this place of the last image.
    pub(super) fn has(&self, at: usize, layer: &Kept) -> bool {
        self.last.as_ref().is_some_and(|last| layer.workspace || last.part(at).is_some())
    }

    /// Puts what is alive in layers that stay into all artifacts, below `fresh`.
    pub(super) async fn fill(&self, sinks: &[Sink], chosen: &Chosen, fresh: &[Delivered]) -> Result<Filled> {
        let (mut filled, kept) = (Filled::default(), chosen.night.kept(&chosen.choice));
        if kept.is_empty() || artifacts(sinks).next().is_none() {
            return Ok(filled);
        }
        let flat = flat(chosen).await?;
        for artifact in artifacts(sinks) {
            let mut stand_ins = Vec::new();
            for layer in &kept {
                let (at, left_out) = (chosen.at(layer), flat.left_out(layer.number));
                let stand_in = if layer.workspace {
                    None
                } else {
                    let (taken, is_flat) = self.take(artifact, (at, layer), &flat).await?;
                    match taken {
                        None => None,
                        Some((side, end)) => {
                            if is_flat || left_out.is_none() {
                                filled.copied = (filled.copied.0 + 1, filled.copied.1 + end.descriptor.size);
                            } else {
                                filled.flattened += 1;
                            }
                            let left_out = left_out.filter(|_| !is_flat).cloned();
                            artifact.put_rest((side, end), left_out, false).await?
                        }
                    }
                };
                stand_ins.push(stand_in);
            }
            self.fill_workspace(artifact, &kept, &flat).await?;
            let below = stand_ins.iter().copied().flatten().collect();
            artifact
                .lay_out(below, fresh.iter().filter(|layer| !layer.workspace).map(|layer| layer.diff_id).collect())
                .await?;
            filled.stand_ins.push(stand_ins);
        }
        Ok(filled)
    }

    /// What there is of a layer, and whether that is flat already; none where nothing of it is alive.
    async fn take(
        &self,
        artifact: &ArtifactSink,
        (at, layer): (usize, &Kept),
        flat: &Flat,
    ) -> Result<(Option<(SideFile, LiveEnd)>, bool)> {
        let mut trouble = None;
        if let Some((last, part)) = self.last.as_ref().and_then(|last| Some((last, last.part(at)?))) {
            let is_flat = part.left_out == flat.named(layer.number);
            let Some((diff_id, extent)) = part.layer else { return Ok((None, true)) };
            // One that stays as it is lies at once where it will stay.
            let side = if is_flat { artifact.reserve(vec![extent.size]).await?.into_iter().next() } else { None };
            match copy(last, &extent, side.map_or_else(|| artifact.side(), Ok)?, &self.context.stop).await {
                Ok(side) => return Ok((Some((side, end_of(diff_id, &extent))), is_flat)),
                Err(error) => trouble = Some(error),
            }
        }
        self.fetch(artifact, layer, trouble).await.map(|taken| (Some(taken), false))
    }

    /// A layer's blob, from the first output that has it and can give it.
    async fn fetch(
        &self,
        artifact: &ArtifactSink,
        layer: &Kept,
        mut trouble: Option<Error>,
    ) -> Result<(SideFile, LiveEnd)> {
        let end = EndOnDrop(Stop::new());
        for image in self.images().await {
            let (descriptor, watch) = (&layer.descriptor, image.watch(&self.context.observer, &end.0));
            let read = stored::read_layer(image, descriptor, layer.diff_id, Intake(artifact.side()?), &watch).await;
            match read {
                Ok((read, Intake(side))) if read.faults.is_empty() => {
                    let (diff_id, tar_bytes) = (layer.diff_id, read.tar_bytes);
                    return Ok((side, LiveEnd { descriptor: descriptor.clone(), diff_id, tar_bytes }));
                }
                Ok((read, _)) => {
                    let fault = read.faults.into_iter().next().unwrap_or_default();
                    trouble = Some(Error::sink(TAKING, artifact.name(), fault));
                }
                Err(error) => trouble = Some(error),
            }
        }
        let gone = || Error::new(Kind::Corrupt, Side::Sink, TAKING, artifact.name(), "no output has it any more");
        Err(trouble.unwrap_or_else(gone))
    }

    /// What is alive below `/workspace`: all of it from the last artifact, or layer by layer, the top one first.
    async fn fill_workspace(&self, artifact: &ArtifactSink, kept: &[Kept], flat: &Flat) -> Result<()> {
        let layers = || kept.iter().rev().filter(|layer| layer.workspace);
        if layers().next().is_none() {
            return Ok(());
        }
        let mut trouble = None;
        if let Some(last) = &self.last {
            let Some(seed) = last.seed() else { return Ok(()) };
            match copy(last, &seed, artifact.side()?, &self.context.stop).await {
                Ok(side) => return artifact.put_last_seed(side, flat.workspace.clone()).await,
                Err(error) => trouble = Some(error),
            }
        }
        for layer in layers() {
            let fetched = self.fetch(artifact, layer, trouble.take()).await?;
            artifact.put_rest(fetched, flat.left_out(layer.number).cloned(), true).await?;
        }
        Ok(())
    }

    async fn images(&self) -> &[StoredImage] {
        self.images.get_or_init(|| self.open_images()).await
    }

    async fn open_images(&self) -> Vec<StoredImage> {
        let named = |output: &OutputSpec| match output {
            OutputSpec::Layout { folder, tag } => {
                let (folder, tag) = (folder.clone(), Some(tag.clone()));
                Some(StoredName::Layout(LayoutName { folder, tag, digest: None }))
            }
            OutputSpec::Registry(reference) => Some(StoredName::Registry(reference.clone())),
            OutputSpec::Artifact(_) | OutputSpec::Packed { .. } => None,
        };
        let mut named: Vec<_> = self.outputs.iter().filter_map(|output| Some((output, named(output)?))).collect();
        named.sort_by_key(|(output, _)| matches!(output, OutputSpec::Registry(_)));
        let mut images = Vec::new();
        for (output, name) in named {
            let wanted = Wanted { name: &name, platform: None, tar_bytes_max: None };
            let registry = self.registries.of(output);
            if let Ok(Stored::Image(image)) = Stored::open(wanted, registry, self.context.clone()).await {
                images.push(image);
            }
        }
        images
    }
}

const TAKING: &str = "taking a layer of the last image into the artifact";

/// What complete artifacts have of each layer, for the next night.
pub(super) async fn remembered(
    sinks: &[Sink],
    chosen: &Chosen,
    filled: &Filled,
    fresh: &[Delivered],
) -> Result<Vec<index::Artifact>> {
    if artifacts(sinks).next().is_none() {
        return Ok(Vec::new());
    }
    let (flat, kept) = (flat(chosen).await?, chosen.night.kept(&chosen.choice));
    let numbers = chosen.night.first_fresh()..;
    let all = artifacts(sinks).enumerate().filter_map(|(at, artifact)| {
        let contents = artifact.contents()?;
        let part = |number, diff_id: Option<DiffId>| Part {
            left_out: flat.named(number),
            layer: diff_id.and_then(|diff_id| contents.layer(diff_id)),
        };
        let stand_ins = filled.stand_ins.get(at).map_or(&[][..], |stand_ins| stand_ins);
        let below = kept.iter().zip(stand_ins).map(|(layer, stand_in)| part(layer.number, *stand_in));
        let above = numbers.clone().zip(fresh).map(|(number, layer)| part(number, Some(layer.diff_id)));
        let path = std::path::absolute(artifact.name()).ok()?;
        let (checksum, seed) = (contents.checksum, contents.seed());
        Some(index::Artifact { path, checksum, parts: below.chain(above).collect(), seed })
    });
    Ok(all.collect())
}

async fn flat(chosen: &Chosen) -> Result<Flat> {
    let night = Arc::clone(&chosen.night);
    let read = tokio::task::spawn_blocking(move || night.flat()).await.map_err(|_| Error::hung_up("the listing"))?;
    read.map_err(|error| Error::source("reading what was listed", "scratch", &error).because(error))
}

async fn copy(last: &Arc<LastArtifact>, extent: &Extent, side: SideFile, stop: &Stop) -> Result<SideFile> {
    let (last, extent, stop) = (Arc::clone(last), *extent, stop.clone());
    let copying = tokio::task::spawn_blocking(move || {
        let failed = |error: std::io::Error| match error.downcast::<Error>() {
            Ok(ours) => ours,
            Err(error) if error.kind() == std::io::ErrorKind::InvalidData => {
                Error::new(Kind::Corrupt, Side::Sink, "reading the last artifact", last.path().display(), error)
            }
            Err(error) => Error::sink("reading the last artifact", last.path().display(), &error).because(error),
        };
        last.copy(&extent, side, &stop).map_err(failed)
    });
    copying.await.map_err(|_| Error::hung_up("reading the last artifact"))?
}

fn end_of(diff_id: DiffId, extent: &Extent) -> LiveEnd {
    let Extent { size, digest, tar_bytes, .. } = *extent;
    let descriptor = Descriptor { media_type: Compression::Zstd.media_type().to_owned(), digest, size };
    LiveEnd { descriptor, diff_id, tar_bytes }
}

/// Keeps a layer's stored bytes.
struct Intake(SideFile);

impl Listen for Intake {
    fn stored(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        std::io::Write::write_all(&mut self.0, bytes)
    }
}

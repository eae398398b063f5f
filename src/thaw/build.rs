//! From an image to an artifact: each layer a stream that is checked on its way, and embedded once it was right.

use std::collections::HashSet;
use std::io;
use std::path::Path;

use futures_util::stream::{self, StreamExt as _};
use tokio::sync::{Semaphore, SemaphorePermit, mpsc};

use super::stacking::{Arrived, Intake, Stacking};
use super::{Images, ThawContext, Wishes};
use crate::error::{Error, Kind, Result, Side};
use crate::oci::{Compression, DiffId};
use crate::pipeline::gather::LiveEnd;
use crate::sink::Image;
use crate::sink::artifact::{ArtifactOptions, ArtifactSink, MachineSettings, SideFile};
use crate::stage::stack::{Above, Names};
use crate::stop::Stop;
use crate::stored::{self, EndOnDrop, OutlineLayer, StoredImage, Watch, layers_at_once};

/// CPUs of a machine made from an image, as smolvm's own `machine create` has it: a cap, idle ones cost nothing.
const CPUS: u8 = 4;
/// Its memory in MiB, by the same rule: only touched memory is taken.
const MEMORY_MIB: u32 = 8192;
/// Layers that are being read, or were and wait for those above them, for each one that may be read at a time: small ones
/// go on behind a large one.
const STARTED_PER_TURN: usize = 4;

/// Writes the artifact at `target`; whatever ends this early, nothing is left of it.
pub(super) async fn build(images: &Images, target: &Path, wishes: &Wishes, context: &ThawContext) -> Result<()> {
    let options = ArtifactOptions { stop: context.stop.clone(), ..ArtifactOptions::new(images.agent.clone()) };
    let sink = tokio::select! {
        biased;
        () = context.stop.stopped() => return Err(Error::interrupted()),
        sink = ArtifactSink::create(target, options) => sink?,
    };
    let filled = async {
        let diff_ids = stack(images, &sink, target, context).await?;
        sink.lay_out(diff_ids, Vec::new()).await?;
        let image = Image { config: images.outline.config.clone(), manifest: images.outline.manifest.clone() };
        sink.prepare(&image, &settings(images, wishes)).await?;
        sink.publish(&image)
    };
    let filled = tokio::select! {
        biased;
        () = context.stop.stopped() => Err(Error::interrupted()),
        filled = filled => filled,
    };
    match filled {
        Ok(_) => Ok(()),
        Err(error) => Err(match sink.abort().await {
            Ok(()) => error,
            Err(cleanup) => error.attach(cleanup),
        }),
    }
}

/// Reads all layers, the top one first, and puts into the artifact what of them can be seen: its layers, bottom first.
/// While one is put, the next ones come; one that came waits for its turn.
async fn stack(images: &Images, sink: &ArtifactSink, target: &Path, context: &ThawContext) -> Result<Vec<DiffId>> {
    let end = EndOnDrop(Stop::new());
    let watch = images.stored.watch(&context.observer, &end.0);
    let above = Above::default();
    let mut seen = HashSet::new();
    // One that comes a second time further down adds nothing, and hides nothing more.
    let layers = images.outline.layers.iter().enumerate().rev().filter(|(_, layer)| seen.insert(layer.diff_id));
    let layers: Vec<_> = layers.collect();
    let sizes = layers.iter().map(|(_, layer)| layer.descriptor.size);
    context.observer.expected(sizes.fold(0, u64::saturating_add));
    let turns = Semaphore::new(layers_at_once());
    let places = layers.iter().filter(|(_, layer)| goes_in_place(layer)).map(|(_, layer)| layer.descriptor.size);
    let mut places = sink.reserve(places.collect()).await?.into_iter();
    let arriving = layers.iter().map(|(index, layer)| {
        let side = if goes_in_place(layer) { places.next() } else { None };
        arrive(&images.stored, target, (index + 1, layer), (side, above.names()), (&watch, &turns))
    });
    let arriving: Vec<_> = arriving.collect();
    let mut arriving = stream::iter(arriving).buffered(layers_at_once() * STARTED_PER_TURN);
    let (arrivals, mut arrived) = mpsc::channel(1);
    let reading = async move {
        while let Some(layer) = arriving.next().await {
            let (layer, _held) = layer?;
            if arrivals.send(layer).await.is_err() {
                break;
            }
        }
        Ok(())
    };
    let mut stacking = Stacking::new(target, above, end.0.clone());
    let placing = async {
        for (index, _) in &layers {
            let Some(layer) = arrived.recv().await else { break };
            let (back, outcome) = off_the_runtime(move || {
                let outcome = stacking.next(layer);
                (stacking, outcome)
            })
            .await?;
            stacking = back;
            if let Some((side, end)) = outcome? {
                sink.put_side(side, end, false).await?;
            }
            context.observer.layer_sent(*index);
        }
        Ok(stacking)
    };
    let ((), mut stacking) = tokio::try_join!(reading, placing)?;
    let (crown, workspace) = stacking.finish()?;
    if let Some((side, end)) = crown {
        sink.put_side(side, end, false).await?;
    }
    if let Some(workspace) = workspace {
        sink.put_seed(workspace).await?;
    }
    Ok(stacking.layers.into_iter().rev().collect())
}

/// Whether a layer is written where it will lie: all of it may go in as it is. Few don't, by what is above them.
fn goes_in_place(layer: &OutlineLayer) -> bool {
    !layer.workspace && Compression::from_media_type(&layer.descriptor.media_type) == Some(Compression::Zstd)
}

/// Reads one layer: only when digest, size and diff_id are what the image says is there something to embed. One that has
/// many names goes on holding its turn, since these take memory while it waits.
async fn arrive<'a>(
    stored: &StoredImage,
    target: &Path,
    (number, layer): (usize, &OutlineLayer),
    (side, names): (Option<SideFile>, Names),
    (watch, turns): (&Watch, &'a Semaphore),
) -> Result<(Arrived, Option<SemaphorePermit<'a>>)> {
    let failed = |error: io::Error| {
        Error::sink("gathering a layer beside the artifact", target.display(), &error).because(error)
    };
    let turn = turns.acquire().await.map_err(|_| Error::hung_up("reading the layers"))?;
    let side = side.map_or_else(|| SideFile::beside(target), Ok).map_err(failed)?;
    let intake = Intake { side, names };
    let (read, intake) = stored::read_layer(stored, &layer.descriptor, layer.diff_id, intake, watch).await?;
    if let Some(fault) = read.faults.first() {
        let kind = read.kind.unwrap_or(Kind::Corrupt);
        return Err(Error::new(kind, Side::Source, "reading a layer", format_args!("number {number}"), fault));
    }
    let end = LiveEnd { descriptor: layer.descriptor.clone(), diff_id: layer.diff_id, tar_bytes: read.tar_bytes };
    let held = (!intake.names.is_small()).then_some(turn);
    Ok((Arrived { intake, end, workspace: layer.workspace }, held))
}

async fn off_the_runtime<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(|_| Error::hung_up("stacking the layers"))
}

fn settings(images: &Images, wishes: &Wishes) -> MachineSettings {
    MachineSettings {
        cpus: wishes.cpus.unwrap_or(CPUS),
        memory_mib: wishes.memory_mib.unwrap_or(MEMORY_MIB),
        network: wishes.network,
        ..MachineSettings::new(images.name.clone())
    }
}

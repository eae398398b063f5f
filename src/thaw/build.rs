//! From an image to an artifact: each layer a stream that is checked on its way, and embedded once it was right.

use std::path::Path;

use tokio::sync::mpsc;

use super::{Images, ThawContext, Wishes};
use crate::error::{Error, Kind, Result, Side};
use crate::oci::Descriptor;
use crate::pipeline::gather::{Body, LiveEnd, LiveLayer, LivePiece};
use crate::sink::Image;
use crate::sink::artifact::{ArtifactOptions, ArtifactSink, MachineSettings};
use crate::stored::{OutlineLayer, StoredImage};

/// Pieces of a layer, of 256 KiB at most from a layout, that wait between reader and artifact.
const PIECES_MAX: usize = 4;
/// CPUs of a machine made from an image, as smolvm's own `machine create` has it: a cap, idle ones cost nothing.
const CPUS: u8 = 4;
/// Its memory in MiB, by the same rule: only touched memory is taken.
const MEMORY_MIB: u32 = 8192;

/// Writes the artifact at `target`; whatever ends this early, nothing is left of it.
pub(super) async fn build(images: &Images, target: &Path, wishes: &Wishes, context: &ThawContext) -> Result<()> {
    let options = ArtifactOptions { stop: context.stop.clone(), ..ArtifactOptions::new(images.agent.clone()) };
    let sink = tokio::select! {
        biased;
        () = context.stop.stopped() => return Err(Error::interrupted()),
        sink = ArtifactSink::create(target, options) => sink?,
    };
    let filled = async {
        for (index, layer) in images.outline.layers.iter().enumerate() {
            embed(&images.stored, &sink, index, layer).await?;
            context.observer.layer_sent(index);
        }
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

/// One layer: the artifact hears of its end only when digest, size and diff_id are what the image says.
async fn embed(stored: &StoredImage, sink: &ArtifactSink, index: usize, layer: &OutlineLayer) -> Result<Descriptor> {
    let (tap, tail) = mpsc::channel(PIECES_MAX);
    let reading = async move {
        let read = stored.read_layer(&layer.descriptor, layer.diff_id, Some(&tap)).await?;
        if let Some(fault) = read.faults.first() {
            let kind = read.kind.unwrap_or(Kind::Corrupt);
            return Err(Error::new(kind, Side::Source, "reading a layer", format_args!("number {}", index + 1), fault));
        }
        let end = LiveEnd { descriptor: layer.descriptor.clone(), diff_id: layer.diff_id, tar_bytes: read.tar_bytes };
        tap.send(LivePiece::End(end)).await.map_err(|_| Error::hung_up("the artifact"))
    };
    let live = LiveLayer {
        index,
        media_type: layer.descriptor.media_type.clone(),
        workspace: layer.workspace,
        head: Body::default(),
        tail,
    };
    match tokio::join!(reading, sink.put_live(live)) {
        (Ok(()), put) => put,
        (Err(error), Ok(_)) => Err(error),
        (Err(reading), Err(putting)) => Err(Error::first_cause(reading, putting)),
    }
}

fn settings(images: &Images, wishes: &Wishes) -> MachineSettings {
    MachineSettings {
        cpus: wishes.cpus.unwrap_or(CPUS),
        memory_mib: wishes.memory_mib.unwrap_or(MEMORY_MIB),
        network: wishes.network,
        ..MachineSettings::new(images.name.clone())
    }
}

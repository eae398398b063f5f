//! From an image to an artifact: each layer a stream that is checked on its way, and embedded once it was right.

use std::io::{self, Write as _};
use std::path::Path;
use std::sync::Arc;

use futures_util::stream::{self, StreamExt as _};

use super::{Images, ThawContext, Wishes};
use crate::error::{Error, Kind, Result, Side};
use crate::pipeline::gather::LiveEnd;
use crate::sink::Image;
use crate::sink::artifact::{ArtifactOptions, ArtifactSink, MachineSettings, SideFile};
use crate::stop::Stop;
use crate::stored::{self, EndOnDrop, Listen, OutlineLayer, StoredImage, Watch, layers_at_once};

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
        let end = EndOnDrop(Stop::new());
        let watch = Watch { observer: Arc::clone(&context.observer), stop: end.0.clone() };
        let layers = images.outline.layers.iter().enumerate();
        let arriving = layers.clone().map(|(index, layer)| arrive(&images.stored, target, index + 1, layer, &watch));
        let mut arriving = stream::iter(arriving).buffered(layers_at_once());
        for (index, layer) in layers {
            let Some(arrived) = arriving.next().await else { break };
            let Arrived { side, end } = arrived?;
            sink.put_side(side, end, layer.workspace).await?;
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

/// A layer that was read: it lies beside the artifact, and was what the image says.
struct Arrived {
    side: SideFile,
    end: LiveEnd,
}

/// Keeps a layer's stored bytes beside the artifact.
struct Intake(SideFile);

impl Listen for Intake {
    fn stored(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all(bytes)
    }
}

/// Reads one layer: only when digest, size and diff_id are what the image says is there something to embed.
async fn arrive(
    stored: &StoredImage,
    target: &Path,
    number: usize,
    layer: &OutlineLayer,
    watch: &Watch,
) -> Result<Arrived> {
    let failed = |error: io::Error| {
        Error::sink("gathering a layer beside the artifact", target.display(), &error).because(error)
    };
    let intake = Intake(SideFile::beside(target).map_err(failed)?);
    let (read, Intake(side)) = stored::read_layer(stored, &layer.descriptor, layer.diff_id, intake, watch).await?;
    if let Some(fault) = read.faults.first() {
        let kind = read.kind.unwrap_or(Kind::Corrupt);
        return Err(Error::new(kind, Side::Source, "reading a layer", format_args!("number {number}"), fault));
    }
    let end = LiveEnd { descriptor: layer.descriptor.clone(), diff_id: layer.diff_id, tar_bytes: read.tar_bytes };
    Ok(Arrived { side, end })
}

fn settings(images: &Images, wishes: &Wishes) -> MachineSettings {
    MachineSettings {
        cpus: wishes.cpus.unwrap_or(CPUS),
        memory_mib: wishes.memory_mib.unwrap_or(MEMORY_MIB),
        network: wishes.network,
        ..MachineSettings::new(images.name.clone())
    }
}

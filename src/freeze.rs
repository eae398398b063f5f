//! The story: a [`Plan`] becomes a [`Snapshot`].

use std::sync::Arc;

use futures_util::future::try_join_all;

use crate::error::{Error, Result};
use crate::image::{self, ImageLayer};
use crate::oci::Compression;
use crate::pipeline::known::KnownStore;
use crate::pipeline::run::{self, Flowed, Line};
use crate::pipeline::scratch::Scratch;
use crate::plan::{OutputSpec, Plan, SourceSpec};
use crate::progress::processor::Usage;
use crate::progress::{Meters, NoticeKind, Observer};
use crate::record::Recording;
use crate::report::Snapshot;
use crate::sink::artifact::{ArtifactOptions, ArtifactSink};
use crate::sink::layout::LayoutSink;
use crate::sink::packed::{PackedOptions, PackedSink};
use crate::sink::registry::{Pace, RegistryOptions, RegistrySink};
use crate::sink::{Committed, Sink, SinkContext};
use crate::stop::Stop;

/// Carries out a plan: streams the source once, packs and sends its layers, and names the image at every output.
///
/// Throwing `stop` ends it early. However it ends, but for success, no output has a new image, and nothing unfinished is
/// left. Blobs that are complete may stay in a layout or a registry, where others may count on them.
///
/// # Errors
/// The first cause of whatever went wrong; failed clean-ups are attached to it. If only the record could not be written,
/// the error says that the freeze itself is complete.
pub async fn freeze(plan: Plan, observer: Arc<dyn Observer>, stop: Stop) -> Result<Snapshot> {
    let recording = plan.options.records.as_deref().map(|folder| Recording::begin(&plan, folder)).transpose()?;
    let frozen = carry_out(plan, observer, stop).await;
    match (recording, frozen) {
        (Some(recording), Ok(snapshot)) => recording.complete(snapshot),
        (Some(recording), Err(error)) => Err(recording.abandon(error)),
        (None, frozen) => frozen,
    }
}

async fn carry_out(plan: Plan, observer: Arc<dyn Observer>, stop: Stop) -> Result<Snapshot> {
    let usage = Usage::begin();
    let meters = Arc::new(Meters::default());
    let scratch = Scratch::new(&plan.scratch_folder, plan.budget.scratch_bytes_max);
    if let Some(tar_bytes) = plan.survey.tar_bytes {
        observer.expected(tar_bytes);
    }
    let known = Arc::new(plan.options.known.as_deref().map_or_else(KnownStore::in_memory, KnownStore::open));
    let context = SinkContext { observer: Arc::clone(&observer), meters: Arc::clone(&meters), stop: stop.clone() };
    let sinks = Arc::new(open_sinks(&plan, &known, context).await?);
    let (options, method, budget, surveyed) = (plan.options, plan.method, plan.budget, plan.survey.entries);
    let line = Line {
        stream: plan.stream,
        leave_timeout: plan.leave_timeout,
        guest: match &options.source {
            SourceSpec::Machine(name) => Some(format!("machine '{name}'")),
            SourceSpec::Directory(_) | SourceSpec::Archive(_) => None,
        },
        patience: run::PATIENCE,
        cut: plan.cut,
        method,
        budget,
        scratch: Arc::clone(&scratch),
        known,
        sinks: Arc::clone(&sinks),
        meters: Arc::clone(&meters),
        observer,
        stop: stop.clone(),
    };
    let frozen = async {
        let flowed = run::run(line).await?;
        if let SourceSpec::Machine(name) = &options.source {
            is_what_was_surveyed(name, surveyed, &flowed)?;
        }
        let layers: Vec<_> = flowed
            .layers
            .iter()
            .map(|layer| ImageLayer {
                diff_id: layer.diff_id,
                descriptor: layer.descriptor.clone(),
                workspace: layer.workspace,
            })
            .collect();
        let image = image::build(&options.image, &layers)?;
        let committed = commit_all(&sinks, &image, &stop).await?;
        Ok::<(Flowed, Vec<Committed>), Error>((flowed, committed))
    };
    match frozen.await {
        Ok((flowed, committed)) => Ok(Snapshot::new(&options, budget, flowed, committed)
            .stored_as(method.compression)
            .took(usage.end(), &meters)
            .used_scratch(&scratch)),
        Err(error) => Err(abort_all(&sinks, error).await),
    }
}

/// Fewer entries than this may be missing without an error, whatever the share.
const MISSING_MIN: u64 = 100;

/// A guest's tools that were killed may leave a good archive of nearly nothing.
fn is_what_was_surveyed(machine: &str, surveyed: u64, flowed: &Flowed) -> Result<()> {
    let there = flowed.summary.entries + flowed.notices.count(NoticeKind::Vanished);
    let missing = surveyed.saturating_sub(there);
    if missing <= MISSING_MIN || missing <= surveyed / 2 {
        return Ok(());
    }
    let reason = format!("{there} entries came, and the survey had counted {surveyed}");
    let error = Error::source("archiving in the guest", format!("machine '{machine}'"), reason);
    Err(error.hint("if that many were removed meanwhile, freeze again"))
}

async fn open_sinks(plan: &Plan, known: &Arc<KnownStore>, context: SinkContext) -> Result<Vec<Sink>> {
    let mut sinks = Vec::new();
    let registry = RegistryOptions {
        ca_cert: plan.options.ca_cert.clone(),
        plain_http: plan.options.plain_http,
        pace: plan.options.bandwidth_bytes.map(|bytes| Pace::new(bytes, context.stop.clone())),
        known: Some(Arc::clone(known)),
        ..RegistryOptions::default().with_patience(plan.options.patience)
    };
    for output in &plan.options.outputs {
        match open_sink(plan, output, &context, &registry).await {
            Ok(sink) => sinks.push(sink),
            Err(error) => {
                let error = context.stop.take_cause().unwrap_or(error);
                return Err(abort_all(&sinks, error).await);
            }
        }
    }
    Ok(sinks)
}

async fn open_sink(
    plan: &Plan,
    output: &OutputSpec,
    context: &SinkContext,
    registry: &RegistryOptions,
) -> Result<Sink> {
    match output {
        OutputSpec::Layout { folder, tag } => {
            Ok(Sink::Layout(LayoutSink::open(folder, tag, Arc::clone(&context.observer))?))
        }
        OutputSpec::Registry(reference) => {
            tokio::select! {
                connected = RegistrySink::connect(reference, registry.clone(), context.clone()) => connected.map(Sink::Registry),
                () = context.stop.stopped() => Err(Error::interrupted()),
            }
        }
        OutputSpec::Artifact(path) => {
            let agent = plan.agent.clone().ok_or_else(|| Error::hung_up("the plan"))?;
            let options = ArtifactOptions { stop: context.stop.clone(), run: plan.run, ..ArtifactOptions::new(agent) };
            // Not left half-way: it ends by itself when stopped, and has removed its file by then.
            let artifact = ArtifactSink::create(path, options).await?;
            Ok(Sink::Artifact { artifact, machine: plan.settings.clone() })
        }
        OutputSpec::Packed { launcher, sidecar } => {
            let is_plain = plan.method.compression == Compression::None;
            let options = PackedOptions {
                launcher: launcher.clone(),
                sidecar: sidecar.clone(),
                smolvm: plan.options.machine.smolvm.clone(),
                source: plan.options.source.to_string(),
                run: plan.run,
                image_bytes: plan.survey.tar_bytes.filter(|_| is_plain),
            };
            PackedSink::open(options, context).map(|packed| Sink::Packed(Box::new(packed)))
        }
    }
}

/// First all that can fail without showing, so that no name is given where another output has no room. Then the names,
/// one after the other: if the second refuses the image, the first is the only one to have it, and the error says so.
/// Artifacts come last, so one is named once all registries have the image, and there is nothing to be taken back.
/// A stop is not heeded while a name is given, which each output does in a moment or gives up: nobody could tell else
/// whether it was.
async fn commit_all(sinks: &[Sink], image: &crate::sink::Image, stop: &Stop) -> Result<Vec<Committed>> {
    // What hung up because of a stop is not the cause.
    let cause_of = |error| match stop.take_cause() {
        Some(cause) => Error::first_cause(error, cause),
        None => error,
    };
    let prepared = tokio::select! {
        prepared = try_join_all(sinks.iter().map(|sink| sink.prepare(image))) => prepared.map(drop),
        () = stop.stopped() => Err(Error::interrupted()),
    };
    prepared.map_err(cause_of)?;
    let mut committed: Vec<Committed> = Vec::new();
    for sink in sinks {
        let outcome = match stop.check() {
            Ok(()) => sink.commit(image).await,
            Err(stopped) => Err(stopped),
        };
        match outcome {
            Ok(done) => committed.push(done),
            Err(error) if committed.is_empty() => return Err(cause_of(error)),
            Err(error) => {
                let names: Vec<_> = committed.iter().map(|done| done.name.as_str()).collect();
                return Err(cause_of(error).hint(format!("the image is complete at {}", names.join(", "))));
            }
        }
    }
    Ok(committed)
}

async fn abort_all(sinks: &[Sink], mut error: Error) -> Error {
    for sink in sinks {
        if let Err(cleanup) = sink.abort().await {
            error = error.attach(cleanup);
        }
    }
    error
}

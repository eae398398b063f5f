//! The story: a [`Plan`] becomes a [`Snapshot`].

use std::collections::BTreeSet;
use std::sync::Arc;

use futures_util::future::{join_all, try_join_all};
use futures_util::{StreamExt as _, stream};

use crate::error::{Error, Result};
use crate::image::{self, ImageLayer};
use crate::night::index::Kept;
use crate::night::picker::Choice;
use crate::night::record::Home;
use crate::night::{Night, NightReport};
use crate::oci::Compression;
use crate::pipeline::known::KnownStore;
use crate::pipeline::run::{self, Delivered, Flowed, Journal, Line};
use crate::pipeline::scratch::Scratch;
use crate::plan::{OutputSpec, Plan, SourceSpec};
use crate::progress::processor::Usage;
use crate::progress::{Meters, NoticeKind, Notices, Observer};
use crate::record::Recording;
use crate::report::Snapshot;
use crate::sink::artifact::{ArtifactOptions, ArtifactSink};
use crate::sink::layout::LayoutSink;
use crate::sink::packed::{PackedOptions, PackedSink};
use crate::sink::registry::{Pace, RegistryOptions, RegistrySink};
use crate::sink::{Committed, Put, Sink, SinkContext};
use crate::stage::cut::{CutSummary, Placed};
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
    let night = plan.night.clone();
    let frozen = carry_out(plan, observer, stop).await;
    match (recording, frozen) {
        (Some(recording), Ok(mut snapshot)) => {
            // Before the record, for until that is there nobody sweeps the state folder.
            if let (Some(night), Some(report)) = (night, &mut snapshot.night) {
                let layers = &snapshot.layers[usize::try_from(report.layers_kept).unwrap_or(0)..];
                let fresh = layers.iter().map(|layer| Kept {
                    number: 0,
                    diff_id: layer.diff_id,
                    descriptor: layer.descriptor.clone(),
                    tar_bytes: layer.tar_bytes,
                    entry_bytes: 0,
                });
                report.trouble = night.remember(fresh.collect()).err().map(|error| error.to_string());
            }
            recording.complete(snapshot)
        }
        (Some(recording), Err(error)) => Err(recording.abandon(error)),
        (None, frozen) => frozen,
    }
}

async fn carry_out(plan: Plan, observer: Arc<dyn Observer>, stop: Stop) -> Result<Snapshot> {
    let usage = Usage::begin();
    let meters = Arc::new(Meters::default());
    let scratch = Scratch::new(&plan.scratch_folder, plan.budget.scratch_bytes_max);
    let known = Arc::new(plan.options.known.as_deref().map_or_else(KnownStore::in_memory, KnownStore::open));
    let context = SinkContext { observer: Arc::clone(&observer), meters: Arc::clone(&meters), stop: stop.clone() };
    let sinks = Arc::new(open_sinks(&plan, &known, context).await?);
    let chosen = match choose(&plan, &sinks, &stop).await {
        Ok(chosen) => chosen,
        Err(error) => return Err(abort_all(&sinks, error).await),
    };
    let fresh_bytes = chosen.as_ref().map(|(night, choice)| night.fresh_bytes(choice));
    if let Some(tar_bytes) = fresh_bytes.or(plan.survey.tar_bytes) {
        observer.expected(tar_bytes);
    }
    let kept: Vec<_> = chosen.iter().flat_map(|(night, choice)| night.kept(choice)).collect();
    let report = chosen.as_ref().map(|(night, choice)| NightReport::new(night, choice));
    let (options, method, budget, surveyed) = (plan.options, plan.method, plan.budget, plan.survey.entries);
    let mut cut = plan.cut;
    let kept_bytes: u64 = kept.iter().map(|layer| layer.entry_bytes).sum();
    cut.tar_bytes_max = cut.tar_bytes_max.map(|most| most.saturating_sub(kept_bytes));
    cut.on_top_of = Some(kept.len() as u64).filter(|kept| *kept > 0);
    let line = Line {
        stream: plan.stream,
        leave_timeout: plan.leave_timeout,
        guest: match &options.source {
            SourceSpec::Machine(name) => Some(format!("machine '{name}'")),
            SourceSpec::Directory(_) | SourceSpec::Archive(_) => None,
        },
        patience: run::PATIENCE,
        cut,
        journal: plan.night.map(journal),
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
        let has_work = chosen.as_ref().is_none_or(|(night, choice)| night.has_work(choice));
        let mut flowed = if has_work { run::run(line).await? } else { Flowed::nothing() };
        flowed.put_below(kept, sinks.len());
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
            .in_night(report)
            .used_scratch(&scratch)),
        Err(error) => Err(abort_all(&sinks, error).await),
    }
}

/// Layers of which all outputs are asked at a time.
const ASKED_AT_ONCE: usize = 4;

/// A night, and which layers of the last image stay in it: of those that every output still has.
type Chosen = Option<(Arc<Night>, Arc<Choice>)>;

async fn choose(plan: &Plan, sinks: &[Sink], stop: &Stop) -> Result<Chosen> {
    let Some(night) = &plan.night else { return Ok(None) };
    let lost = stream::iter(night.layers().to_vec())
        .map(async |layer| {
            let answers = join_all(sinks.iter().map(|sink| sink.has(&layer.descriptor))).await;
            // One that does not answer does not have it: sending it will tell why.
            let is_there = answers.into_iter().all(|has| matches!(has, Ok(true)));
            (!is_there).then_some(layer.number)
        })
        .buffer_unordered(ASKED_AT_ONCE)
        .filter_map(async |lost| lost)
        .collect::<BTreeSet<_>>();
    let lost = tokio::select! {
        lost = lost => lost,
        () = stop.stopped() => return Err(stop.take_cause().unwrap_or_else(Error::interrupted)),
    };
    Ok(Some((Arc::clone(night), night.choose(lost, plan.layer_bytes()))))
}

/// Tells a night what went where.
fn journal(night: Arc<Night>) -> Journal {
    Box::new(move |placed: &Placed| {
        let layer = u32::try_from(placed.layer).unwrap_or(u32::MAX);
        let home = Home { layer, tar_bytes: placed.tar_bytes, check: placed.check };
        let noted = night.note(placed, home);
        noted.map_err(|error| Error::source("noting what was read", "scratch", &error).because(error))
    })
}

impl Flowed {
    /// Of a source in which nothing has changed.
    fn nothing() -> Self {
        let summary = CutSummary { entries: 0, workspace_entries: 0, directories: 0, tar_bytes: 0 };
        Self { layers: Vec::new(), notices: Notices::default(), summary, held_bytes_peak: 0 }
    }

    /// The layers that every output has already, under those that came.
    fn put_below(&mut self, kept: Vec<Kept>, sinks: usize) {
        let kept = kept.into_iter().map(|layer| Delivered {
            diff_id: layer.diff_id,
            tar_bytes: layer.tar_bytes,
            descriptor: layer.descriptor,
            workspace: false,
            known: true,
            puts: vec![Put::Present; sinks],
        });
        self.layers.splice(..0, kept);
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

//! The outputs of a freeze: opened, named, and left.

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use futures_util::future::try_join_all;

use crate::error::{Error, Result};
use crate::oci::Compression;
use crate::pipeline::known::KnownStore;
use crate::pipeline::run::Flowed;
use crate::plan::{OutputSpec, Plan, Reach};
use crate::report::Lost;
use crate::sink::artifact::{ArtifactOptions, ArtifactSink};
use crate::sink::layout::LayoutSink;
use crate::sink::packed::{PackedOptions, PackedSink};
use crate::sink::registry::{Pace, RegistryOptions, RegistrySink};
use crate::sink::{Committed, Image, Sink, SinkContext, Spare};
use crate::stop::Stop;

/// How the registries of a freeze are spoken to.
pub(super) struct Registries {
    usual: RegistryOptions,
    reach: Vec<Reach>,
}

impl Registries {
    pub(super) fn new(plan: &Plan, known: &Arc<KnownStore>, stop: &Stop) -> Self {
        let own = |reach: &Reach| {
            let pace = reach.registry.pace.as_ref().map(|pace| pace.until(stop.clone()));
            let registry = RegistryOptions { pace, known: Some(Arc::clone(known)), ..reach.registry.clone() };
            Reach { output: reach.output.clone(), registry }
        };
        let usual = RegistryOptions {
            ca_cert: plan.options.ca_cert.clone(),
            plain_http: plan.options.plain_http,
            pace: plan.options.bandwidth_bytes.map(|bytes| Pace::new(bytes, stop.clone())),
            known: Some(Arc::clone(known)),
            ..RegistryOptions::default().with_patience(plan.options.patience)
        };
        Self { usual, reach: plan.options.reach.iter().map(own).collect() }
    }

    pub(super) fn of(&self, output: &OutputSpec) -> RegistryOptions {
        let own = self.reach.iter().find(|reach| reach.output == *output).map(|reach| &reach.registry);
        own.unwrap_or(&self.usual).clone()
    }
}

/// Sinks that are open, and outputs that the freeze goes on without.
pub(super) struct Opened {
    pub(super) sinks: Vec<Sink>,
    /// Which outputs the sinks are of, by their places in the plan.
    at: Vec<usize>,
    lost: Vec<Lost>,
}

impl Opened {
    /// What the freeze went on without, and in `flowed` nothing of that.
    pub(super) fn lost(mut self, sinks: &[Sink], plan_outputs: &[OutputSpec], flowed: &mut Flowed) -> Vec<Lost> {
        for layer in &mut flowed.layers {
            let mut at = 0..;
            layer
                .puts
                .retain(|_| at.next().and_then(|at: usize| sinks.get(at)).is_none_or(|sink| sink.lost().is_none()));
        }
        let lost = sinks
            .iter()
            .zip(&self.at)
            .filter_map(|(sink, at)| Some(Lost::new(plan_outputs.get(*at)?, sink.lost()?, true)));
        self.lost.extend(lost);
        self.lost
    }
}

/// Opens all of them, or, where the plan says so, those that open.
pub(super) async fn open(plan: &Plan, registries: &Registries, context: &SinkContext) -> Result<Opened> {
    let (mut opened, mut first) = (Opened { sinks: Vec::new(), at: Vec::new(), lost: Vec::new() }, None);
    for (at, output) in plan.options.outputs.iter().enumerate() {
        match open_one(plan, output, context, registries).await {
            Ok(sink) => {
                opened.sinks.push(sink);
                opened.at.push(at);
            }
            Err(error) if plan.options.spare_outputs && is_spare(output) && !context.stop.is_stopped() => {
                opened.lost.push(Lost::new(output, &error, false));
                first.get_or_insert(error);
            }
            Err(error) => {
                let error = context.stop.take_cause().unwrap_or(error);
                return Err(abort_all(&opened.sinks, error).await);
            }
        }
    }
    if let Some(first) = first.filter(|_| opened.sinks.is_empty()) {
        return Err(first);
    }
    if plan.options.spare_outputs {
        let left = Arc::new(AtomicUsize::new(opened.sinks.len()));
        let spare = |sink: Sink| match sink {
            Sink::Layout(_) | Sink::Registry(_) => Sink::Spare(Box::new(Spare::new(sink, &left, &context.stop))),
            others => others,
        };
        opened.sinks = opened.sinks.into_iter().map(spare).collect();
    }
    Ok(opened)
}

/// An artifact keeps layers for the others, so there is no going on without it.
fn is_spare(output: &OutputSpec) -> bool {
    matches!(output, OutputSpec::Layout { .. } | OutputSpec::Registry(_))
}

async fn open_one(plan: &Plan, output: &OutputSpec, context: &SinkContext, registries: &Registries) -> Result<Sink> {
    match output {
        OutputSpec::Layout { folder, tag } => {
            Ok(Sink::Layout(LayoutSink::open(folder, tag, Arc::clone(&context.observer))?))
        }
        OutputSpec::Registry(reference) => {
            tokio::select! {
                connected = RegistrySink::connect(reference, registries.of(output), context.clone()) => connected.map(Sink::Registry),
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
pub(super) async fn commit_all(sinks: &[Sink], image: &Image, stop: &Stop) -> Result<Vec<Committed>> {
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
            Ok(done) => committed.extend(done),
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

/// Leaves nothing unfinished anywhere, where something failed.
pub(super) async fn or_abort<T>(sinks: &[Sink], result: Result<T>) -> Result<T> {
    match result {
        Ok(value) => Ok(value),
        Err(error) => Err(abort_all(sinks, error).await),
    }
}

/// Leaves nothing unfinished where the freeze went on without an output; that it could not is said by the next one.
pub(super) async fn leave_lost(sinks: &[Sink]) {
    for sink in sinks.iter().filter(|sink| sink.lost().is_some()) {
        let _ = sink.abort().await;
    }
}

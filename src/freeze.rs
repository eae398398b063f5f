//! The story: a [`Plan`] becomes a [`Snapshot`].

mod flat;
mod outputs;

use flat::{Filled, Nearest};
use outputs::{Registries, commit_all, or_abort};

use std::collections::BTreeSet;
use std::sync::Arc;

use futures_util::future::join_all;
use futures_util::{StreamExt as _, stream};

use crate::error::{Error, Kind, Result};
use crate::image::{self, ImageLayer};
use crate::night::index::{Artifact, Kept};
use crate::night::picker::Choice;
use crate::night::record::Home;
use crate::night::{Night, NightReport};
use crate::pipeline::known::KnownStore;
use crate::pipeline::run::{self, Delivered, Flowed, Journal, Line};
use crate::pipeline::scratch::Scratch;
use crate::plan::{Plan, SourceSpec, Transfer};
use crate::progress::processor::Usage;
use crate::progress::{Meters, NoticeKind, Notices, Observer};
use crate::record::Recording;
use crate::report::Snapshot;
use crate::sink::{Committed, Put, Sink, SinkContext};
use crate::stage::cut::{CutOptions, CutSummary, Placed, check_size};
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
    let (night, transfer) = (plan.night.clone(), plan.transfer.clone());
    if let Some(night) = &night {
        night.keep_alarm();
    }
    let (recording, frozen) =
        match plan.options.records.as_deref().map(|folder| Recording::begin(&plan, folder)).transpose() {
            // Or whoever calls this would have all of it on the stack.
            Ok(recording) => (recording, Box::pin(carry_out(plan, observer, stop)).await),
            Err(error) => (None, Err(error)),
        };
    if let Some(transfer) = transfer {
        // What was never read is left, too.
        transfer.release().await;
    }
    let recorded = match (recording, frozen) {
        (Some(recording), Ok((mut snapshot, made))) => {
            // Before the record, for until that is there nobody sweeps the state folder.
            if let (Some(night), Some(report)) = (&night, &mut snapshot.night) {
                let is_replaced = snapshot.notices.count(NoticeKind::Replaced) > 0;
                let remembered = night.remember(made.fresh, made.artifacts, is_replaced);
                report.trouble = remembered.err().map(|error| error.to_string());
            }
            recording.complete(snapshot)
        }
        (Some(recording), Err(error)) => Err(recording.abandon(error)),
        (None, frozen) => frozen.map(|(snapshot, _)| snapshot),
    };
    recorded.map_err(|error| night.iter().fold(error, |error, night| night.told(error)))
}

/// What the next night has to know of this one.
#[derive(Default)]
struct Made {
    fresh: Vec<Kept>,
    artifacts: Vec<Artifact>,
}

impl Made {
    async fn of(chosen: Option<&Chosen>, sinks: &[Sink], filled: &Filled, fresh: &[Delivered]) -> Self {
        let Some(chosen) = chosen else { return Self::default() };
        // The image is there; without this, the next night reads what only an artifact has.
        let artifacts = flat::remembered(sinks, chosen, filled, fresh).await.unwrap_or_default();
        Self { fresh: fresh.iter().map(Delivered::to_keep).collect(), artifacts }
    }
}

async fn carry_out(plan: Plan, observer: Arc<dyn Observer>, stop: Stop) -> Result<(Snapshot, Made)> {
    let usage = Usage::begin();
    let meters = Arc::new(Meters::default());
    let scratch = Scratch::new(&plan.scratch_folder, plan.budget.scratch_bytes_max);
    let known = Arc::new(plan.options.known.as_deref().map_or_else(KnownStore::in_memory, KnownStore::open));
    let context = SinkContext { observer: Arc::clone(&observer), meters: Arc::clone(&meters), stop: stop.clone() };
    let registries = Registries::new(&plan, &known, &stop);
    let mut opened = outputs::open(&plan, &registries, &context).await?;
    let sinks = Arc::new(std::mem::take(&mut opened.sinks));
    let chosen = or_abort(&sinks, choose(&plan, &sinks, registries, context).await).await?;
    let fresh_bytes = chosen.as_ref().map(|chosen| chosen.night.fresh_bytes(&chosen.choice));
    fresh_bytes.or(plan.survey.tar_bytes).into_iter().for_each(|tar_bytes| observer.expected(tar_bytes));
    let kept: Vec<_> = chosen.iter().flat_map(|chosen| chosen.night.kept(&chosen.choice)).collect();
    let mut report = chosen.as_ref().map(|chosen| NightReport::new(&chosen.night, &chosen.choice));
    let surveyed = report.as_ref().map_or(plan.survey.entries, |night| night.listed - night.kept);
    let (options, method, budget, transfer) = (plan.options, plan.method, plan.budget, plan.transfer);
    let mut cut = plan.cut;
    lie_on(&mut cut, chosen.as_ref());
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
        let has_work = chosen.as_ref().is_none_or(|chosen| chosen.night.has_work(&chosen.choice));
        let mut flowed =
            if has_work { run::run(line).await? } else { left_alone(transfer.as_deref(), &meters, chosen.as_ref()) };
        let fresh = flowed.layers.clone();
        let filled = fill(chosen.as_ref(), &sinks, &fresh, &stop).await?;
        flowed.put_below(kept, sinks.len());
        if let SourceSpec::Machine(name) = &options.source {
            is_what_was_surveyed(name, surveyed, &flowed)?;
        }
        let layers: Vec<_> = flowed.layers.iter().map(Delivered::in_image).collect();
        let image = image::build(&options.image, &layers)?;
        let committed = commit_all(&sinks, &image, &stop).await?;
        if let Some(report) = &mut report {
            report.filled(filled.copied, filled.flattened);
        }
        let made = Made::of(chosen.as_ref(), &sinks, &filled, &fresh).await;
        if let Some(transfer) = &transfer {
            transfer.left().await;
        }
        Ok::<(Flowed, Vec<Committed>, Made), Error>((flowed, committed, made))
    };
    let (mut flowed, committed, made) = or_abort(&sinks, frozen.await).await?;
    outputs::leave_lost(&sinks).await;
    let lost = opened.lost(&sinks, &options.outputs, &mut flowed);
    let snapshot = Snapshot::new(&options, budget, flowed, committed)
        .stored_as(method.compression)
        .took(usage.end(), &meters)
        .in_night(report, plan.in_full)
        .without(lost)
        .used_scratch(&scratch);
    Ok((snapshot, made))
}

/// What is cut lies on top of the layers that stay.
fn lie_on(cut: &mut CutOptions, chosen: Option<&Chosen>) {
    let Some(Chosen { night, choice, .. }) = chosen else { return };
    cut.tar_bytes_kept = night.kept_bytes(choice);
    cut.on_top_of = Some(night.kept(choice).len() as u64).filter(|kept| *kept > 0);
}

/// Puts what is alive in layers that stay into the artifacts.
async fn fill(chosen: Option<&Chosen>, sinks: &[Sink], fresh: &[Delivered], stop: &Stop) -> Result<Filled> {
    let Some(chosen) = chosen else { return Ok(Filled::default()) };
    let filled = tokio::select! {
        filled = chosen.nearest.fill(sinks, chosen, fresh) => filled.map_err(|error| {
            if error.kind() != Kind::Corrupt {
                return error;
            }
            // Or the next freeze would fail on the same bytes.
            chosen.night.forget();
            error.hint("freeze again: the next one reads everything")
        }),
        () = stop.stopped() => Err(Error::interrupted()),
    };
    filled.map_err(|error| match stop.take_cause() {
        Some(cause) => Error::first_cause(error, cause),
        None => error,
    })
}

/// Layers of which all outputs are asked at a time.
const ASKED_AT_ONCE: usize = 4;

/// A night, and which layers of the last image stay in it: of those that every output still has.
struct Chosen {
    night: Arc<Night>,
    choice: Arc<Choice>,
    nearest: Nearest,
}

impl Chosen {
    /// Where the last image has a layer.
    fn at(&self, layer: &Kept) -> usize {
        self.night.layers().iter().position(|other| other.number == layer.number).unwrap_or(usize::MAX)
    }
}

async fn choose(plan: &Plan, sinks: &[Sink], registries: Registries, context: SinkContext) -> Result<Option<Chosen>> {
    let Some(night) = &plan.night else { return Ok(None) };
    let (night, stop) = (Arc::clone(night), context.stop.clone());
    let nearest = Nearest::new(night.artifacts(), &plan.options.outputs, registries, context);
    let stores: Vec<_> = sinks.iter().filter(|sink| !sink.is_always_new()).collect();
    let layers: Vec<_> = night.layers().iter().cloned().enumerate().collect();
    let lost = stream::iter(layers)
        .map(async |(at, layer)| {
            let answers = join_all(stores.iter().map(|sink| sink.has(&layer.descriptor))).await;
            // One that does not answer does not have it: sending it will tell why.
            let is_stored = answers.into_iter().all(|has| matches!(has, Ok(true)));
            let is_there = is_stored && (!stores.is_empty() || nearest.has(at, &layer));
            (!is_there).then_some(layer.number)
        })
        .buffer_unordered(ASKED_AT_ONCE)
        .filter_map(async |lost| lost)
        .collect::<BTreeSet<_>>();
    let lost = tokio::select! {
        lost = lost => lost,
        () = stop.stopped() => return Err(stop.take_cause().unwrap_or_else(Error::interrupted)),
    };
    let choice = night.choose(lost, plan.layer_bytes());
    // There may be nothing to cut.
    check_size(plan.options.tar_bytes_max, night.kept_bytes(&choice), 0)?;
    if !night.kept(&choice).is_empty() {
        for artifact in flat::artifacts(sinks) {
            artifact.leave_marks_out().await?;
        }
    }
    Ok(Some(Chosen { night, choice, nearest }))
}

/// Nothing has changed: the machine is left while the image is named.
fn left_alone(transfer: Option<&Transfer>, meters: &Arc<Meters>, chosen: Option<&Chosen>) -> Flowed {
    if let Some(transfer) = transfer {
        transfer.let_go(Arc::clone(meters));
    }
    let notices = chosen.map(|chosen| chosen.night.left_out().clone()).unwrap_or_default();
    Flowed { notices, ..Flowed::nothing() }
}

/// Tells a night what went where.
fn journal(night: Arc<Night>) -> Journal {
    Box::new(move |placed: Option<&Placed>| {
        let Some(placed) = placed else {
            // A failure comes to light when the index is written, and costs that alone.
            let _ = night.joined();
            return Ok(());
        };
        let layer = u32::try_from(placed.layer).unwrap_or(u32::MAX);
        let home = Home { layer, tar_bytes: placed.tar_bytes, check: placed.check };
        let noted = night.note(placed, home);
        noted.map_err(|error| Error::source("noting what was read", "scratch", &error).because(error))
    })
}

impl Delivered {
    /// As the image lists it.
    fn in_image(&self) -> ImageLayer {
        ImageLayer { diff_id: self.diff_id, descriptor: self.descriptor.clone(), workspace: self.workspace }
    }

    /// As an index remembers it; its number and its entries' bytes are found there.
    fn to_keep(&self) -> Kept {
        let Self { diff_id, tar_bytes, descriptor, workspace, .. } = self;
        let (diff_id, tar_bytes, descriptor) = (*diff_id, *tar_bytes, descriptor.clone());
        Kept { number: 0, diff_id, descriptor, tar_bytes, entry_bytes: 0, workspace: *workspace }
    }
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
            workspace: layer.workspace,
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

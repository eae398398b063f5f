//! One freeze of one machine, in this process: its options, and what it came to at each destination.

use std::path::PathBuf;
use std::sync::Arc;

use super::Host;
use super::job::{Job, Place};
use super::lanes::Lanes;
use crate::error::{Result, Side};
use crate::fleet::file::{FreezeKeys, ImageKeys};
use crate::fleet::night::{Made, Trouble};
use crate::freeze::freeze;
use crate::image::ImageOptions;
use crate::night::Wish;
use crate::plan::{FreezeOptions, Plan, SourceSpec};
use crate::progress::Observer;
use crate::report::Snapshot;
use crate::sink::Committed;
use crate::source::machine::{self, Reader};
use crate::stop::Stop;

/// A chunk is never larger, nor smaller: those of `freeze`.
const CHUNK_BYTES_MAX: u64 = 48 << 20;
const CHUNK_BYTES_MIN: u64 = 1 << 20;
/// Chunks that are on this host at a time.
const HOST_CHUNKS: u64 = 2;

/// What became of a machine at one destination.
pub(super) type Came = Result<(Made, Vec<String>), Trouble>;

/// What all freezes of a run have in common.
pub(super) struct Common<'a> {
    pub(super) host: &'a Host,
    pub(super) lanes: &'a Lanes,
    /// Resident memory of one freeze.
    pub(super) memory_bytes: u64,
}

impl Common<'_> {
    /// Freezes the machine to `places`, in one pass where that is possible: a destination that fails is left out, and where
    /// nobody can tell which one failed, each is tried alone. In the order of `places`.
    pub(super) async fn freeze(
        &self,
        job: &Job,
        places: &[&Place],
        observer: &Arc<dyn Observer>,
        stop: &Stop,
    ) -> Vec<Came> {
        let pause = job.terms.retries.pause.0;
        let down = |place: &Place| self.lanes.get(&place.destination).and_then(|lane| lane.down(pause));
        let open: Vec<_> = places.iter().copied().filter(|place| down(place).is_none()).collect();
        let mut came = self.pass(job, &open, observer, stop).await.into_iter();
        let is_open = |place: &Place| open.iter().any(|other| other.destination == place.destination);
        let all = places.iter().map(|place| if is_open(place) { came.next() } else { down(place).map(Err) });
        let lost = || Err(Trouble::new("internal", "nothing is known of it; this is a bug in smolfreeze"));
        all.map(|came| came.unwrap_or_else(lost)).collect()
    }

    async fn pass(&self, job: &Job, places: &[&Place], observer: &Arc<dyn Observer>, stop: &Stop) -> Vec<Came> {
        if places.is_empty() {
            return Vec::new();
        }
        match Box::pin(self.frozen(job, places, observer, stop)).await {
            Ok(snapshot) => self.came(places, &snapshot),
            Err(error) if error.side() == Side::Sink && places.len() > 1 && !stop.is_stopped() => {
                let mut came = Vec::new();
                for place in places {
                    came.extend(Box::pin(self.pass(job, &[place], observer, stop)).await);
                }
                came
            }
            Err(error) => {
                let trouble = Trouble::from(&error);
                places.iter().map(|_| Err(trouble.clone())).collect()
            }
        }
    }

    async fn frozen(
        &self,
        job: &Job,
        places: &[&Place],
        observer: &Arc<dyn Observer>,
        stop: &Stop,
    ) -> Result<Snapshot> {
        let plan = Plan::make(self.options(job, places), stop).await?;
        freeze(plan, Arc::clone(observer), stop.clone()).await
    }

    fn came(&self, places: &[&Place], snapshot: &Snapshot) -> Vec<Came> {
        let mut at = 0;
        let came = places.iter().map(|place| {
            let output = place.output.to_string();
            if let Some(lost) = snapshot.lost.iter().find(|lost| lost.output == output) {
                let trouble = Trouble { kind: lost.kind.clone(), text: lost.message.clone() };
                if let Some(lane) = self.lanes.get(&place.destination).filter(|_| !lost.was_reached) {
                    lane.is_down(trouble.clone());
                }
                return Err(trouble);
            }
            at += 1;
            let committed = snapshot.outputs.get(at - 1);
            let lost = || Trouble::new("internal", "the freeze tells nothing of it; this is a bug in smolfreeze");
            Ok((made(snapshot, committed.ok_or_else(lost)?, at - 1), remarks(snapshot)))
        });
        came.collect()
    }

    fn options(&self, job: &Job, places: &[&Place]) -> FreezeOptions {
        let Job { machine, terms, .. } = job;
        let keys = &terms.freeze;
        let reach = places.iter().filter_map(|place| self.lanes.get(&place.destination)?.reach(&place.output));
        let limits = places.iter().filter_map(|place| self.lanes.get(&place.destination)?.destination.uploads);
        let chunk_bytes = chunk_bytes(keys, self.memory_bytes);
        let outputs = places.iter().map(|place| place.output.clone()).collect();
        FreezeOptions {
            agent_rootfs: keys.agent_rootfs.clone(),
            pack_with: keys.pack_with.into(),
            exclude: keys.exclude.clone(),
            include_mounts: keys.include_mounts.clone(),
            layer_bytes: keys.layer_size.map(|size| size.0),
            // More would only wait for their turn, and hold memory.
            uploads: limits.fold(usize::from(keys.uploads), |uploads, limit| uploads.min(usize::from(limit))),
            memory_bytes: self.memory_bytes.saturating_sub(HOST_CHUNKS * chunk_bytes),
            scratch_bytes: keys.scratch.map(|size| size.0),
            compression: keys.compression.map(Into::into),
            level: keys.level,
            tar_bytes_max: keys.max_size.map(|size| size.0),
            image: image(&keys.image),
            known: self.host.known.clone().filter(|_| keys.known),
            records: Some(self.host.state.clone()).filter(|_| keys.record),
            night: (keys.known && keys.record)
                .then_some(Wish { reread_percent: keys.reread.percent, squash: keys.squash }),
            machine: machine::Options {
                smolvm: self.host.smolvm.clone(),
                chunk_bytes: Some(chunk_bytes),
                window_chunks: keys.window,
                reader: match keys.guest_reader.as_str() {
                    "auto" => self.host.reader.clone(),
                    "tar" => Reader::Tools,
                    path => Reader::File(PathBuf::from(path)),
                },
                guest_compression: keys.guest_compression.into(),
                exec_limit: terms.guest.limit.0,
                wait: keys.wait.0,
                patience: keys.link_patience.0,
                pre_exec: terms.guest.before.clone(),
                post_exec: terms.guest.after.clone(),
                ..machine::Options::default()
            },
            reach: reach.collect(),
            spare_outputs: true,
            ..FreezeOptions::new(SourceSpec::Machine(machine.name.clone()), outputs)
        }
    }
}

/// What was asked for, or a size of which two take a quarter of the freeze's memory.
fn chunk_bytes(keys: &FreezeKeys, memory_bytes: u64) -> u64 {
    let mebibytes = memory_bytes / 8 / (1 << 20);
    let fits = (mebibytes << 20).clamp(CHUNK_BYTES_MIN, CHUNK_BYTES_MAX);
    keys.chunk_size.map_or(fits, |size| size.0)
}

fn image(keys: &ImageKeys) -> ImageOptions {
    let ImageKeys { user, workdir, env, entrypoint, cmd, labels, architecture } = keys.clone();
    ImageOptions {
        user,
        workdir,
        env: env.into_iter().map(|(name, value)| format!("{name}={value}")).collect(),
        entrypoint,
        cmd,
        labels,
        architecture: architecture.unwrap_or_default(),
        ..ImageOptions::default()
    }
}

fn made(snapshot: &Snapshot, committed: &Committed, at: usize) -> Made {
    Made {
        digest: committed.digest,
        record: snapshot.record.clone(),
        entries: snapshot.entries,
        tar_bytes: snapshot.night.as_ref().map_or(snapshot.tar_bytes, |night| night.live_bytes),
        read_bytes: snapshot.tar_bytes,
        sent_bytes: snapshot.layers.iter().filter_map(|layer| layer.sent_bytes.get(at)).sum(),
        link_bytes: snapshot.link_bytes,
        stored_bytes: committed.artifact_bytes.unwrap_or(snapshot.stored_bytes),
        slowest_stage: snapshot.bottleneck.clone(),
        retries: snapshot.retries,
        held_bytes_peak: snapshot.held_bytes_peak,
        alarm: snapshot.alarm_in_words(),
        in_full: snapshot.in_full.clone(),
    }
}

fn remarks(snapshot: &Snapshot) -> Vec<String> {
    let trouble = snapshot.night.iter().filter_map(|night| night.trouble.clone());
    let trouble = trouble.map(|why| format!("the next night reads everything: {why}"));
    snapshot.undone.iter().cloned().chain(trouble).collect()
}

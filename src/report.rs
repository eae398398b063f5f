//! The result of a freeze, for people and as JSON.

use std::sync::atomic::Ordering;

use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::night::NightReport;
use crate::oci::{Compression, Descriptor, DiffId};
use crate::pipeline::budget::Budget;
use crate::pipeline::run::Flowed;
use crate::pipeline::scratch::Scratch;
use crate::plan::{FreezeOptions, OutputSpec};
use crate::progress::processor::Used;
use crate::progress::{Measured, Meters, NoticeKind, Notices};
use crate::sink::{Committed, Put};
use crate::state::Id;
use crate::text;

mod bottleneck;

use bottleneck::{Load, bottleneck};

/// What a freeze made, and what it took.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Snapshot {
    /// This program's version.
    pub version: String,
    /// What was frozen.
    pub source: String,
    /// When the image says it was made.
    pub created: String,
    /// The ID of its record, if it was recorded.
    #[serde(default)]
    pub record: Option<Id>,
    /// Where the image is, in the order the outputs were given.
    pub outputs: Vec<Committed>,
    /// Outputs that the freeze went on without.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub lost: Vec<Lost>,
    /// The layers, in order.
    pub layers: Vec<LayerReport>,
    /// Layers that were neither compressed nor sent, since every output had them.
    pub layers_known: u64,
    /// Layers that were compressed.
    pub layers_packed: u64,
    /// Layers of which at least one output had to be sent the bytes.
    pub layers_sent: u64,
    /// Entries in the image.
    pub entries: u64,
    /// Those of them below `/workspace`, which smolvm hides in a machine that it packed itself.
    #[serde(default)]
    pub workspace_entries: u64,
    /// Bytes of tar that were read.
    pub tar_bytes: u64,
    /// Bytes of all layers as they are stored.
    pub stored_bytes: u64,
    /// Those of layers that were compressed.
    #[serde(default)]
    pub packed_bytes: u64,
    /// Body bytes of layers sent to all outputs, bytes sent twice twice.
    pub sent_bytes: u64,
    /// How layers are stored.
    pub compression: Compression,
    /// From the first byte to the last name, the survey not counted.
    pub seconds: f64,
    /// Bytes and time of each stage.
    pub stages: Stages,
    /// Operations that were tried again, in all stages.
    pub retries: u64,
    /// Whether a machine was read by our own reader in the guest, and not by the guest's tools.
    #[serde(default)]
    pub own_reader: bool,
    /// Programs that were found to be our reader in the machine, and why they could not.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub readers_passed_over: Vec<String>,
    /// Processor time of the process, in seconds. With that of all stages, it is what the freeze cost.
    #[serde(default)]
    pub cpu_seconds: f64,
    /// The part of the machine's cores that somebody used meanwhile, 0 to 1.
    #[serde(default)]
    pub fullness: f64,
    /// The stage that decided how long it took, by its own processor time or by what it waited for in the world.
    pub bottleneck: String,
    /// Most bytes of layers that were held in memory.
    pub held_bytes_peak: u64,
    /// Most bytes of memory that the plan allowed.
    pub memory_bytes_max: u64,
    /// Most bytes of scratch files that were in use.
    pub scratch_bytes_peak: u64,
    /// Why scratch space ended before that, if it did: layers were sent as they were made from then on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scratch_trouble: Option<String>,
    /// Most bytes of scratch files that the plan allowed.
    pub scratch_bytes_max: u64,
    /// What of the last image is in this one, where that was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub night: Option<NightReport>,
    /// Why everything was read, where nobody can tell what has changed since the last freeze.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub in_full: Option<String>,
    /// Bytes that crossed the link between a machine and this host, both ways.
    #[serde(default)]
    pub link_bytes: u64,
    /// Entries that the user should know about.
    pub notices: Notices,
    /// What was to be done in the machine when all of it was read, and failed: `--post-exec`, tidying up. The image is whole.
    #[serde(default)]
    pub undone: Vec<String>,
    #[serde(skip)]
    threads: (usize, usize),
}

/// An output that failed, and that the freeze went on without.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lost {
    /// The output, as it was given.
    pub output: String,
    /// [`Kind::name`](crate::error::Kind::name).
    pub kind: String,
    /// Why.
    pub message: String,
    /// Whether it had answered at first.
    pub was_reached: bool,
}

impl Lost {
    pub(crate) fn new(output: &OutputSpec, error: &Error, was_reached: bool) -> Self {
        let (output, kind) = (output.to_string(), error.kind().name().to_owned());
        Self { output, kind, message: error.to_string(), was_reached }
    }
}

/// One layer of a snapshot.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct LayerReport {
    /// SHA-256 of its tar.
    pub diff_id: DiffId,
    /// Bytes of its tar.
    pub tar_bytes: u64,
    /// Its blob.
    #[serde(flatten)]
    pub descriptor: Descriptor,
    /// Every entry lies below `/workspace`.
    #[serde(default)]
    pub workspace: bool,
    /// Neither compressed nor sent.
    pub known: bool,
    /// Body bytes sent to each output.
    pub sent_bytes: Vec<u64>,
}

/// Bytes and time, stage by stage in flow order.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub struct Stages {
    /// Reading the source.
    pub source: Measured,
    /// Finding entries and cuts.
    pub cut: Measured,
    /// SHA-256 of the uncompressed layers.
    pub hash: Measured,
    /// Compression, and SHA-256 of what it gave.
    pub compress: Measured,
    /// Sending to all outputs.
    pub send: Measured,
}

impl Stages {
    /// Gives out the processor time that no thread of a stage had: the compressors' own threads had some of it, and at
    /// most `helpers_seconds_max`; the rest is that of the runtime, which sends.
    fn share_out(&mut self, process_seconds: f64, helpers_seconds_max: f64) {
        let known: f64 = [self.source, self.cut, self.hash, self.compress].iter().map(|stage| stage.cpu_seconds).sum();
        let rest = (process_seconds - known).max(0.0);
        let helpers = rest.min(helpers_seconds_max);
        self.compress.cpu_seconds += helpers;
        self.send.cpu_seconds += rest - helpers;
    }
}

impl Snapshot {
    pub(crate) fn new(options: &FreezeOptions, budget: Budget, flowed: Flowed, outputs: Vec<Committed>) -> Self {
        let layers: Vec<_> = flowed
            .layers
            .into_iter()
            .map(|layer| LayerReport {
                diff_id: layer.diff_id,
                tar_bytes: layer.tar_bytes,
                descriptor: layer.descriptor,
                workspace: layer.workspace,
                known: layer.known,
                sent_bytes: layer.puts.into_iter().map(Put::bytes_sent).collect(),
            })
            .collect();
        let count = |counts: fn(&LayerReport) -> bool| layers.iter().filter(|layer| counts(layer)).count() as u64;
        Self {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            source: options.source.to_string(),
            record: None,
            created: options.image.created.clone(),
            outputs,
            lost: Vec::new(),
            layers_known: count(|layer| layer.known),
            layers_packed: count(|layer| !layer.known),
            layers_sent: count(|layer| layer.sent_bytes.iter().any(|bytes| *bytes > 0)),
            entries: flowed.summary.entries,
            workspace_entries: flowed.summary.workspace_entries,
            tar_bytes: flowed.summary.tar_bytes,
            stored_bytes: layers.iter().map(|layer| layer.descriptor.size).sum(),
            packed_bytes: layers.iter().filter(|layer| !layer.known).map(|layer| layer.descriptor.size).sum(),
            sent_bytes: layers.iter().flat_map(|layer| &layer.sent_bytes).sum(),
            layers,
            compression: Compression::Zstd,
            seconds: 0.0,
            stages: Stages::default(),
            retries: 0,
            own_reader: false,
            readers_passed_over: Vec::new(),
            cpu_seconds: 0.0,
            fullness: 0.0,
            bottleneck: String::new(),
            held_bytes_peak: flowed.held_bytes_peak,
            memory_bytes_max: budget.memory_bytes_max(),
            scratch_bytes_peak: 0,
            scratch_trouble: None,
            scratch_bytes_max: budget.scratch_bytes_max,
            night: None,
            in_full: None,
            link_bytes: 0,
            notices: flowed.notices,
            undone: Vec::new(),
            threads: (budget.workers, budget.uploads),
        }
    }

    pub(crate) fn took(mut self, used: Used, meters: &Meters) -> Self {
        (self.seconds, self.cpu_seconds, self.fullness) = (used.seconds, used.cpu_seconds, used.fullness);
        self.stages = Stages {
            source: meters.source.read(),
            cut: meters.cut.read(),
            hash: meters.hash.read(),
            compress: meters.compress.read(),
            send: meters.send.read(),
        };
        self.stages.share_out(used.cpu_seconds, meters.helpers.read().busy_seconds);
        let stages = &self.stages;
        self.retries = [stages.source, stages.cut, stages.hash, stages.compress, stages.send]
            .iter()
            .map(|stage| stage.retries)
            .sum();
        self.own_reader = meters.own_reader.load(Ordering::Relaxed);
        self.readers_passed_over = meters.readers_passed_over();
        self.undone = meters.undone();
        self.link_bytes = meters.link_bytes.load(Ordering::Relaxed);
        let memory_waiting_seconds = meters.memory.read().waiting_seconds;
        bottleneck(&used, &self.loads(), memory_waiting_seconds).clone_into(&mut self.bottleneck);
        self
    }

    /// The process's exit code, as README.md documents it: 0, 7 where something was left undone, or 8 where a file of
    /// earlier images was not what it should have been.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match &self.night {
            Some(NightReport { alarm: Some(_), .. }) => 8,
            _ if self.undone.is_empty() => 0,
            _ => 7,
        }
    }

    /// What is to be said of a file of earlier images that was not what it should have been.
    #[must_use]
    pub fn alarm_in_words(&self) -> Option<String> {
        self.night.as_ref().and_then(NightReport::alarm_in_words)
    }

    /// A failure behind a complete freeze, with what the freeze found.
    #[must_use]
    pub fn told(&self, error: Error) -> Error {
        let error = error.hint("the freeze itself is complete");
        self.alarm_in_words().into_iter().fold(error, Error::hint)
    }

    pub(crate) fn in_night(mut self, night: Option<NightReport>, in_full: Option<String>) -> Self {
        self.in_full = in_full;
        if let Some(night) = &night {
            self.entries = night.listed;
        }
        self.night = night;
        self
    }

    pub(crate) fn without(self, lost: Vec<Lost>) -> Self {
        Self { lost, ..self }
    }

    pub(crate) fn stored_as(mut self, compression: Compression) -> Self {
        self.compression = compression;
        self
    }

    pub(crate) fn used_scratch(mut self, scratch: &Scratch) -> Self {
        self.scratch_bytes_peak = scratch.bytes_peak();
        self.scratch_trouble = scratch.trouble().map(str::to_owned);
        self
    }

    /// What each stage had to do. Hashing and compressing are one, for the same threads do both.
    fn loads(&self) -> [Load; 4] {
        let load = |name, rows, stage: &Measured| Load {
            name,
            busy_seconds: stage.busy_seconds,
            rows,
            cpu_seconds: stage.cpu_seconds,
            threads: stage.threads,
        };
        let Stages { source, cut, hash, compress, send } = &self.stages;
        let packing = Measured {
            busy_seconds: hash.busy_seconds + compress.busy_seconds,
            cpu_seconds: hash.cpu_seconds + compress.cpu_seconds,
            ..*compress
        };
        let (packers, uploads) = self.threads;
        // With few layers, not every place for an upload ever had one.
        let uploads = (uploads as u64).min(self.layers_packed);
        [
            load("reading the source", 1, source),
            load("cutting", 1, cut),
            load("packing (hashing and compressing)", packers as u64, &packing),
            load("sending", uploads, send),
        ]
    }

    /// The summary for people: five or six lines, one more for an artifact, and one more for each kind of notice.
    #[must_use]
    pub fn summary(&self) -> String {
        let size = |bytes: u64| humansize::format_size(bytes, humansize::BINARY);
        let mut lines: Vec<_> = self.outputs.iter().flat_map(output_lines).collect();
        lines.extend(self.lost.iter().map(|lost| format!("NOT THERE   {}: {}", lost.output, lost.message)));
        lines.push(format!(
            "bytes       {} of tar in, {} packed, {} stored, {} sent",
            size(self.tar_bytes),
            size(self.packed_bytes),
            size(self.stored_bytes),
            size(self.sent_bytes)
        ));
        lines.extend(self.in_full.iter().map(|why| format!("night       all of it was read: {why}")));
        if let Some(night) = &self.night {
            lines.push(format!("night       {night}"));
            lines.extend(night.alarm_in_words().map(|alarm| format!("ALARM       {alarm}")));
            lines.extend(
                night
                    .trouble
                    .iter()
                    .map(|why| format!("            the next one does not go on from this one: no index, {why}")),
            );
        }
        if self.link_bytes > 0 {
            lines.push(format!("link        {} between the machine and this host", size(self.link_bytes)));
        }
        #[expect(clippy::cast_precision_loss, reason = "a ratio for people")]
        let ratio = 100.0 * self.stored_bytes as f64
            / self.layers.iter().map(|layer| layer.tar_bytes).sum::<u64>().max(1) as f64;
        lines.push(format!(
            "layers      {} stored at {ratio:.0} % ({}): {} known, {} packed, {} sent",
            self.layers.len(),
            self.compression,
            self.layers_known,
            self.layers_packed,
            self.layers_sent
        ));
        #[expect(clippy::cast_precision_loss, reason = "a rate for people")]
        let rate = self.tar_bytes as f64 / 1_048_576.0 / self.seconds.max(0.001);
        lines.push(format!("time        {:.1} s, {rate:.0} MiB/s, {} retries", self.seconds, self.retries));
        lines.push(format!("bottleneck  {}", self.bottleneck));
        lines.extend(self.record.as_ref().map(|id| format!("record      {id}")));
        lines.extend(self.scratch_trouble.iter().map(|trouble| format!("scratch     none from then on: {trouble}")));
        lines.extend(self.readers_passed_over.iter().map(|why| format!("reader      {why}")));
        lines.extend(self.undone.iter().map(|what| format!("undone      {what}")));
        for (kind, count) in self.notices.counts() {
            let names: Vec<_> = self
                .notices
                .named()
                .iter()
                .filter(|notice| notice.kind == *kind)
                .take(3)
                .map(|notice| text::name(notice.path.as_bytes()))
                .collect();
            let more = if *count > names.len() as u64 { ", …" } else { "" };
            lines.push(format!("{count} {} ({}{more})", notice_words(*kind), names.join(", ")));
        }
        text::lines(lines)
    }
}

/// An artifact is a file that goes where its user wants it; the others have their image where they are.
fn output_lines(output: &Committed) -> Vec<String> {
    let Some(bytes) = output.artifact_bytes else {
        return vec![format!("frozen      {}@{}", output.name, output.digest)];
    };
    let size = humansize::format_size(bytes, humansize::BINARY);
    let start =
        format!("start it anywhere: smolvm machine create --name NEW --from {}", text::shell(output.name.as_bytes()));
    let beside = output.launcher.as_ref().map_or_else(String::new, |path| format!(", and {}", path.display()));
    vec![format!("frozen      {} ({size}){beside}", output.name), format!("            {start}")]
}

fn notice_words(kind: NoticeKind) -> &'static str {
    match kind {
        NoticeKind::Changed => "changed while being read",
        NoticeKind::Shrank => "shrank while being read, filled up with zeros",
        NoticeKind::Grew => "grew while being read, cut at the first size",
        NoticeKind::Vanished => "vanished before being read",
        NoticeKind::Replaced => "replaced by another file before being read",
        NoticeKind::Socket => "sockets left out",
        NoticeKind::Mount => "mounts left empty",
        NoticeKind::Divided => "copies of files with too many hard links for the guest's tar",
        NoticeKind::Overlay => "marks of overlayfs left out, which would hide files of other layers",
        NoticeKind::Output => "outputs of freezes left out",
    }
}

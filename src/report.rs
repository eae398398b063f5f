//! The result of a freeze, for people and as JSON.

use std::sync::atomic::Ordering;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::budget::Budget;
use crate::oci::{Compression, Descriptor, DiffId};
use crate::pipeline::Flowed;
use crate::plan::FreezeOptions;
use crate::progress::{Measured, Meters, NoticeKind, Notices};
use crate::sink::{Committed, Put};
use crate::state::Id;

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
    /// The stage that was busy most of the time, and so decided how long it took.
    pub bottleneck: String,
    /// Most bytes of layers that were held in memory.
    pub held_bytes_peak: u64,
    /// Most bytes of memory that the plan allowed.
    pub memory_bytes_max: u64,
    /// Most bytes of scratch files that were in use.
    pub scratch_bytes_peak: u64,
    /// Most bytes of scratch files that the plan allowed.
    pub scratch_bytes_max: u64,
    /// Entries that the user should know about.
    pub notices: Notices,
    #[serde(skip)]
    threads: (usize, usize),
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

impl Snapshot {
    pub(crate) fn new(options: &FreezeOptions, budget: Budget, flowed: Flowed, outputs: Vec<Committed>) -> Self {
        let layers: Vec<_> = flowed
            .layers
            .into_iter()
            .map(|layer| LayerReport {
                diff_id: layer.diff_id,
                tar_bytes: layer.tar_bytes,
                descriptor: layer.descriptor,
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
            layers_known: count(|layer| layer.known),
            layers_packed: count(|layer| !layer.known),
            layers_sent: count(|layer| layer.sent_bytes.iter().any(|bytes| *bytes > 0)),
            entries: flowed.summary.entries,
            workspace_entries: flowed.summary.workspace_entries,
            tar_bytes: flowed.summary.tar_bytes,
            stored_bytes: layers.iter().map(|layer| layer.descriptor.size).sum(),
            sent_bytes: layers.iter().flat_map(|layer| &layer.sent_bytes).sum(),
            layers,
            compression: Compression::Zstd,
            seconds: 0.0,
            stages: Stages::default(),
            retries: 0,
            own_reader: false,
            bottleneck: String::new(),
            held_bytes_peak: flowed.held_bytes_peak,
            memory_bytes_max: budget.memory_bytes_max(),
            scratch_bytes_peak: 0,
            scratch_bytes_max: budget.scratch_bytes_max,
            notices: flowed.notices,
            threads: (budget.workers, budget.uploads),
        }
    }

    pub(crate) fn took(mut self, time: Duration, meters: &Meters) -> Self {
        self.seconds = time.as_secs_f64();
        self.stages = Stages {
            source: meters.source.read(),
            cut: meters.cut.read(),
            hash: meters.hash.read(),
            compress: meters.compress.read(),
            send: meters.send.read(),
        };
        let stages = &self.stages;
        self.retries = [stages.source, stages.cut, stages.hash, stages.compress, stages.send]
            .iter()
            .map(|stage| stage.retries)
            .sum();
        self.own_reader = meters.own_reader.load(Ordering::Relaxed);
        self.bottleneck = self.find_bottleneck();
        self
    }

    pub(crate) fn stored_as(mut self, compression: Compression) -> Self {
        self.compression = compression;
        self
    }

    pub(crate) fn used_scratch(mut self, bytes_peak: u64) -> Self {
        self.scratch_bytes_peak = bytes_peak;
        self
    }

    /// The stage whose threads were busy for the largest part of the time.
    fn find_bottleneck(&self) -> String {
        #[expect(clippy::cast_precision_loss, reason = "a handful of threads")]
        let (packers, uploads) = (self.threads.0 as f64, self.threads.1 as f64);
        let stages = &self.stages;
        let packing = (stages.hash.busy_seconds + stages.compress.busy_seconds) / packers;
        let shares = [
            ("reading the source", stages.source.busy_seconds),
            ("cutting", stages.cut.busy_seconds),
            ("packing (hashing and compressing)", packing),
            ("sending", stages.send.busy_seconds / uploads),
        ];
        let busiest = shares.into_iter().max_by(|one, other| one.1.total_cmp(&other.1));
        busiest.map_or_else(String::new, |(name, _)| name.to_owned())
    }

    /// The summary for people: five or six lines, one more for an artifact, and one more for each kind of notice.
    #[must_use]
    pub fn summary(&self) -> String {
        let size = |bytes: u64| humansize::format_size(bytes, humansize::BINARY);
        let mut lines: Vec<_> = self.outputs.iter().flat_map(output_lines).collect();
        lines.push(format!(
            "bytes       {} of tar in, {} stored, {} sent",
            size(self.tar_bytes),
            size(self.stored_bytes),
            size(self.sent_bytes)
        ));
        #[expect(clippy::cast_precision_loss, reason = "a ratio for people")]
        let ratio = 100.0 * self.stored_bytes as f64 / self.tar_bytes.max(1) as f64;
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
        for (kind, count) in self.notices.counts() {
            let names: Vec<_> = self
                .notices
                .named()
                .iter()
                .filter(|notice| notice.kind == *kind)
                .take(3)
                .map(|notice| notice.path.as_str())
                .collect();
            let more = if *count > names.len() as u64 { ", …" } else { "" };
            lines.push(format!("{count} {} ({}{more})", notice_words(*kind), names.join(", ")));
        }
        lines.join("\n")
    }
}

/// An artifact is a file that goes where its user wants it; the others have their image where they are.
fn output_lines(output: &Committed) -> Vec<String> {
    let Some(bytes) = output.artifact_bytes else {
        return vec![format!("frozen      {}@{}", output.name, output.digest)];
    };
    let size = humansize::format_size(bytes, humansize::BINARY);
    let start = format!("start it anywhere: smolvm machine create --name NEW --from {}", output.name);
    let beside = output.launcher.as_ref().map_or_else(String::new, |path| format!(", and {}", path.display()));
    vec![format!("frozen      {} ({size}){beside}", output.name), format!("            {start}")]
}

fn notice_words(kind: NoticeKind) -> &'static str {
    match kind {
        NoticeKind::Changed => "changed while being read",
        NoticeKind::Shrank => "shrank while being read, filled up with zeros",
        NoticeKind::Grew => "grew while being read, cut at the first size",
        NoticeKind::Vanished => "vanished before being read",
        NoticeKind::Socket => "sockets left out",
        NoticeKind::Mount => "mounts left empty",
        NoticeKind::Output => "outputs of freezes left out",
    }
}

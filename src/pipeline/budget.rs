//! The memory and scratch space of a freeze, as a formula.
//!
//! Whoever waits for memory gets it, because what can't come back by itself is less than all of it. Of what is held
//! ([`Budget::held_bytes_max`]),
//! - the source and the cut have at most `source_bytes_max` under way: edges and jobs are counted in buffers;
//! - of all layers only the last one is incomplete, and waits for more input: it holds at most `hold_bytes_max`, or, once it
//!   streams, `gather_bytes_max` of output;
//! - tables of names that grow with the input take at most `table_bytes_max`, and make the two above smaller as they grow.
//!
//! Everything else belongs to complete layers, which are packed and sent whatever the source does. A test holds that the sum
//! leaves room for a buffer.

use crate::error::{Error, Result};
use crate::pipeline::memory::BUFFER_BYTES;
use crate::source::Survey;
use crate::stage::compress::{Method, encoder_bytes_max, stream_encoder_bytes_max};
use crate::stage::cut::LayerSize;

/// Bytes of one part of an upload: the least, and the most that is read from a file.
pub const PART_BYTES: u64 = 8 << 20;

/// One buffer, as the formula counts it.
const BUFFER: u64 = BUFFER_BYTES as u64;

/// Code, stacks, TLS, the runtime, the allocator's slack: what a freeze needs before it holds a byte.
const BASE_BYTES: u64 = 48 << 20;

/// What the allocator keeps of one worker's streaming compressors from the others: 20 GB in layers that stream, with two
/// workers, took 19 MiB more than the rest of the formula says.
const KEPT_BYTES: u64 = 28 << 20;

/// A machine of this many cores or more packs with this many workers: each holds a layer.
const WORKERS_MAX: usize = 16;

/// Buffers of overdraft beside the workers': the cut copies together what it passes on, a reader ends an entry.
const COPY_BUFFERS: u64 = 2;

/// What the source and the cut have under way at least: two jobs, one in the sender's hand, one on the edge, one being cut,
/// one that is copied into, and two to spare.
const SOURCE_BYTES_MIN: u64 = 8 * BUFFER;

/// With less than this, nobody could move.
const HELD_BYTES_MIN: u64 = 24 * BUFFER;

/// A layer larger than this is sent while it is made rather than gathered in scratch space.
const SCRATCH_LAYER_BYTES_MAX: u64 = 512 << 20;

/// Resident memory where nobody says how much, in bytes: 256 MiB for two cores, and for each further one the 64 MiB that a
/// layer may have, so that it packs one.
#[must_use]
pub fn default_memory_bytes(cores: usize) -> u64 {
    (256 << 20) + (64 << 20) * (cores.clamp(2, WORKERS_MAX) as u64 - 2)
}

/// What a freeze may use, worked out before it starts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct Budget {
    /// Threads that pack layers.
    pub workers: usize,
    /// Blobs that are sent at a time.
    pub uploads: usize,
    /// Bytes held in memory: layers before and after compression, and what is on its way to them.
    pub held_bytes_max: u64,
    /// Of these, what the source and the cut have under way.
    pub source_bytes_max: u64,
    /// What one layer holds before it has to be compressed as it streams.
    pub hold_bytes_max: u64,
    /// A streaming layer's output that stays in memory.
    pub gather_bytes_max: u64,
    /// Tables of names.
    pub table_bytes_max: u64,
    /// Threads of the compressor's own for a streaming layer: all cores for an only layer, one where usual layers are longer
    /// than `held_bytes_max`, else none: its worker compresses it, and the others are busy with layers of their own.
    pub stream_threads: u32,
    /// Bytes of scratch files.
    pub scratch_bytes_max: u64,
    /// Whether layers may be too large to be held, and are read back from a file.
    pub streams: bool,
    /// Whether complete layers that wait for slow uploads are put into files.
    pub puts_aside: bool,
    /// Bytes of scratch files up to which layers are put aside.
    pub aside_bytes_max: u64,
    /// What reading back layers that were put aside takes at a time.
    pub reread_bytes_max: u64,
    /// All compressors' own memory.
    pub encoders_bytes_max: u64,
}

impl Budget {
    /// A freeze's most resident memory: base + held + compressors + for each worker, source and cut one buffer of overdraft;
    /// and if layers stream, for each upload a part read back from a file, and with compressor threads for each worker but one
    /// what the allocator keeps.
    #[must_use]
    pub fn memory_bytes_max(&self) -> u64 {
        let overdraft = (self.workers as u64 + COPY_BUFFERS) * BUFFER;
        let parts = if self.streams { self.uploads as u64 * PART_BYTES } else { 0 };
        let kept = if self.streams && self.stream_threads > 0 { (self.workers as u64 - 1) * KEPT_BYTES } else { 0 };
        BASE_BYTES + self.held_bytes_max + self.encoders_bytes_max + overdraft + parts + kept
    }

    /// Divides `wish.memory_bytes` for a source as surveyed. Where all layers can be held, none is set aside for
    /// streaming.
    ///
    /// # Errors
    /// [`crate::error::Kind::Usage`] where the memory is too little to move at all.
    pub fn plan(wish: &Wish, survey: &Survey, layer_size: LayerSize) -> Result<Self> {
        let largest = largest_layer_bytes(survey, layer_size);
        let cores = wish.cores.clamp(1, WORKERS_MAX);
        let (workers, threads) = if layer_size == LayerSize::One { (1, cores) } else { (cores, 0) };
        let shape = |streams: bool, threads: usize| Self {
            workers,
            uploads: wish.uploads.max(1),
            stream_threads: if streams { u32::try_from(threads).unwrap_or(1) } else { 0 },
            streams,
            ..Self::default()
        };
        let mut budget = shape(false, 0).divide(wish);
        // A layer holds a little more than its bytes.
        if budget.as_ref().map_or(true, |held| largest > held.hold_bytes_max / 8 * 7) {
            budget = shape(true, threads).divide(wish);
            // Where usual layers are longer than all of it, a second one never comes beside the first: what one worker does
            // then goes to two threads.
            let usual = layer_size.layer_bytes_max().unwrap_or(0);
            if budget.as_ref().is_ok_and(|streams| usual > streams.held_bytes_max) {
                budget = shape(true, 1).divide(wish).or(budget);
            }
        }
        let budget = budget?;
        let puts_aside = wish.registries > 0;
        let layers = if budget.streams || puts_aside { (budget.workers + budget.uploads) as u64 } else { 0 };
        let needed = layers * largest.min(SCRATCH_LAYER_BYTES_MAX);
        let scratch_bytes_max = wish.scratch_bytes.unwrap_or(needed);
        let parts = if budget.streams { 0 } else { (budget.uploads * (wish.registries + wish.layouts)) as u64 };
        Ok(Self {
            scratch_bytes_max,
            puts_aside,
            aside_bytes_max: if budget.streams { scratch_bytes_max / 2 } else { scratch_bytes_max },
            reread_bytes_max: parts * largest.min(PART_BYTES),
            ..budget
        })
    }

    /// Gives what the rest leaves to layers; with few megabytes, to fewer at a time.
    fn divide(mut self, wish: &Wish) -> Result<Self> {
        loop {
            let encoder = if self.streams {
                stream_encoder_bytes_max(wish.method, self.stream_threads)
            } else {
                encoder_bytes_max(wish.method)
            };
            self.encoders_bytes_max = self.workers as u64 * encoder;
            let fixed = self.memory_bytes_max();
            if fixed + HELD_BYTES_MIN <= wish.memory_bytes {
                self.held_bytes_max = wish.memory_bytes - fixed;
                self.share();
                return Ok(self);
            }
            match (self.workers, self.stream_threads, self.uploads) {
                (1, 0, 1) => return Err(too_little(wish.memory_bytes, fixed + HELD_BYTES_MIN)),
                (1, 0, _) => self.uploads -= 1,
                (1, ..) => self.stream_threads -= 1,
                _ => self.workers -= 1,
            }
        }
    }

    /// Who may have how much of what is held.
    fn share(&mut self) {
        self.source_bytes_max = (self.held_bytes_max / 8).max(SOURCE_BYTES_MIN);
        let layers = self.held_bytes_max - self.source_bytes_max - 2 * BUFFER;
        self.hold_bytes_max = layers * 9 / 16;
        self.gather_bytes_max = layers * 3 / 16 / self.workers as u64;
        // As much as leaves room for the others, whose shares shrink as tables grow.
        let (held, fixed) = (u128::from(self.held_bytes_max), u128::from(self.held_bytes_max - layers));
        let others = u128::from(self.hold_bytes_max + self.gather_bytes_max);
        let table = held.saturating_sub((fixed * held).div_ceil(held - others));
        self.table_bytes_max = u64::try_from(table).unwrap_or(0);
    }

    /// Buffers that wait between the source and the cut.
    #[must_use]
    pub fn edge_buffers(&self) -> usize {
        buffers(self.source_bytes_max / 3).max(1)
    }

    /// Buffers that a source may have taken and not yet handed on.
    #[must_use]
    pub fn source_buffers(&self) -> usize {
        buffers(self.source_bytes_max).saturating_sub(self.edge_buffers() + 4).max(2)
    }

    /// How many layers of the size that `layer_size` aims at can be packed at once.
    #[must_use]
    pub fn packers_at_once(&self, layer_size: LayerSize) -> usize {
        let usual = layer_size.layer_bytes_max().map_or(1, |most| (most / 2).max(1));
        let held = usize::try_from((self.held_bytes_max - self.source_bytes_max) / usual).unwrap_or(usize::MAX);
        if self.streams { self.workers } else { self.workers.min(held).max(1) }
    }
}

fn buffers(bytes: u64) -> usize {
    usize::try_from(bytes / BUFFER).unwrap_or(usize::MAX)
}

fn too_little(memory_bytes: u64, needed: u64) -> Error {
    let reason = format!("a freeze like this needs {} MiB", needed.div_ceil(1 << 20));
    Error::usage("reading --memory", format_args!("{} MiB", memory_bytes >> 20), reason)
}

fn largest_layer_bytes(survey: &Survey, layer_size: LayerSize) -> u64 {
    let whole = survey.tar_bytes.unwrap_or(u64::MAX);
    match layer_size.layer_bytes_max() {
        None => whole,
        Some(most) => most.max(survey.largest_entry_bytes).min(whole),
    }
}

/// What the user and the machine want of a budget.
#[derive(Debug, Clone, Copy)]
pub struct Wish {
    /// `--memory`: most resident bytes.
    pub memory_bytes: u64,
    /// `--scratch`: bytes of scratch files; computed where not given.
    pub scratch_bytes: Option<u64>,
    /// `--uploads`.
    pub uploads: usize,
    /// Outputs that are registries: layers that wait for a slow one are put into scratch space.
    pub registries: usize,
    /// Outputs that are layouts.
    pub layouts: usize,
    /// Processor cores.
    pub cores: usize,
    /// The compression of layers.
    pub method: Method,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::Compression;

    fn wish(memory_bytes: u64) -> Wish {
        let method = Method::new(Compression::Zstd, None).unwrap();
        Wish { memory_bytes, scratch_bytes: None, uploads: 4, registries: 0, layouts: 0, cores: 2, method }
    }

    fn survey(tar_bytes: u64) -> Survey {
        Survey { tar_bytes: Some(tar_bytes), ..Survey::default() }
    }

    #[test]
    fn the_formula_never_exceeds_what_was_asked_for() {
        for mebibytes in [96, 128, 256, 1024] {
            for tar_bytes in [1 << 20, 1 << 30, 50 << 30] {
                for layer_size in [LayerSize::for_tar(tar_bytes), LayerSize::One] {
                    let budget = Budget::plan(&wish(mebibytes << 20), &survey(tar_bytes), layer_size).unwrap();
                    assert!(budget.memory_bytes_max() <= mebibytes << 20, "{mebibytes} MiB, {tar_bytes}: {budget:?}");
                }
            }
        }
    }

    #[test]
    fn whoever_waits_for_memory_gets_it() {
        for (mebibytes, cores) in
            (80..2000).step_by(7).flat_map(|mebibytes| [1, 2, 5, 64].map(|cores| (mebibytes, cores)))
        {
            let wish = Wish { cores, ..wish(mebibytes << 20) };
            let Ok(budget) = Budget::plan(&wish, &survey(50 << 30), LayerSize::for_tar(50 << 30)) else { continue };
            let held = budget.held_bytes_max;
            for tables in [0, budget.table_bytes_max / 2, budget.table_bytes_max] {
                let layer = (budget.hold_bytes_max + budget.gather_bytes_max) * (held - tables) / held;
                let under_way = budget.source_bytes_max + layer + tables;
                assert!(under_way + BUFFER <= held, "{mebibytes} MiB, {cores} cores: {budget:?}");
            }
            let source = (budget.edge_buffers() + budget.source_buffers() + 2) as u64 * BUFFER;
            assert!(source <= budget.source_bytes_max, "{mebibytes} MiB, {cores} cores: {budget:?}");
        }
    }

    #[test]
    fn many_cores_are_not_idle_by_default() {
        for cores in [1, 2, 4, 16, 64] {
            let wish = Wish { cores, ..wish(default_memory_bytes(cores)) };
            let layer_size = LayerSize::for_tar(2 << 30);
            let budget = Budget::plan(&wish, &survey(2 << 30), layer_size).unwrap();
            assert_eq!(budget.packers_at_once(layer_size), cores.min(16), "{budget:?}");
        }
    }

    #[test]
    fn small_machines_need_no_scratch() {
        let plan =
            |tar_bytes| Budget::plan(&wish(256 << 20), &survey(tar_bytes), LayerSize::for_tar(tar_bytes)).unwrap();
        assert_eq!(plan(2_300 << 20).scratch_bytes_max, 0);
        assert!(plan(20 << 30).scratch_bytes_max > 0);
        let far = |tar_bytes| {
            let wish = Wish { registries: 2, layouts: 1, ..wish(256 << 20) };
            Budget::plan(&wish, &survey(tar_bytes), LayerSize::for_tar(tar_bytes)).unwrap()
        };
        let (scratch_bytes_max, reread_bytes_max) = (6 * (64 << 20), 4 * 3 * PART_BYTES);
        let aside = Budget { puts_aside: true, aside_bytes_max: scratch_bytes_max, ..plan(2_300 << 20) };
        assert_eq!(far(2_300 << 20), Budget { scratch_bytes_max, reread_bytes_max, ..aside });
        let (large, scratch_bytes_max) = (far(20 << 30), plan(20 << 30).scratch_bytes_max);
        assert_eq!((large.aside_bytes_max, large.reread_bytes_max), (scratch_bytes_max / 2, 0));
    }

    #[test]
    fn compressor_threads_are_for_an_only_layer_and_where_usual_ones_stream() {
        let threads = |tar_bytes, largest_entry_bytes, layer_size| {
            let survey = Survey { largest_entry_bytes, ..survey(tar_bytes) };
            let budget = Budget::plan(&wish(256 << 20), &survey, layer_size).unwrap();
            assert!(budget.streams && budget.memory_bytes_max() <= 256 << 20, "{budget:?}");
            budget.stream_threads
        };
        let usual = |tar_bytes, largest| threads(tar_bytes, largest, LayerSize::for_tar(tar_bytes));
        assert_eq!((usual(2 << 30, 200 << 20), usual(2 << 30, 1 << 30)), (0, 0), "an entry streams");
        assert_eq!((usual(20 << 30, 1), usual(20 << 30, 1 << 30)), (1, 1), "usual layers stream");
        assert_eq!(threads(2 << 30, 1, LayerSize::One), 2);
    }

    #[test]
    fn too_little_memory_says_how_much_is_needed() {
        let error = Budget::plan(&wish(8 << 20), &survey(1), LayerSize::One).unwrap_err().to_string();
        assert!(error.contains("needs") && error.contains("MiB"), "{error}");
    }
}

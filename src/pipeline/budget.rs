//! The memory and scratch space of a freeze, as a formula.

use crate::error::{Error, Result};
use crate::pipeline::memory::BUFFER_BYTES;
use crate::source::Survey;
use crate::stage::compress::{Method, encoder_bytes_max, stream_encoder_bytes_max};
use crate::stage::cut::LayerSize;

/// Bytes of one part of an upload: the least, and the most that is read from a file.
pub const PART_BYTES: u64 = 8 << 20;

/// Code, stacks, TLS, the runtime, the allocator's slack: what a freeze needs before it holds a byte.
const BASE_BYTES: u64 = 48 << 20;

/// What the allocator keeps of one worker's streaming compressors from the others: 20 GB in layers that stream, with two
/// workers, took 19 MiB more than the rest of the formula says.
const KEPT_BYTES: u64 = 28 << 20;

/// A machine of this many cores or more packs with this many workers: each holds a layer.
const WORKERS_MAX: usize = 16;

/// Buffers of overdraft beside the workers': source and cut each may copy together what they pass on.
const COPY_BUFFERS: u64 = 2;

/// With less than this, layers can't be held at all.
const HELD_BYTES_MIN: u64 = 16 * BUFFER_BYTES as u64;

/// What a freeze may use, worked out before it starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct Budget {
    /// Threads that pack layers.
    pub workers: usize,
    /// Blobs that are sent at a time.
    pub uploads: usize,
    /// Bytes of layers held in memory, before and after compression together.
    pub held_bytes_max: u64,
    /// Bytes of one layer that are held before it has to be compressed as it streams.
    pub hold_bytes_max: u64,
    /// Bytes of a streaming layer's output that stay in memory.
    pub gather_bytes_max: u64,
    /// Threads of the compressor's own for a streaming layer: all cores for an only layer, one where usual layers are longer
    /// than `held_bytes_max`, else none: its worker compresses it, and the others are busy with layers of their own.
    pub stream_threads: u32,
    /// Bytes of scratch files.
    pub scratch_bytes_max: u64,
    /// Whether layers may be too large to be held, and are read back from a file.
    pub streams: bool,
    /// Whether layers are put aside while uploads are slow.
    pub puts_aside: bool,
    /// Bytes of scratch files for what was in memory of them. Where layers stream, the rest is for those.
    pub aside_bytes_max: u64,
    /// Bytes of `held_bytes_max` that reading them back takes. Where layers stream, they are set aside already.
    pub reread_bytes_max: u64,
    /// Bytes of all compressors.
    pub encoders_bytes_max: u64,
}

impl Budget {
    /// A freeze's most resident memory: base + held + compressors + for each worker, source and cut one buffer of overdraft;
    /// and if layers stream, for each upload a part read back from a file, and with compressor threads for each worker but one
    /// what the allocator keeps.
    #[must_use]
    pub fn memory_bytes_max(&self) -> u64 {
        let overdraft = (self.workers as u64 + COPY_BUFFERS) * BUFFER_BYTES as u64;
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
        let helped = if layer_size == LayerSize::One { Helped::OnlyLayer } else { Helped::None };
        let budget = match Self::divide(wish, helped, 0) {
            Ok(budget) if largest <= budget.hold_bytes_max => budget,
            _ => Self::stream(wish, helped, layer_size, largest.min(SCRATCH_LAYER_BYTES_MAX))?,
        };
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

    /// For layers of which some are longer than may be held. Where usual ones are longer than all memory for layers, a second
    /// one never comes beside the first: what one worker does then goes to two threads.
    fn stream(wish: &Wish, helped: Helped, layer_size: LayerSize, streaming_bytes: u64) -> Result<Self> {
        let budget = Self::divide(wish, helped, streaming_bytes)?;
        let usual = layer_size.layer_bytes_max().unwrap_or(0);
        if usual <= budget.held_bytes_max {
            return Ok(budget);
        }
        Ok(Self::divide(wish, Helped::LongLayers, streaming_bytes).unwrap_or(budget))
    }

    /// `streaming_bytes` is the size of layers that have to stream; 0 for none.
    fn divide(wish: &Wish, helped: Helped, streaming_bytes: u64) -> Result<Self> {
        let (mut workers, mut uploads) = (wish.cores.clamp(1, WORKERS_MAX), wish.uploads.max(1));
        loop {
            let stream_threads = match helped {
                Helped::OnlyLayer => u32::try_from(workers).unwrap_or(1),
                Helped::LongLayers => 1,
                Helped::None => 0,
            };
            let encoders_bytes_max = match streaming_bytes {
                0 => workers as u64 * encoder_bytes_max(wish.method),
                _ if helped == Helped::OnlyLayer => stream_encoder_bytes_max(wish.method, stream_threads),
                _ => workers as u64 * stream_encoder_bytes_max(wish.method, stream_threads),
            };
            let mut budget = Self {
                workers,
                uploads,
                held_bytes_max: 0,
                hold_bytes_max: 0,
                gather_bytes_max: 0,
                stream_threads,
                scratch_bytes_max: 0,
                streams: streaming_bytes > 0,
                puts_aside: false,
                aside_bytes_max: 0,
                reread_bytes_max: 0,
                encoders_bytes_max,
            };
            let fixed = budget.memory_bytes_max();
            if fixed + HELD_BYTES_MIN <= wish.memory_bytes {
                budget.held_bytes_max = wish.memory_bytes - fixed;
                // One layer coming in, and for each worker the output of one that streams, leave room to move.
                budget.hold_bytes_max = budget.held_bytes_max * 11 / 20;
                budget.gather_bytes_max = budget.held_bytes_max / (5 * workers as u64);
                return Ok(budget);
            }
            // With few megabytes, fewer layers at a time.
            match (workers, uploads) {
                (1, 1) => return Err(too_little(wish.memory_bytes, fixed + HELD_BYTES_MIN)),
                (1, _) => uploads -= 1,
                (_, _) => workers -= 1,
            }
        }
    }
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

/// A layer larger than this is sent while it is made rather than gathered in scratch space.
const SCRATCH_LAYER_BYTES_MAX: u64 = 512 << 20;

/// Which layers have compressor threads beside their worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Helped {
    OnlyLayer,
    /// All that stream: usual layers are longer than all memory for layers.
    LongLayers,
    /// None: few layers stream, and other workers have others meanwhile.
    None,
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
                let budget =
                    Budget::plan(&wish(mebibytes << 20), &survey(tar_bytes), LayerSize::for_tar(tar_bytes)).unwrap();
                assert!(budget.memory_bytes_max() <= mebibytes << 20, "{mebibytes} MiB, {tar_bytes}: {budget:?}");
                assert!(
                    budget.hold_bytes_max + budget.workers as u64 * budget.gather_bytes_max < budget.held_bytes_max
                );
            }
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

//! The whole pipe, planning included, from memory to memory: a tar on /dev/shm becomes an image layout there, the way
//! any user's does.
//!
//! `cargo bench --bench pipe`; `-- --test` runs each once.

use std::path::Path;
use std::sync::Arc;

use criterion::{BatchSize, BenchmarkId, Criterion, Throughput};
use smolfreeze::error::Result;
use smolfreeze::freeze::freeze;
use smolfreeze::oci::Compression;
use smolfreeze::plan::{FreezeOptions, OutputSpec, Plan, SourceSpec};
use smolfreeze::progress::Silent;
use smolfreeze::report::Snapshot;
use smolfreeze::stop::Stop;
use tempfile::TempDir;
use tokio::runtime::Runtime;

mod input;

/// Runs of a bench; each takes a quarter of a second.
const SAMPLES: usize = 10;

fn main() {
    let mut criterion = Criterion::default().sample_size(SAMPLES).configure_from_args();
    let runtime = Runtime::new().expect("a runtime");
    let tar = input::tar();
    let folder = in_memory();
    let path = folder.path().join("input.tar");
    std::fs::write(&path, &tar).expect("room in memory");

    let mut group = criterion.benchmark_group("pipe");
    group.throughput(Throughput::Bytes(tar.len() as u64));
    drop(tar);
    for (name, compression) in [("zstd", Compression::Zstd), ("gzip", Compression::Gzip), ("none", Compression::None)] {
        group.bench_function(BenchmarkId::from_parameter(name), |bencher| {
            // The layout goes back with the result, so that nobody waits for its removal.
            let run = |layout: TempDir| {
                let frozen = runtime.block_on(tar_to_layout(&path, layout.path(), compression)).expect("an image");
                (frozen, layout)
            };
            bencher.iter_batched(in_memory, run, BatchSize::PerIteration);
        });
    }
    group.finish();
    criterion.final_summary();
}

async fn tar_to_layout(tar: &Path, layout: &Path, compression: Compression) -> Result<Snapshot> {
    let output = OutputSpec::Layout { folder: layout.join("image"), tag: "bench".to_owned() };
    let options = FreezeOptions {
        compression: Some(compression),
        ..FreezeOptions::new(SourceSpec::Archive(tar.to_owned()), vec![output])
    };
    let stop = Stop::new();
    let plan = Plan::make(options, &stop).await?;
    freeze(plan, Arc::new(Silent), stop).await
}

fn in_memory() -> TempDir {
    tempfile::tempdir_in("/dev/shm").expect("a folder in memory")
}

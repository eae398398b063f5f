//! Every stage alone, on one core, beside the limit it should come near: a copy in memory, SHA-256, the compressor.
//!
//! `cargo bench --bench stages`; `-- --test` runs each once.

use std::hint::black_box;

use bytes::Bytes;
use criterion::{BenchmarkId, Criterion, Throughput};
use sha2::{Digest as _, Sha256};
use smolfreeze::error::Result;
use smolfreeze::oci::Compression;
use smolfreeze::pipeline::memory::{BUFFER_BYTES, Memory, Slice};
use smolfreeze::stage::compress::{Idle, Method};
use smolfreeze::stage::cut::{CutOptions, Cutter, LayerSize};
use smolfreeze::stage::digest::DiffIdHasher;
use smolfreeze::stage::scan::Scanner;
use smolfreeze::stop::Stop;

mod input;

/// Bytes of a layer, as a plan chooses them.
const LAYER_BYTES: usize = 32 << 20;
/// Runs of a bench; each takes tens of milliseconds.
const SAMPLES: usize = 20;

fn main() {
    let mut criterion = Criterion::default().sample_size(SAMPLES).configure_from_args();
    let tar = Bytes::from(input::tar());
    limits(&mut criterion, &tar);
    cut(&mut criterion, &tar);
    digest(&mut criterion, &tar);
    layer(&mut criterion, &tar);
    criterion.final_summary();
}

/// The tar in the pieces that travel on edges.
fn pieces(tar: &Bytes) -> Vec<Bytes> {
    (0..tar.len()).step_by(BUFFER_BYTES).map(|at| tar.slice(at..tar.len().min(at + BUFFER_BYTES))).collect()
}

/// What no stage can be faster than.
fn limits(criterion: &mut Criterion, tar: &Bytes) {
    let mut group = criterion.benchmark_group("limit");
    group.throughput(Throughput::Bytes(tar.len() as u64));
    let mut copy = vec![0; tar.len()];
    group.bench_function("copy", |bencher| bencher.iter(|| black_box(&mut copy).copy_from_slice(black_box(tar))));
    group.bench_function("sha256", |bencher| bencher.iter(|| Sha256::digest(black_box(tar))));
    let layer = tar.slice(..LAYER_BYTES);
    group.throughput(Throughput::Bytes(layer.len() as u64));
    let mut packed = Vec::with_capacity(zstd::zstd_safe::compress_bound(layer.len()));
    group.bench_function("zstd-1", |bencher| {
        let mut compressor = zstd::bulk::Compressor::new(1).expect("a compressor");
        bencher.iter(|| {
            packed.clear();
            compressor.compress_to_buffer(black_box(&layer[..]), &mut packed).expect("room for it")
        });
    });
    group.finish();
}

fn cut(criterion: &mut Criterion, tar: &Bytes) {
    let mut group = criterion.benchmark_group("cut");
    group.throughput(Throughput::Bytes(tar.len() as u64));
    let pieces = pieces(tar);
    let options = CutOptions { layer_size: LayerSize::for_tar(tar.len() as u64), ..CutOptions::default() };
    group.bench_function("layers", |bencher| {
        bencher.iter(|| {
            let mut cutter = Cutter::new(options.clone());
            let mut emit = |piece| {
                black_box(piece);
                Ok(())
            };
            pieces.iter().try_for_each(|piece| cutter.push(piece, &mut emit)).expect("a good tar");
            cutter.finish(&mut emit).expect("a whole tar")
        });
    });
    group.bench_function("scan", |bencher| {
        bencher.iter(|| {
            let mut scanner = Scanner::default();
            pieces.iter().try_for_each(|piece| scanner.push(piece)).expect("a good tar");
            scanner.finish().expect("a whole tar")
        });
    });
    group.finish();
}

fn digest(criterion: &mut Criterion, tar: &Bytes) {
    let mut group = criterion.benchmark_group("digest");
    group.throughput(Throughput::Bytes(tar.len() as u64));
    let pieces = pieces(tar);
    group.bench_function("diff_id", |bencher| {
        bencher.iter(|| {
            let mut hasher = DiffIdHasher::default();
            for piece in &pieces {
                hasher.update(black_box(piece));
            }
            hasher.finish()
        });
    });
    group.finish();
}

/// Compressing one layer, into buffers that go home at once.
fn layer(criterion: &mut Criterion, tar: &Bytes) {
    let mut group = criterion.benchmark_group("layer");
    group.throughput(Throughput::Bytes(LAYER_BYTES as u64));
    let pieces: Vec<_> = pieces(&tar.slice(..LAYER_BYTES)).into_iter().map(Slice::from).collect();
    let memory = Memory::new(4 * BUFFER_BYTES as u64, Stop::new());
    for (name, compression) in [("zstd", Compression::Zstd), ("gzip", Compression::Gzip), ("none", Compression::None)] {
        let method = Method::new(compression, None).expect("a default level");
        group.bench_with_input(BenchmarkId::from_parameter(name), &method, |bencher, method| {
            bencher.iter(|| compress(*method, &memory, &pieces).expect("a layer"));
        });
    }
    group.finish();
}

fn compress(method: Method, memory: &Memory, pieces: &[Slice]) -> Result<u64> {
    let mut stored = 0;
    let mut emit = |bytes: Slice| {
        stored += black_box(bytes).len() as u64;
        Ok(())
    };
    let mut encoder = Idle::new(method, 1)?.begin(memory);
    pieces.iter().try_for_each(|piece| encoder.write(piece, &mut emit))?;
    encoder.finish(&mut emit)?;
    Ok(stored)
}

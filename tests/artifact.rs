//! The artifact sink against smolvm's own reader: what `smolvm_pack` checks and extracts is what was put in.

#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]

#[path = "support/packed.rs"]
mod packed;

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use smolfreeze::error::Kind;
use smolfreeze::oci::Compression;
use smolfreeze::pipeline::gather::{Body, Layer, LiveEnd, LiveLayer, LivePiece};
use smolfreeze::sink::artifact::{ArtifactOptions, ArtifactSink, Lookup, MachineSettings};
use smolfreeze::sink::{Image, Put};
use tempfile::TempDir;
use tokio::sync::mpsc;

use packed::{image, layer};

/// A folder with room for an artifact, and an agent to put into it.
struct Bench {
    folder: TempDir,
    options: ArtifactOptions,
}

impl Bench {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let agent = folder.path().join("agent");
        fs::create_dir_all(agent.join("sbin")).unwrap();
        fs::write(agent.join("sbin/init"), "the agent").unwrap();
        fs::create_dir(folder.path().join("out")).unwrap();
        let lookup = Lookup { explicit: Some(agent), ..Lookup::default() };
        Self { options: ArtifactOptions::new(lookup.find().unwrap()), folder }
    }

    fn target(&self) -> PathBuf {
        self.folder.path().join("out/a.smolmachine")
    }

    async fn sink(&self) -> ArtifactSink {
        ArtifactSink::create(&self.target(), self.options.clone()).await.unwrap()
    }

    fn left(&self) -> Vec<String> {
        let entries = fs::read_dir(self.folder.path().join("out")).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    /// What smolvm makes of the artifact.
    fn extract(&self) -> PathBuf {
        let footer = smolvm_pack::read_footer_from_sidecar(self.target()).unwrap();
        assert!(smolvm_pack::verify_sidecar_checksum(self.target(), &footer).unwrap());
        let extracted = self.folder.path().join("extracted");
        smolvm_pack::extract::extract_sidecar(&self.target(), &extracted, &footer, true, false).unwrap();
        extracted
    }
}

/// A layer's tar after the extraction. (Whether smolvm unpacks it there or in the guest depends on who runs it.)
fn layer_in(extracted: &Path, layer: &Layer) -> Vec<u8> {
    fs::read(extracted.join("layers").join(layer.diff_id.hex()).with_extension("tar")).unwrap()
}

/// A tar of plain files; names that end in `/` are folders.
fn tar_of(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for (name, content) in files {
        let mut header = tar::Header::new_gnu();
        let folder = name.ends_with('/');
        header.set_entry_type(if folder { tar::EntryType::Directory } else { tar::EntryType::Regular });
        header.set_size(content.len() as u64);
        header.set_mode(if folder { 0o755 } else { 0o640 });
        tar.append_data(&mut header, name, *content).unwrap();
    }
    tar.into_inner().unwrap()
}

fn files_of(tar: &[u8]) -> Vec<(String, String)> {
    let mut archive = tar::Archive::new(tar);
    let entries = archive.entries().unwrap().map(|entry| {
        let mut entry = entry.unwrap();
        let mut content = vec![0; usize::try_from(entry.size()).unwrap()];
        entry.read_exact(&mut content).unwrap();
        (String::from_utf8(entry.path_bytes().into_owned()).unwrap(), String::from_utf8(content).unwrap())
    });
    entries.collect()
}

fn owned((name, content): (&str, &str)) -> (String, String) {
    (name.to_owned(), content.to_owned())
}

/// Bytes that no compression makes smaller, different for each seed.
fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed | 1;
    let next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        state.to_be_bytes()[0]
    };
    std::iter::repeat_with(next).take(length).collect()
}

fn run() -> serde_json::Value {
    serde_json::json!({
        "User": "1000:1000", "WorkingDir": "/home/worker", "Env": ["A=1", "B=two words"],
        "Entrypoint": ["/bin/sh", "-c"], "Cmd": ["sleep 1"],
    })
}

fn settings() -> MachineSettings {
    MachineSettings {
        cpus: 3,
        memory_mib: 1024,
        network: true,
        smolvm_version: Some("1.32.2".to_owned()),
        ..MachineSettings::new("registry.example/a:latest")
    }
}

fn three_layers() -> Vec<Arc<Layer>> {
    let first = tar_of(&[("etc/", b""), ("etc/name", b"first"), ("large", &noise(1, 1_500_000))]);
    let second = tar_of(&[("etc/", b""), ("etc/name", b"second")]);
    let third = tar_of(&[("usr/", b""), ("usr/file", &noise(2, 300_000))]);
    let stored = [Compression::Zstd, Compression::Gzip, Compression::None];
    let tars = [first, second, third];
    tars.iter().zip(stored).enumerate().map(|(index, (tar, stored))| layer(index, tar, stored)).collect()
}

#[tokio::test]
async fn what_smolvm_extracts_is_what_was_put() {
    let bench = Bench::new();
    let sink = bench.sink().await;
    let layers = three_layers();
    for layer in layers.iter().rev() {
        assert!(matches!(sink.put(layer).await.unwrap(), Put::Sent { .. }));
    }
    assert_eq!(sink.put(&layers[0]).await.unwrap(), Put::Present);
    let seeds =
        [[("workspace/", &b""[..]), ("workspace/notes", b"one")], [("workspace/", b""), ("workspace/more", b"two")]];
    let seeds = seeds.map(|files| tar_of(&files));
    let workspace = [Compression::Zstd, Compression::Gzip].map(|stored| {
        let index = usize::from(stored == Compression::Gzip);
        layer(3 + index, &seeds[index], stored)
    });
    for layer in &workspace {
        sink.put_workspace(layer).await.unwrap();
    }
    assert_eq!(sink.put_workspace(&workspace[0]).await.unwrap(), Put::Present);
    let image = image(&[&layers[..], &workspace].concat(), &run());
    let done = sink.commit(&image, &settings()).await.unwrap();
    assert_eq!((done.name, done.digest), (bench.target().display().to_string(), image.manifest.0.digest));
    assert_eq!(bench.left(), ["a.smolmachine"]);

    let extracted = bench.extract();
    for layer in &layers {
        assert_eq!(packed::sha256(&layer_in(&extracted, layer)), layer.diff_id.to_string());
    }
    let seed = fs::read(extracted.join("layers/workspace-seed/workspace.tar")).unwrap();
    assert_eq!(files_of(&seed), [("./", ""), ("./notes", "one"), ("./more", "two")].map(owned));
    assert_eq!(fs::read(extracted.join("agent-rootfs/sbin/init")).unwrap(), b"the agent");
    let order: Vec<String> = layers.iter().map(|layer| layer.diff_id.hex()).collect();
    assert_eq!(fs::read_to_string(extracted.join("layers/layer-order")).unwrap(), order.join("\n"));
}

#[tokio::test]
async fn the_manifest_says_what_the_image_and_the_machine_are() {
    let bench = Bench::new();
    let sink = bench.sink().await;
    let layers = three_layers();
    for layer in &layers {
        sink.put(layer).await.unwrap();
    }
    sink.commit(&image(&layers, &run()), &settings()).await.unwrap();
    let manifest = smolvm_pack::read_manifest_from_sidecar(bench.target()).unwrap();
    assert_eq!(manifest.image, "registry.example/a:latest");
    assert_eq!(manifest.platform, "linux/amd64");
    assert_eq!((manifest.cpus, manifest.mem, manifest.network), (3, 1024, true));
    assert_eq!(manifest.env, ["A=1", "B=two words"]);
    assert_eq!((manifest.entrypoint, manifest.cmd), (vec!["/bin/sh".into(), "-c".into()], vec!["sleep 1".to_owned()]));
    assert_eq!(manifest.user.as_deref(), Some("1000:1000"));
    assert_eq!(manifest.workdir.as_deref(), Some("/home/worker"));
    assert_eq!(manifest.smolvm_version, "1.32.2");
    assert_eq!(manifest.image_size, layers.iter().map(|layer| layer.tar_bytes).sum::<u64>());
    assert!(manifest.assets.workspace_seed.is_none());
}

#[tokio::test]
async fn puts_at_once_do_not_mix() {
    let bench = Bench::new();
    let sink = Arc::new(bench.sink().await);
    let layers: Vec<_> = (0..30)
        .map(|index| layer(index, &tar_of(&[("f", &noise(index as u64, 250_000))]), Compression::Zstd))
        .collect();
    let mut puts = tokio::task::JoinSet::new();
    for layer in layers.clone() {
        let sink = Arc::clone(&sink);
        puts.spawn(async move { sink.put(&layer).await });
    }
    while let Some(put) = puts.join_next().await {
        put.unwrap().unwrap();
    }
    let sink = Arc::into_inner(sink).unwrap();
    sink.commit(&image(&layers, &run()), &settings()).await.unwrap();
    let extracted = bench.extract();
    for layer in &layers {
        assert_eq!(packed::sha256(&layer_in(&extracted, layer)), layer.diff_id.to_string());
    }
}

#[tokio::test]
async fn a_layer_that_is_twice_in_the_image_is_listed_where_it_is_last() {
    let bench = Bench::new();
    let sink = bench.sink().await;
    let [first, second, _] = &three_layers()[..] else { unreachable!() };
    let layers = [first.clone(), second.clone(), first.clone()];
    for layer in &layers {
        sink.put(layer).await.unwrap();
    }
    sink.commit(&image(&layers, &run()), &settings()).await.unwrap();
    let manifest = smolvm_pack::read_manifest_from_sidecar(bench.target()).unwrap();
    let listed: Vec<_> = manifest.assets.layers.iter().map(|layer| layer.digest.clone()).collect();
    assert_eq!(listed, [second.diff_id.to_string(), first.diff_id.to_string()]);
}

async fn commit_fails(bench: &Bench, sink: ArtifactSink, image: &Image) -> String {
    fs::write(bench.target(), "the last good one").unwrap();
    let error = sink.commit(image, &settings()).await.unwrap_err();
    assert_eq!(fs::read(bench.target()).unwrap(), b"the last good one");
    assert_eq!(bench.left(), ["a.smolmachine"]);
    error.to_string()
}

#[tokio::test]
async fn a_missing_layer_leaves_what_was_there() {
    let bench = Bench::new();
    let sink = bench.sink().await;
    let layers = three_layers();
    sink.put(&layers[0]).await.unwrap();
    let error = commit_fails(&bench, sink, &image(&layers, &run())).await;
    assert!(error.contains(&layers[1].diff_id.to_string()), "{error}");
}

#[tokio::test]
async fn a_layer_that_is_not_what_its_name_says_breaks_the_artifact() {
    let bench = Bench::new();
    let tar = tar_of(&[("f", &noise(3, 400_000))]);
    for compression in [Compression::Zstd, Compression::Gzip, Compression::None] {
        let whole = layer(0, &tar, compression);
        let body = whole.body.slice(0, whole.body.len() - 1000).await.unwrap();
        let (diff_id, tar_bytes, descriptor) = (whole.diff_id, whole.tar_bytes, whole.descriptor.clone());
        let short = Arc::new(Layer {
            index: 0,
            diff_id,
            tar_bytes,
            descriptor,
            workspace: false,
            body: Body::from_chunks(body),
        });
        let sink = bench.sink().await;
        assert_eq!(sink.put(&short).await.unwrap_err().kind(), Kind::Sink, "{compression}");
        assert!(bench.left().is_empty(), "{compression}");
        let error = commit_fails(&bench, sink, &image(&[whole], &run())).await;
        assert!(error.contains("an earlier layer"), "{error}");
        fs::remove_file(bench.target()).unwrap();
    }
}

#[tokio::test]
async fn a_stopped_freeze_and_an_abort_leave_nothing() {
    let bench = Bench::new();
    let sink = bench.sink().await;
    let layers = three_layers();
    sink.put(&layers[0]).await.unwrap();
    assert_eq!(bench.left().len(), 1);
    bench.options.stop.interrupt();
    assert_eq!(sink.put(&layers[1]).await.unwrap_err().kind(), Kind::HungUp);
    sink.abort().await.unwrap();
    assert!(bench.left().is_empty());

    let bench = Bench::new();
    let sink = bench.sink().await;
    sink.put(&layers[0]).await.unwrap();
    drop(sink);
    assert!(bench.left().is_empty());
}

#[tokio::test]
async fn a_place_that_can_not_hold_an_artifact_is_named() {
    let bench = Bench::new();
    let error = ArtifactSink::create(&bench.folder.path().join("absent/a"), bench.options.clone()).await.unwrap_err();
    assert!(error.to_string().contains("absent"), "{error}");
    let error = ArtifactSink::create(bench.folder.path(), bench.options.clone()).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Usage);
}

/// The same layer as one that is made while it is sent: its head is there, and so is the other end of its edge.
async fn live(whole: &Layer) -> (LiveLayer, mpsc::Sender<LivePiece>) {
    let (sender, tail) = mpsc::channel(1);
    let head = Body::from_chunks(whole.body.slice(0, whole.body.len() / 3).await.unwrap());
    let media_type = whole.descriptor.media_type.clone();
    (LiveLayer { index: whole.index, media_type, workspace: whole.workspace, head, tail }, sender)
}

async fn feed(whole: &Layer, sender: &mpsc::Sender<LivePiece>) {
    for bytes in whole.body.slice(whole.body.len() / 3, u64::MAX).await.unwrap() {
        sender.send(LivePiece::Bytes(bytes)).await.unwrap();
    }
}

fn end(whole: &Layer) -> LivePiece {
    let (diff_id, tar_bytes) = (whole.diff_id, whole.tar_bytes);
    LivePiece::End(LiveEnd { descriptor: whole.descriptor.clone(), diff_id, tar_bytes })
}

fn of_workspace(layer: Arc<Layer>) -> Arc<Layer> {
    Arc::new(Layer { workspace: true, ..Arc::into_inner(layer).unwrap() })
}

#[tokio::test]
async fn a_live_layer_lets_others_in_while_it_is_made() {
    let bench = Bench::new();
    for (number, stored) in [Compression::Zstd, Compression::Gzip, Compression::None].into_iter().enumerate() {
        let sink = Arc::new(bench.sink().await);
        let large = layer(0, &tar_of(&[("large", &noise(7, 9_000_000))]), stored);
        let workspace = tar_of(&[("workspace/", &b""[..]), ("workspace/notes", b"one")]);
        let workspace = of_workspace(layer(1, &workspace, stored));
        let others = three_layers();
        let mut puts = tokio::task::JoinSet::new();
        let (first, feed_first) = live(&large).await;
        let (second, feed_second) = live(&workspace).await;
        for live in [first, second] {
            let sink = Arc::clone(&sink);
            puts.spawn(async move { sink.put_live(live).await });
        }
        feed(&large, &feed_first).await;
        feed(&workspace, &feed_second).await;
        // Neither has ended, and none of these waits for them.
        for layer in &others {
            sink.put(layer).await.unwrap();
        }
        feed_first.send(end(&large)).await.unwrap();
        feed_second.send(end(&workspace)).await.unwrap();
        while let Some(put) = puts.join_next().await {
            put.unwrap().unwrap();
        }
        let layers = [&[large.clone()][..], &others, &[workspace]].concat();
        sink.commit(&image(&layers, &run()), &settings()).await.unwrap();
        assert_eq!(bench.left(), ["a.smolmachine"], "{stored}");
        let extracted = bench.extract();
        for layer in &layers[..4] {
            assert_eq!(packed::sha256(&layer_in(&extracted, layer)), layer.diff_id.to_string(), "{stored} {number}");
        }
        let seed = fs::read(extracted.join("layers/workspace-seed/workspace.tar")).unwrap();
        assert_eq!(files_of(&seed), [("./", ""), ("./notes", "one")].map(owned));
        fs::remove_dir_all(extracted).unwrap();
    }
}

#[tokio::test]
async fn a_live_layer_that_is_cut_off_or_of_another_size_leaves_nothing() {
    let bench = Bench::new();
    let whole = layer(0, &tar_of(&[("large", &noise(7, 900_000))]), Compression::Zstd);
    let more = Bytes::from_static(b"?");
    for (last, kind) in [(None, Kind::HungUp), (Some([LivePiece::Bytes(more), end(&whole)]), Kind::Internal)] {
        let sink = bench.sink().await;
        let (live, sender) = live(&whole).await;
        let feeding = async {
            feed(&whole, &sender).await;
            for piece in last.into_iter().flatten() {
                sender.send(piece).await.unwrap();
            }
            drop(sender);
        };
        let (put, ()) = tokio::join!(sink.put_live(live), feeding);
        assert_eq!(put.unwrap_err().kind(), kind);
        assert!(bench.left().is_empty());
        assert_eq!(sink.put(&whole).await.unwrap_err().kind(), Kind::Sink);
    }
}

#[tokio::test]
async fn what_is_prepared_can_be_taken_back_until_it_has_its_name() {
    let bench = Bench::new();
    fs::write(bench.target(), "the last good one").unwrap();
    let layers = three_layers();
    for publish in [false, true] {
        let sink = bench.sink().await;
        for layer in &layers {
            sink.put(layer).await.unwrap();
        }
        let image = image(&layers, &run());
        sink.prepare(&image, &settings()).await.unwrap();
        assert_eq!(fs::read(bench.target()).unwrap(), b"the last good one");
        if publish {
            let done = sink.publish(&image).unwrap();
            assert_eq!(done.artifact_bytes, Some(fs::metadata(bench.target()).unwrap().len()));
        }
        sink.abort().await.unwrap();
        assert_eq!(bench.left(), ["a.smolmachine"]);
        assert!(sink.publish(&image).is_err());
    }
    bench.extract();
}

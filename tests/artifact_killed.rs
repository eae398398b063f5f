//! kill -9 at any moment of writing an artifact: under its final name there is a whole one or none, and the next run
//! removes what was left behind.

#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use kills::Kills;

#[path = "support/kills.rs"]
mod kills;

const ROUNDS: u32 = 20;

/// Enough to be killed in the middle of.
const ROOT_BYTES: usize = 24 << 20;

/// `cargo test` builds the examples beside the tests.
fn make_machine() -> PathBuf {
    env::current_exe().unwrap().parent().unwrap().with_file_name("examples").join("make_machine")
}

fn write_to(out: &Path, inputs: &Path) -> Command {
    let mut call = Command::new(make_machine());
    call.arg(out).arg("--agent-rootfs").arg(inputs.join("agent")).arg("--root").arg(inputs.join("root.tar"));
    call.stderr(Stdio::null());
    call
}

fn inputs(folder: &Path) {
    fs::create_dir_all(folder.join("agent/sbin")).unwrap();
    fs::write(folder.join("agent/sbin/init"), "the agent").unwrap();
    let mut state = 1_u64;
    let mut noise = vec![0; ROOT_BYTES];
    for word in noise.chunks_exact_mut(8) {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        word.copy_from_slice(&state.to_be_bytes());
    }
    let mut tar = tar::Builder::new(fs::File::create(folder.join("root.tar")).unwrap());
    let mut header = tar::Header::new_gnu();
    header.set_size(noise.len() as u64);
    header.set_mode(0o644);
    tar.append_data(&mut header, "noise", &noise[..]).unwrap();
    tar.finish().unwrap();
}

fn names(folder: &Path) -> Vec<String> {
    fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

fn assert_whole(artifact: &Path) {
    let footer = smolvm_pack::read_footer_from_sidecar(artifact).unwrap();
    assert!(smolvm_pack::verify_sidecar_checksum(artifact, &footer).unwrap());
    smolvm_pack::read_manifest_from_sidecar(artifact).unwrap();
}

#[test]
fn a_killed_writer_leaves_a_whole_artifact_or_none() {
    let folder = tempfile::tempdir().unwrap();
    inputs(folder.path());
    let out = folder.path().join("out");
    fs::create_dir(&out).unwrap();
    let artifact = out.join("a.smolmachine");
    let began = Instant::now();
    assert!(write_to(&artifact, folder.path()).status().unwrap().success());
    let mut kills = Kills::within(began.elapsed());
    assert_whole(&artifact);

    let (mut unfinished, mut finished) = (0, 0);
    for _ in 0..ROUNDS {
        fs::remove_file(&artifact).ok();
        let mut child = write_to(&artifact, folder.path()).spawn().unwrap();
        kills.wait();
        child.kill().unwrap();
        child.wait().unwrap();
        if fs::exists(&artifact).unwrap() {
            println!("{kills}");
            assert_whole(&artifact);
            finished += 1;
        } else {
            unfinished += 1;
        }
        // The one of this round at most: the runs before it left none.
        assert!(names(&out).iter().filter(|name| name.ends_with(".partial")).count() <= 1, "{kills}");
    }
    assert!(unfinished > 0, "{kills}: {finished} runs were over before they were killed");
    assert!(write_to(&artifact, folder.path()).status().unwrap().success());
    assert_eq!(names(&out), ["a.smolmachine"], "{kills}");
}

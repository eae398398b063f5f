//! Memory and scratch space stay within what the plan announced, however large the source is.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use smolfreeze::report::Snapshot;

use crate::archive::{entry, link};
use crate::faithful;
use crate::host::{Host, finish, shell};
use crate::support::docker_registry::DockerRegistry;
use crate::support::sidecar;

/// Freezes, and the most memory that was resident.
pub fn freeze(host: &Host, source: &str, words: &[&str]) -> (Snapshot, u64) {
    let (report, peak) = (host.path("report.json"), host.path("peak"));
    let mut command = Command::new("timeout");
    command.args(["-s", "KILL", "300", "/usr/bin/time", "-f", "%M", "-o"]).arg(&peak);
    command.arg(env!("CARGO_BIN_EXE_smolfreeze"));
    command.args(["freeze", "--quiet", source, "--report"]).arg(&report).args(words);
    let output = finish(host.surround(&mut command).spawn().expect("GNU time"));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let kibibytes: u64 = fs::read_to_string(&peak).expect("a peak").trim().parse().expect("a number");
    (serde_json::from_slice(&fs::read(&report).expect("a report")).expect("JSON"), kibibytes << 10)
}

/// A tar of `gib` GiB in files of 1 MiB, which shrink to about a third, as a root filesystem does.
fn large_tar(path: &Path, gib: u64) {
    let file = File::create(path).expect("a file");
    let (content, mut at) = (vec![0; 1 << 20], 0);
    for number in 0..gib * 1024 {
        let header = entry(&format!("./{}/{number}", number / 100), b'0', &content);
        let noise = crate::support::layers::random_bytes(number, 350_000);
        file.write_all_at(&header[..512], at).expect("its bytes");
        file.write_all_at(&noise, at + 512).expect("its bytes");
        at += header.len() as u64;
    }
    file.set_len(at + 1024).expect("its length");
}

/// What the plan announced is what the process counted, and what the system says that it had.
pub fn within_bounds(snapshot: &Snapshot, resident_bytes: u64) {
    let most = snapshot.memory_bytes_max;
    assert!(resident_bytes <= most, "{} MiB resident of {}", resident_bytes >> 20, most >> 20);
    assert!(snapshot.held_bytes_peak <= snapshot.memory_bytes_max);
    assert!(snapshot.scratch_bytes_peak <= snapshot.scratch_bytes_max, "{} of scratch", snapshot.scratch_bytes_peak);
}

/// Freezes a tar of `gib` GiB: the most memory that was resident.
fn resident_bytes(gib: u64) -> u64 {
    let host = Host::new();
    let tar = host.path("t.tar");
    large_tar(&tar, gib);
    let source = format!("tar:{}", tar.display());
    let (snapshot, resident_bytes) = freeze(&host, &source, &["--to", &format!("oci:{}", host.text("layout"))]);
    assert!(snapshot.tar_bytes > gib << 30);
    within_bounds(&snapshot, resident_bytes);
    if gib == 1 {
        assert_eq!(snapshot.scratch_bytes_peak, 0, "small machines need no scratch");
    }
    resident_bytes
}

#[test]
fn a_gibibyte_stays_within_256_mib() {
    resident_bytes(1);
}

/// `SMOLFREEZE_TEST_GB=8 cargo test --test freeze -- --ignored eight_times`
#[test]
#[ignore = "minutes of hashing without optimization"]
fn eight_times_as_much_takes_no_more_memory() {
    let gib = std::env::var("SMOLFREEZE_TEST_GB").ok().and_then(|text| text.parse().ok()).unwrap_or(8);
    let (small, large) = (resident_bytes(1), resident_bytes(gib));
    assert!(large <= small + small / 10, "{} and {} MiB resident", small >> 20, large >> 20);
}

#[test]
fn a_file_larger_than_memory_stays_within_256_mib() {
    let host = Host::new();
    let tree = host.tree("tree", "truncate -s 700M hole; head -c 20000000 /dev/urandom >noise");
    let source = format!("dir:{}", tree.display());
    for (compression, scratch) in [("zstd", None), ("none", None), ("none", Some("0"))] {
        let to = format!("oci:{}", host.text(compression));
        let mut words = vec!["--no-known", "--compression", compression, "--to", &to];
        words.extend(scratch.iter().flat_map(|scratch| ["--scratch", scratch]));
        let (snapshot, resident_bytes) = freeze(&host, &source, &words);
        within_bounds(&snapshot, resident_bytes);
    }
}

/// What the files that a process has open take of the disk under `folder`, with a name or without, but for its source.
fn open_bytes(pid: u32, folder: &Path) -> u64 {
    let written = |path: PathBuf| path.starts_with(folder) && !path.starts_with(folder.join("tree"));
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten() {
        let named = fs::read_link(entry.path()).is_ok_and(written);
        if let Some(meta) = fs::metadata(entry.path()).ok().filter(|meta| named && meta.is_file()) {
            files.insert((meta.dev(), meta.ino()), meta.blocks() * 512);
        }
    }
    files.values().sum()
}

#[test]
fn with_an_artifact_no_more_is_on_the_disk_than_the_artifact() {
    // Too large to be held, and of two at a time.
    const LARGE: &str =
        "for i in 1 2 3 4; do mkdir $i; head -c 90000000 /dev/urandom >$i/large; echo $i >$i/small; done";
    // More than is in the side files when the last bytes are written: a piece of each that has no hole behind it yet.
    const UNPUNCHED_BYTES: u64 = 24 << 20;
    let (host, registry) = (Host::new(), DockerRegistry::start());
    let agent = sidecar::agent(&host.path(".")).display().to_string();
    let source = format!("dir:{}", host.tree("tree", LARGE).display());
    let (pack, name) = (host.text("a"), format!("{}/space/name:tag", registry.address));
    let report = host.text("report.json");
    for outputs in [vec!["--pack", &*pack], vec!["--pack", &*pack, "--to", &*name]] {
        // Nothing is taken from the last artifact.
        let mut words = vec!["freeze", &*source, "--quiet", "--squash", "--memory", "96MiB", "--agent-rootfs", &*agent];
        words.extend(["--report", &*report]);
        words.extend(&outputs);
        let mut child = host.command(&words).spawn().expect("smolfreeze");
        let mut peak = 0;
        while child.try_wait().expect("a status").is_none() {
            peak = peak.max(open_bytes(child.id(), &host.path(".")));
            std::thread::sleep(Duration::from_millis(2));
        }
        let output = finish(child);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let snapshot: Snapshot = serde_json::from_slice(&fs::read(&report).expect("a report")).expect("JSON");
        assert_eq!((snapshot.scratch_bytes_max, snapshot.scratch_bytes_peak), (0, 0));
        assert!(snapshot.layers.iter().filter(|layer| layer.descriptor.size > 80_000_000).count() == 4);
        let artifact = host.path("a.smolmachine");
        let finished = fs::metadata(&artifact).expect("an artifact").blocks() * 512;
        assert!(peak > finished / 2, "{peak} bytes of {finished} were seen");
        assert!(peak <= finished + UNPUNCHED_BYTES, "{peak} bytes for {finished}");
        sidecar::assert_whole(&artifact);
    }
    host.verify(&name);
    let read = faithful::unpacked(&host, &name);
    shell(&host.path("tree"), &format!("for i in 1 2 3 4; do cmp $i/large {}/$i/large; done", read.display()));
}

/// Twice as many as the smallest budget has buffers.
const SPARSE_PAIRS: usize = 150;

/// A tar of small entries between large ones: each pair alone in the buffer that it comes in.
fn sparse_tar(path: &Path, pair: impl Fn(usize) -> [Vec<u8>; 2]) {
    let file = File::create(path).expect("a file");
    let mut at = 0;
    for number in 0..SPARSE_PAIRS {
        let small = pair(number).concat();
        file.write_all_at(&small, at).expect("its bytes");
        at += small.len() as u64;
        let large = entry(&format!("./{number}.bin"), b'0', &vec![0; 2 << 20]);
        file.write_all_at(&large[..512], at).expect("its bytes");
        at += large.len() as u64;
    }
    file.set_len(at + 1024).expect("its length");
}

/// A freeze with little memory: one that waits for more would be killed, and fail.
fn ends(words: &[&str], pair: impl Fn(usize) -> [Vec<u8>; 2]) -> Snapshot {
    let host = Host::new();
    let (tar, to) = (host.path("t.tar"), format!("oci:{}", host.text("layout")));
    sparse_tar(&tar, pair);
    let source = format!("tar:{}", tar.display());
    let snapshot = host.freeze(&[&[&*source, "--to", &to, "--memory", "96MiB"][..], words].concat());
    host.verify(&to);
    assert!(snapshot.held_bytes_peak <= snapshot.memory_bytes_max);
    snapshot
}

#[test]
fn entries_far_apart_between_excluded_ones_do_not_hold_all_memory() {
    let text = |name: String| entry(&name, b'0', name.repeat(200).as_bytes());
    for more in [&["--exclude", "*.bin"][..], &["--exclude", "*.bin", "--layer-size", "0"]] {
        let snapshot = ends(more, |number| [text(format!("./{number}.a")), text(format!("./{number}.b"))]);
        assert_eq!(snapshot.entries, 2 * SPARSE_PAIRS as u64);
    }
}

#[test]
fn linked_entries_far_apart_do_not_hold_all_memory() {
    let snapshot = ends(&["--compression", "none"], |number| {
        let name = format!("./{number}.a");
        [entry(&name, b'0', name.repeat(200).as_bytes()), link(&format!("./{number}.b"), &name)]
    });
    assert_eq!(snapshot.entries, 3 * SPARSE_PAIRS as u64);
}

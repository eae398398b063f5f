//! `smolfreeze-guest`: where it is looked for, what is asked of it before it reads, and who reads where it can't.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use crate::desk::Desk;
use crate::host::finish;
use crate::reader::released;
use crate::standin::Kind;

/// Our reader alone, as it is released: without debugging symbols.
fn small() -> Vec<u8> {
    static SMALL: OnceLock<Vec<u8>> = OnceLock::new();
    let stripped = || {
        let folder = tempfile::tempdir().unwrap();
        let to = folder.path().join("stripped");
        let from = env!("CARGO_BIN_EXE_smolfreeze-guest");
        assert!(Command::new("strip").arg("-o").arg(&to).arg(from).status().unwrap().success());
        fs::read(to).unwrap()
    };
    SMALL.get_or_init(stripped).clone()
}

/// A host with a little machine and a `smolfreeze` without anything beside it.
fn desk() -> Desk {
    let desk = released(Desk::new(Kind::Debian));
    desk.fill("srv", "echo x >file");
    desk
}

const LITTLE: [&str; 6] = ["--exclude", "/usr", "--exclude", "/bin", "--exclude", "/lib"];

/// What is copied into the machine by its last freeze, but for the script.
fn copied(desk: &Desk) -> Vec<PathBuf> {
    let calls = fs::read_to_string(desk.machine.state.path().join("calls")).unwrap();
    let copy = |line: &str| {
        let (from, to) = line.strip_prefix("machine cp ")?.split_once(' ')?;
        (to.starts_with("m1:") && to.ends_with("reader.new")).then(|| PathBuf::from(from))
    };
    calls.lines().filter_map(copy).collect()
}

/// Programs that are none of ours, and what is said of them.
fn unsuited() -> Vec<(&'static str, Vec<u8>, &'static str)> {
    let small = small();
    let mut foreign = small.clone();
    // The machine of an ELF header.
    foreign[18..20].copy_from_slice(&183_u16.to_le_bytes());
    let (mut older, ours) = (small.clone(), concat!("smolfreeze ", env!("CARGO_PKG_VERSION")).as_bytes());
    let found: Vec<_> = (0..older.len() - ours.len()).filter(|at| older[*at..].starts_with(ours)).collect();
    for at in &found {
        older[at + ours.len() - 1] = b'!';
    }
    assert!(!found.is_empty());
    let dynamic_loader = small.windows(5).position(|window| window == b"/lib6" || window == b"/lib/").unwrap();
    let mut homeless = small.clone();
    homeless[dynamic_loader + 1] = b'X';
    vec![
        ("foreign", foreign, "it is for aarch64, and the guest is x86_64"),
        ("truncated", small[..small.len() / 2].to_vec(), "it is cut off"),
        ("header", small[..100].to_vec(), "it is cut off"),
        ("script", b"#!/bin/sh\necho smolfreeze 0.1.0\n".repeat(9), "it is no Linux program"),
        ("empty", Vec::new(), "it is no Linux program"),
        ("large", vec![0; (32 << 20) + 1], "it has 33 MiB, and 32 MiB are the most"),
        ("older", older, "it is of version"),
        ("homeless", homeless, "it does not run in the guest (exit code 127"),
    ]
}

fn write(path: &Path, bytes: &[u8]) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, bytes).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn it_is_found_where_packages_put_it() {
    let mut desk = desk();
    let to = format!("oci:{}", desk.host.text("layout"));
    let words = [&["--to", &to][..], &LITTLE].concat();
    assert!(desk.freeze(&words).own_reader);
    let own = desk.host.binary.clone();
    assert_eq!(copied(&desk), std::slice::from_ref(&own));
    let bin = desk.host.path("usr/bin/smolfreeze");
    write(&bin, &fs::read(&own).unwrap());
    // As an own link to it is.
    std::os::unix::fs::symlink(&bin, desk.host.path("linked")).unwrap();
    desk.host.binary = desk.host.path("linked");
    for place in [
        "usr/libexec/smolfreeze/smolfreeze-guest",
        "usr/lib/smolfreeze/smolfreeze-guest",
        "usr/bin/smolfreeze-guest",
        "usr/lib/smolfreeze/smolfreeze-guest-x86_64",
        "usr/bin/smolfreeze-guest-x86_64",
    ] {
        let path = desk.host.path(place);
        write(&path, &small());
        let before = copied(&desk).len();
        let report = desk.freeze(&words);
        assert!(report.own_reader && report.readers_passed_over.is_empty(), "{:?}", report.readers_passed_over);
        let carried = copied(&desk).split_off(before);
        assert_eq!(carried.len(), 1, "{carried:?}");
        assert_eq!(fs::canonicalize(&carried[0]).unwrap(), fs::canonicalize(&path).unwrap());
        // What crosses the link falls by as much.
        assert!(carried[0].metadata().unwrap().len() * 3 < own.metadata().unwrap().len());
        let plan = finish(desk.command(&[&words[..], &["--dry-run"]].concat()).spawn().unwrap());
        let plan = String::from_utf8(plan.stdout).unwrap();
        let line = plan.lines().find(|line| line.starts_with("reader ")).unwrap();
        assert!(line.contains("smolfreeze-guest"), "{plan}");
    }
    let report = desk.freeze(&[&words[..], &["--guest-reader", "tar"]].concat());
    assert!(!report.own_reader);
}

#[test]
fn one_that_is_found_and_cannot_be_used_is_passed_over() {
    let desk = desk();
    let to = format!("oci:{}", desk.host.text("layout"));
    let words = [&["--to", &to][..], &LITTLE].concat();
    let beside = desk.host.path("smolfreeze-guest");
    for (name, bytes, reason) in unsuited() {
        write(&beside, &bytes);
        let report = desk.freeze(&words);
        assert!(report.own_reader, "{name}: a copy of smolfreeze itself reads");
        assert_eq!(report.readers_passed_over.len(), 1, "{name}: {:?}", report.readers_passed_over);
        let said = &report.readers_passed_over[0];
        assert!(said.contains(reason) && said.contains(beside.to_str().unwrap()), "{name}: {said}");
        assert!(report.summary().lines().any(|line| line.starts_with("reader ") && line.contains(reason)), "{name}");
    }
}

#[test]
fn one_that_is_named_and_cannot_be_used_is_an_error() {
    let desk = desk();
    let to = format!("oci:{}", desk.host.text("layout"));
    let smolvm = desk.machine.smolvm_path().display().to_string();
    let refused = |path: &Path, reason: &str, more: &[&str]| {
        let path = path.display().to_string();
        let words = [&["m1", "--smolvm", &smolvm, "--to", &to, "--guest-reader", &path], &LITTLE[..], more].concat();
        let line = desk.host.refuses(2, &path, &words);
        assert!(line.contains("--guest-reader") && line.contains(reason), "'{reason}' is not in: {line}");
        desk.machine.assert_clean();
        assert!(!desk.host.path("layout").exists());
    };
    for (name, bytes, reason) in unsuited() {
        let path = desk.host.path(name);
        write(&path, &bytes);
        refused(&path, reason, &[]);
    }
    refused(&desk.host.path("nowhere"), "No such file", &[]);
    refused(&desk.host.path("home"), "it is no file", &[]);
    let (good, words) = (desk.host.path("good"), ["--to", &to, "--guest-reader"]);
    write(&good, &small());
    refused(&good, "--guest-compression", &["--guest-compression", "gzip"]);
    refused(&good, "no room", &["--window", "1000", "--chunk-size", "1GiB"]);
    // Whoever copies it here need not say that it is a program.
    fs::set_permissions(&good, fs::Permissions::from_mode(0o644)).unwrap();
    let report = desk.freeze(&[&words[..], &[good.to_str().unwrap()], &LITTLE].concat());
    assert!(report.own_reader && copied(&desk).last() == Some(&good));
    let mut command = desk.command(&[&["--to", &to, "--quiet"], &LITTLE[..]].concat());
    let output = finish(command.env("SMOLFREEZE_GUEST_READER", desk.host.path("foreign")).spawn().unwrap());
    assert_eq!(output.status.code(), Some(2), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn one_that_hangs_is_given_up() {
    let desk = desk();
    let hangs = desk.host.path("smolfreeze-guest");
    let source = desk.host.path("hangs.c");
    fs::write(&source, "int main(void) { for (;;) __builtin_ia32_pause(); }").unwrap();
    assert!(Command::new("cc").arg("-o").arg(&hangs).arg(&source).status().unwrap().success());
    let report = desk.freeze(&[&["--to", &format!("oci:{}", desk.host.text("layout"))], &LITTLE[..]].concat());
    assert!(report.own_reader);
    assert!(report.readers_passed_over[0].contains("exit code 137"), "{:?}", report.readers_passed_over);
}

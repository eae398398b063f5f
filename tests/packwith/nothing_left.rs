//! Whatever ends it early: no folder, no half-made output, no process, nobody who listens; what was there before stays.

use std::fs;
use std::os::unix::process::CommandExt as _;
use std::process::Child;

use rustix::process::{Pid, Signal, kill_process, kill_process_group};

use crate::host::{Tmpfs, finish, names, one_line, until};
use crate::packing::{Packing, processes};
use crate::standin::Kind;

/// Starts a freeze, and waits until smolvm is at work in a process of this name, its output half-written.
fn packs_slowly(packing: &Packing, millis: u64, sleep: &str) -> Child {
    packing.desk.machine.faults(&format!("pack-slow 1 {millis}"));
    let words = ["--pack", &packing.out(), "--pack-with", "smolvm", "--quiet"];
    let freeze = packing.command(&words).process_group(0).spawn().unwrap();
    until("smolvm packs", || processes(&["sleep", sleep]).len() == 1);
    assert!(names(&packing.desk.host.path("out")).iter().any(|name| name.starts_with(".smolfreeze-pack-")));
    freeze
}

#[test]
fn smolvm_fails() {
    let packing = Packing::new(Kind::Busybox);
    let (host, out) = (&packing.desk.host, packing.out());
    let words = packing.words(&["--pack", &out, "--pack-with", "smolvm"]);
    packing.desk.machine.faults("pack-fail 1");
    let line = host.refuses(4, &format!("{out}.smolmachine"), &words);
    assert!(line.contains("packing by smolvm failed") && line.contains("No space left on device"), "{line}");
    packing.assert_nothing_but(&[]);
    assert_eq!(packing.registries().len(), 1);
    packing.desk.machine.faults("pack-flip 1");
    let line = host.refuses(6, "its checksum is not that of its bytes", &words);
    assert!(line.contains("reading what smolvm packed"), "{line}");
    packing.assert_nothing_but(&[]);

    // Another output, which would have had the image, has nothing either.
    let layout = format!("oci:{}", host.text("layout"));
    packing.desk.machine.faults("pack-fail 1");
    host.refuses(4, "packing by smolvm", &[&*words, &["--to", &layout]].concat());
    packing.assert_nothing_but(&[]);
    assert!(!host.path("layout").exists());
}

#[test]
fn what_was_there_before_stays_until_the_new_one_is_whole() {
    let packing = Packing::new(Kind::Busybox);
    let (host, out) = (&packing.desk.host, packing.out());
    let words = packing.words(&["--pack", &out, "--pack-with", "smolvm"]);
    host.tree("out", "echo launcher >packed; echo sidecar >packed.smolmachine");
    packing.desk.machine.faults("pack-fail 1");
    host.refuses(4, "packing by smolvm", &words);
    packing.assert_nothing_but(&["packed", "packed.smolmachine"]);
    assert_eq!(fs::read(host.path("out/packed")).unwrap(), b"launcher\n");
    assert_eq!(fs::read(host.path("out/packed.smolmachine")).unwrap(), b"sidecar\n");
    host.freeze(&words);
    assert_ne!(fs::read(host.path("out/packed")).unwrap(), b"launcher\n");
    host.verify(&format!("{out}.smolmachine"));
}

#[test]
fn a_signal_while_smolvm_packs() {
    let packing = Packing::new(Kind::Busybox);
    for (signal, code) in [(Signal::INT, 130), (Signal::TERM, 143)] {
        let freeze = packs_slowly(&packing, 61_234, "61.234");
        kill_process_group(Pid::from_child(&freeze), signal).unwrap();
        let output = finish(freeze);
        let line = one_line(&output);
        assert!(line.contains("interrupted"), "{line}");
        assert_eq!(output.status.code(), Some(code), "{line}");
        assert_eq!(processes(&["sleep", "61.234"]), []);
        packing.assert_nothing_but(&[]);
    }
}

#[test]
fn what_a_killed_run_left_goes_with_the_next_one() {
    let packing = Packing::new(Kind::Busybox);
    let mut freeze = packs_slowly(&packing, 3_600_456, "3600.456");
    // Another run that is alive is left alone.
    let out = packing.desk.host.text("out/other");
    packing.desk.host.freeze(&packing.words(&["--pack", &out, "--pack-with", "smolvm"]));
    assert_eq!(names(&packing.desk.host.path("out")).len(), 3);
    freeze.kill().unwrap();
    let _ = finish(freeze);
    // smolvm goes on without us, to its end.
    let left = names(&packing.desk.host.path("out"));
    let [folder, ..] = &left[..] else { panic!("{left:?}") };
    assert_eq!(left.len(), 3);
    kill_process(processes(&["sleep", "3600.456"])[0], Signal::KILL).unwrap();
    let sidecar = packing.desk.host.path("out").join(folder).join("packed.smolmachine");
    until("smolvm has packed", || fs::metadata(&sidecar).unwrap().len() > 1000);
    packing.desk.host.freeze(&packing.words(&["--pack", &out, "--pack-with", "smolvm"]));
    assert_eq!(names(&packing.desk.host.path("out")), ["other", "other.smolmachine"]);
}

#[test]
fn a_full_disk() {
    let packing = Packing::new(Kind::Busybox);
    let host = &packing.desk.host;
    let _disk = Tmpfs::mount(&host.path("out"), "4m");
    // Of a folder the size is known, of a pipe it is not.
    host.tree("tree", "head -c 5000000 /dev/urandom >more; tar -cf ../tree.tar .");
    let (out, tar) = (packing.out(), fs::read(host.path("tree.tar")).unwrap());
    let words = packing.words(&["--pack", &out, "--pack-with", "smolvm"]);
    let line = host.refuses(4, "making room for the artifact", &words);
    assert!(line.contains("are free"), "{line}");
    packing.assert_nothing_but(&[]);
    host.refuses_from(4, "No space left on device", &[&["tar:-"], &words[1..]].concat(), Some(&tar));
    packing.assert_nothing_but(&[]);
    assert!(packing.registries().is_empty());
    // The layers fit, and what smolvm makes of them does not.
    host.tree("tree", "rm more; head -c 3000000 /dev/urandom >noise");
    host.refuses(4, "packing by smolvm", &words);
    packing.assert_nothing_but(&[]);
    assert_eq!(packing.registries().len(), 1);
}

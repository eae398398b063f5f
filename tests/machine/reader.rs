//! Our own reader in the guest: the same files come back, whatever happens it leaves as little behind as the guest's own
//! tools, and where it can't run they do its work.

use std::process::{Child, Command};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use smolfreeze::progress::NoticeKind;
use smolfreeze::report::Snapshot;

use crate::desk::Desk;
use crate::faithful::comes_back;
use crate::host::{finish, until};
use crate::standin::Kind;
use crate::trees::{AWKWARD, Keeps, LONG, MODEST, assert_same};

fn desk(kind: Kind) -> Desk {
    released(Desk::new(kind))
}

pub fn released(mut desk: Desk) -> Desk {
    // As it is released: without debugging symbols, small enough for a guest.
    let stripped = desk.host.path("smolfreeze");
    let status = Command::new("strip").arg("-o").arg(&stripped).arg(&desk.host.binary).status().unwrap();
    assert!(status.success());
    desk.host.binary = stripped;
    desk
}

#[test]
fn a_debian_machine_comes_back_without_a_difference() {
    let desk = desk(Kind::Debian);
    let all = [MODEST, LONG, AWKWARD].concat();
    for folder in ["srv/awkward", "workspace/project", "data/db"] {
        desk.fill(folder, &all);
    }
    desk.fill("srv", "ln awkward/usr/bin/plain ../opt/hard; chmod 0710 ../data");
    desk.fill("tmp", "echo stale >stale");
    let (_, report) = comes_back(&desk, Keeps::Everything);
    assert!(report.own_reader);
    let to = format!("oci:{}", desk.host.text("layout"));
    assert!(!desk.freeze(&["--to", &to, "--guest-reader", "tar"]).own_reader);
}

/// Its /workspace is a link to another disk.
#[test]
fn a_bare_machine_comes_back_without_a_difference() {
    let desk = bare_desk();
    desk.fill("srv/awkward", &[MODEST, LONG, AWKWARD].concat());
    desk.fill("storage/workspace/project", &[MODEST, LONG, AWKWARD].concat());
    // Deeper than folders are kept open, with a link that is reached by its path.
    desk.fill(
        "storage/workspace",
        "p=$(printf 'd/%.0s' {1..70}); mkdir -p $p; echo x >$p/x; ln $p/x $p/y; chmod 0710 .",
    );
    // The spool lies there, and busybox can't give it parts of a second back.
    desk.machine.sh("touch -d @1700000000 /var/tmp");
    let (paths, report) = comes_back(&desk, Keeps::Everything);
    assert!(report.own_reader);
    let has = |path: &str| paths.iter().any(|other| other == std::path::Path::new(path));
    assert!(
        has("workspace/project/zz/hard") && !has("storage/workspace") && !has("workspace/.smolvm-workspace-seeded")
    );
    // What leaves it out does so whoever reads.
    let to = format!("oci:{}", desk.host.text("layout"));
    for words in [&[][..], &["--guest-reader", "tar"]] {
        desk.freeze(&[&["--to", &to, "--exclude", "/workspace"][..], words].concat());
        let without = desk.unpacked(&to, Keeps::Everything);
        assert!(!without.keys().any(|path| path.starts_with("workspace")), "{words:?}");
        std::fs::remove_dir_all(desk.host.path("layout")).unwrap();
    }
}

/// One with the libraries that a test's reader, which is not a static one, needs.
fn bare_desk() -> Desk {
    let desk = desk(Kind::Bare);
    let binary = desk.host.binary.display().to_string();
    let script = "ldd BINARY | sed -n 's/.*[ \t]\\(\\/[^ ]*\\) (.*/\\1/p' | while read -r library; do
        mkdir -p .$(dirname $library); cp -L $library .$library; done";
    desk.fill("", &script.replace("BINARY", &binary));
    desk
}

#[test]
fn a_chunk_that_came_wrong_is_taken_again() {
    let desk = desk(Kind::Debian);
    desk.machine.sh("mkdir -p /srv; dd if=/dev/urandom of=/srv/random bs=1M count=20");
    let to = format!("oci:{}", desk.host.text("layout"));
    // The last one is odd: pieces do not end where chunks do.
    for (fault, chunk) in [("cp-flip 3", "4MiB"), ("cp-short 2", "4MiB"), ("cp-flip 3", "1600KiB")] {
        let expected = desk.freeze(&["--to", &to, "--no-known"]);
        desk.machine.faults(fault);
        let report = desk.freeze(&["--to", &to, "--no-known", "--chunk-size", chunk]);
        assert!(report.own_reader);
        assert!(report.retries >= 2, "{fault}: {} retries", report.retries);
        let ids = |report: &Snapshot| report.layers.iter().map(|layer| layer.diff_id).collect::<Vec<_>>();
        assert_eq!(ids(&report), ids(&expected), "{fault}");
    }
}

#[test]
fn where_it_cannot_run_the_guests_tools_read() {
    for kind in [Kind::Busybox, Kind::Bare] {
        let desk = desk(kind);
        desk.fill("srv/awkward", MODEST);
        let report = desk.freeze(&["--to", &format!("oci:{}", desk.host.text("layout"))]);
        assert!(!report.own_reader, "{kind:?}");
    }
    // No room for it beside the chunks.
    let desk = desk(Kind::Debian);
    let chunks = ["--chunk-size", "32MiB", "--window", "100000"];
    assert_ne!(desk.command(&chunks).output().unwrap().status.code(), Some(0));
    desk.machine.assert_clean();
}

#[test]
fn what_is_left_out_is_left_out() {
    let desk = desk(Kind::Debian);
    desk.fill(
        "srv/some",
        "mkdir cache; touch cache/a kept 'odd\nname.pyc' x.pyc; setfattr -n user.krun.note -v x kept",
    );
    desk.fill("tmp", "echo wanted >wanted");
    desk.fill("var/tmp", "echo wanted >wanted");
    desk.fill("run", "mkdir -p a/b c; touch a/b/x a/y c/z");
    desk.machine.sh("mount --bind /run/a/b /run/a/b && mkdir /run/a/b/below && mount -t tmpfs none /run/a/b/below && touch /run/a/b/below/x");
    let to = format!("oci:{}", desk.host.text("layout"));
    let words = ["--to", &to, "--exclude", "*.pyc", "--exclude", "/srv/some/cache", "--include-mount", "/tmp"];
    let words = [&words[..], &["--include-mount", "/var/tmp", "--include-mount", "run/a/b/"]].concat();
    assert!(desk.freeze(&words).own_reader);
    let ours = desk.unpacked(&to, Keeps::Everything);
    std::fs::remove_dir_all(desk.host.path("layout")).unwrap();
    desk.freeze(&[&words[..], &["--guest-reader", "tar"]].concat());
    let theirs = desk.unpacked(&to, Keeps::Everything);
    assert!(ours.contains_key(std::path::Path::new("srv/some/kept")));
    assert!(!ours.keys().any(|path| path.to_string_lossy().ends_with(".pyc") || path.ends_with("cache/a")));
    for (path, is_there) in [
        ("tmp/wanted", true),
        ("var/tmp/wanted", true),
        ("run/a/b/x", true),
        ("run/a/b/below", true),
        ("run/a/b/below/x", false),
        ("run/a/y", false),
        ("run/c", false),
    ] {
        assert_eq!(ours.contains_key(std::path::Path::new(path)), is_there, "{path}");
    }
    assert!(!ours.keys().any(|path| path.to_string_lossy().contains(".smolfreeze")), "a spool is nobody's");
    assert_same(&theirs, &ours, "by our own reader");
}

/// A freeze that is in the middle of a large file, larger than what the reader reads ahead.
fn begin(desk: &Desk, words: &[&str]) -> Child {
    desk.machine.sh("mkdir -p /srv; dd if=/dev/urandom of=/srv/a-log bs=1M count=60; echo x > '/srv/gone too'");
    desk.machine.faults("cp-slow 12 100");
    let little =
        ["--exclude", "/usr", "--exclude", "/bin", "--exclude", "/etc", "--chunk-size", "1MiB", "--window", "1"];
    let freeze = desk.command(&[words, &little].concat()).spawn().unwrap();
    // One of what is read: the list comes before.
    let is_read = |spool: std::path::PathBuf| {
        let chunk = spool.join("c.0").metadata().map_or(0, |chunk| chunk.len());
        spool.join("picks").exists() && chunk == 1 << 20
    };
    until("the spool has a chunk", || {
        desk.machine.root().join("var/tmp").read_dir().unwrap().flatten().any(|spool| is_read(spool.path()))
    });
    freeze
}

#[test]
fn changes_are_told() {
    let desk = desk(Kind::Debian);
    let (report, to) = (desk.host.text("report.json"), format!("oci:{}", desk.host.text("layout")));
    let freeze = begin(&desk, &["--to", &to, "--report", &report]);
    std::fs::remove_file(desk.machine.root().join("srv/gone too")).unwrap();
    let log = std::fs::File::options().append(true).open(desk.machine.root().join("srv/a-log")).unwrap();
    for step in 0..30 {
        std::io::Write::write_all(&mut &log, format!("more {step}\n").as_bytes()).unwrap();
        std::thread::sleep(Duration::from_millis(20));
    }
    let output = finish(freeze);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let report: Snapshot = serde_json::from_slice(&std::fs::read(&report).unwrap()).unwrap();
    assert!(report.own_reader);
    let named: Vec<_> = report.notices.named().iter().map(|notice| (notice.kind, notice.path.as_str())).collect();
    assert!(named.contains(&(NoticeKind::Vanished, "srv/gone too")), "{named:?}");
    assert!(report.notices.unsettled() == 2, "{named:?}");
    desk.machine.assert_clean();
    desk.host.verify(&to);
}

#[test]
fn a_signal_leaves_the_guest_clean() {
    let desk = desk(Kind::Debian);
    let layout = desk.host.path("layout");
    let freeze = begin(&desk, &["--to", &format!("oci:{}", layout.display()), "--quiet"]);
    kill_process(Pid::from_child(&freeze), Signal::TERM).unwrap();
    assert_eq!(finish(freeze).status.code(), Some(143));
    desk.machine.assert_clean();
    assert!(!layout.exists());
}

#[test]
fn a_reader_that_dies_is_an_error() {
    let desk = desk(Kind::Debian);
    let freeze = begin(&desk, &["--to", &format!("oci:{}", desk.host.text("layout")), "--quiet"]);
    desk.machine
        .sh("for p in /proc/[0-9]*; do case $(readlink $p/exe) in */reader) kill -KILL ${p#/proc/};; esac; done");
    let output = finish(freeze);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(3), "{said}");
    assert!(
        said.contains("'m1'") && said.contains("reader ended with 137") && said.contains("--guest-reader tar"),
        "{said}"
    );
    desk.machine.assert_clean();
}

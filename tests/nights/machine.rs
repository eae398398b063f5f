//! Nights of a machine that our own reader reads: as those of a folder, and little crosses the link.

use std::path::PathBuf;
use std::process::{Command, Output};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::edits::Editor;
use crate::host::Host;
use crate::standin::{Kind, Standin};
use crate::tree::compare::differences;
use crate::tree::inventory;

/// Longer than the moment in which nobody can tell whether a file changed.
const SETTLED: Duration = Duration::from_millis(2_200);
/// What is compared; elsewhere the running system has its own.
const FOLDERS: [&str; 6] = ["srv", "etc", "opt", "usr/local", "data", "workspace"];

struct Desk {
    host: Host,
    machine: Standin,
}

impl Desk {
    fn new() -> Self {
        let (host, machine) = (Host::new(), Standin::start(Kind::Debian));
        // As it is released: small enough for a guest.
        host.shell(&format!("strip -o reader {}", env!("CARGO_BIN_EXE_smolfreeze-guest")));
        Self { host, machine }
    }

    /// Some files, settled and frozen once.
    fn frozen() -> Self {
        let desk = Self::new();
        desk.machine.sh(
            "mkdir -p /srv/a/b /srv/d; for f in a/x a/b/y d/one d/two g; do echo $f >/srv/$f; done; ln /srv/d/one /srv/d/linked
             ln -s x /srv/a/soft; mknod /srv/d/null c 1 3; head -c 300000 /dev/urandom >/srv/large; echo w >/workspace/w; echo v >/data/v",
        );
        std::thread::sleep(SETTLED);
        let (first, _) = desk.night(&[]);
        assert_eq!(first["night"]["why_all"], "it was not frozen from here before");
        assert_eq!(first["own_reader"], true);
        desk
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = self.host.command();
        command.args(["freeze", self.machine.name, "--smolvm"]).arg(self.machine.smolvm_path());
        command.args(["--quiet", "--compression", "gzip", "--guest-reader"]).arg(self.host.path("reader"));
        command.arg("--to").arg(format!("oci:{}:it", self.host.path("layout").display())).args(words);
        command
    }

    fn try_freeze(&self, words: &[&str]) -> (Output, Value) {
        let path = self.host.path("report.json");
        let output = self.command(words).arg("--report").arg(&path).output().unwrap();
        let report = std::fs::read(&path).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok());
        (output, report.unwrap_or_default())
    }

    /// A night that goes well: its image is the machine, and nothing of ours is left there. Its report and counts.
    fn night(&self, words: &[&str]) -> (Value, [u64; 5]) {
        let (output, report) = self.try_freeze(words);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        self.machine.assert_clean();
        assert_eq!(self.differences(), Vec::<String>::new(), "{report}");
        let counts = ["new", "changed", "doubtful", "rewritten", "deleted"];
        let counts = counts.map(|name| report["night"][name].as_u64().unwrap_or(0));
        (report, counts)
    }

    fn differences(&self) -> Vec<String> {
        self.host.shell("rm -rf unpacked; umoci raw unpack --image layout:it unpacked");
        let mut all = Vec::new();
        for folder in FOLDERS {
            let [wanted, found] = [self.machine.root(), self.host.path("unpacked")].map(|root| root.join(folder));
            let left = |path: &[u8]| path.starts_with(b".smolvm-");
            let [wanted, found] = [wanted, found].map(|folder| inventory::of_folder_without(&folder, &left));
            all.extend(differences(&wanted, &found).iter().map(|difference| format!("{folder}: {difference}")));
        }
        all.truncate(12);
        all
    }

    fn reader_bytes(&self) -> u64 {
        self.host.path("reader").metadata().unwrap().len()
    }

    /// What the link carried but for the reader.
    fn link_bytes(&self, report: &Value) -> u64 {
        report["link_bytes"].as_u64().unwrap() - self.reader_bytes()
    }

    fn srv(&self) -> PathBuf {
        self.machine.root().join("srv")
    }
}

/// What the script takes, and a head for each of what is told.
const FIXED_BYTES: u64 = 40 << 10;

#[test]
fn each_night_is_the_machine_of_that_night_and_little_crosses_the_link() {
    let desk = Desk::new();
    let mut editor = Editor::new(desk.srv(), 7);
    editor.grow();
    for night in 0..6 {
        let edits = if night == 0 { Vec::new() } else { editor.night() };
        let changed_bytes = editor.changed_bytes();
        let (report, _) = desk.night(&["--layer-size", "1MiB"]);
        let (listed, link_bytes) = (report["night"]["listed"].as_u64().unwrap(), desk.link_bytes(&report));
        println!("night {night}: {} edits, {changed_bytes} bytes changed, {link_bytes} over the link", edits.len());
        if night > 0 && report["night"]["rewritten"] == 0 {
            // A small file's headers are as large as itself.
            let tar_bytes = report["tar_bytes"].as_u64().unwrap();
            let most = tar_bytes.max(changed_bytes) * 6 / 5 + 25 * listed + FIXED_BYTES;
            assert!(link_bytes <= most, "night {night}: {link_bytes} bytes, and {most} are the most: {report}");
        }
    }
}

#[test]
fn nothing_is_read_or_sent_where_nothing_changed() {
    let desk = Desk::frozen();
    let (report, counts) = desk.night(&["--reread", "0%"]);
    assert_eq!(counts, [0; 5], "{report}");
    assert_eq!(
        (&report["sent_bytes"], &report["tar_bytes"], &report["own_reader"]),
        (&json!(0), &json!(0), &json!(true))
    );
    assert_eq!(report["night"]["sampled"], 1, "no less than one");
    let listed = report["night"]["listed"].as_u64().unwrap();
    assert_eq!(report["night"]["kept"], listed);
    let most = 25 * listed + FIXED_BYTES;
    assert!(desk.link_bytes(&report) <= most, "{} bytes for {listed} entries", desk.link_bytes(&report));
    std::thread::sleep(SETTLED);
    desk.machine.sh("mkdir /srv/many; for n in $(seq 100); do head -c 30000 /dev/urandom >/srv/many/$n; done");
    let (report, _) = desk.night(&[]);
    let most = 100 * 30_000 * 6 / 5 + 25 * listed + FIXED_BYTES;
    assert!(desk.link_bytes(&report) <= most, "{} bytes for 3 MB", desk.link_bytes(&report));
}

#[test]
fn each_kind_of_change_is_seen_in_an_overlay() {
    let desk = Desk::frozen();
    // What lies in the image, below the overlay's upper folder, too.
    let mapped = "import mmap, sys; f = open('/proc/HOLDER/root/srv/large', 'r+b'); m = mmap.mmap(f.fileno(), 0)
m[7:9] = b'ab'; m.flush(); sys.stdout.write('x'); sys.stdout.flush(); sys.stdin.read(1); m[7:9] = b'yz'";
    let mapped = mapped.replace("HOLDER", &desk.machine.holder().to_string());
    for (what, script) in [
        ("content, with equal size", "echo A/x >/srv/a/x"),
        ("mtime set back", "touch -r /srv/d/two /tmp/t; echo D/TWO >/srv/d/two; touch -r /tmp/t /srv/d/two"),
        ("of the image, mode", "chmod 0640 /etc/hosts.allow 2>/dev/null || chmod 0640 /etc/passwd"),
        ("another inode", "cp -p /srv/g /srv/h; mv /srv/h /srv/g"),
        ("another name", "ln /srv/d/one /srv/d/third"),
        ("a name less", "rm /srv/d/linked"),
        ("link text", "ln -sfn y /srv/a/soft"),
        ("deletion of the image's", "rm -r /etc/default; rm /srv/a/b/y"),
        ("a folder renamed", "mv /srv/a /srv/renamed; mv /etc/skel /etc/skeleton 2>/dev/null || true"),
        ("kinds trade places", "rm -r /srv/d; ln -s renamed /srv/d; rm /srv/g; mkdir /srv/g; echo >/srv/g/file"),
        ("other folders of the disk", "echo V >/data/v; rm /workspace/w; echo n >/workspace/new"),
    ] {
        std::thread::sleep(SETTLED);
        desk.machine.sh(script);
        let (report, [new, changed, _, _, deleted]) = desk.night(&[]);
        assert!(report["night"]["why_all"].is_null() && new + changed + deleted >= 1, "{what}: {report}");
        assert!(report["night"]["kept"].as_u64().unwrap() > 500, "{what}: {report}");
    }
    // A store through a mapping that was written to before the listing, and again after it.
    let mut python = Command::new("python3");
    let mut child = python
        .args(["-c", &mapped])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut [0]).unwrap();
    std::thread::sleep(SETTLED);
    desk.night(&[]);
    std::thread::sleep(SETTLED);
    drop(child.stdin.take());
    assert!(child.wait().unwrap().success());
    let (_, [_, changed, ..]) = desk.night(&[]);
    assert!(changed >= 1, "a store through a mapping");
}

/// Written in the moment of the listing.
#[test]
fn the_same_tick_with_equal_size_is_seen() {
    let desk = Desk::new();
    desk.machine.sh("mkdir /srv/t; echo one >/srv/t/a");
    desk.night(&[]);
    desk.machine.sh("touch -r /srv/t/a /tmp/t; echo two >/srv/t/a; touch -r /tmp/t /srv/t/a");
    let (_, [_, changed, doubtful, ..]) = desk.night(&[]);
    assert!(changed + doubtful >= 1);
}

/// Another kernel numbers the inodes of an overlay in another way: the files' content tells that they are the same.
#[test]
fn a_restart_with_other_inodes_carries_nothing() {
    let desk = Desk::frozen();
    let inodes = || desk.machine.sh("stat -c %i /usr/bin/* /etc");
    let before = inodes();
    desk.machine.restart(&json!({"overlay": "xino=on"}));
    assert_ne!(inodes(), before, "the stand-in numbers them anew");
    let (report, [new, changed, doubtful, _, deleted]) = desk.night(&[]);
    assert!(report["night"]["why_all"].is_null() && new + deleted == 0, "{report}");
    assert!(report["night"]["cleared"].as_u64().unwrap() > 300, "{report}");
    // The folders of the kernel were mounted anew.
    assert!(changed <= 20 && doubtful <= 40, "{report}");
    assert!(report["sent_bytes"].as_u64().unwrap() < 500_000, "{report}");
    let (report, counts) = desk.night(&[]);
    assert_eq!(counts[..2], [0, 0], "{report}");
}

#[test]
fn whatever_is_another_machine_is_read_whole() {
    let desk = Desk::frozen();
    let reads_all = |words: &[&str], why: &str| {
        let (report, _) = desk.night(words);
        let said = report["night"]["why_all"].as_str().unwrap_or_default();
        assert!(said.contains(why), "{why}: {report}");
    };
    desk.machine.restart(&json!({"created_at": 1_770_000_000}));
    reads_all(&[], "made anew");
    reads_all(&["--exclude", "nothing-is-called-so"], "not frozen in this way");
    reads_all(&["--exclude", "nothing-is-called-so", "--squash"], "--squash");
    let (report, _) = desk.night(&["--exclude", "nothing-is-called-so", "--reread", "all"]);
    assert!(report["night"]["sampled"].as_u64().unwrap() > 300, "{report}");
    let index = std::fs::read(desk.host.index()).unwrap();
    std::fs::write(desk.host.index(), &index[..index.len() / 2]).unwrap();
    reads_all(&["--exclude", "nothing-is-called-so"], "damaged");
    // One that is not remembered lists nothing.
    let (report, _) = desk.night(&["--no-record"]);
    assert!(report["night"].is_null() && report["own_reader"] == true, "{report}");
}

#[test]
fn the_guests_own_tools_read_all_and_it_is_said() {
    let desk = Desk::new();
    let mut command = desk.host.command();
    command.args(["freeze", "m1", "--guest-reader", "tar", "--smolvm"]).arg(desk.machine.smolvm_path());
    let output = command.arg("--to").arg(format!("oci:{}", desk.host.path("layout").display())).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success() && said.contains("night       all of it was read: the guest's own tools"),
        "{said}"
    );
}

#[test]
fn a_dry_run_tells_and_leaves_nothing() {
    let desk = Desk::frozen();
    std::thread::sleep(SETTLED);
    desk.machine.sh("echo more >/srv/a/x; rm /srv/g");
    let output =
        desk.command(&["--dry-run", "--pre-exec", "touch /srv/pre", "--post-exec", "touch /srv/post"]).output();
    let said = String::from_utf8_lossy(&output.as_ref().unwrap().stdout).into_owned();
    assert!(said.contains("night ") && said.contains("changed") && said.contains("1 deleted"), "{said}");
    desk.machine.assert_clean();
    assert_eq!(desk.machine.sh("ls -d /srv/p* 2>/dev/null || true"), "", "a user's commands are for a freeze");
    // Before the list, and after all that is read.
    let words = ["--pre-exec", "echo pre >/srv/pre", "--post-exec", "rm /srv/pre"];
    let (output, report) = desk.try_freeze(&words);
    assert!(output.status.success() && report["night"]["new"] == 1, "{report}");
    desk.host.shell("umoci raw unpack --image layout:it it; test -f it/srv/pre");
    desk.machine.assert_clean();
    let (report, [.., deleted]) = desk.night(&[]);
    assert_eq!(deleted, 1, "{report}");
}

/// At any moment, by any signal: the next night has it right.
#[test]
fn a_freeze_that_is_killed_costs_no_night() {
    let desk = Desk::frozen();
    let mut random = fastrand::Rng::with_seed(5);
    for round in 0..20 {
        desk.machine
            .sh(&format!("echo {round} >/srv/a/x; head -c 900000 /dev/urandom >/srv/large; echo >/srv/d/{round}"));
        let mut child = desk.command(&[]).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(random.u64(..900)));
        let signal = if round < 10 { Signal::TERM } else { Signal::KILL };
        let _ = kill_process(Pid::from_child(&child), signal);
        child.wait().unwrap();
        if signal == Signal::TERM {
            desk.machine.assert_clean();
        }
    }
    desk.night(&[]);
    std::thread::sleep(SETTLED);
    desk.machine.sh("rm /srv/a/x");
    let (report, [_, changed, ..]) = desk.night(&[]);
    assert!(report["night"]["why_all"].is_null() && changed >= 1, "{report}");
}

/// Files that change all the time are right where nobody touched them, and whole the next night.
#[test]
fn what_changes_meanwhile_is_right_the_next_night() {
    let desk = Desk::frozen();
    let busy = "i=0; while :; do i=$((i + 1)); echo $i >/srv/a/busy$((i % 7)); mv /srv/d /srv/d2; mv /srv/d2 /srv/d
        echo $i >>/srv/log; rm -f /srv/a/busy$((i % 3)); ln -f /srv/log /srv/other; done";
    for _ in 0..3 {
        let exec = ["machine", "exec", "--name", "m1", "-u", "0", "-d", "--", "sh", "-c", busy];
        desk.machine.smolvm(&exec);
        std::thread::sleep(Duration::from_millis(100));
        let (output, report) = desk.try_freeze(&[]);
        desk.machine.sh("for p in /proc/[0-9]*; do if tr '\\000' ' ' <$p/cmdline 2>/dev/null | grep -q '^sh -c i=0'; then kill -KILL ${p#/proc/}; fi; done; true");
        assert!(output.status.success(), "{}, {report}", String::from_utf8_lossy(&output.stderr));
        let (report, _) = desk.night(&[]);
        assert!(report["night"]["why_all"].is_null(), "{report}");
        std::thread::sleep(SETTLED);
    }
}

/// What no image has is told each night, whether anything else is read or not.
#[test]
fn sockets_are_told_each_night() {
    let desk = Desk::frozen();
    let script = "import socket, sys; socket.socket(socket.AF_UNIX).bind(sys.argv[1])";
    assert!(Command::new("python3").args(["-c", script]).arg(desk.srv().join("a/socket")).status().unwrap().success());
    std::thread::sleep(SETTLED);
    for script in ["true", "true", "echo more >/srv/g", "true"] {
        desk.machine.sh(script);
        let (output, report) = desk.try_freeze(&["--reread", "0%"]);
        assert!(output.status.success() && report["night"]["why_all"].is_null(), "{report}");
        assert_eq!(report["notices"]["counts"]["socket"], 1, "{script}: {report}");
        let named = report["notices"]["named"].as_array().unwrap();
        assert!(named.iter().any(|notice| notice["path"] == "srv/a/socket"), "{report}");
        std::thread::sleep(SETTLED);
    }
}

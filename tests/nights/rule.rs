//! What is read again, and why: each part of the rule, and each thing that may be lost, alone.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::time::{Duration, SystemTime};

use serde_json::Value;

use crate::host::Host;

/// Longer than the moment in which nobody can tell whether a file changed.
pub const SETTLED: Duration = Duration::from_millis(2_200);

/// Some files, settled and frozen once.
pub fn frozen() -> Host {
    let host = Host::new();
    host.shell(
        "cd tree; mkdir -p a/b/c d e; for f in a/x a/b/y a/b/c/z d/one d/two e/f g; do echo $f >$f; done
         head -c 300000 /dev/urandom >large; ln d/one d/linked; ln -s x a/soft; touch -d 2001-01-01 d/two
         setfattr -n user.b -v two a/x; setfattr -n user.a -v 0x0a00 a/x; setfattr -n user.d -v 1 d d/one large
         setcap cap_chown+ep g; mkfifo e/pipe; mknod e/null c 1 3; mknod e/loop b 7 200; setfattr -h -n trusted.t -v 1 e/pipe
         ln -s $(printf 'long/%.0s' {1..40}) a/far; setfattr -h -n trusted.t -v 1 a/far",
    );
    std::thread::sleep(SETTLED);
    let first = host.freeze(&[]);
    assert_eq!(first["night"]["why_all"], "it was not frozen from here before");
    host
}

fn counts(report: &Value) -> [u64; 5] {
    ["new", "changed", "doubtful", "rewritten", "deleted"].map(|name| report["night"][name].as_u64().unwrap())
}

/// The next night's counts; its image is the folder.
pub fn night(host: &Host, words: &[&str]) -> (Value, [u64; 5]) {
    let report = host.freeze(words);
    assert_eq!(host.differences(), Vec::<String>::new());
    let counts = counts(&report);
    (report, counts)
}

#[test]
fn nothing_is_read_or_sent_where_nothing_changed() {
    let host = frozen();
    let (report, counts) = night(&host, &["--reread", "0%"]);
    assert_eq!(counts, [0; 5]);
    assert_eq!(
        (&report["sent_bytes"], &report["tar_bytes"], &report["night"]["why_all"]),
        (&0.into(), &0.into(), &Value::Null)
    );
    let listed = report["night"]["listed"].as_u64().unwrap();
    assert_eq!((report["night"]["kept"].as_u64(), report["entries"].as_u64()), (Some(listed), Some(listed)));
    assert_eq!(report["night"]["sampled"], 1, "no less than one");
    assert_eq!((&report["layers_packed"], &report["packed_bytes"]), (&0.into(), &0.into()));
    let listed = host.command().args(["ls", "--json"]).output().unwrap();
    let listed: Value = serde_json::from_slice(&listed.stdout).unwrap();
    assert!(listed[0]["tar_bytes"].as_u64().unwrap() > 0 && listed[0]["sent_bytes"].as_u64().unwrap() > 0);
    assert_eq!((&listed[1]["tar_bytes"], &listed[1]["sent_bytes"]), (&0.into(), &0.into()));
    assert_eq!(listed[1]["night"], report["night"]);
}

/// strace sees what is opened.
#[test]
fn no_file_is_opened_but_the_sample() {
    let host = frozen();
    let trace = host.path("trace");
    let mut command = std::process::Command::new("strace");
    command.args(["-f", "-qq", "-y", "-e", "trace=openat,openat2,open", "-o"]).arg(&trace);
    let freeze = host.command();
    command.arg(freeze.get_program()).arg("freeze").arg(format!("dir:{}", host.tree().display()));
    command.args(["--quiet", "--reread", "0%", "--compression", "gzip", "--to"]);
    command.arg(format!("oci:{}:it", host.path("layout").display()));
    command.env("HOME", host.path("home")).env("TMPDIR", host.path("scratch"));
    for name in ["XDG_STATE_HOME", "XDG_CACHE_HOME"] {
        command.env_remove(name);
    }
    assert!(command.status().unwrap().success());
    let tree = host.tree().display().to_string();
    let lines = fs::read_to_string(trace).unwrap();
    let opened =
        lines.lines().filter(|line| line.contains(&tree) && !line.contains("O_DIRECTORY") && !line.contains("O_PATH"));
    assert_eq!(opened.clone().count(), 1, "{:?}", opened.collect::<Vec<_>>());
}

/// What is done to a file, in words and in deed.
type Edit<'a> = (&'a str, Box<dyn Fn() + 'a>);

/// Whatever is done to a file, it is read again: by what tells, alone.
#[test]
fn each_kind_of_change_is_seen() {
    let host = frozen();
    let path = |name: &str| host.tree().join(name);
    let edits: Vec<Edit<'_>> = vec![
        ("content, with equal size", Box::new(|| fs::write(path("a/x"), "A/x\n").unwrap())),
        (
            "mtime set back",
            Box::new(|| {
                fs::write(path("d/two"), "D/TWO\n").unwrap();
                let then = SystemTime::UNIX_EPOCH + Duration::from_secs(978_307_200);
                fs::File::options().write(true).open(path("d/two")).unwrap().set_modified(then).unwrap();
            }),
        ),
        ("mode", Box::new(|| fs::set_permissions(path("e/f"), fs::Permissions::from_mode(0o4711)).unwrap())),
        ("owner", Box::new(|| std::os::unix::fs::chown(path("e/f"), Some(77), Some(78)).unwrap())),
        ("attribute", Box::new(|| drop(host.shell("setfattr -n user.a -v b tree/e/f")))),
        ("access list", Box::new(|| drop(host.shell("setfacl -m u:5:rw tree/g || setfattr -n user.acl -v b tree/g")))),
        ("capability", Box::new(|| drop(host.shell("setcap cap_net_raw+ep tree/g")))),
        ("link text", Box::new(|| drop(host.shell("ln -sfn y tree/a/soft")))),
        ("another inode", Box::new(|| drop(host.shell("cp -p tree/g tree/h; mv tree/h tree/g")))),
        (
            "a store through a mapping",
            Box::new(|| {
                let script = "import mmap; f = open('tree/large', 'r+b'); m = mmap.mmap(f.fileno(), 0); m[7:9] = b'xx'; m.flush()";
                host.shell(&format!("python3 -c \"{script}\""));
            }),
        ),
    ];
    for (what, edit) in edits {
        std::thread::sleep(SETTLED);
        night(&host, &[]);
        std::thread::sleep(SETTLED);
        edit();
        let (report, [new, changed, ..]) = night(&host, &[]);
        assert!(new + changed >= 1, "{what}: {report}");
        assert!(report["night"]["kept"].as_u64().unwrap() >= 8, "{what}: {report}");
    }
}

#[test]
fn links_folders_and_kinds() {
    let host = frozen();
    for script in [
        "ln d/one a/third",
        "rm d/linked",
        "ln a/third new-name; rm d/one",
        "mv a other",
        "mv other/b/c .; rm -r other/b; echo >other/b",
        "rm other/b; mkdir other/b; echo back >other/b/y; mkdir other/b/c; echo z >other/b/c/z2",
        "rm -r d; ln -s e d",
        "rm d; mkdir d; echo again >d/two",
        "rm -r *",
        "mkdir a; echo new >a/x",
    ] {
        std::thread::sleep(SETTLED);
        host.shell(&format!("cd tree; {script}"));
        night(&host, &[]);
    }
}

/// Written in the moment of the listing: nobody can tell what was read, so it is read again.
#[test]
fn the_same_tick_with_equal_size_is_seen() {
    let host = Host::new();
    host.shell("echo one >tree/a");
    host.freeze(&[]);
    host.shell("touch -r tree/a stamp; echo two >tree/a; touch -r stamp tree/a");
    let (_, [_, changed, doubtful, ..]) = night(&host, &[]);
    assert!(changed + doubtful >= 1);
}

pub fn reads_all(host: &Host, words: &[&str], why: &str) {
    let (report, _) = night(host, words);
    let said = report["night"]["why_all"].as_str().unwrap_or_default();
    assert!(said.contains(why), "{why}: {report}");
    let (report, counts) = night(host, words);
    assert!(
        report["night"]["why_all"].is_null() || words.iter().any(|word| word.contains("squash")),
        "{why}: {report}, {counts:?}"
    );
}

#[test]
fn what_is_read_in_another_way_is_read_whole() {
    let host = frozen();
    reads_all(&host, &["--exclude", "nothing-is-called-so"], "not frozen in this way");
    reads_all(&host, &["--layer-size", "1MiB"], "not frozen in this way");
    reads_all(&host, &["--level", "2"], "not frozen in this way");
    reads_all(&host, &["--level", "2", "--squash"], "--squash");
}

#[test]
fn an_index_that_is_lost_or_damaged_costs_one_whole_reading() {
    let host = frozen();
    let good = fs::read(host.index()).unwrap();
    let flipped = |at: usize| {
        let mut bytes = good.clone();
        bytes[at] ^= 1;
        bytes
    };
    for (bytes, why) in [
        (good[..good.len() / 2].to_vec(), "damaged"),
        (flipped(30), "damaged"),
        (flipped(good.len() - 70), "damaged"),
        (flipped(good.len() - 1), "damaged"),
        (Vec::new(), "damaged"),
    ] {
        fs::write(host.index(), bytes).unwrap();
        reads_all(&host, &[], why);
    }
    fs::remove_file(host.index()).unwrap();
    reads_all(&host, &[], "not frozen from here before");
}

#[test]
fn a_folder_made_anew_is_another_one() {
    let host = frozen();
    host.shell("rm -r tree; mkdir tree; echo other >tree/g");
    let (_, [_, changed, _, _, deleted]) = night(&host, &[]);
    assert!(changed >= 2 && deleted > 8, "{changed}, {deleted}");
    // And other folders are put under its name.
    host.shell("mkdir other; mount -t tmpfs none other; cp -a tree/. other; mount --move other tree 2>/dev/null || mount --bind other tree");
    let report = host.freeze(&[]);
    host.shell("umount tree; umount other 2>/dev/null || true");
    assert!(report["night"]["why_all"].as_str().unwrap().contains("does not tell of each change"), "{report}");
}

/// A blob that an output has lost comes again, and so does all of an image where nothing is left.
#[test]
fn an_output_that_lost_a_layer_gets_it_again() {
    let host = frozen();
    std::thread::sleep(SETTLED);
    host.shell("head -c 100000 /dev/urandom >tree/more");
    let (report, _) = night(&host, &[]);
    let layer = |number: usize| report["layers"][number]["digest"].as_str().unwrap().replace(':', "/");
    assert!(report["layers"].as_array().unwrap().len() >= 2);
    host.shell(&format!("rm layout/blobs/{}", layer(0)));
    std::thread::sleep(SETTLED);
    let (report, [.., rewritten, _]) = night(&host, &[]);
    assert!(rewritten > 5, "{report}");
    assert_eq!(night(&host, &[]).1[..2], [0, 0]);
    host.shell("rm -r layout");
    night(&host, &[]);
}

#[test]
fn all_that_is_unchanged_is_compared_if_asked_for_and_stays_where_it_is() {
    let host = frozen();
    let (report, counts) = night(&host, &["--reread", "all"]);
    assert_eq!((counts, &report["sent_bytes"]), ([0; 5], &0.into()));
    // Of a file with two names one is read, and of an empty one there is nothing to read.
    let files = host.shell("find tree -type f -size +0 -printf '%i\\n' | sort -u | wc -l");
    assert_eq!(report["night"]["sampled"].to_string(), files.trim());
}

/// A file on a disk of its own, settled and frozen once.
pub fn on_a_disk() -> Host {
    let host = Host::new();
    host.shell(
        "truncate -s 24M disk; mkfs.ext4 -q -b 1024 disk; mount -o loop disk tree; rmdir tree/lost+found
         echo '0123456789-what-is-there' >tree/file",
    );
    std::thread::sleep(SETTLED);
    host.freeze(&[]);
    host
}

/// The file's bytes on another way than through its file system.
pub fn change_behind_the_rules_back(host: &Host) {
    host.shell(
        "umount tree; at=$(grep -abo '0123456789-what-is-there' disk | head -n 1 | cut -d: -f1)
         printf 9 | dd of=disk bs=1 seek=$at conv=notrunc status=none; mount -o loop disk tree",
    );
}

#[test]
fn a_difference_in_the_sample_is_an_alarm() {
    let host = on_a_disk();
    change_behind_the_rules_back(&host);
    let (output, report) = host.try_freeze(&[]);
    let differences = host.differences();
    let again = host.freeze(&[]);
    host.shell("umount tree");
    assert_eq!(output.status.code(), Some(8), "{report}");
    assert_eq!(report["night"]["alarm"], "file");
    assert_eq!(differences, Vec::<String>::new(), "everything was read");
    assert!(again["night"]["alarm"].is_null(), "{again}");
}

/// Each way out leaves the index of an image that is there, and the next night has it right.
#[test]
fn a_freeze_that_is_killed_costs_no_night() {
    let host = frozen();
    let mut random = fastrand::Rng::with_seed(3);
    for round in 0..20 {
        host.shell(&format!(
            "echo {round} >tree/a/x; head -c 2000000 /dev/urandom >tree/large; rm -f tree/e/*; echo >tree/e/{round}"
        ));
        let mut command = host.command();
        command.arg("freeze").arg(format!("dir:{}", host.tree().display())).args([
            "--quiet",
            "--compression",
            "gzip",
            "--to",
        ]);
        let mut child = command.arg(format!("oci:{}:it", host.path("layout").display())).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(random.u64(..250)));
        let _ = child.kill();
        child.wait().unwrap();
    }
    night(&host, &[]);
    std::thread::sleep(SETTLED);
    host.shell("rm tree/a/x");
    night(&host, &[]);
}

#[test]
fn two_freezes_at_once_are_both_right() {
    let host = frozen();
    for _ in 0..3 {
        std::thread::sleep(SETTLED);
        host.shell("date +%N >tree/a/x; mv tree/e tree/e2; mv tree/e2 tree/e");
        let freeze = |tag: &str| {
            let mut command = host.command();
            command.arg("freeze").arg(format!("dir:{}", host.tree().display())).args([
                "--quiet",
                "--compression",
                "gzip",
            ]);
            command.arg("--to").arg(format!("oci:{}:{tag}", host.path("layout").display())).spawn().unwrap()
        };
        let mut both = [freeze("other"), freeze("it")];
        assert!(both.iter_mut().all(|child| child.wait().unwrap().success()));
        assert_eq!(host.differences(), Vec::<String>::new());
    }
    std::thread::sleep(SETTLED);
    assert_eq!(night(&host, &[]).1[..2], [0, 0]);
}

/// As an overlayfs has it: no layer may hold it, and what had its name is gone.
#[test]
fn a_mark_of_overlayfs_takes_the_place_of_a_file() {
    let host = frozen();
    host.shell("rm tree/g; mknod tree/g c 0 0");
    let report = host.freeze(&[]);
    assert_eq!(report["night"]["deleted"], 1);
    host.shell("touch -r tree stamp; rm tree/g; touch -r stamp tree");
    assert_eq!(host.differences(), Vec::<String>::new());
    std::thread::sleep(SETTLED);
    assert_eq!(night(&host, &[]).1[0..3], [0, 1, 0], "the folder that it was in");
}

/// Layers are written anew around what was deleted, again and again: each deletion is marked once, and stays.
#[test]
fn deletions_outlast_the_layers_above_and_below() {
    let host = frozen();
    host.shell(
        "cd tree; mkdir many; for n in $(seq 200); do echo $n >many/$n; done; head -c 400000 /dev/urandom >large",
    );
    std::thread::sleep(SETTLED);
    night(&host, &[]);
    host.shell("rm tree/many/*; rm -r tree/a");
    std::thread::sleep(SETTLED);
    night(&host, &[]);
    for round in 0..4 {
        // What is dead is the most of its layer, so that one goes each night.
        host.shell("head -c 400000 /dev/urandom >tree/large");
        std::thread::sleep(SETTLED);
        let (report, _) = night(&host, &[]);
        let entries = host.shell("for l in $(python3 -c 'import json; m=json.load(open(\"layout/index.json\"))[\"manifests\"][0][\"digest\"].split(\":\")[1]; print(*[l[\"digest\"].split(\":\")[1] for l in json.load(open(\"layout/blobs/sha256/\"+m))[\"layers\"]])'); do gzip -dc layout/blobs/sha256/$l | tar -t; done | grep -c '/many/.wh.' || true");
        assert!(entries.trim().parse::<u32>().unwrap() <= 200, "round {round}: {entries} marks, {report}");
    }
    host.shell("mkdir tree/a; echo new >tree/a/new");
    std::thread::sleep(SETTLED);
    night(&host, &[]);
    host.shell("rm -r tree/many; head -c 400000 /dev/urandom >tree/large");
    std::thread::sleep(SETTLED);
    night(&host, &[]);
}

//! What may be lost or replaced around a night: indexes, records, what an output has, and the file systems below a folder.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::host::Host;
use crate::rule::{SETTLED, change_behind_the_rules_back, frozen, night, on_a_disk, reads_all};

/// With its seal made anew: all that is wrong is what was changed.
fn sealed(body: &[u8]) -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("body");
    fs::write(&path, body).unwrap();
    let output = Command::new("sha256sum").arg(&path).output().unwrap();
    [body, &output.stdout[..64]].concat()
}

#[test]
fn an_index_of_another_format_or_of_another_folder_is_not_gone_by() {
    let host = frozen();
    let index = fs::read(host.index()).unwrap();
    let body = &index[..index.len() - 64];
    assert_eq!(sealed(body), index);
    let format = b"smolfreeze index ";
    assert!(body.starts_with(format));
    let mut other = body.to_vec();
    other[format.len()] += 1;
    fs::write(host.index(), sealed(&other)).unwrap();
    reads_all(&host, &[], "of another format");
    // One of a folder that has the same files, under this one's name.
    let elsewhere = Host::new();
    elsewhere.shell(&format!("cp -a {}/. tree", host.tree().display()));
    std::thread::sleep(SETTLED);
    elsewhere.freeze(&[]);
    fs::copy(elsewhere.index(), host.index()).unwrap();
    reads_all(&host, &[], "it was made anew since the last freeze");
}

/// A file is not taken for gone because the kernel can't find it: in an overlay over virtiofs, as smolvm's bare machines have
/// it, a file that was changed may have the handle of another one after a restart, and is "stale" for as long as that one is
/// known. Here it is given that handle.
#[test]
fn what_the_kernel_mistakes_for_another_file_is_not_left_out() {
    let host = Host::new();
    host.shell(
        "mkdir lower upper work merged; echo other >lower/b
        over() { mount -t overlay overlay -o index=off,lowerdir=lower,upperdir=upper,workdir=work merged; }
        over; mkdir merged/d; echo mine >merged/d/a; echo changed >merged/b; umount merged
        handle=$(getfattr -e hex --only-values -n trusted.overlay.origin upper/b | od -An -v -tx1 | tr -d ' \\n')
        rm upper/b; setfattr -n trusted.overlay.origin -v 0x$handle upper/d/a
        over; cat merged/b",
    );
    let from = format!("dir:{}", host.path("merged").display());
    let to = format!("oci:{}:t", host.path("layout").display());
    let output = host.command().args(["freeze", &from, "--to", &to, "--quiet"]).output().unwrap();
    let seen = host.path("merged/d/a").exists();
    host.shell("umount merged");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!seen && !output.status.success(), "the kernel sees it, or it was left out: {said}");
    assert!(said.contains("'./d/a'") && said.contains("Stale file handle") && said.contains("drop_caches"), "{said}");
}

/// Records are for `ls` and `prune`; what a night goes on from is the index, and what the output has. (`prune` leaves one.)
#[test]
fn without_its_last_record_a_night_is_right() {
    let host = frozen();
    let listed = || {
        let listed = host.command().args(["ls", "--json"]).output().unwrap();
        serde_json::from_slice::<serde_json::Value>(&listed.stdout).unwrap().as_array().unwrap().clone()
    };
    host.freeze(&[]);
    for words in [vec!["prune".to_owned(), "--keep-last".to_owned(), "1".to_owned()], vec!["rm".to_owned()]] {
        let id = listed()[0]["id"].as_str().unwrap().to_owned();
        let id = Some(id).filter(|_| words[0] == "rm");
        let output = host.command().args(&words).args(id).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    assert!(listed().is_empty());
    host.shell("echo later >tree/a/x");
    let (report, _) = night(&host, &[]);
    assert!(report["night"]["why_all"].is_null(), "{report}");
}

/// The alarm outlasts its freeze, whatever ends that, and each one tells of it until all was read and is in an image.
#[test]
fn an_alarm_is_told_until_a_freeze_is_complete() {
    let host = on_a_disk();
    let index = host.index();
    change_behind_the_rules_back(&host);
    let before = fs::read(&index).unwrap();
    let mut planned = host.command();
    planned.arg("freeze").arg(format!("dir:{}", host.tree().display())).args(["--dry-run", "--compression", "gzip"]);
    let planned = planned.arg("--to").arg(format!("oci:{}:it", host.path("layout").display())).output().unwrap();
    let is_left_alone = fs::read(&index).unwrap() == before;
    let failed = [host.try_freeze(&["--max-size", "1"]), host.try_freeze(&["--max-size", "1", "--squash"])];
    let (told, next) = host.try_freeze(&["--exclude", "nothing"]);
    let differences = host.differences();
    let after = host.freeze(&["--exclude", "nothing"]);
    host.shell("umount tree");
    let words = "'file' had other bytes";
    let said = String::from_utf8_lossy(&planned.stdout);
    assert!(planned.status.code() == Some(8) && said.contains("ALARM") && said.contains(words), "{planned:?}");
    assert!(is_left_alone, "a plan writes nothing");
    for (output, report) in failed {
        assert!(
            output.status.code() == Some(3) && String::from_utf8_lossy(&output.stderr).contains(words),
            "{output:?}"
        );
        assert!(report["error"]["message"].as_str().unwrap().contains(words), "{report}");
    }
    assert!(told.status.code() == Some(8) && String::from_utf8_lossy(&told.stderr).contains(words), "{told:?}");
    let why = next["night"]["why_all"].as_str().unwrap();
    assert!(next["night"]["alarm"] == "file" && why.contains("found by a freeze that did not end"), "{next}");
    assert_eq!(differences, Vec::<String>::new());
    assert!(after["night"]["alarm"].is_null() && after["night"]["why_all"].is_null(), "{after}");
}

/// The bound is that of the image, with what is kept in it.
#[test]
fn what_is_kept_counts_for_the_largest_size() {
    let host = frozen();
    host.shell("echo new >tree/new");
    let (output, _) = host.try_freeze(&["--max-size", "200KiB"]);
    assert_eq!(output.status.code(), Some(3), "{}", String::from_utf8_lossy(&output.stderr));
    let (report, _) = night(&host, &["--max-size", "600KiB"]);
    assert!(report["night"]["why_all"].is_null(), "{report}");
    // Also where nothing has changed; and it is the user's number that is named.
    let (output, _) = host.try_freeze(&["--max-size", "200KiB"]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(3) && said.contains("more than 204800 bytes"), "{output:?}");
}

#[test]
fn what_is_dead_does_not_count_for_the_largest_size() {
    let host = Host::new();
    host.shell("head -c 3000000 /dev/urandom >tree/large; head -c 300000 /dev/urandom >tree/file");
    std::thread::sleep(SETTLED);
    let words = ["--max-size", "3500000"];
    host.freeze(&words);
    for _ in 0..2 {
        host.shell("head -c 300000 /dev/urandom >tree/file");
        std::thread::sleep(SETTLED);
        let (report, _) = night(&host, &words);
        assert!(report["night"]["dead_bytes"].as_u64().unwrap() >= 300_000, "{report}");
    }
    let (output, _) = host.try_freeze(&["--max-size", "3200000"]);
    assert_eq!(output.status.code(), Some(3), "{}", String::from_utf8_lossy(&output.stderr));
}

/// One whose inodes don't last, or change unseen, is read in full, and that is said.
#[test]
fn an_overlay_is_read_in_full() {
    let host = Host::new();
    host.shell("mkdir lower upper work; echo below >lower/file; mount -t overlay overlay -o lowerdir=lower,upperdir=upper,workdir=work tree");
    let nights = [host.freeze(&[]), host.freeze(&[])];
    // Changed on the lower side, which nothing tells on the upper.
    host.shell("umount tree; echo BELOW >lower/file; touch -d 2001-01-01 lower/file; mount -t overlay overlay -o lowerdir=lower,upperdir=upper,workdir=work tree");
    let third = host.freeze(&[]);
    let differences = host.differences();
    host.shell("umount tree");
    for report in nights.iter().chain([&third]) {
        let why = report["night"]["why_all"].as_str().unwrap();
        assert!(why.contains("does not tell of each change"), "{why}");
    }
    assert_eq!(differences, Vec::<String>::new());
}

/// The file systems that strace sees synced, by the folders that stand for them.
fn synced(host: &Host, words: &[&str]) -> Vec<String> {
    let trace = host.path("trace");
    let freeze = host.command();
    let mut command = Command::new("strace");
    command.args(["-f", "-qq", "-y", "-e", "trace=syncfs", "-o"]).arg(&trace);
    command.arg(freeze.get_program()).arg("freeze").arg(format!("dir:{}", host.tree().display()));
    command.args(["--quiet", "--compression", "gzip", "--to"]).arg(format!("oci:{}:it", host.path("layout").display()));
    command.args(words).env("HOME", host.path("home")).env("TMPDIR", host.path("scratch"));
    for name in ["XDG_STATE_HOME", "XDG_CACHE_HOME"] {
        command.env_remove(name);
    }
    assert!(command.status().unwrap().success());
    let lines = fs::read_to_string(trace).unwrap();
    let path = |line: &str| Some(line.split_once("syncfs(")?.1.split_once('<')?.1.split_once('>')?.0.to_owned());
    lines.lines().filter_map(path).collect()
}

/// What is in memory alone would be changed through a mapping without a new time.
#[test]
fn what_is_mounted_and_included_is_synced_too() {
    let host = frozen();
    host.shell("truncate -s 24M disk; mkfs.ext4 -q disk; mkdir tree/mnt; mount -o loop disk tree/mnt; echo there >tree/mnt/file");
    let without = synced(&host, &[]);
    let with = synced(&host, &["--include-mount", "mnt"]);
    let again = host.freeze(&["--include-mount", "mnt"]);
    host.shell("umount tree/mnt");
    let has = |synced: &[String], folder: &Path| synced.iter().any(|path| Path::new(path) == folder);
    assert!(has(&without, &host.tree()) && !has(&without, &host.path("tree/mnt")), "{without:?}");
    assert!(has(&with, &host.tree()) && has(&with, &host.path("tree/mnt")), "{with:?}");
    assert!(again["night"]["why_all"].is_null(), "{again}");
}

/// Python holds a page of a file in its memory: written to before a night, and again behind it, without a call in between
/// that would tell anybody.
#[test]
fn a_store_through_a_mapping_that_was_dirty_before_is_seen() {
    let host = frozen();
    let script = "import mmap, sys
f = open('tree/large', 'r+b'); m = mmap.mmap(f.fileno(), 0)
for line in sys.stdin:
    m[7] = int(line)
    print('stored', flush=True)";
    let mut python = Command::new("python3")
        .args(["-c", script])
        .current_dir(host.path("."))
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = std::io::BufReader::new(python.stdout.take().unwrap());
    let mut to = python.stdin.take().unwrap();
    let mut store = |byte: u8| {
        use std::io::{BufRead as _, Write as _};
        writeln!(to, "{byte}").unwrap();
        let mut line = String::new();
        said.read_line(&mut line).unwrap();
        assert_eq!(line, "stored\n");
    };
    store(1);
    std::thread::sleep(SETTLED);
    night(&host, &["--reread", "0%"]);
    store(2);
    let (report, _) = night(&host, &["--reread", "0%"]);
    drop(to);
    python.wait().unwrap();
    assert!(report["night"]["why_all"].is_null() && report["night"]["changed"].as_u64().unwrap() >= 1, "{report}");
}

#[test]
fn a_file_and_a_folder_trade_places_and_an_inode_gets_a_new_name() {
    let host = frozen();
    for script in ["mv g other; mv e g; mv other e", "mv large renamed", "mv a/x x; mv d/two a/x; mv x d/two"] {
        std::thread::sleep(SETTLED);
        host.shell(&format!("cd tree; {script}"));
        let (report, [new, changed, ..]) = night(&host, &[]);
        assert!(report["night"]["why_all"].is_null() && new + changed >= 1, "{script}: {report}");
    }
}

#[test]
fn without_room_for_the_listing_all_is_read_and_that_is_said() {
    let host = frozen();
    host.shell(
        "mkdir -p scratch; for i in $(seq 3000); do echo $i >tree/g$i; done; mount -t tmpfs -o size=4K none scratch",
    );
    let (output, report) = host.try_freeze(&[]);
    let differences = host.differences();
    host.shell("umount scratch");
    assert!(output.status.success(), "{output:?}");
    assert!(
        report["night"].is_null() && report["in_full"].as_str().unwrap().contains("could not be listed"),
        "{report}"
    );
    assert_eq!(differences, Vec::<String>::new());
    assert!(host.freeze(&[])["night"]["why_all"].is_null());
}

/// Where the file system has too much to write: it is told, and what may be in memory alone is compared the next night.
#[test]
fn what_is_not_stored_in_time_is_in_doubt() {
    let host = frozen();
    host.shell("echo new >tree/new");
    std::thread::sleep(SETTLED);
    let freeze = host.command();
    let mut command = Command::new("strace");
    command
        .args(["-f", "-qq", "-e", "trace=syncfs", "-e", "inject=syncfs:delay_enter=60s", "-o"])
        .arg(host.path("trace"));
    command.arg(freeze.get_program()).arg("freeze").arg(format!("dir:{}", host.tree().display()));
    command.args(["--compression", "gzip", "--to"]).arg(format!("oci:{}:it", host.path("layout").display()));
    let output = command.env("HOME", host.path("home")).env("TMPDIR", host.path("scratch")).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.contains("was not stored in time"), "{output:?}");
    let (report, _) = night(&host, &["--reread", "0%"]);
    assert!(report["night"]["unsettled"].is_null() && report["night"]["cleared"] == 1, "the new file: {report}");
    let (report, _) = night(&host, &["--reread", "0%"]);
    assert_eq!(report["night"]["cleared"], 0, "{report}");
}

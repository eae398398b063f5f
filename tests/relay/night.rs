//! What a nightly freeze meets: full disks, others that start at the same moment, hosts that died, a hostile guest.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use smolfreeze::error::Result;
use smolfreeze::exclude::Exclude;
use smolfreeze::source::Selection;
use smolfreeze::source::machine::{Machine, Options};
use smolfreeze::stop::Stop;

use crate::rig::{Frozen, Kind, Rig};

/// More than any of these freezes may take, on a busy machine.
const DEADLINE: Duration = Duration::from_secs(180);

/// A machine with some megabytes, so that there are several chunks.
fn small(kind: Kind) -> Rig {
    let rig = Rig::with(kind, &serde_json::json!({"var_tmp_bytes": 24 << 20}));
    rig.sh("dd if=/dev/urandom of=/root/random bs=1M count=30 2>/dev/null");
    rig
}

/// Without what makes a Debian large.
fn little() -> Selection {
    Selection { exclude: Exclude::new(&["/usr/*".to_owned()]).unwrap(), ..Selection::default() }
}

/// Freezes, and does `meanwhile` once chunks come; past the deadline it is stopped, and that is a failure.
fn disturbed(rig: &Rig, options: Options, meanwhile: impl FnOnce()) -> Result<Frozen> {
    let stop = Stop::new();
    let began = Instant::now();
    std::thread::scope(|scope| {
        let freeze = scope.spawn(|| rig.freeze_until(options, &little(), &stop));
        while rig.spool_bytes() < 2 << 20 && !freeze.is_finished() {
            std::thread::sleep(Duration::from_millis(5));
        }
        meanwhile();
        while !freeze.is_finished() && began.elapsed() < DEADLINE {
            std::thread::sleep(Duration::from_millis(20));
        }
        stop.interrupt();
        let frozen = freeze.join().unwrap();
        assert!(began.elapsed() < DEADLINE, "it hung");
        frozen
    })
}

#[test]
fn a_full_disk_in_the_guest_is_said() {
    for kind in [Kind::Debian, Kind::Busybox] {
        let rig = small(kind);
        rig.faults("cp-slow 1000 400");
        let options = Options { window_chunks: 16, patience: Duration::from_secs(30), ..rig.options() };
        let frozen = disturbed(&rig, options, || {
            rig.sh("dd if=/dev/zero of=/var/tmp/full bs=4k 2>/dev/null; true");
        });
        let error = frozen.err().unwrap().to_string();
        assert!(error.contains("'m1'") && error.contains("free space in the machine's /var/tmp"), "{kind:?}: {error}");
        assert_eq!(rig.sh("ls -A /var/tmp"), "full\n", "{kind:?}: the spool goes, and the lock");
        rig.sh("rm /var/tmp/full");
        rig.faults("");
        rig.freeze(rig.options(), &little()).unwrap();
        rig.assert_clean();
    }
}

/// As a guest without memory does it: the shell that reads is killed, and the one that watches lives.
#[test]
fn a_killed_producer_is_said() {
    let rig = small(Kind::Busybox);
    rig.faults("cp-slow 1000 400");
    let frozen = disturbed(&rig, rig.options(), || {
        rig.sh("for p in /proc/[0-9]*; do
            grep -qa 'guest.sh.produce' $p/cmdline 2>/dev/null || continue
            parent=$(sed -n 's/^PPid:[^0-9]*//p' $p/status)
            grep -qa 'guest.sh.produce' /proc/$parent/cmdline || continue
            grandparent=$(sed -n 's/^PPid:[^0-9]*//p' /proc/$parent/status)
            ! grep -qa 'guest.sh.produce' /proc/$grandparent/cmdline || continue
            kill -KILL ${p#/proc/}; break
        done");
    });
    let error = frozen.err().unwrap().to_string();
    assert!(error.contains("'m1'") && error.contains("producer ended with 137"), "{error}");
    rig.assert_clean();
}

/// Freezes so often at the same moment, each with these options.
fn at_once(rig: &Rig, count: usize, options: &Options) -> Vec<Result<Frozen>> {
    let barrier = std::sync::Barrier::new(count);
    std::thread::scope(|scope| {
        let freeze = || {
            barrier.wait();
            rig.freeze(options.clone(), &little())
        };
        let freezes: Vec<_> = (0..count).map(|_| scope.spawn(freeze)).collect();
        freezes.into_iter().map(|freeze| freeze.join().unwrap()).collect()
    })
}

#[test]
fn of_two_in_the_same_moment_one_wins() {
    for kind in [Kind::Debian, Kind::Busybox] {
        let rig = Rig::start(kind);
        let patient = Options { wait: DEADLINE, ..rig.options() };
        for stale in ["", "ln -s 0123456789abcdef /var/tmp/.smolfreeze.lock", "mkdir /var/tmp/.smolfreeze.lock"] {
            rig.sh(stale);
            for frozen in at_once(&rig, 2, &patient) {
                frozen.unwrap();
            }
            rig.sh(stale);
            let frozen = at_once(&rig, 3, &rig.options());
            assert!(frozen.iter().any(Result::is_ok), "{kind:?}, '{stale}': {:?}", frozen[0].as_ref().err());
            for error in frozen.into_iter().filter_map(Result::err) {
                let error = error.to_string();
                assert!(error.contains("another freeze") && error.contains("--wait"), "{kind:?}, '{stale}': {error}");
            }
            rig.assert_clean();
        }
    }
}

#[test]
fn only_who_has_the_machine_runs_the_users_commands() {
    let rig = small(Kind::Busybox);
    rig.faults("cp-slow 1000 400");
    disturbed(&rig, rig.options(), || {
        let command = |name| Some(format!("echo {name} >>/root/log"));
        let options = Options { pre_exec: command("pre"), post_exec: command("post"), ..rig.options() };
        let error = rig.freeze(options, &little()).err().unwrap().to_string();
        assert!(error.contains("another freeze"), "{error}");
        rig.faults("");
    })
    .unwrap();
    assert_eq!(rig.sh("ls /root"), "random\n");
}

/// A dump of a database takes its time: longer than a call of smolvm may take, and than the lease.
#[test]
fn a_long_command_comes_before_what_is_read() {
    let rig = small(Kind::Busybox);
    let options = Options {
        pre_exec: Some("sleep 7; echo dumped >/root/dump".to_owned()),
        lease: Duration::from_secs(4),
        call_limit: Duration::from_secs(5),
        ..rig.options()
    };
    assert!(rig.freeze(options.clone(), &little()).unwrap().names().contains(&"./root/dump".to_owned()));
    let error = rig.freeze(Options { exec_limit: Duration::from_secs(1), ..options }, &little()).err().unwrap();
    assert!(error.to_string().contains("pre-exec") && error.to_string().contains("--exec-timeout"), "{error}");
    rig.assert_clean();
}

/// The environment variable that makes this test binary freeze and hang: a host process to kill.
const VICTIM: &str = "SMOLFREEZE_TEST_VICTIM_AT_NIGHT";

/// Kills a freeze in its middle; `around` is a command that runs it.
fn kill_in_the_middle(rig: &Rig, around: &[&str]) {
    rig.faults("cp-hang 1000");
    let test = std::env::current_exe().unwrap();
    let words = [around, &[test.to_str().unwrap()]].concat();
    let mut host: Child = Command::new(words[0])
        .args(&words[1..])
        .args(["--exact", "night::after_a_killed_host_the_same_host_goes_on_at_once"])
        .env(VICTIM, rig.smolvm_path())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    while rig.spool_bytes() < 1 << 20 {
        std::thread::sleep(Duration::from_millis(20));
    }
    host.kill().unwrap();
    host.wait().unwrap();
    rig.faults("");
}

#[test]
fn after_a_killed_host_the_same_host_goes_on_at_once() {
    if let Some(smolvm) = std::env::var_os(VICTIM) {
        let stop = Stop::new();
        let options = Options { smolvm: smolvm.into(), chunk_bytes: Some(1 << 20), ..Options::default() };
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let machine = runtime.block_on(Machine::open("m1", options, &stop)).unwrap();
        let _ = machine.copy_to(&Selection::default(), &mut std::io::sink(), &stop, runtime.handle());
        return;
    }
    for kind in [Kind::Debian, Kind::Busybox] {
        let rig = Rig::start(kind);
        kill_in_the_middle(&rig, &[]);
        rig.freeze(rig.options(), &little()).unwrap();
        rig.assert_clean();
        // With the machine gone in between, nobody asks the old one to end.
        kill_in_the_middle(&rig, &[]);
        rig.smolvm(&["machine", "stop", "--name", "m1"]);
        rig.smolvm(&["machine", "start", "--name", "m1"]);
        for frozen in at_once(&rig, 2, &Options { wait: DEADLINE, ..rig.options() }) {
            frozen.unwrap();
        }
        rig.assert_clean();
    }
    // One that can't know: it has another /dev/shm, as another host has.
    let rig = Rig::start(Kind::Busybox);
    kill_in_the_middle(&rig, &["unshare", "--mount", "sh", "-c", "mount -t tmpfs x /dev/shm; exec \"$0\" \"$@\""]);
    let error = rig.freeze(rig.options(), &little()).err().unwrap().to_string();
    assert!(error.contains("another freeze"), "{error}");
}

#[test]
fn a_chunk_that_grows_takes_no_more_of_the_host() {
    let rig = small(Kind::Busybox);
    // Each as soon as it was announced; of the default window, the slot.
    let grows = "while :; do for m in /var/tmp/.smolfreeze-*/m.[0-9]*; do
        [ -e $m ] || continue; n=${m##*.}; truncate -c -s 300M ${m%/*}/c.$((n % 4)); done; sleep 0.01; done 2>/dev/null";
    // Long enough for that between the opening of a chunk and its copying.
    rig.faults("cp-slow 100000 300");
    let user = ["machine", "exec", "--name", "m1", "-u", "0", "-d", "--", "sh", "-c", grows];
    rig.smolvm(&user);
    let largest = std::thread::scope(|scope| {
        let freeze = scope.spawn(|| rig.freeze(rig.options(), &little()));
        let mut largest = 0;
        while !freeze.is_finished() {
            let folders = Path::new("/dev/shm").read_dir().unwrap().flatten();
            let ours = folders.filter(|folder| folder.file_name().to_string_lossy().starts_with("smolfreeze-"));
            let files = ours.filter_map(|folder| folder.path().read_dir().ok()).flatten().flatten();
            largest = files.filter_map(|file| file.metadata().ok()).map(|file| file.len()).fold(largest, u64::max);
            std::thread::sleep(Duration::from_millis(1));
        }
        let error = freeze.join().unwrap().err().unwrap().to_string();
        assert!(error.contains("taking chunk") && error.contains("'m1'"), "{error}");
        largest
    });
    // Other tests beside this one have chunks of up to 48 MiB.
    assert!(largest > 0 && largest < 100 << 20, "{} MiB", largest >> 20);
}

#[test]
fn refused_calls_are_made_again() {
    let rig = small(Kind::Debian);
    for faults in ["exec-refuse 1", "exec-refuse 3"] {
        rig.faults(faults);
        rig.freeze(rig.options(), &little()).unwrap();
    }
    let machine = rig.open(rig.options()).unwrap();
    rig.faults("exec-refuse 2");
    assert!(rig.survey(&machine).tar_bytes.is_some());
    rig.faults("exec-refuse 100000");
    let began = Instant::now();
    let error = rig.open(rig.options()).err().unwrap().to_string();
    assert!(error.contains("tries") && error.contains("refused") && error.contains("'m1'"), "{error}");
    assert!(began.elapsed() < DEADLINE);
}

//! Every fault: the freeze recovers and counts it, or ends with an error that names machine, step and cause; and the
//! guest is clean afterwards.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use smolfreeze::error::Kind as ErrorKind;
use smolfreeze::exclude::Exclude;
use smolfreeze::progress::NoticeKind;
use smolfreeze::source::Selection;
use smolfreeze::source::machine::{Options, Reader};
use smolfreeze::stop::Stop;

use crate::rig::{Kind, Rig};

/// A machine with some megabytes, so that there are several chunks, and a folder that is quick to archive.
fn small() -> Rig {
    let rig = Rig::start(Kind::Busybox);
    rig.sh("dd if=/dev/urandom of=/root/random bs=1M count=5");
    rig
}

fn frozen(rig: &Rig, options: Options) -> smolfreeze::error::Result<crate::rig::Frozen> {
    rig.freeze(options, &Selection::default())
}

#[test]
fn a_freeze_recovers() {
    let rig = small();
    let expected = std::fs::read(frozen(&rig, rig.options()).unwrap().tar.path()).unwrap();
    for fault in ["cp-fail 3", "cp-short 2", "cp-flip 2", "cp-slow 3 300"] {
        rig.faults(fault);
        let frozen = frozen(&rig, rig.options()).unwrap();
        assert!(std::fs::read(frozen.tar.path()).unwrap() == expected, "{fault}: other bytes");
        assert_eq!(frozen.retries > 0, !fault.contains("slow"), "{fault}: {} retries", frozen.retries);
        rig.assert_clean();
    }
    rig.faults("cp-hang 1");
    let options = Options { call_limit: Duration::from_secs(2), ..rig.options() };
    assert_eq!(frozen(&rig, options).unwrap().retries, 1);
    rig.assert_clean();
}

/// The answers to both copies in are lost: of the script, which is copied again, and of the reader, which is not.
#[test]
fn a_reader_that_may_not_be_whole_does_not_read() {
    let rig = Rig::start(Kind::Debian);
    let exclude = Exclude::new(&["/usr/*".to_owned()]).unwrap();
    let selection = Selection { exclude, ..Selection::default() };
    let expected = std::fs::read(rig.freeze(rig.options(), &selection).unwrap().tar.path()).unwrap();
    for name in ["true", "false"] {
        for faults in ["", "cp-in-lost 2"] {
            rig.faults(faults);
            let options = Options { reader: Reader::FoundFor(format!("/bin/{name}").into()), ..rig.options() };
            let frozen = rig.freeze(options, &selection).unwrap();
            assert!(std::fs::read(frozen.tar.path()).unwrap() == expected, "{name}, {faults}: other bytes");
            assert_eq!(frozen.retries, u64::from(!faults.is_empty()), "{name}, {faults}");
            rig.assert_clean();
        }
    }
}

#[test]
fn a_lost_connection_comes_back() {
    let rig = small();
    let options = Options { patience: Duration::from_secs(12), ..rig.options() };
    let mut writer = LosesConnection { rig: &rig, written: 0 };
    rig.freeze_to(options, &mut writer, &Stop::new()).unwrap();
    assert!(writer.written > 5 << 20);
    rig.assert_clean();
}

/// Refuses all connections for five seconds once the first bytes came.
struct LosesConnection<'a> {
    rig: &'a Rig,
    written: usize,
}

impl std::io::Write for LosesConnection<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        if self.written == 0 {
            let until =
                std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap() + Duration::from_secs(5);
            self.rig.faults(&format!("refuse-until {}", until.as_millis()));
        }
        self.written += bytes.len();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn what_never_works_ends_with_its_cause() {
    let rig = small();
    rig.faults("cp-fail 1000");
    let error = frozen(&rig, rig.options()).err().unwrap().to_string();
    for part in ["taking chunk ", "'m1'", "connection closed", "tries"] {
        assert!(error.contains(part), "{part}: {error}");
    }
    rig.assert_clean();
    rig.faults("");
    let error = rig.open(Options { smolvm: "/nowhere/smolvm".into(), ..rig.options() }).err().unwrap().to_string();
    assert!(error.contains("/nowhere/smolvm"), "{error}");
}

/// A signal may come before the spool is made.
#[test]
fn cleaning_up_where_nothing_was_made_works() {
    let guest = include_str!("../../src/source/machine/guest.sh");
    for kind in [Kind::Busybox, Kind::Debian] {
        let rig = Rig::start(kind);
        let stop = ["sh", "-c", guest, "smolfreeze", "stop", "/var/tmp/.smolfreeze-0123456789abcdef"];
        let output = rig.smolvm(&[&["machine", "exec", "--name", "m1", "-u", "0", "--"], &stop[..]].concat());
        assert_eq!(String::from_utf8_lossy(&output.stdout), "smolfreeze 1\ndone stop\n", "{kind:?}");
        rig.assert_clean();
    }
}

#[test]
fn a_machine_that_stops_is_named() {
    let rig = small();
    rig.faults("stop-at-cp 3");
    let began = Instant::now();
    let error = frozen(&rig, rig.options()).err().unwrap().to_string();
    assert!(error.contains("'m1'") && error.contains("stopped") && error.contains("machine start"), "{error}");
    assert!(began.elapsed() < Duration::from_secs(10));
    let error = frozen(&rig, rig.options()).err().unwrap().to_string();
    assert!(error.contains("it is stopped"), "{error}");
    rig.smolvm(&["machine", "start", "--name", "m1"]);
    rig.faults("");
    frozen(&rig, rig.options()).unwrap();
    rig.assert_clean();
}

#[test]
fn a_guest_that_lacks_something() {
    let rig = Rig::start(Kind::Debian);
    rig.sh("rm /usr/bin/cksum");
    frozen(&rig, rig.options()).unwrap();
    rig.assert_clean();
    // A tar that ends with 1 found changing files; 2 without a reason that is known is an end with its words.
    rig.sh("mv /usr/bin/tar /usr/bin/tar.real");
    let wrapper = |code: u8, words: &str| {
        rig.sh(&format!(
            "cat > /usr/bin/tar <<'END'\n#!/bin/sh\n[ \"$1\" = --version ] && exec tar.real --version\n\
             tar.real \"$@\"\ncase \"$*\" in *-T*) echo \"{words}\" >&2; exit {code};; esac\nEND\nchmod 755 /usr/bin/tar"
        ));
    };
    wrapper(1, "tar: ./etc/passwd: file changed as we read it");
    let frozen_once = frozen(&rig, rig.options()).unwrap();
    assert_eq!(frozen_once.notices.count(NoticeKind::Changed), 2, "once an archive");
    wrapper(2, "tar: ./etc/shadow: Cannot open: Permission denied");
    let error = frozen(&rig, rig.options()).err().unwrap().to_string();
    assert!(error.contains("Permission denied") && error.contains("archiving in the guest"), "{error}");
    rig.assert_clean();
    rig.sh("rm /usr/bin/tar");
    let error = frozen(&rig, rig.options()).err().unwrap().to_string();
    assert!(error.contains("no tar"), "{error}");
    rig.sh("rm -f /bin/sh; true");
    let error = frozen(&rig, rig.options()).err().unwrap().to_string();
    assert!(error.contains("no shell"), "{error}");
}

#[test]
fn files_that_vanish_are_named() {
    let rig = Rig::start(Kind::Debian);
    // find lists it, and it is gone when tar comes: a sort that removes it in between.
    rig.sh("echo x > /srv/gone; mv /usr/bin/sort /usr/bin/sort.real; printf '#!/bin/sh\\nsort.real \"$@\" >/tmp/sorted; rm -f /srv/gone; cat /tmp/sorted\\n' > /usr/bin/sort; chmod 755 /usr/bin/sort");
    let frozen = frozen(&rig, rig.options()).unwrap();
    assert_eq!(frozen.notices.count(NoticeKind::Vanished), 1, "{:?}", frozen.notices);
    assert_eq!(
        frozen.notices.named().iter().find(|notice| notice.kind == NoticeKind::Vanished).unwrap().path,
        "srv/gone"
    );
}

#[test]
fn one_freeze_at_a_time() {
    let rig = small();
    // Longer than the three seconds in which the second looks whether the first one lives.
    rig.faults("cp-slow 100 1800");
    std::thread::scope(|scope| {
        let first = scope.spawn(|| frozen(&rig, rig.options()));
        while rig.spool_bytes() < 1 << 20 {
            std::thread::sleep(Duration::from_millis(20));
        }
        let error = frozen(&rig, rig.options()).err().unwrap().to_string();
        assert!(error.contains("another freeze") && error.contains("--wait"), "{error}");
        let waited = frozen(&rig, Options { wait: Duration::from_secs(60), ..rig.options() });
        first.join().unwrap().unwrap();
        waited.unwrap();
    });
    rig.assert_clean();
}

#[test]
fn an_interruption_is_quick_and_clean() {
    let rig = small();
    rig.faults("cp-hang 1000");
    let stop = Stop::new();
    let options = Options { call_limit: Duration::from_secs(60), ..rig.options() };
    std::thread::scope(|scope| {
        let freeze = scope.spawn(|| rig.freeze_until(options, &Selection::default(), &stop));
        while rig.spool_bytes() < 1 << 20 {
            std::thread::sleep(Duration::from_millis(20));
        }
        let began = Instant::now();
        stop.interrupt();
        let error = freeze.join().unwrap().err().unwrap();
        assert_eq!(error.kind(), ErrorKind::HungUp, "the stop has the cause: {error}");
        assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    });
    rig.assert_clean();
}

#[test]
fn commands_run_around_a_freeze() {
    let rig = small();
    let options = Options {
        pre_exec: Some("echo pre >> /root/log".to_owned()),
        post_exec: Some("echo post >> /root/log".to_owned()),
        ..rig.options()
    };
    frozen(&rig, options.clone()).unwrap();
    rig.faults("cp-fail 1000");
    frozen(&rig, options.clone()).err().unwrap();
    rig.faults("");
    let error = frozen(&rig, Options { pre_exec: Some("echo no >&2; exit 3".to_owned()), ..options })
        .err()
        .unwrap()
        .to_string();
    assert!(error.contains("pre-exec") && error.contains("no"), "{error}");
    assert_eq!(rig.sh("cat /root/log"), "pre\npost\npre\npost\npost\n");
    rig.assert_clean();
}

/// The environment variable that makes this test binary freeze and hang: a host process to kill.
const VICTIM: &str = "SMOLFREEZE_TEST_VICTIM";

#[test]
fn a_killed_host_leaves_nothing_for_long() {
    if std::env::var_os(VICTIM).is_some() {
        let stop = Stop::new();
        let options = Options {
            smolvm: std::env::var_os(VICTIM).unwrap().into(),
            chunk_bytes: Some(1 << 20),
            lease: Duration::from_secs(4),
            ..Options::default()
        };
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let machine = runtime.block_on(smolfreeze::source::machine::Machine::open("m1", options, &stop)).unwrap();
        let _ = machine.copy_to(&Selection::default(), &mut std::io::sink(), &stop, runtime.handle());
        return;
    }
    let rig = small();
    let kill_in_the_middle = || {
        rig.faults("cp-hang 1000");
        let mut host = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "faults::a_killed_host_leaves_nothing_for_long"])
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
    };
    kill_in_the_middle();
    // Its lease: 4 seconds, and a little for a busy machine.
    let began = Instant::now();
    while rig.spool_bytes() > 0 {
        assert!(began.elapsed() < Duration::from_secs(9), "the guest did not clean up");
        std::thread::sleep(Duration::from_millis(100));
    }
    rig.assert_clean();
    // A machine that died with the host has no watch; the next freeze removes what is left.
    kill_in_the_middle();
    rig.smolvm(&["machine", "stop", "--name", "m1"]);
    rig.smolvm(&["machine", "start", "--name", "m1"]);
    assert!(rig.spool_bytes() > 0);
    frozen(&rig, rig.options()).unwrap();
    rig.assert_clean();
}

//! What changes between the two walks of a night: the one that lists and the one that reads.

use std::sync::Arc;

use smolfreeze::freeze::freeze;
use smolfreeze::night::Wish;
use smolfreeze::oci::Compression;
use smolfreeze::plan::{FreezeOptions, OutputSpec, Plan, SourceSpec};
use smolfreeze::progress::{NoticeKind, Silent};
use smolfreeze::report::Snapshot;
use smolfreeze::stop::Stop;

use crate::host::Host;
use crate::rule::SETTLED;

/// A night with `script` run between its walks.
fn interrupted(host: &Host, script: &str) -> Snapshot {
    interrupted_by(host, || drop(host.shell(script)))
}

/// A night with something else between its walks.
pub fn interrupted_by(host: &Host, between: impl FnOnce()) -> Snapshot {
    let output = OutputSpec::Layout { folder: host.path("layout"), tag: "it".to_owned() };
    let options = FreezeOptions {
        records: Some(host.path("home/.local/state/smolfreeze")),
        night: Some(Wish { reread_percent: 0, squash: false }),
        compression: Some(Compression::Gzip),
        ..FreezeOptions::new(SourceSpec::Directory(host.tree()), vec![output])
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let stop = Stop::new();
        let plan = Plan::make(options, &stop).await.unwrap();
        between();
        Box::pin(freeze(plan, Arc::new(Silent), stop)).await.unwrap()
    })
}

/// A folder that was frozen before, settled.
fn frozen() -> Host {
    let host = Host::new();
    host.shell("cd tree; mkdir -p a/b d; for f in a/x a/b/y a/b/z d/one g; do echo $f >$f; done; head -c 100000 /dev/urandom >large");
    std::thread::sleep(SETTLED);
    let first = interrupted(&host, "true");
    assert!(first.night.unwrap().why_all.is_some());
    host
}

/// What was to be kept and is another file when it would be passed over is read, and what was to be kept is gone. There is a
/// second walk only where something is to be read.
#[test]
fn a_kept_file_that_changes_is_read() {
    let host = frozen();
    for (script, listed, vanished) in [
        ("echo A/X >tree/a/x", 10, 0),
        ("chmod 0600 tree/a/b/y", 10, 0),
        ("setfattr -n user.x -v y tree/a/b/z", 10, 0),
        ("rm tree/d/one", 10, 1),
        ("mv tree/a/x tree/a/b/x", 9, 1),
    ] {
        host.shell("date +%N >tree/g");
        let snapshot = interrupted(&host, script);
        let night = snapshot.night.unwrap();
        assert!(night.why_all.is_none() && night.listed == listed && night.kept >= listed - 2, "{script}: {night:?}");
        assert_eq!(snapshot.notices.count(NoticeKind::Vanished), vanished, "{script}");
        assert_eq!(host.differences(), Vec::<String>::new(), "{script}");
        std::thread::sleep(SETTLED);
        interrupted(&host, "true");
    }
}

/// Where nothing was to be read, the image is that of the moment of the listing, and the next night has the rest. Where
/// something was, it is the folder.
#[test]
fn kinds_that_change_end_no_night() {
    for before in ["true", "touch tree/a/b/y tree/g tree/d/one"] {
        for script in [
            "rm -r tree/a/b; echo file >tree/a/b",
            "rm -r tree/a; echo file >tree/a",
            "rm -r tree/a; ln -s d tree/a",
            "rm tree/g; mkdir tree/g; echo in >tree/g/in",
            "mv tree/d tree/d2; mv tree/g tree/d; mv tree/d2 tree/g",
            "rm -r tree/a",
            "echo new >tree/a/b/new",
        ] {
            let host = frozen();
            host.shell(before);
            interrupted(&host, script);
            if before != "true" {
                assert_eq!(host.differences(), Vec::<String>::new(), "{before}; {script}");
            }
            std::thread::sleep(SETTLED);
            let next = interrupted(&host, "true");
            assert!(next.night.unwrap().why_all.is_none());
            assert_eq!(host.differences(), Vec::<String>::new(), "{before}; {script}");
        }
    }
}

/// Files that have others' names while they are read, and their own again later: nothing of them tells so.
#[test]
fn names_that_were_others_for_a_moment_are_read_again() {
    const SWAP: &str = "cd tree; mv m t; mv m2 m; mv t m2; mv f f2; mv g f; mv f2 g";
    for is_first in [true, false] {
        let host = Host::new();
        host.shell(
            "cd tree; mkdir m m2; for f in m/f m/g m2/f m2/g f g; do echo $f >$f; done; ln m/f m/linked
             touch -d 2020-01-01 m/* m2/* f g; ln -s x m/soft; ln -s y m2/soft; touch -h -d 2020-01-01 m/soft m2/soft
             mkfifo -m 644 m/kind; touch m2/kind; chmod 644 m2/kind; ln -s x m/other; echo >m2/other; chmod 777 m2/other
             touch -h -d 2020-01-01 m/kind m2/kind m/other m2/other",
        );
        std::thread::sleep(SETTLED);
        if !is_first {
            interrupted(&host, "true");
            host.shell("for f in m/f m/g m2/f m2/g f g; do echo $f.2 >tree/$f; touch -d 2020-01-02 tree/$f; done");
            std::thread::sleep(SETTLED);
        }
        let snapshot = interrupted(&host, SWAP);
        assert!(snapshot.notices.count(NoticeKind::Replaced) >= 6, "{:?}", snapshot.notices);
        assert_eq!(host.differences(), Vec::<String>::new(), "as it was while it was read");
        host.shell(SWAP);
        std::thread::sleep(SETTLED);
        interrupted(&host, "true");
        assert_eq!(host.differences(), Vec::<String>::new(), "{is_first}");
        let night = interrupted(&host, "true").night.unwrap();
        assert_eq!((night.doubtful, night.changed), (0, 0), "{is_first}");
    }
}

/// What no image has is told each night, whether anything else is read or not.
#[test]
fn what_is_left_out_is_told_each_night() {
    let host = frozen();
    host.shell("mkdir tree/mounted; mount -t tmpfs none tree/mounted; python3 -c 'import socket; socket.socket(socket.AF_UNIX).bind(\"tree/socket\")'");
    std::thread::sleep(SETTLED);
    let told = ["true", "true", "echo new >tree/g", "true"].map(|script| {
        host.shell(script);
        let snapshot = interrupted(&host, "true");
        [NoticeKind::Mount, NoticeKind::Socket].map(|kind| snapshot.notices.count(kind))
    });
    host.shell("umount tree/mounted");
    assert_eq!(told, [[1, 1]; 4]);
}

//! The guest's tools make their lists once, each entry is in one of them, and whatever one of them does is heard of.

use smolfreeze::progress::NoticeKind;
use smolfreeze::source::Selection;

use crate::rig::{Kind, Rig, differences, tree};

/// Puts a script before a guest's tool, which is in /opt/real from then on.
fn wrap(rig: &Rig, tool: &str, script: &str) {
    rig.sh(&format!(
        "mkdir -p /opt/real && cd /usr/bin && mv {tool} /opt/real/ &&
         printf '#!/bin/sh\\n%s\\n' '{script}' >{tool} && chmod 755 {tool}"
    ));
}

/// pnpm, uv, dpkg and `cp -al` do this all day.
#[test]
fn a_link_that_goes_between_the_lists_costs_no_file() {
    let rig = Rig::start(Kind::Debian);
    rig.sh("echo x >/srv/first; ln /srv/first /srv/second; echo y >/srv/one");
    let script = r#"/opt/real/find "$@"; code=$?; case "$*" in *-print0*) rm -f /srv/second; ln /srv/one /srv/two; esac; exit $code"#;
    wrap(&rig, "find", script);
    let frozen = rig.freeze(rig.options(), &Selection::default()).unwrap();
    assert!(!rig.root().join("srv/second").exists(), "the guest's find was called");
    let unpacked = frozen.unpack();
    assert_eq!(std::fs::read_to_string(unpacked.path().join("srv/first")).unwrap(), "x\n");
    assert_eq!(frozen.names().iter().filter(|name| *name == "./srv/one").count(), 1);
    let gone = frozen.notices.named().iter().filter(|notice| notice.kind == NoticeKind::Vanished);
    assert_eq!(gone.map(|notice| notice.path.as_str()).collect::<Vec<_>>(), ["srv/second"]);
    rig.assert_clean();
}

/// A shell of busybox's runs its own find, whatever lies on the PATH: links come and go all the time.
#[test]
fn links_that_come_and_go_cost_no_file() {
    for kind in [Kind::Busybox, Kind::Debian] {
        let rig = Rig::start(kind);
        let files = "1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20";
        rig.sh(&format!("mkdir -p /srv; cd /srv; touch go; for i in {files}; do echo $i >f$i; done"));
        let script =
            format!("cd /srv; while [ -e go ]; do for i in {files}; do [ -e l$i ] && rm l$i || ln f$i l$i; done; done");
        rig.smolvm(&["machine", "exec", "--name", rig.name, "-u", "0", "-d", "--", "sh", "-c", &script]);
        for _ in 0..2 {
            let names = rig.freeze(rig.options(), &Selection::default()).unwrap().names();
            for file in files.split(' ') {
                let name = format!("./srv/f{file}");
                assert_eq!(names.iter().filter(|other| **other == name).count(), 1, "{kind:?}: {name}");
            }
        }
        rig.sh("rm /srv/go");
        rig.assert_clean();
    }
}

#[test]
fn a_tool_that_is_killed_is_an_error() {
    for shell in ["bash", "dash"] {
        let rig = Rig::start(Kind::Debian);
        rig.sh(&format!("ln -sf {shell} /bin/sh"));
        for tool in ["sort", "tr", "find", "tar"] {
            let script =
                r#"case "$*" in --version) exec /opt/real/NAME "$@";; *--no-recursion*.) exit 0;; esac; kill -KILL $$"#;
            wrap(&rig, tool, &script.replace("NAME", tool));
            let error = rig.freeze(rig.options(), &Selection::default()).err().unwrap().to_string();
            assert!(error.contains(&format!("{tool} ended with 137 (it was killed")), "{shell}, {tool}: {error}");
            rig.assert_clean();
            rig.sh(&format!("mv /opt/real/{tool} /usr/bin/{tool}"));
        }
    }
}

#[test]
fn the_survey_counts_what_comes() {
    for kind in [Kind::Debian, Kind::Busybox, Kind::Bare] {
        let rig = Rig::start(kind);
        rig.sh("mkdir -p /srv; cd /srv && for i in 1 2 3; do echo $i >a$i; ln a$i b$i; done; mkdir -p /workspace/x && ln /srv/a1 /srv/c || :
            echo w >/workspace/w; ln /workspace/w /workspace/v; [ ! -d /data ] || echo d >/data/d");
        std::os::unix::net::UnixListener::bind(rig.root().join("srv/socket")).unwrap();
        let machine = rig.open(rig.options()).unwrap();
        let surveyed = rig.survey(&machine).entries;
        let names = rig.freeze(rig.options(), &Selection::default()).unwrap().names();
        // What an archive that is followed ends with.
        let came = names.iter().filter(|name| *name != "./").count() as u64 + 1;
        assert_eq!(surveyed, came, "{kind:?}");
        rig.assert_clean();
    }
}

/// Where nothing is mounted on `/workspace`, a link may lead into it.
#[test]
fn linked_files_of_the_workspace_come_together() {
    for kind in [Kind::Debian, Kind::Busybox] {
        let rig = Rig::start(kind);
        rig.sh("umount /workspace; mkdir -p /workspace /srv; cd /
            for i in 1 2 3 4 5 6 7 8 9; do
                echo $i >srv/a$i; ln srv/a$i srv/b$i; echo $i >workspace/a$i; ln workspace/a$i workspace/b$i
                echo $i >srv/both$i; ln srv/both$i workspace/both$i
            done
            ln srv/both1 srv/again1; ln srv/both1 workspace/again1");
        let frozen = rig.freeze(rig.options(), &Selection::default()).unwrap();
        let names = frozen.names();
        let is_inside: Vec<bool> = names.iter().map(|name| name.starts_with("./workspace/")).collect();
        let changes = is_inside.windows(2).filter(|pair| pair[0] != pair[1]).count();
        // Single files, in and out again; and at the end the linked ones, in.
        assert!(changes <= 3, "{kind:?}: {changes} changes");
        let unpacked = frozen.unpack();
        let links = |path: &str| {
            use std::os::unix::fs::MetadataExt;
            let there = unpacked.path().join(path).metadata().unwrap();
            (there.ino(), there.nlink())
        };
        assert_eq!(links("srv/both2").1, 1, "{kind:?}");
        assert_eq!((links("srv/both1"), links("workspace/both1").1), (links("srv/again1"), 2), "{kind:?}");
        assert_eq!(links("workspace/a3"), links("workspace/b3"), "{kind:?}");
        let contents = |root: &std::path::Path| {
            let mut files = tree(&root.join("workspace"), &["./.smolvm-*"], false);
            // Links that led out are not there any more.
            files.retain(|path, _| !path.contains("both") && !path.contains("again"));
            files
        };
        assert_eq!(differences(&contents(&rig.root()), &contents(unpacked.path())), Vec::<String>::new(), "{kind:?}");
        rig.assert_clean();
    }
}

/// busybox's tar knows links only within one call, and takes names only as arguments.
#[test]
fn links_stay_together_whatever_the_batches_of_busybox() {
    let rig = Rig::start(Kind::Busybox);
    let long = "x".repeat(100);
    rig.sh(&format!(
        "mkdir -p /srv/few /srv/many; cd /srv/few
        for i in $(seq 400); do echo $i >a$i; ln a$i b$i-{long}; ln a$i c$i-{long}; done
        cd ../many; echo x >0; for i in $(seq 9000); do echo 0; echo $i-{long}; done | xargs -n 2 ln"
    ));
    let frozen = rig.freeze(rig.options(), &Selection::default()).unwrap();
    let unpacked = frozen.unpack();
    let links = |folder: &str| {
        use std::os::unix::fs::MetadataExt;
        let mut links = std::collections::BTreeMap::<u64, u64>::new();
        for entry in std::fs::read_dir(unpacked.path().join(folder)).unwrap() {
            *links.entry(entry.unwrap().metadata().unwrap().ino()).or_default() += 1;
        }
        links.into_values().collect::<Vec<_>>()
    };
    assert_eq!(links("srv/few"), [3; 400]);
    // More names than one process takes arguments: each copy beyond the first is said.
    let many = links("srv/many");
    assert_eq!(many.iter().sum::<u64>(), 9001);
    let divided: Vec<_> = frozen.notices.named().iter().filter(|notice| notice.kind == NoticeKind::Divided).collect();
    assert!(many.len() > 1 && many.len() == divided.len() + 1, "{many:?}, {divided:?}");
    assert!(divided.iter().all(|notice| notice.path.starts_with("srv/many/")), "{divided:?}");
    rig.assert_clean();
}

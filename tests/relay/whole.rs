//! Whole machines come over, entry by entry.

use smolfreeze::exclude::Exclude;
use smolfreeze::progress::NoticeKind;
use smolfreeze::source::Selection;

use crate::rig::{Kind, Rig, differences, tree};

/// Names and kinds of entries that archives get wrong.
const AWKWARD: &str = r#"
set -e
mkdir -p /srv/awkward /opt/deep && cd /srv/awkward
echo plain > plain; echo 'two words' > 'two words'; echo x > "$(printf 'line\nbreak')"; echo x > "$(printf 'byte\001one')"
echo x > -dash; echo x > 'back\slash'; echo x > '*star*'; echo x > "quo'te"; echo x > 'tab	tab'
ln -s plain link; ln -s /nowhere/at/all dangling; mkfifo fifo; mknod char c 1 3; mknod block b 7 9
mkdir empty sticky; chmod 1777 sticky; chmod 4755 plain; chown 12345:54321 'two words'
ln plain /opt/deep/other; ln plain "$(printf 'linked\nbreak')"; ln link link2
long=aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa
mkdir -p $long/$long/$long; echo deep > $long/$long/$long/file; ln -s $long/$long/$long/file longlink
dd if=/dev/zero of=zeros bs=1000 count=3333 2>/dev/null; dd if=/dev/urandom of=random bs=1000 count=2777 2>/dev/null
mkdir a a-b a/b; echo 1 > a/b/c; echo 2 > a-b/c
touch -d '2001-02-03 04:05:06' plain empty
mkdir -p /workspace/project; echo work > /workspace/project/file; ln /workspace/project/file /workspace/hard
echo stale > /tmp/stale; echo stale > /var/tmp/stale
"#;

/// What must not come over, seen from the root.
const LEFT: [&str; 9] = [
    "./proc/*",
    "./sys/*",
    "./dev/*",
    "./run/*",
    "./tmp/*",
    "./var/tmp/*",
    "./storage/*",
    "./oldroot/*",
    "./workspace/.smolvm-*",
];

#[test]
fn a_debian_machine_comes_over() {
    let rig = Rig::start(Kind::Debian);
    rig.sh(AWKWARD);
    rig.sh("mkdir /data/db; echo rows > /data/db/table; touch -d '2001-02-03 04:05:06.123456789' /data/db/table");
    let machine = rig.open(rig.options()).unwrap();
    let facts = machine.facts();
    assert_eq!((facts.user.as_deref(), facts.workdir.as_str()), (Some("1000:1000"), "/srv"));
    assert!(facts.env.contains(&"GREETING=hello world".to_owned()), "{:?}", facts.env);
    assert_eq!((facts.cmd.as_slice(), facts.labels["team"].as_str()), (&["bash".to_owned()][..], "x"));
    let survey = rig.survey(&machine);
    let frozen = rig.freeze(rig.options(), &Selection::default()).unwrap();
    let (about, bytes) = (survey.tar_bytes.unwrap(), frozen.tar.as_file().metadata().unwrap().len());
    assert!(about.abs_diff(bytes) < bytes / 4, "surveyed {about}, came {bytes}");
    let unpacked = frozen.unpack();
    let (expected, found) = (tree(&rig.root(), &LEFT, true), tree(unpacked.path(), &[], true));
    assert!(expected.len() > 1000 && expected.contains_key("data/db/table") && expected.contains_key("workspace/hard"));
    assert_eq!(differences(&expected, &found), Vec::<String>::new());
    assert_eq!(frozen.retries, 0);
    rig.assert_clean();
}

#[test]
fn a_busybox_machine_comes_over() {
    let rig = Rig::start(Kind::Busybox);
    rig.sh(AWKWARD);
    let frozen = rig.freeze(rig.options(), &Selection::default()).unwrap();
    let unpacked = frozen.unpack();
    let (expected, found) = (tree(&rig.root(), &LEFT, false), tree(unpacked.path(), &[], false));
    assert!(expected.contains_key("srv/awkward/random") && expected.contains_key("workspace/hard"));
    assert_eq!(differences(&expected, &found), Vec::<String>::new());
    rig.assert_clean();
}

#[test]
fn a_bare_machine_comes_over() {
    let rig = Rig::start(Kind::Bare);
    rig.sh(AWKWARD);
    let frozen = rig.freeze(rig.options(), &Selection::default()).unwrap();
    let unpacked = frozen.unpack();
    let mut expected = tree(&rig.root(), &[&LEFT[..], &["./workspace", "./.smolvm-ready.*"]].concat(), true);
    for (path, what) in tree(&rig.root().join("storage/workspace"), &["./.smolvm-*"], true) {
        let path = if path.is_empty() { "workspace".to_owned() } else { format!("workspace/{path}") };
        expected.insert(path, what);
    }
    let found = tree(unpacked.path(), &[], true);
    assert!(found.contains_key("workspace/hard") && !found.contains_key(".smolvm-ready.1"));
    assert_eq!(differences(&expected, &found), Vec::<String>::new());
    rig.assert_clean();
}

#[test]
fn links_come_last_and_group_by_group() {
    let rig = Rig::start(Kind::Debian);
    rig.sh("cd /srv; for i in 1 2 3; do echo $i > a$i; done; for i in 1 2 3; do ln a$i z$i; done");
    let frozen = rig.freeze(rig.options(), &Selection::default()).unwrap();
    let names = frozen.names();
    let tail: Vec<&str> =
        names.iter().map(String::as_str).filter(|name| name.starts_with("./srv/") && *name != "./srv/").collect();
    for pair in tail.chunks(2) {
        assert_eq!(pair[0].replace('a', "z"), pair[1], "{tail:?}");
    }
    let first = names.iter().position(|name| name == "./srv/a1").unwrap();
    assert!(first > names.iter().position(|name| name == "./var/").unwrap(), "links come last");
}

#[test]
fn the_same_machine_gives_the_same_bytes() {
    for kind in [Kind::Debian, Kind::Busybox] {
        let rig = Rig::start(kind);
        rig.sh(AWKWARD);
        let [one, other] = [(); 2]
            .map(|()| std::fs::read(rig.freeze(rig.options(), &Selection::default()).unwrap().tar.path()).unwrap());
        assert!(one == other, "{kind:?}: an unchanged machine must give unchanged layers");
    }
}

#[test]
fn the_guest_compresses_on_request() {
    use smolfreeze::oci::Compression;
    let rig = Rig::start(Kind::Bare);
    rig.sh(AWKWARD);
    let plain = std::fs::read(rig.freeze(rig.options(), &Selection::default()).unwrap().tar.path()).unwrap();
    let options = smolfreeze::source::machine::Options { guest_compression: Compression::Gzip, ..rig.options() };
    let frozen = rig.freeze(options, &Selection::default()).unwrap();
    assert!(std::fs::read(frozen.tar.path()).unwrap() == plain);
    let options = smolfreeze::source::machine::Options { guest_compression: Compression::Zstd, ..rig.options() };
    let error = rig.freeze(options, &Selection::default()).err().unwrap().to_string();
    assert!(error.contains("zstd") && error.contains("m1"), "{error}");
    rig.assert_clean();
}

#[test]
fn what_is_left_out_is_left_out() {
    let rig = Rig::start(Kind::Debian);
    rig.sh("mkdir -p /srv/keep/.cache /opt/drop; echo 1 > /srv/keep/x.pyc; echo 1 > /srv/keep/x.py; echo 1 > /srv/keep/.cache/y; echo 1 > /opt/drop/z");
    let exclude = Exclude::new(&["*.pyc", "/opt/drop", "srv/*/.cache"]).unwrap();
    let selection = Selection { exclude, include_mounts: vec!["tmp".into()], ..Selection::default() };
    rig.sh("echo wanted > /tmp/wanted");
    let names = rig.freeze(rig.options(), &selection).unwrap().names();
    let has = |name: &str| names.iter().any(|other| other == name);
    assert!(has("./srv/keep/x.py") && has("./tmp/wanted"));
    assert!(!has("./srv/keep/x.pyc") && !has("./opt/drop/") && !has("./srv/keep/.cache/"));
}

#[test]
fn a_socket_is_named() {
    let rig = Rig::start(Kind::Debian);
    let holder = rig.root();
    std::os::unix::net::UnixListener::bind(holder.join("srv/so ck")).unwrap();
    let frozen = rig.freeze(rig.options(), &Selection::default()).unwrap();
    assert_eq!(frozen.notices.count(NoticeKind::Socket), 1);
    assert_eq!(frozen.notices.named()[0].path, "srv/so ck");
}

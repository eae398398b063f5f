//! What is left out, and what is not.

use std::os::unix::net::UnixListener;
use std::path::PathBuf;

use super::*;
use crate::error::Kind;
use crate::exclude::Exclude;
use crate::source::wanted::Wanted;

#[test]
fn excluded_entries_are_left_out_with_what_is_below() {
    let tree = tempfile::tempdir().unwrap();
    shell(
        tree.path(),
        "mkdir -p var/cache/apt keep/node_modules; touch var/cache/apt/x keep/a.pyc keep/node_modules/y keep/b",
    );
    let exclude = Exclude::new(&["/var/cache/apt", "*.pyc", "node_modules"]).unwrap();
    let streamed = stream(tree.path(), &Selection { exclude, ..Selection::default() }).unwrap();
    assert_eq!(streamed.names(), ["./", "./keep/", "./keep/b", "./var/", "./var/cache/"]);
}

#[test]
fn own_outputs_and_sockets_are_left_out_and_told() {
    let tree = tempfile::tempdir().unwrap();
    shell(tree.path(), "mkdir -p out/blobs other; touch out/blobs/x image.tar; ln -s out way-to-out");
    let _socket = UnixListener::bind(tree.path().join("other/socket")).unwrap();
    let own_outputs =
        vec![tree.path().join("way-to-out"), tree.path().join("./image.tar"), PathBuf::from("/not/there")];
    let streamed = stream(tree.path(), &Selection { own_outputs, ..Selection::default() }).unwrap();
    assert_eq!(streamed.names(), ["./", "./other/", "./way-to-out"]);
    let expected =
        [(NoticeKind::Output, "image.tar"), (NoticeKind::Socket, "other/socket"), (NoticeKind::Output, "out")];
    assert_eq!(streamed.noticed(), expected);
}

#[test]
fn a_root_filesystem_is_without_what_belongs_to_its_run() {
    let tree = tempfile::tempdir().unwrap();
    shell(
        tree.path(),
        "mkdir -p etc usr/bin var/tmp/y home proc/1 sys/x dev run/lock tmp/x; ln -s usr/bin bin; chmod 1777 tmp; touch dev/null home/tmp tmp/file",
    );
    let streamed = stream(tree.path(), &Selection::default()).unwrap();
    let expected = [
        "./",
        "./bin",
        "./dev/",
        "./etc/",
        "./home/",
        "./home/tmp",
        "./proc/",
        "./run/",
        "./sys/",
        "./tmp/",
        "./usr/",
        "./usr/bin/",
        "./var/",
        "./var/tmp/",
    ];
    assert_eq!(streamed.names(), expected);
    assert!(streamed.line("./tmp/").starts_with("drwxrwxrwt"));
    let include_mounts = vec![PathBuf::from("/tmp"), PathBuf::from("run/lock")];
    let streamed = stream(tree.path(), &Selection { include_mounts, ..Selection::default() }).unwrap();
    let names = streamed.names();
    assert!(
        ["./tmp/file", "./tmp/x/", "./run/lock/"].iter().all(|name| names.iter().any(|found| found == name)),
        "{names:?}"
    );
    shell(tree.path(), "rm -r etc");
    let names = stream(tree.path(), &Selection::default()).unwrap().names();
    assert!(names.iter().any(|name| name == "./tmp/file"), "without /etc it is a folder like any other");
}

/// What a machine decides: a folder at another place, hollow ones, and spools even where their folder is wanted.
#[test]
fn what_was_decided_elsewhere_is_carried_out() {
    let tree = tempfile::tempdir().unwrap();
    let script = "mkdir -p storage/workspace storage/layers var/tmp/.smolfreeze-1; ln -s /storage/workspace workspace
        touch storage/layers/x var/tmp/.smolfreeze-1/x var/tmp/kept z; cd storage/workspace
        p=$(printf 'd/%.0s' {1..70}); mkdir -p $p; echo deep >$p/x; ln $p/x $p/y; ln $p/x ../../outside";
    shell(tree.path(), script);
    let wanted = Wanted {
        hollow: vec!["storage".into()],
        include: vec!["workspace".into()],
        apart: vec!["workspace".into()],
        placed: Some(("workspace".into(), "storage/workspace".into())),
        ..Wanted::of_root(&Selection { include_mounts: vec!["/var/tmp".into()], ..Selection::default() })
    };
    let streamed = collect(Directory::open_root(tree.path(), wanted).unwrap(), 2).unwrap();
    let names = streamed.names();
    let expected = ["./", "./storage/", "./var/", "./var/tmp/", "./var/tmp/kept", "./workspace/", "./workspace/d/"];
    assert_eq!(names[..7], expected);
    let deep = format!("./workspace/{}", "d/".repeat(70));
    assert_eq!(
        names[names.len() - 4..],
        ["./z".to_owned(), "./outside".to_owned(), deep.clone() + "x", deep.clone() + "y"]
    );
    assert_eq!(streamed.content(&(deep.clone() + "x")), b"deep\n");
    assert!(streamed.line(&(deep + "y")).starts_with('h') && streamed.line("./outside").starts_with('-'));
}

/// Runs itself again in a mount namespace of its own, so that no mount is left behind.
#[test]
fn other_mounts_are_left_out_and_told() {
    const INSIDE: &str = "SMOLFREEZE_TEST_IN_NAMESPACE";
    if std::env::var_os(INSIDE).is_none() {
        let unshare = if is_root() { "-m" } else { "-rm" };
        let ran = Command::new("unshare")
            .arg(unshare)
            .arg(std::env::current_exe().unwrap())
            .args(["--exact", "source::directory::tests::selected::other_mounts_are_left_out_and_told", "--nocapture"])
            .env(INSIDE, "1")
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&ran.stdout);
        assert!(ran.status.success() && said.contains("1 passed"), "{said}{}", String::from_utf8_lossy(&ran.stderr));
        return;
    }
    let tree = tempfile::tempdir().unwrap();
    let script = "mkdir disk same; touch file plain; mount -t tmpfs -o mode=0751 none disk; mkdir -p disk/sub disk/sub/deep; touch disk/in
        mount -t tmpfs none disk/sub/deep; touch disk/sub/deep/x; mount --bind /dev/null file; mount --bind . same";
    shell(tree.path(), script);
    let streamed = stream(tree.path(), &Selection::default()).unwrap();
    assert_eq!(streamed.names(), ["./", "./disk/", "./file", "./plain", "./same/"]);
    assert_eq!(
        streamed.noticed(),
        [(NoticeKind::Mount, "disk"), (NoticeKind::Mount, "file"), (NoticeKind::Mount, "same")]
    );
    assert!(streamed.line("./disk/").starts_with("drwxr-x--x"));
    assert!(streamed.line("./file").starts_with("-rw-rw-rw-"));
    let including = |mount: &str| {
        let include_mounts = vec![PathBuf::from(mount)];
        stream(tree.path(), &Selection { include_mounts, ..Selection::default() }).unwrap().names()
    };
    // Nobody asked for the one below it.
    assert_eq!(including("/disk")[1..6], ["./disk/", "./disk/in", "./disk/sub/", "./disk/sub/deep/", "./file"]);
    assert_eq!(including("disk/sub/deep/")[1..5], ["./disk/", "./disk/sub/", "./disk/sub/deep/", "./disk/sub/deep/x"]);
    assert!(including("./file").contains(&"./file".to_owned()));
    shell(tree.path(), "umount same file disk/sub/deep disk");
}

#[test]
fn what_is_no_folder_is_refused_by_name() {
    let tree = tempfile::tempdir().unwrap();
    shell(tree.path(), "touch file; mkdir folder; touch folder/x; ln -s folder link");
    let refused = |name: &str| match Directory::open(&tree.path().join(name), &Selection::default()) {
        Err(error) if error.kind() == Kind::Source => error.to_string(),
        other => panic!("{:?}", other.map(|_| ())),
    };
    let missing = refused("missing");
    assert!(missing.ends_with("missing': there is no such folder"), "{missing}");
    assert!(refused("file").ends_with("file': it is not a folder"));
    assert_eq!(stream(&tree.path().join("link"), &Selection::default()).unwrap().names(), ["./", "./x"]);
}

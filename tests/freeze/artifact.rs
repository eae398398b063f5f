//! An artifact as an output: what smolvm's own code takes out of it is what went in, alone and beside a registry.

use std::fs;
use std::path::Path;

use smolfreeze::progress::NoticeKind;

use crate::faithful;
use crate::host::{Host, finish, names, shell};
use crate::support::docker_registry::DockerRegistry;
use crate::support::sidecar::{self, assert_whole, unpacked};
use crate::trees::{AWKWARD, Keeps, LONG, MODEST, assert_same, inventory};

/// A tree that is awkward all over, in its `/workspace` too.
const TREE: &str = "mkdir -p workspace/project; chown 5:6 workspace; chmod 0710 workspace";

fn tree(host: &Host) -> std::path::PathBuf {
    let all = [MODEST, LONG, AWKWARD].concat();
    let tree = host.tree("tree", &[&all, TREE].concat());
    shell(&tree.join("workspace/project"), &all);
    // In a machine the two are on different mounts: what a link joins here is one file on each side there.
    shell(&tree, "echo both >etc-side; ln etc-side workspace/other-side; ln workspace/other-side workspace/third");
    // The folders' times are from before what was put into them.
    shell(&tree, "touch -d @1700000001.5 workspace .");
    tree
}

#[test]
fn what_smolvm_takes_out_is_what_went_in() {
    let (host, registry) = (Host::new(), DockerRegistry::start());
    let (tree, agent) = (tree(&host), sidecar::agent(&host.path(".")).display().to_string());
    let (source, mut wanted) = (format!("dir:{}", tree.display()), inventory(&tree, Keeps::Everything));
    for name in ["workspace/other-side", "workspace/third"] {
        let line = wanted.get_mut(Path::new(name)).unwrap();
        *line = line.replace("same as etc-side", "same as workspace/other-side");
    }
    for (number, (compression, layer_size, with_registry)) in
        [("zstd", "1MiB", true), ("zstd", "32MiB", false), ("gzip", "4MiB", true), ("none", "4MiB", false)]
            .into_iter()
            .enumerate()
    {
        let what = format!("{compression} {layer_size}");
        let (pack, name) = (host.text(&format!("a{number}")), format!("{}/space/name:{number}", registry.address));
        let mut words = vec![&*source, "--pack", &pack, "--agent-rootfs", &agent];
        words.extend(["--compression", compression, "--layer-size", layer_size]);
        if with_registry {
            words.extend(["--to", &name]);
        }
        let snapshot = host.freeze(&words);
        let artifact = host.path(&format!("a{number}.smolmachine"));
        let output = snapshot.outputs.last().unwrap();
        assert_eq!(output.name, artifact.display().to_string());
        assert_eq!(output.artifact_bytes, Some(fs::metadata(&artifact).unwrap().len()));
        let manifest = assert_whole(&artifact);
        assert_eq!((manifest.image, manifest.cpus, manifest.mem), (source.clone(), 1, 512), "{what}");
        let listed: Vec<_> = manifest.assets.layers.iter().map(|layer| layer.digest.clone()).collect();
        let all: Vec<_> = snapshot.layers.iter().map(|layer| layer.diff_id.to_string()).collect();
        assert!(listed.len() > 2 && listed.len() < all.len(), "{what}: {} of {}", listed.len(), all.len());
        assert!(listed.iter().all(|layer| all.contains(layer)));
        let root = unpacked(&artifact, &host.path("unpacked-artifact"));
        assert_same(&wanted, &inventory(&root, Keeps::Everything), &what);
        if with_registry {
            host.verify(&name);
            assert_same(&wanted, &inventory(&faithful::unpacked(&host, &name), Keeps::Everything), &what);
        }
    }
}

#[test]
fn layers_that_are_known_are_packed_for_a_new_artifact_and_not_sent_again() {
    let (host, registry) = (Host::new(), DockerRegistry::start());
    let agent = sidecar::agent(&host.path(".")).display().to_string();
    let tree = host.tree("tree", "mkdir workspace; for i in {1..9}; do head -c 500000 /dev/urandom >$i; done");
    let (source, name) = (format!("dir:{}", tree.display()), format!("{}/space/name:tag", registry.address));
    let words = ["--layer-size", "1MiB", "--to", &name, "--pack", &host.text("a"), "--agent-rootfs", &agent];
    let first = host.freeze(&[&[&*source][..], &words].concat());
    let again = host.freeze(&[&[&*source, "--squash"][..], &words].concat());
    assert_eq!((again.layers_known, again.layers_packed), (0, first.layers.len() as u64));
    assert!(again.layers.iter().all(|layer| layer.sent_bytes[0] == 0 && layer.sent_bytes[1] > 0));
    assert_whole(&host.path("a.smolmachine"));
    // Without one they are known as ever.
    let alone = host.freeze(&[&source, "--layer-size", "1MiB", "--to", &name]);
    assert!(alone.layers_known > 0);
}

#[test]
fn a_tar_with_a_workspace_comes_back_too() {
    let host = Host::new();
    let agent = sidecar::agent(&host.path(".")).display().to_string();
    let linked =
        "mkdir -p a workspace; echo 1 >a/first; ln a/first a/second; echo 2 >workspace/x; ln workspace/x workspace/y";
    let folder = host.tree("tree", linked);
    shell(&host.path("."), "tar --numeric-owner --sort=name -C tree -cf t.tar .");
    let wanted = inventory(&folder, Keeps::Seconds);
    let tar = host.path("t.tar");
    for (source, input) in [(format!("tar:{}", tar.display()), None), ("tar:-".to_owned(), Some(tar.as_path()))] {
        host.freeze_from(&[&source, "--pack", &host.text("a"), "--agent-rootfs", &agent], input);
        let root = unpacked(&host.path("a.smolmachine"), &host.path("unpacked"));
        assert_same(&wanted, &inventory(&root, Keeps::Seconds), &source);
    }
    // Not as a layer that smolvm would hide, and not in silence without it.
    for (more, hint) in [("ln a/first z", "dir:PATH"), ("rm z; ln a/first workspace/z", "--exclude")] {
        shell(&folder, more);
        shell(&host.path("."), "tar --numeric-owner --sort=name -C tree -cf t.tar .");
        let source = format!("tar:{}", tar.display());
        let line = host.refuses(3, "z'", &[&source, "--pack", &host.text("b"), "--agent-rootfs", &agent]);
        assert!(line.contains(hint), "{line}");
        assert!(!names(&host.path(".")).iter().any(|name| name.starts_with('b') || name.starts_with(".smolfreeze")));
        host.freeze(&[&source, "--to", &format!("oci:{}", host.text("layout"))]);
    }
}

#[test]
fn an_artifact_inside_of_what_is_frozen_stays_out() {
    let host = Host::new();
    let agent = sidecar::agent(&host.path(".")).display().to_string();
    let tree = host.tree("tree", "echo x >x; mkdir out");
    let (source, pack) = (format!("dir:{}", tree.display()), tree.join("out/a.smolmachine").display().to_string());
    for round in 1..=2 {
        let snapshot = host.freeze(&[&source, "--pack", &pack, "--agent-rootfs", &agent]);
        let left: Vec<_> = snapshot.notices.named().iter().filter(|notice| notice.kind == NoticeKind::Output).collect();
        // Its unfinished file, and the second time what is to be replaced.
        assert_eq!(left.len(), round);
        assert_eq!(names(&tree.join("out")), ["a.smolmachine"]);
        let root = unpacked(Path::new(&pack), &host.path("unpacked"));
        assert!(root.join("x").exists() && names(&root.join("out")).is_empty());
    }
}

#[test]
fn it_says_where_the_artifact_is_and_what_it_needs() {
    let host = Host::new();
    let agent = sidecar::agent(&host.path(".")).display().to_string();
    let source = format!("dir:{}", host.tree("tree", "echo x >x").display());
    let said = |words: &[&str]| {
        let output = finish(host.command(&[&["freeze", &*source][..], words].concat()).spawn().unwrap());
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let (pack, path) = (host.text("dev"), host.text("dev.smolmachine"));
    let plan = said(&["--pack", &pack, "--agent-rootfs", &agent, "--dry-run"]);
    assert!(plan.contains(&format!("output       {path}\n")) && plan.contains(&agent), "{plan}");
    assert!(!host.path("dev.smolmachine").exists());
    let summary = said(&["--pack", &pack, "--agent-rootfs", &agent]);
    assert!(summary.contains(&format!("frozen      {path} (")), "{summary}");
    assert!(summary.contains(&format!("smolvm machine create --name NEW --from {path}")), "{summary}");

    host.refuses(2, "--agent-rootfs", &[&source, "--pack", &pack, "--smolvm", "/absent/smolvm"]);
    host.refuses(2, "it has no sbin/init", &[&source, "--pack", &pack, "--agent-rootfs", &host.text("tree")]);
    host.refuses(2, "it is a folder", &[&source, "--pack", &host.text("tree"), "--agent-rootfs", &agent]);
    host.refuses(2, "only a machine has a {name}", &[&source, "--pack", "{name}", "--agent-rootfs", &agent]);
    host.refuses(2, "--to or --pack", &[&source, "--no-record"]);
    host.refuses(4, "absent", &[&source, "--pack", &host.text("absent/a"), "--agent-rootfs", &agent]);
}

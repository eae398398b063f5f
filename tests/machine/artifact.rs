//! A machine as an artifact: its own `/workspace` is a new machine's first, and the new one is like the old one.

use crate::desk::Desk;
use crate::standin::Kind;
use crate::support::docker_registry::DockerRegistry;
use crate::support::sidecar::{self, assert_whole, unpacked};
use crate::trees::{AWKWARD, Keeps, LONG, MODEST, assert_same};

/// Freezes into an artifact and a registry, and compares both with the machine.
fn comes_back(desk: &Desk) -> smolvm_pack::PackManifest {
    let registry = DockerRegistry::start();
    let agent = sidecar::agent(&desk.host.path(".")).display().to_string();
    let (name, pack) = (format!("{}/team/machine:v1", registry.address), desk.host.text("{name}"));
    let wanted = desk.files(Keeps::Everything);
    let snapshot = desk.freeze(&["--to", &name, "--pack", &pack, "--agent-rootfs", &agent]);
    let artifact = desk.host.path("m1.smolmachine");
    assert_eq!(snapshot.outputs[1].name, artifact.display().to_string());
    let root = unpacked(&artifact, &desk.host.path("unpacked-artifact"));
    assert_same(&wanted, &crate::trees::inventory(&root, Keeps::Everything), "the artifact");
    desk.host.verify(&name);
    assert_same(&wanted, &desk.unpacked(&format!("docker://{name}"), Keeps::Everything), "the image");
    let manifest = assert_whole(&artifact);
    assert!(manifest.assets.workspace_seed.is_some());
    manifest
}

#[test]
fn a_debian_machine_with_a_workspace() {
    let desk = Desk::new(Kind::Debian);
    let all = [MODEST, LONG, AWKWARD].concat();
    desk.fill("srv/awkward", &all);
    desk.fill("workspace/project", &all);
    desk.fill("workspace", "chown 5:6 .; chmod 0710 .");
    let manifest = comes_back(&desk);
    assert_eq!((manifest.image.as_str(), manifest.smolvm_version.as_str()), ("local:abc", "1.32.2"));
    assert_eq!((manifest.cpus, manifest.mem, manifest.network), (2, 1024, false));
    assert_eq!((manifest.user.as_deref(), manifest.workdir.as_deref()), (Some("1000:1000"), Some("/srv")));
    assert_eq!(manifest.cmd, ["bash"]);
    assert!(manifest.env.contains(&"GREETING=hello world".to_owned()));
}

#[test]
fn a_bare_machine_with_a_workspace() {
    let desk = Desk::new(Kind::Bare);
    desk.fill("srv/awkward", &[MODEST, LONG, AWKWARD].concat());
    desk.fill("storage/workspace/project", &[MODEST, LONG, AWKWARD].concat());
    // The spool lies there, and busybox can't give it parts of a second back.
    desk.machine.sh("touch -d @1700000000 /var/tmp");
    let manifest = comes_back(&desk);
    assert_eq!((manifest.image.as_str(), manifest.user), ("m1", None));
}

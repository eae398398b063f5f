//! What smolvm packed is what was frozen, and everything that was asked for knows of it.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use smolfreeze::oci::Compression;

use crate::host::{finish, names};
use crate::packing::Packing;
use crate::standin::Kind;
use crate::support::docker_registry::DockerRegistry;
use crate::support::sidecar::image_of;
use crate::trees::{AWKWARD, Keeps, LONG, MODEST, assert_same, inventory};

fn record(packing: &Packing) -> serde_json::Value {
    let records = packing.desk.host.path("home/.local/state/smolfreeze/records");
    let names = names(&records);
    let [name] = &names[..] else { panic!("{names:?}") };
    serde_json::from_slice(&fs::read(records.join(name)).unwrap()).unwrap()
}

#[test]
fn a_machine_is_the_same_in_what_smolvm_packed() {
    let packing = Packing::new(Kind::Debian);
    let desk = &packing.desk;
    desk.fill("srv/awkward", &[MODEST, LONG, AWKWARD].concat());
    desk.fill("workspace/project", "echo notes >notes");
    let wanted = desk.files(Keeps::Everything);
    let out = desk.host.text("out/{name}");
    let snapshot = desk.freeze(&["--pack", &out, "--pack-with", "smolvm"]);

    let (launcher, sidecar) = (desk.host.path("out/m1"), desk.host.path("out/m1.smolmachine"));
    assert_eq!(names(&desk.host.path("out")), ["m1", "m1.smolmachine"]);
    assert_eq!(packing.registries().len(), 1);
    packing.assert_nobody_listens();
    assert_ne!(launcher.metadata().unwrap().permissions().mode() & 0o100, 0, "the launcher starts");
    assert_eq!(snapshot.compression, Compression::None);
    assert_eq!(snapshot.outputs[0].launcher.as_ref(), Some(&launcher));
    let root = image_of(&sidecar, &desk.host.path("unpacked-artifact"));
    assert_same(&wanted, &inventory(&root, Keeps::Everything), "what smolvm packed");

    let record = record(&packing);
    let output = &record["outputs"][0];
    assert_eq!(output["kind"], "artifact");
    assert_eq!(output["path"], sidecar.to_str().unwrap());
    assert_eq!(output["launcher"], launcher.to_str().unwrap());
    assert_eq!(output["bytes"], sidecar.metadata().unwrap().len());
    desk.host.verify(sidecar.to_str().unwrap());
    desk.machine.smolvm(&["machine", "create", "--name", "new", "--from", sidecar.to_str().unwrap()]);

    let mut remove = desk.host.command(&["rm", record["id"].as_str().unwrap(), "--artifacts"]);
    assert!(finish(remove.spawn().unwrap()).status.success());
    assert_eq!(names(&desk.host.path("out")), Vec::<String>::new());
}

#[test]
fn in_the_same_pass_as_a_registry_and_a_layout() {
    let (packing, registry) = (Packing::new(Kind::Busybox), DockerRegistry::start());
    let desk = &packing.desk;
    let (name, layout) = (format!("{}/team/machine:v1", registry.address), format!("oci:{}", desk.host.text("layout")));
    let wanted = inventory(Path::new(packing.tree.strip_prefix("dir:").unwrap()), Keeps::Everything);
    let out = packing.out();
    let words = packing.words(&["--to", &name, "--pack", &out, "--pack-with", "smolvm", "--to", &layout]);
    let snapshot = desk.host.freeze(&words);
    assert_eq!(snapshot.compression, Compression::Zstd);
    assert_eq!(snapshot.outputs[2].name, format!("{out}.smolmachine"));
    desk.host.verify(&name);
    desk.host.verify(&layout);
    let root = image_of(&desk.host.path("out/packed.smolmachine"), &desk.host.path("unpacked-artifact"));
    assert_same(&wanted, &inventory(&root, Keeps::Everything), "what smolvm packed");
    assert_eq!(names(&desk.host.path("out")), ["packed", "packed.smolmachine"]);
    // gzip is something that smolvm pulls as well.
    let words = packing.words(&["--pack", &out, "--pack-with", "smolvm", "--compression", "gzip"]);
    assert_eq!(desk.host.freeze(&words).compression, Compression::Gzip);
    let root = image_of(&desk.host.path("out/packed.smolmachine"), &desk.host.path("unpacked-artifact"));
    assert_same(&wanted, &inventory(&root, Keeps::Everything), "what smolvm packed of gzip layers");
}

#[test]
fn a_folder_is_packed_into_itself_without_what_is_packed() {
    let packing = Packing::new(Kind::Busybox);
    let tree = packing.desk.host.path("tree");
    let wanted = inventory(&tree, Keeps::Everything);
    let out = packing.desk.host.text("tree/etc/packed");
    for _ in 0..2 {
        packing.desk.host.freeze(&packing.words(&["--pack", &out, "--pack-with", "smolvm"]));
        let root = image_of(&tree.join("etc/packed.smolmachine"), &packing.desk.host.path("unpacked-artifact"));
        let mut found = inventory(&root, Keeps::Everything);
        // The folder that was packed to has another time since.
        let etc = Path::new("etc");
        found.insert(etc.to_owned(), wanted[etc].clone());
        assert_same(&wanted, &found, "what smolvm packed");
    }
}

#[test]
fn what_smolvm_hides_is_said() {
    let packing = Packing::new(Kind::Busybox);
    packing.desk.host.tree("tree/workspace", "echo notes >notes; mkdir -p a; ln notes ../linked");
    let out = packing.out();
    let says = |words: &[&str]| {
        let output = finish(packing.command(&[&["--pack", &out], words].concat()).spawn().unwrap());
        assert!(output.status.success());
        String::from_utf8(output.stderr).unwrap()
    };
    let said = says(&["--pack-with", "smolvm"]);
    assert!(said.contains("does not show the 2 entries below /workspace"), "{said}");
    assert_eq!(says(&["--pack-with", "smolvm", "--quiet"]), "");
    packing.desk.host.tree("tree", "rm -r workspace");
    let said = says(&["--pack-with", "smolvm"]);
    assert!(!said.contains("/workspace"), "{said}");
}

#[test]
fn smolvm_packs_where_its_agent_is_not_found() {
    let packing = Packing::new(Kind::Busybox);
    let out = packing.out();
    let command = |words: &[&str]| {
        let mut command = packing.command(words);
        command.env_remove("SMOLVM_AGENT_ROOTFS").env_remove("XDG_DATA_HOME");
        finish(command.spawn().unwrap())
    };
    // The same files as without smolvm, which has no launcher.
    for path in [&out, &format!("{out}.smolmachine")] {
        let output = command(&["--pack", path]);
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success(), "{said}");
        assert!(said.contains("was not found (--agent-rootfs names it), so smolvm packs"), "{said}");
        assert_eq!(names(&packing.desk.host.path("out")), ["packed.smolmachine"]);
    }
    let output = command(&["--quiet"]);
    assert!(output.status.success() && output.stderr.is_empty());
    let path = String::from_utf8(output.stdout).unwrap();
    packing.desk.host.verify(path.trim());
    let kept = Path::new(path.trim()).parent().unwrap();
    assert_eq!(names(kept).len(), 1, "{:?}", names(kept));
    assert_eq!(packing.registries().len(), 3);

    let output = command(&["--pack", &out, "--pack-with", "own"]);
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("--agent-rootfs"), "{said}");
    // What somebody said where it is, is nowhere else.
    let output = command(&["--pack", &out, "--agent-rootfs", "/nowhere"]);
    assert_eq!(output.status.code(), Some(2));
    assert_eq!(packing.registries().len(), 3);
}

//! What goes in comes out, whatever stands between: a real registry, skopeo, umoci, each layer by itself.

use std::fs;
use std::path::{Path, PathBuf};

use smolfreeze::report::{LayerReport, Snapshot};

use crate::host::{Host, shell};
use crate::support::docker_registry::DockerRegistry;
use crate::trees::{AWKWARD, Keeps, LONG, MODEST, assert_same, inventory, inventory_without};

/// An image in a registry as a folder, by other hands than ours.
pub fn unpacked(host: &Host, name: &str) -> PathBuf {
    let work = host.path("unpacked");
    let _ = fs::remove_dir_all(&work);
    fs::create_dir(&work).expect("a folder");
    // This umoci reads no zstd.
    let script = format!(
        "skopeo inspect --tls-verify=false docker://{name} >inspected.json
         skopeo copy --quiet --src-tls-verify=false --dest-compress-format gzip --dest-compress-level 1 docker://{name} oci:image:it
         umoci unpack --image image:it bundle"
    );
    shell(&work, &script);
    work.join("bundle/rootfs")
}

/// As overlay2 does it: each layer of a layout alone, in an empty folder.
fn each_layer_by_itself(host: &Host, layout: &Path, snapshot: &Snapshot) {
    for layer in &snapshot.layers {
        let folder = host.path("single");
        fs::create_dir(&folder).expect("a folder");
        unpack(layout, layer, &folder);
        fs::remove_dir_all(&folder).expect("to be removed");
    }
}

/// All layers over each other, by GNU tar: umoci knows nothing of GNU's sparse files.
fn unpacked_by_tar(host: &Host, layout: &Path, snapshot: &Snapshot) -> PathBuf {
    let folder = host.path("layers");
    fs::create_dir(&folder).expect("a folder");
    snapshot.layers.iter().for_each(|layer| unpack(layout, layer, &folder));
    folder
}

fn unpack(layout: &Path, layer: &LayerReport, folder: &Path) {
    let filter = match layer.descriptor.media_type.rsplit_once('+') {
        Some((_, "zstd")) => "zstd -dcq",
        Some((_, "gzip")) => "gzip -dc",
        _ => "cat",
    };
    let blob = layout.join("blobs/sha256").join(layer.descriptor.digest.hex());
    shell(folder, &format!("{filter} <{} | tar -xpf - --numeric-owner", blob.display()));
}

#[test]
fn a_folder_comes_back_without_a_difference() {
    let (host, registry) = (Host::new(), DockerRegistry::start());
    let tree = host.tree("tree", &[MODEST, LONG, AWKWARD].concat());
    let (source, wanted) = (format!("dir:{}", tree.display()), inventory(&tree, Keeps::Everything));
    for compression in ["zstd", "gzip", "none"] {
        for (size, least_layers) in [(Some("0"), 1), (Some("1MiB"), 12), (None, 2)] {
            let what = format!("{compression} {size:?}");
            let name = format!("{}/space/name:{compression}", registry.address);
            let layout = host.path(&format!("layout-{compression}-{}", size.unwrap_or("default")));
            let to = format!("oci:{}:it", layout.display());
            let mut words = vec![&*source, "--to", &name, "--to", &to, "--compression", compression];
            words.extend(size.iter().flat_map(|size| ["--layer-size", size]));
            let snapshot = host.freeze(&words);
            assert!(snapshot.layers.len() >= least_layers, "{what}: {} layers", snapshot.layers.len());
            assert_eq!(snapshot.outputs[0].digest, snapshot.outputs[1].digest, "{what}");
            assert_same(&wanted, &inventory(&unpacked(&host, &name), Keeps::Everything), &what);
            each_layer_by_itself(&host, &layout, &snapshot);
            host.verify(&name);
            host.verify(&to);
        }
    }
}

/// A folder from elsewhere, such as a debootstrap: SMOLFREEZE_ROOTFS=DIR.
#[test]
fn a_root_filesystem_comes_back_without_a_difference() {
    let Some(tree) = std::env::var_os("SMOLFREEZE_ROOTFS") else { return };
    let (host, registry) = (Host::new(), DockerRegistry::start());
    let name = format!("{}/space/name:rootfs", registry.address);
    let layout = host.text("layout");
    let source = format!("dir:{}", tree.display());
    let snapshot = host.freeze(&[&source, "--to", &name, "--to", &format!("oci:{layout}")]);
    let found = inventory(&unpacked(&host, &name), Keeps::Everything);
    // Of a root filesystem these are kept empty.
    let volatile = ["proc", "sys", "dev", "run", "tmp", "var/tmp"].map(Path::new);
    let is_left = |path: &Path| path.parent().is_some_and(|parent| volatile.contains(&parent));
    assert_same(&inventory_without(Path::new(&tree), Keeps::Everything, is_left), &found, "SMOLFREEZE_ROOTFS");
    each_layer_by_itself(&host, Path::new(&layout), &snapshot);
}

#[test]
fn a_tar_comes_back_as_far_as_its_format_goes() {
    let (host, registry) = (Host::new(), DockerRegistry::start());
    let (modest, long, all) = (MODEST.to_owned(), [MODEST, LONG].concat(), [MODEST, LONG, AWKWARD].concat());
    let numeric = "tar --numeric-owner --sort=name -C tree -cf";
    let pax = "--format=pax --xattrs --xattrs-include=*";
    let cases = [
        ("ustar", &modest, format!("{numeric} t.tar --format=ustar ."), Keeps::Seconds),
        ("gnu", &long, format!("{numeric} t.tar --format=gnu ."), Keeps::Seconds),
        ("gnu, sparse", &long, format!("{numeric} t.tar --format=gnu --sparse ."), Keeps::Seconds),
        ("busybox", &long, "busybox tar -C tree -cf t.tar .".to_owned(), Keeps::Seconds),
        ("pax", &all, format!("{numeric} t.tar {pax} ."), Keeps::Everything),
        ("pax, gzip", &all, format!("{numeric} - {pax} . | gzip -1 >t.tar"), Keeps::Everything),
        ("pax, zstd", &all, format!("{numeric} - {pax} . | zstd -q1 >t.tar"), Keeps::Everything),
    ];
    for (what, tree, script, keeps) in cases {
        let _ = fs::remove_dir_all(host.path("tree"));
        let folder = host.tree("tree", tree);
        shell(&host.path("."), &script);
        let file = host.path("t.tar");
        let wanted = inventory(&folder, keeps);
        let name = format!("{}/space/name:{}", registry.address, what.replace(", ", "-"));
        let (layout, from_pipe) = (host.path("layout"), format!("{name}-pipe"));
        let (source, to) = (format!("tar:{}", file.display()), format!("oci:{}", layout.display()));
        let snapshot = host.freeze(&[&source, "--to", &name, "--to", &to, "--layer-size", "4MiB"]);
        assert!(snapshot.layers.len() > 4, "{what}: {} layers", snapshot.layers.len());
        let found = match what {
            "gnu, sparse" => unpacked_by_tar(&host, &layout, &snapshot),
            _ => unpacked(&host, &name),
        };
        assert_same(&wanted, &inventory(&found, keeps), what);
        each_layer_by_itself(&host, &layout, &snapshot);
        if what.starts_with("pax") {
            let snapshot = host.freeze_from(&["tar:-", "--to", &from_pipe], Some(&file));
            assert_eq!(snapshot.layers.len(), 1, "a pipe can't be surveyed");
            assert_same(&wanted, &inventory(&unpacked(&host, &from_pipe), keeps), what);
        }
    }
}

#[test]
fn a_resting_folder_has_one_digest() {
    let host = Host::new();
    let tree = host.tree("tree", &[MODEST, LONG, AWKWARD].concat());
    let digests = ["one", "two"].map(|layout| {
        let to = format!("oci:{}", host.text(layout));
        let mut command = host.command(&["freeze", "--no-known", "--to", &to, "--quiet", "--report"]);
        command.arg(host.path("report.json")).arg(format!("dir:{}", tree.display()));
        let done = command.env("SOURCE_DATE_EPOCH", "1700000000").output().expect("the command");
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        let report: Snapshot =
            serde_json::from_slice(&fs::read(host.path("report.json")).expect("a report")).expect("JSON");
        assert_eq!(report.created, "2023-11-14T22:13:20Z");
        report.outputs[0].digest
    });
    assert_eq!(digests[0], digests[1]);
}

//! The same folder again, or nearly the same: what is known is neither packed nor sent.

use std::fs;

use crate::host::{Host, shell};
use crate::support::docker_registry::DockerRegistry;

/// Sixty megabytes in many files and folders.
const MANY_FILES: &str = r"
for d in {1..60}; do
    mkdir -p folder-$d/deeper
    for f in {1..20}; do head -c $((f * 4500)) /dev/urandom >folder-$d/deeper/file-$f; done
    seq $((d * 1000000)) $((d * 1000000 + 6000)) >folder-$d/numbers
done
";

/// In three of the folders something is edited, added, removed.
const SMALL_CHANGE: &str = r"
echo edited >>folder-7/deeper/file-3; head -c 50000 /dev/urandom >folder-8/deeper/new; rm folder-40/numbers
";

#[test]
fn an_unchanged_folder_is_neither_packed_nor_sent() {
    let (host, registry) = (Host::new(), DockerRegistry::start());
    let source = format!("dir:{}", host.tree("tree", MANY_FILES).display());
    let (name, layout) = (format!("{}/space/name:tag", registry.address), format!("oci:{}", host.text("layout")));
    let words = [&*source, "--to", &name, "--to", &layout, "--layer-size", "4MiB"];
    let first = host.freeze(&words);
    assert_eq!((first.layers_known, first.layers_packed), (0, first.layers.len() as u64));
    assert!(first.layers.len() > 8, "{} layers", first.layers.len());
    let again = host.freeze(&words);
    assert_eq!((again.layers_known, again.layers_packed, again.layers_sent), (first.layers.len() as u64, 0, 0));
    assert_eq!((again.sent_bytes, again.stored_bytes), (0, first.stored_bytes));
    assert_eq!(again.stages.compress.bytes_in, 0);
    host.verify(&name);
    host.verify(&layout);

    // An output that has none of it gets all of it, and the other one nothing.
    let (other, third) = (DockerRegistry::start(), host.text("third"));
    let name = format!("{}/space/name:tag", other.address);
    let moved = host.freeze(&[&source, "--to", &layout, "--to", &name, "--layer-size", "4MiB"]);
    assert!(moved.layers.iter().all(|layer| layer.sent_bytes[0] == 0 && layer.sent_bytes[1] == layer.descriptor.size));
    host.verify(&name);
    host.freeze(&[&source, "--to", &format!("oci:{third}"), "--layer-size", "4MiB"]);
    host.verify(&format!("oci:{third}"));
}

#[test]
fn a_small_change_sends_little() {
    let (host, registry) = (Host::new(), DockerRegistry::start());
    let tree = host.tree("tree", MANY_FILES);
    let (source, name) = (format!("dir:{}", tree.display()), format!("{}/space/name:tag", registry.address));
    let words = [&*source, "--to", &name, "--layer-size", "2MiB"];
    host.freeze(&words);
    shell(&tree, SMALL_CHANGE);
    let again = host.freeze(&words);
    assert!(again.sent_bytes > 50_000 && again.sent_bytes <= again.stored_bytes / 5, "{} bytes", again.sent_bytes);
    assert!(again.layers_known > again.layers_packed && again.layers_sent == again.layers_packed);
    host.verify(&name);
    assert_unpacks_to(&host, &name, &tree);
}

#[test]
fn a_layer_that_memory_cannot_hold_is_known_too() {
    let (host, registry) = (Host::new(), DockerRegistry::start());
    let tree = host.tree("tree", "head -c 150000000 /dev/urandom >large; echo small >small");
    let (source, name) = (format!("dir:{}", tree.display()), format!("{}/space/name:tag", registry.address));
    let words = [&*source, "--to", &name, "--memory", "96MiB"];
    let first = host.freeze(&words);
    assert!(first.scratch_bytes_peak > 0 && first.scratch_bytes_peak <= first.scratch_bytes_max);
    let again = host.freeze(&words);
    assert_eq!((again.layers_known, again.layers_packed, again.sent_bytes), (first.layers.len() as u64, 0, 0));
    // It begins as the known one does, and ends otherwise.
    shell(&tree, "printf otherwise | dd of=large bs=1 seek=149000000 conv=notrunc status=none");
    let changed = host.freeze(&words);
    assert!(changed.sent_bytes >= 150_000_000);
    host.verify(&name);
    assert_unpacks_to(&host, &name, &tree);
}

#[test]
fn a_map_that_is_gone_damaged_or_of_another_compression_costs_time_only() {
    let (host, registry) = (Host::new(), DockerRegistry::start());
    let source = format!("dir:{}", host.tree("tree", MANY_FILES).display());
    let name = format!("{}/space/name:tag", registry.address);
    let words = [&*source, "--to", &name, "--layer-size", "8MiB", "--squash"];
    let first = host.freeze(&words);
    let all = first.layers.len() as u64;
    let digests = |snapshot: &smolfreeze::report::Snapshot| -> Vec<_> {
        snapshot.layers.iter().map(|layer| layer.descriptor.digest).collect()
    };

    let map = fs::read(host.known_layers()).expect("a map");
    let mut damaged = map.clone();
    damaged.iter_mut().step_by(61).for_each(|byte| *byte ^= 0x15);
    for (what, content) in [("damaged", damaged), ("cut", map[..map.len() / 2].to_vec()), ("noise", vec![0xff; 70_000])]
    {
        fs::write(host.known_layers(), content).expect("to be written");
        let again = host.freeze(&words);
        assert!(again.layers_packed > 0, "{what}: all known");
        assert_eq!((digests(&again), again.sent_bytes), (digests(&first), 0), "{what}");
    }
    fs::remove_file(host.known_layers()).expect("to be removed");
    assert_eq!(host.freeze(&words).layers_packed, all);
    assert_eq!(host.freeze(&words).layers_known, all);
    // A map that can't be read or written: a folder is in its place.
    fs::remove_file(host.known_layers()).expect("to be removed");
    fs::create_dir(host.known_layers()).expect("a folder");
    assert_eq!(host.freeze(&words).layers_packed, all);

    let gzip = host.freeze(&[&words[..], &["--compression", "gzip"]].concat());
    assert_eq!(gzip.layers_packed, all);
    assert!(gzip.layers.iter().all(|layer| layer.descriptor.media_type.ends_with("+gzip")));
    host.verify(&name);
    let unused = host.freeze(&[&words[..5], &["--no-known"]].concat());
    assert_eq!((unused.layers_known, unused.sent_bytes), (0, 0));
}

/// An image in a registry, unpacked by tar layer over layer, has the folder's files and nothing else.
fn assert_unpacks_to(host: &Host, name: &str, tree: &std::path::Path) {
    let script = format!(
        "skopeo copy --quiet --src-tls-verify=false docker://{name} dir:copied; mkdir unpacked
         for layer in $(jq -r '.layers[].digest' copied/manifest.json); do
             zstd -dcq <copied/${{layer#sha256:}} >layer.tar
             tar -tf layer.tar | sed -n 's|/\\.wh\\.|/|p' | while read -r gone; do rm -r \"unpacked/$gone\"; done
             tar --exclude '.wh.*' -xpf layer.tar -C unpacked
         done
         diff -r unpacked {}",
        tree.display()
    );
    shell(&host.path("."), &script);
}

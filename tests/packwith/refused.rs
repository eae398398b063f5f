//! What can't be is said before anything is read, and leaves nothing.

use crate::packing::Packing;
use crate::standin::Kind;

#[test]
fn what_cannot_be_packed() {
    let packing = Packing::new(Kind::Busybox);
    let host = &packing.desk.host;
    let (out, sidecar) = (packing.out(), format!("{}.smolmachine", packing.out()));
    let line = host.refuses(2, &sidecar, &packing.words(&["--pack", &sidecar, "--pack-with", "smolvm"]));
    assert!(line.contains("takes no PATH that ends in .smolmachine"), "{line}");
    assert!(line.contains(&format!("--pack {out}")), "{line}");

    let (folder, absent) = (host.text("out"), host.text("absent/packed"));
    host.refuses(2, "it is a folder", &packing.words(&["--pack", &folder, "--pack-with", "smolvm"]));
    host.refuses(4, "its folder is not there", &packing.words(&["--pack", &absent, "--pack-with", "smolvm"]));
    let told = ["--pack", &out, "--pack-with", "smolvm", "--agent-rootfs", "/nowhere"];
    host.refuses(2, "an agent of its own", &packing.words(&told));
    let line = host.refuses(
        4,
        "/nowhere/smolvm",
        &[&*packing.tree, "--smolvm", "/nowhere/smolvm", "--pack", &out, "--pack-with", "smolvm"],
    );
    assert!(line.contains("is smolvm installed?"), "{line}");
    packing.assert_nothing_but(&[]);
    assert!(packing.registries().is_empty());
}

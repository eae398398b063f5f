//! What a machine holds comes out of the image again, entry by entry; and the unchanged machine costs nothing.

use std::path::{Path, PathBuf};

use smolfreeze::report::Snapshot;

use crate::desk::Desk;
use crate::standin::Kind;
use crate::support::docker_registry::DockerRegistry;
use crate::trees::{AWKWARD, Keeps, LONG, MODEST, assert_same};

/// Freezes to a registry, and has it all compared by skopeo and umoci.
pub fn comes_back(desk: &Desk, keeps: Keeps) -> (Vec<PathBuf>, Snapshot) {
    let registry = DockerRegistry::start();
    let name = format!("{}/team/machine:v1", registry.address);
    let wanted = desk.files(keeps);
    // Of what was written just now nobody can tell the next time whether it was changed again.
    std::thread::sleep(std::time::Duration::from_millis(2_200));
    let first = desk.freeze(&["--to", &name]);
    assert_eq!((first.layers_known, first.retries), (0, 0));
    desk.host.verify(&name);
    assert_same(&wanted, &desk.unpacked(&format!("docker://{name}"), keeps), "the image");
    // The machine itself is as it was.
    assert_same(&wanted, &desk.files(keeps), "the machine");

    let again = desk.freeze(&["--to", &name]);
    assert_eq!((again.layers_known, again.layers_packed, again.layers_sent), (first.layers.len() as u64, 0, 0));
    assert_eq!((again.sent_bytes, again.stages.compress.bytes_in), (0, 0));
    let diff_ids = |layers: &[smolfreeze::report::LayerReport]| layers.iter().map(|l| l.diff_id).collect::<Vec<_>>();
    assert_eq!(diff_ids(&again.layers), diff_ids(&first.layers));
    (wanted.into_keys().collect(), first)
}

fn has(paths: &[PathBuf], path: &str) -> bool {
    paths.iter().any(|other| other == Path::new(path))
}

#[test]
fn a_debian_machine_comes_back_without_a_difference() {
    let desk = Desk::new(Kind::Debian);
    let all = [MODEST, LONG, AWKWARD].concat();
    for folder in ["srv/awkward", "workspace/project", "data/db"] {
        desk.fill(folder, &all);
    }
    desk.fill("srv", "ln awkward/usr/bin/plain ../opt/hard; chmod 0710 ../data; chown 5:6 ../data ../workspace");
    desk.fill("tmp", "echo stale >stale");
    desk.fill("var/tmp", "echo stale >stale");
    let (paths, _) = comes_back(&desk, Keeps::Everything);
    for path in ["opt/hard", "workspace/project/capable", "data/db/null", "proc", "storage", "tmp", "dev", "run"] {
        assert!(has(&paths, path), "{path}");
    }
}

#[test]
fn a_busybox_machine_comes_back_as_far_as_its_tar_goes() {
    let desk = Desk::new(Kind::Busybox);
    desk.fill("srv/awkward", &[MODEST, LONG].concat());
    desk.fill("workspace/project", MODEST);
    // Names of what has several links travel with an inode in front of them, which is cut off: of the name alone.
    desk.fill("srv", r#"broken=$(printf '\nfrozen  1.2 x'); echo x >"$broken"; ln "$broken" linked"#);
    let (paths, _) = comes_back(&desk, Keeps::Seconds);
    assert!(
        has(&paths, "workspace/project/zz/hard") && has(&paths, "srv/linked") && has(&paths, "srv/\nfrozen  1.2 x")
    );
}

#[test]
fn a_bare_machine_has_its_workspace_at_its_place() {
    let desk = Desk::new(Kind::Bare);
    desk.fill("srv/awkward", &[MODEST, LONG, AWKWARD].concat());
    desk.fill("storage/workspace/project", &[MODEST, LONG, AWKWARD].concat());
    // The spool lies there, and busybox can't give it parts of a second back.
    desk.machine.sh("touch -d @1700000000 /var/tmp");
    let (paths, _) = comes_back(&desk, Keeps::Everything);
    assert!(has(&paths, "workspace/project/zz/hard") && has(&paths, "storage") && has(&paths, "oldroot"));
    assert!(!has(&paths, "storage/workspace") && !has(&paths, "oldroot/bin"));
}

#[test]
fn a_guest_that_compresses_gives_the_same_layers() {
    let desk = Desk::new(Kind::Debian);
    desk.fill("usr/bin", "cp -L \"$(command -v zstd)\" zstd");
    let to = format!("oci:{}", desk.host.text("layout"));
    // Of this much of the machine, to save time.
    let words = ["--to", &to, "--no-known", "--exclude", "/usr/lib", "--exclude", "/usr/share"];
    desk.machine.sh("zstd --version >/dev/null");
    let plain = desk.freeze(&words);
    for method in ["gzip", "zstd"] {
        let squeezed = desk.freeze(&[&words[..], &["--guest-compression", method]].concat());
        let digests = |snapshot: &smolfreeze::report::Snapshot| {
            snapshot.layers.iter().map(|layer| layer.descriptor.digest).collect::<Vec<_>>()
        };
        assert_eq!(digests(&squeezed), digests(&plain), "{method}");
    }
    desk.host.verify(&to);
}

/// Tools that end well and left most of it out.
#[test]
fn far_fewer_entries_than_were_surveyed_are_an_error() {
    let desk = Desk::new(Kind::Debian);
    desk.fill(
        "usr/bin",
        "mv sort sort.real; printf '#!/bin/sh\\nsort.real \"$@\" | head -z -n 20\\n' >sort; chmod 755 sort",
    );
    let causes = ["entries came, and the survey had counted", "archiving in the guest"];
    desk.refuses(3, &causes, &["--to", &format!("oci:{}", desk.host.text("layout"))]);
    desk.machine.assert_clean();
    assert!(!desk.host.path("layout/index.json").exists());
}

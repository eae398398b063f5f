//! What can't be thawed is refused in one line that names thing and cause, and nothing is left of it.

use std::fs;

use crate::host::Tmpfs;
use crate::standin::Kind;
use crate::support::docker_registry::DockerRegistry;
use crate::support::proxy::{Fault, Habits, Proxy, Rule};
use crate::thawing::Thawing;

fn only_m1(thawing: &Thawing) {
    assert_eq!(thawing.machines(), [("m1".to_owned(), "running".to_owned())]);
}

#[test]
fn a_name_that_is_taken_and_names_that_are_none() {
    let thawing = Thawing::new(Kind::Busybox);
    let artifact = thawing.artifact();
    thawing.refuses(4, &["'m1'", "has a machine of this name"], &[&artifact, "--name", "m1"]);
    thawing.refuses(2, &["'a b'", "--name"], &[&artifact, "--name", "a b"]);
    thawing.refuses(2, &["pack:"], &["pack:", "--name", "new"]);
    let kept = thawing.desk.host.text("kept");
    thawing.refuses(2, &["--keep-artifact"], &[&artifact, "--name", "new", "--keep-artifact", &kept]);
    only_m1(&thawing);
}

#[test]
fn an_artifact_that_is_damaged_cut_or_missing() {
    let thawing = Thawing::new(Kind::Busybox);
    let artifact = thawing.artifact();
    let whole = fs::read(&artifact).unwrap();
    let mut damaged = whole.clone();
    damaged[whole.len() / 2] ^= 1;
    fs::write(&artifact, damaged).unwrap();
    thawing.refuses(6, &[&artifact, "checksum"], &[&artifact, "--name", "new"]);
    fs::write(&artifact, &whole[..whole.len() - 1000]).unwrap();
    thawing.refuses(6, &[&artifact], &[&artifact, "--name", "new"]);
    fs::remove_file(&artifact).unwrap();
    thawing.refuses(4, &[&artifact, "No such file"], &[&artifact, "--name", "new"]);
    only_m1(&thawing);
}

#[test]
fn a_host_without_smolvm_or_its_agent() {
    let thawing = Thawing::new(Kind::Busybox);
    let artifact = thawing.artifact();
    let layout = format!("oci:{}", thawing.desk.host.text("layout"));
    let smolvm = thawing.desk.machine.smolvm_path().display().to_string();
    for (code, cause, words) in [
        (4, "/nowhere/smolvm", [&artifact, "--smolvm", "/nowhere/smolvm"]),
        (2, "--agent-rootfs", [&layout, "--smolvm", &smolvm]),
    ] {
        let mut command = thawing.desk.host.command(&["thaw", "--quiet", "--name", "new"]);
        let output = command.args(words).env_remove("SMOLVM_AGENT_ROOTFS").output().unwrap();
        thawing.assert_refused(code, &[cause], &output);
    }
    only_m1(&thawing);
}

#[test]
fn a_machine_that_does_not_start_is_deleted_again() {
    let thawing = Thawing::new(Kind::Busybox);
    let artifact = thawing.artifact();
    let layout = format!("oci:{}", thawing.desk.host.text("layout"));
    for from in [&artifact, &layout] {
        thawing.desk.machine.faults("start-fail 1");
        thawing.refuses(4, &["'new'", "boot process exited", "--no-start"], &[from, "--name", "new"]);
        only_m1(&thawing);
    }
}

/// Another call of smolvm has its database for a while.
#[test]
fn a_locked_database_is_asked_again_and_not_for_ever() {
    let thawing = Thawing::new(Kind::Busybox);
    let artifact = thawing.artifact();
    thawing.desk.machine.faults("create-locked 2");
    thawing.thaws(&[&artifact, "--name", "late", "--no-start"]);
    thawing.desk.machine.smolvm(&["machine", "delete", "--name", "late", "--force"]);
    thawing.desk.machine.faults("create-locked 1000");
    thawing.refuses(4, &["'new'", "database is locked"], &[&artifact, "--name", "new"]);
    only_m1(&thawing);
}

#[test]
fn a_layout_that_is_not_what_it_says() {
    let thawing = Thawing::new(Kind::Busybox);
    let folder = thawing.desk.host.path("layout");
    let layout = format!("oci:{}", folder.display());
    let frozen = thawing.desk.freeze(&["--to", &layout]);
    let blob = folder.join("blobs/sha256").join(frozen.layers[0].descriptor.digest.hex());
    let mut bytes = fs::read(&blob).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    fs::write(&blob, bytes).unwrap();
    thawing.refuses(6, &["layer"], &[&layout, "--name", "new"]);
    let kept = thawing.desk.host.text("kept.smolmachine");
    thawing.refuses(6, &["layer"], &[&layout, "--name", "new", "--keep-artifact", &kept]);
    assert!(!fs::exists(kept).unwrap());
    only_m1(&thawing);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_registry_that_gives_other_bytes_or_none() {
    let thawing = Thawing::new(Kind::Busybox);
    let registry = DockerRegistry::start();
    thawing.desk.freeze(&["--to", &format!("{}/team/machine:v1", registry.address)]);
    // After the ping, the manifest and the config come the layers.
    let wrong = Rule { method: "GET", skip: 3, times: 100, fault: Fault::Answer(200, "", "other bytes") };
    let gone = Rule { method: "GET", skip: 3, times: 100, fault: Fault::Answer(404, "", "") };
    for (code, fault) in [(6, wrong), (4, gone)] {
        let proxy = Proxy::start(registry.address, Habits::default(), vec![fault]).await;
        let name = format!("{}/team/machine:v1", proxy.address);
        // The topmost is read first, and several at a time.
        thawing.refuses(code, &["sha256:"], &[&name, "--name", "new"]);
    }
    only_m1(&thawing);
}

#[test]
fn a_disk_that_is_full() {
    let thawing = Thawing::new(Kind::Busybox);
    thawing.desk.fill("srv", "head -c 3000000 /dev/urandom >noise");
    let layout = format!("oci:{}", thawing.desk.host.text("layout"));
    thawing.desk.freeze(&["--to", &layout]);
    let small = thawing.desk.host.tree("small", "");
    let disk = Tmpfs::mount(&small, "1m");
    let kept = small.join("kept.smolmachine").display().to_string();
    let words = [&layout, "--name", "new", "--keep-artifact", &kept];
    thawing.refuses(4, &["needs about", "are free", "--keep-artifact"], &words);
    assert!(!fs::exists(kept).unwrap());
    drop(disk);
    only_m1(&thawing);
}

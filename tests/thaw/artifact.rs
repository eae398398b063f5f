//! `inspect` and `verify` of artifacts: what a whole one says, and what is found in one that is not.

use std::fs;
use std::process::{Command, Output};

use crate::host::finish;
use crate::standin::Kind;
use crate::support::docker_registry::DockerRegistry;
use crate::thawing::Thawing;

fn run(thawing: &Thawing, words: &[&str]) -> Output {
    finish(thawing.desk.host.command(words).spawn().unwrap())
}

fn json(output: &Output) -> serde_json::Value {
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn a_whole_one_says_what_it_is() {
    let thawing = Thawing::new(Kind::Debian);
    thawing.desk.machine.sh("echo notes >/workspace/notes");
    let artifact = thawing.artifact();
    let said = json(&run(&thawing, &["inspect", &artifact, "--json"]));
    for (field, wanted) in [
        ("platform", "linux/amd64".into()),
        ("mode", "container".into()),
        ("image", "layout:latest".into()),
        ("user", "1000:1000".into()),
        ("workdir", "/srv".into()),
        ("cmd", serde_json::json!(["bash"])),
        ("cpus", 4.into()),
        ("memory_mib", 8192.into()),
        ("network", false.into()),
    ] {
        assert_eq!(said[field], wanted, "{field}");
    }
    assert!(said["env"].as_array().unwrap().contains(&"GREETING=hello world".into()));
    assert!(said["workspace_bytes"].as_u64().unwrap() > 0);
    let text = String::from_utf8(run(&thawing, &["inspect", &artifact]).stdout).unwrap();
    assert!(text.contains("1000:1000") && text.contains("4 CPUs, 8192 MiB, network: no"), "{text}");

    let verified = json(&run(&thawing, &["verify", &artifact, "--json"]));
    assert_eq!(verified["faults"], serde_json::json!([]));
    assert_eq!(verified["layers"], said["layers"].as_array().unwrap().len());
    let sizes = said["layers"].as_array().unwrap().iter().map(|layer| layer["size"].as_u64().unwrap());
    assert_eq!(verified["tar_bytes"], sizes.sum::<u64>());
    assert!(verified["entries"].as_u64().unwrap() > 1000);
    // Under another name it is the same.
    let other = thawing.desk.host.text("other");
    fs::rename(&artifact, &other).unwrap();
    assert!(run(&thawing, &["verify", &format!("pack:{other}")]).status.success());
}

#[test]
fn one_that_smolvm_packed_is_read_as_well() {
    let thawing = Thawing::new(Kind::Busybox);
    let registry = DockerRegistry::start();
    let name = format!("{}/team/machine:v1", registry.address);
    thawing.desk.freeze(&["--to", &name]);
    let out = thawing.desk.host.text("packed");
    let mut pack = Command::new(thawing.desk.machine.smolvm_path());
    pack.args(["pack", "create", "--image", &name, "-o", &out]).env("SMOLVM_ALLOW_HOST_LOOPBACK", "1");
    assert!(pack.status().unwrap().success());
    let artifact = format!("{out}.smolmachine");
    assert_eq!(json(&run(&thawing, &["inspect", &artifact, "--json"]))["image"], name.as_str());
    thawing.desk.host.verify(&artifact);
    let thawed = thawing.thaws(&[&artifact, "--name", "packed"]);
    assert_eq!(thawed["running"], true);
    assert_eq!(thawing.made("packed").sh("ls /bin/busybox"), "/bin/busybox\n");
}

#[test]
fn every_fault_is_named() {
    let thawing = Thawing::new(Kind::Busybox);
    let artifact = thawing.artifact();
    let whole = fs::read(&artifact).unwrap();
    let checks = |what: &str, bytes: &[u8]| -> String {
        fs::write(&artifact, bytes).unwrap();
        let output = run(&thawing, &["verify", &artifact]);
        assert_eq!(output.status.code(), Some(6), "{what}");
        String::from_utf8(output.stdout).unwrap() + &String::from_utf8(output.stderr).unwrap()
    };
    let mut damaged = whole.clone();
    damaged[whole.len() / 2] ^= 1;
    let said = checks("a flipped bit", &damaged);
    assert!(said.starts_with("its checksum") && said.lines().count() > 1, "{said}");
    assert!(checks("no end", &whole[..whole.len() - 1]).contains("does not end as an artifact"));
    assert!(checks("no beginning", &whole[1..]).contains("cut off"));
    assert!(checks("nothing", b"").contains("too few"));

    let footer = smolvm_pack::read_footer_from_sidecar({
        fs::write(&artifact, &whole).unwrap();
        &artifact
    })
    .unwrap();
    let manifest = smolvm_pack::read_manifest_from_sidecar(&artifact).unwrap();
    let assets = &whole[..usize::try_from(footer.assets_size).unwrap()];
    // The same assets with a manifest that says something else of them.
    let half = with_footer(&assets[..assets.len() / 2], &manifest.to_json().unwrap());
    assert!(checks("half of the assets", &half).contains("its assets can't be read past layer"));
    let with = |change: &dyn Fn(&mut smolvm_pack::PackManifest)| {
        let mut other = manifest.clone();
        change(&mut other);
        with_footer(assets, &other.to_json().unwrap())
    };
    let last = manifest.assets.layers.last().unwrap().clone();
    let zeros = format!("sha256:{}", "0".repeat(64));
    let table: [(&str, &str, Vec<u8>); 5] = [
        ("a size", "the size should be 7", with(&|it| it.assets.layers.last_mut().unwrap().size = 7)),
        ("a layer too few", "does not list", with(&|it| drop(it.assets.layers.pop()))),
        ("a name", "the manifest says", with(&|it| it.assets.layers.last_mut().unwrap().digest.clone_from(&zeros))),
        (
            "a layer too many",
            "is missing",
            with(&|it| {
                let path = format!("layers/{}.tar", "0".repeat(64));
                it.assets.layers.push(smolvm_pack::format::LayerEntry { digest: zeros.clone(), path, size: 1 });
            }),
        ),
        ("a layer twice", "listed twice", with(&|it| it.assets.layers.push(last.clone()))),
    ];
    for (what, fault, bytes) in table {
        let said = checks(what, &bytes);
        assert!(said.contains(fault), "{what}: {said}");
        assert!(!said.contains("checksum"), "{what}: {said}");
    }
}

fn with_footer(assets: &[u8], manifest: &[u8]) -> Vec<u8> {
    let mut bytes = [assets, manifest].concat();
    let footer = smolvm_pack::PackFooter {
        stub_size: 0,
        assets_offset: 0,
        assets_size: assets.len() as u64,
        manifest_offset: assets.len() as u64,
        manifest_size: manifest.len() as u64,
        checksum: crc32fast::hash(&bytes),
    };
    bytes.extend(footer.to_bytes());
    bytes
}

//! An artifact beside a night, or alone: what smolvm makes of it is the folder of that night, though it knows no marks.

use std::fs;
use std::time::Duration;

use serde_json::Value;

use crate::docker_registry::DockerRegistry;
use crate::host::Host;

/// Longer than the moment in which nobody can tell whether a file changed.
const SETTLED: Duration = Duration::from_millis(2_200);

/// What is done to the folder, night by night.
const NIGHTS: &[&str] = &[
    "",
    "rm a/x; echo new >a/new",
    "rm -r a/b; echo file >a/b",
    "rm a/b; mkdir a/b; echo back >a/b/y",
    "ln d/one e/third; rm d/linked",
    "rm -r d; ln -s e d; chmod 700 workspace/p",
    "rm -r workspace/p/q; echo more >workspace/more; ln workspace/more workspace/p/again",
    "rm workspace/more; mv workspace/p/again workspace/back; rm -r workspace/p; echo p >workspace/p",
    "rm g; mkdir g; echo deep >g/g",
    "rm -r many; touch -d 2001-01-01 e/f",
    "mkdir many; echo 7 >many/7; head -c 300000 /dev/urandom >large",
    "",
    "rm -r workspace a",
    "mkdir workspace; echo new >workspace/x",
];

fn grown() -> Host {
    let host = Host::new();
    host.shell(
        "cd tree; mkdir -p a/b/c d e many workspace/p/q; for f in a/x a/b/y a/b/c/z d/one d/two e/f g workspace/p/f workspace/p/q/f; do echo $f >$f; done
         for n in $(seq 60); do head -c 2000 /dev/urandom >many/$n; done
         head -c 300000 /dev/urandom >large; ln d/one d/linked; ln -s x a/soft; ln workspace/p/f workspace/p/link",
    );
    host
}

/// The nights one after the other, to where `words` say: their reports.
fn all_nights(host: &Host, words: &[&str]) -> Vec<Value> {
    let packing = host.packing();
    let packing: Vec<&str> = packing.iter().map(String::as_str).collect();
    let mut reports = Vec::new();
    for (night, script) in NIGHTS.iter().enumerate() {
        host.shell(&format!("cd tree; {script}"));
        std::thread::sleep(SETTLED);
        let (output, report) = host.try_freeze_to(&[&packing, words].concat());
        assert!(output.status.success(), "night {night}: {}", String::from_utf8_lossy(&output.stderr));
        assert_eq!(host.differences_of_artifact(), Vec::<String>::new(), "night {night}, after {script}: {report}");
        assert_eq!(report["night"]["why_all"].is_null(), night > 0, "night {night}: {report}");
        reports.push(report);
    }
    reports
}

fn sum(reports: &[Value], name: &str) -> u64 {
    reports.iter().map(|report| report["night"][name].as_u64().unwrap()).sum()
}

/// All that stays comes from the artifact of the night before, under the name that the next one gets.
#[test]
fn an_artifact_alone_is_flat_each_night() {
    let host = grown();
    let reports = all_nights(&host, &["--layer-size", "1MiB"]);
    assert!(sum(&reports, "layers_copied") > 10, "{reports:#?}");
    assert!(sum(&reports, "layers_flattened") > 0, "{reports:#?}");
    // Where nothing changed, everything is copied.
    assert_eq!((&reports[11]["night"]["layers_flattened"], &reports[11]["tar_bytes"]), (&0.into(), &0.into()));
}

#[test]
fn an_artifact_beside_a_layout_is_flat_and_the_image_is_not() {
    let host = grown();
    let layout = format!("oci:{}:it", host.path("layout").display());
    let reports = all_nights(&host, &["--to", &layout, "--compression", "gzip"]);
    assert!(sum(&reports, "layers_flattened") > 0, "{reports:#?}");
    assert_eq!(host.differences(), Vec::<String>::new());
}

/// Whatever becomes of the artifact, the next one is right: what it had comes from the registry.
#[test]
fn what_the_last_artifact_had_comes_from_a_registry() {
    let (host, registry) = (grown(), DockerRegistry::start());
    let reference = format!("{}/team/it:v1", registry.address);
    let packing = host.packing();
    let words: Vec<&str> = packing.iter().map(String::as_str).chain(["--to", &reference]).collect();
    let freeze = || {
        std::thread::sleep(SETTLED);
        let (output, report) = host.try_freeze_to(&words);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert_eq!(host.differences_of_artifact(), Vec::<String>::new(), "{report}");
        report
    };
    freeze();
    host.shell("rm tree/a/x tree/workspace/p/f; rm it.smolmachine");
    let report = freeze();
    let night = &report["night"];
    assert!(night["layers_flattened"].as_u64().unwrap() >= 1 && night["rewritten"] == 0, "{report}");
    // Another one has its name.
    host.shell("rm tree/a/soft; cp it.smolmachine other; head -c 100 other >it.smolmachine");
    assert_eq!(freeze()["night"]["rewritten"], 0);
}

/// A layer's bytes in the artifact are not what they were: nothing of it is believed.
#[test]
fn a_damaged_artifact_is_not_copied_from() {
    let host = grown();
    let layout = format!("oci:{}:it", host.path("layout").display());
    let packing = host.packing();
    let packing: Vec<&str> = packing.iter().map(String::as_str).collect();
    let freeze = |words: &[&str]| {
        std::thread::sleep(SETTLED);
        host.try_freeze_to(&[&packing, words].concat())
    };
    // What can't be compressed is there as it is.
    host.shell("for f in a/noise workspace/noise; do head -c 100000 /dev/urandom >tree/$f; done");
    let damage = |name: &str| {
        let (mut bytes, noise) = (fs::read(host.artifact()).unwrap(), fs::read(host.tree().join(name)).unwrap());
        let at = bytes.windows(40).position(|window| window == &noise[50_000..50_040]).unwrap();
        bytes[at] ^= 1;
        fs::write(host.artifact(), &bytes).unwrap();
        bytes
    };
    assert!(freeze(&["--to", &layout]).0.status.success());
    damage("a/noise");
    let (output, report) = freeze(&["--to", &layout]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!((&report["night"]["rewritten"], host.differences_of_artifact()), (&0.into(), Vec::new()), "{report}");
    // Where nothing else has it, nothing is written, and the next one reads everything.
    for name in ["a/noise", "workspace/noise"] {
        assert!(freeze(&[]).0.status.success());
        let damaged = damage(name);
        let (output, _) = freeze(&[]);
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(6), "{name}: {told}");
        assert!(told.contains("not those that were written") && told.contains("it.smolmachine"), "{name}: {told}");
        assert_eq!(fs::read(host.artifact()).unwrap(), damaged, "what was there is there");
        assert!(!host.shell("ls -A").contains(".smolfreeze"), "{}", host.shell("ls -A"));
        let (output, report) = freeze(&[]);
        assert!(output.status.success());
        // By the index of the way in which it was frozen first, if that is there, whose layers this artifact has not.
        let night = &report["night"];
        assert!(night["why_all"].is_string() || night["rewritten"] == night["listed"], "{report}");
        assert_eq!(host.differences_of_artifact(), Vec::<String>::new());
    }
}

/// One that is gone, and was the only output, costs what a first freeze costs.
#[test]
fn an_artifact_that_is_gone_is_made_anew() {
    let host = grown();
    let packing = host.packing();
    let words: Vec<&str> = packing.iter().map(String::as_str).collect();
    std::thread::sleep(SETTLED);
    assert!(host.try_freeze_to(&words).0.status.success());
    host.shell("rm it.smolmachine; rm tree/a/x");
    std::thread::sleep(SETTLED);
    let (output, report) = host.try_freeze_to(&words);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(report["night"]["rewritten"].as_u64().unwrap() > 60, "{report}");
    assert_eq!(host.differences_of_artifact(), Vec::<String>::new());
}

//! What is asked for: an option that can't take effect is refused, and files that are to be written are tried first.

use std::fs;

use serde_json::Value;

use crate::host::{Host, finish, names, one_line};

#[test]
fn an_option_that_cannot_take_effect_is_refused() {
    let host = Host::new();
    let tree = host.tree("tree", "echo a >file").display().to_string();
    let (dir, tar, layout) = (format!("dir:{tree}"), "tar:x.tar".to_owned(), format!("oci:{}", host.text("layout")));
    let (registry, artifact) = ("localhost:1/x", host.text("dev"));
    let to_layout = ["--to", &layout];
    let to_artifact = ["--pack", &artifact];
    let of_machines = [
        ["--machine-prefix", "zz"],
        ["--chunk-size", "1MiB"],
        ["--window", "4"],
        ["--guest-compression", "none"],
        ["--guest-reader", "auto"],
        ["--pre-exec", "true"],
        ["--post-exec", "true"],
        ["--exec-timeout", "1h"],
        ["--wait", "0s"],
    ];
    // What is asked, of which source and outputs, and what the refusal names beside the option.
    let mut cases = Vec::new();
    for option in of_machines {
        cases.push((option, &dir, to_layout, &dir));
        cases.push((option, &tar, to_artifact, &tar));
    }
    cases.extend([
        (["--include-mount", "/x"], &tar, to_layout, &tar),
        (["--reread", "5%"], &tar, to_layout, &tar),
        (["--ca-cert", "/nowhere"], &dir, to_layout, &layout),
        (["--bandwidth", "1MiB"], &dir, to_artifact, &artifact),
        (["--agent-rootfs", "/nowhere"], &dir, to_layout, &layout),
        (["--pack-with", "own"], &dir, to_layout, &layout),
        (["--smolvm", "/nowhere"], &dir, to_layout, &dir),
    ]);
    let machine = "dev".to_owned();
    cases.push((["--exec-timeout", "1h"], &machine, to_layout, &machine));
    for (option, source, output, other) in cases {
        let words = [&[source.as_str()][..], &output, &option].concat();
        let line = host.refuses(2, option[0], &words);
        assert!(source == "dev" || line.contains(other.as_str()), "{words:?}: {line}");
    }
    host.refuses(2, "--no-known", &[&dir, "--to", &layout, "--squash", "--no-known"]);
    host.refuses(2, "--plain-http", &[&dir, "--to", &layout, "--plain-http"]);
    host.refuses(2, "--ca-cert", &[&dir, "--to", registry, "--plain-http", "--ca-cert", "/etc/hosts"]);
    // Before the source is looked at.
    host.refuses(2, "/nowhere", &["dir:/nowhere-either", "--to", registry, "--ca-cert", "/nowhere"]);
    assert!(!host.path("layout").exists());
    for command in ["inspect", "verify"] {
        let output = finish(host.command(&[command, &layout, "--ca-cert", "/nowhere"]).spawn().unwrap());
        assert!(output.status.code() == Some(2) && one_line(&output).contains(&layout), "{command}");
    }
    // What the environment says is not asked for.
    let words = ["freeze", &dir, "--to", &layout, "--quiet"];
    let mut command = host.command(&words);
    assert!(finish(command.env("SMOLFREEZE_SMOLVM", "/nowhere").spawn().unwrap()).status.success());
}

#[test]
fn files_to_be_written_are_tried_before_anything_is_read() {
    let host = Host::new();
    let tree = host.tree("tree", "echo a >file").display().to_string();
    let layout = format!("oci:{}", host.text("layout"));
    for option in ["--report", "--profile"] {
        for bad in [host.text("absent/file"), tree.clone()] {
            let line = host.refuses(4, &bad, &["dir:/nowhere", "--to", &layout, option, &bad]);
            assert!(!line.contains("/nowhere'"), "{line}");
        }
        host.refuses(2, option, &["dir:/", "--to", &layout, "--dry-run", option, &host.text("file")]);
    }
    assert!(!host.path("layout").exists());
}

#[test]
fn a_freeze_that_failed_has_a_report_with_its_error() {
    let host = Host::new();
    let report = host.text("report.json");
    let read = || serde_json::from_slice::<Value>(&fs::read(&report).unwrap()).unwrap();
    for (code, kind, words) in [
        (3, "source", &["dir:/nowhere", "--to", "oci:x"][..]),
        (2, "usage", &["dir:/etc", "--to", "localhost:1/x", "--memory", "1KiB"]),
        (4, "sink", &["dir:/etc/apt", "--to", "localhost:1/x:y"]),
    ] {
        fs::write(&report, "x".repeat(100_000)).unwrap();
        let line = host.refuses(code, "", &[words, &["--report", &report]].concat());
        let report = read();
        assert_eq!(report["error"]["kind"], kind, "{report}");
        assert_eq!(format!("smolfreeze: {}\n", report["error"]["message"].as_str().unwrap()), line);
        assert_eq!((&report["outputs"], &report["source"]), (&serde_json::json!([]), &words[0].into()));
    }
}

#[test]
fn reports_and_profiles_are_in_no_image() {
    let host = Host::new();
    let tree = host.tree("tree", "echo a >file; mkdir in; echo old >in/report.json");
    let (report, profile) = (tree.join("in/report.json"), tree.join("trace.json"));
    let layout = format!("oci:{}", host.text("layout"));
    let (report, profile) = (report.display().to_string(), profile.display().to_string());
    let words = ["freeze", &format!("dir:{}", tree.display()), "--to", &layout, "--quiet"];
    let words = [&words[..], &["--report", &report, "--profile", &profile]].concat();
    assert!(finish(host.command(&words).spawn().unwrap()).status.success());
    let written: Value = serde_json::from_slice(&fs::read(&report).unwrap()).unwrap();
    // The root, the file and the folder.
    assert_eq!(written["entries"], 3, "{written}");
    assert!(fs::metadata(&profile).unwrap().len() > 100);
    assert_eq!(names(&tree), ["file", "in", "trace.json"]);
}

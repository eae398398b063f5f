//! What the image says about running it: from the machine, unless the user says otherwise; and how things are named.

use crate::desk::Desk;
use crate::host::tags;
use crate::standin::Kind;
use crate::support::docker_registry::DockerRegistry;

/// Leaves out most of a machine, where only the config matters.
const LITTLE: [&str; 6] = ["--exclude", "/usr", "--exclude", "/etc", "--exclude", "/var/lib"];

#[test]
fn the_machine_tells_and_the_user_overrides() {
    let desk = Desk::new(Kind::Debian);
    let layout = desk.host.text("layout");
    let (to, image) = (format!("oci:{layout}:it"), format!("oci:{layout}:it"));
    desk.freeze(&[&["--to", &to][..], &LITTLE].concat());
    let config = desk.config(&image);
    let run = &config["config"];
    assert_eq!((&run["User"], &run["WorkingDir"]), (&"1000:1000".into(), &"/srv".into()));
    assert_eq!((&run["Cmd"], &run["Entrypoint"]), (&serde_json::json!(["bash"]), &serde_json::Value::Null));
    let env = run["Env"].as_array().unwrap();
    assert!(env.contains(&"GREETING=hello world".into()), "{env:?}");
    assert!(env.iter().any(|variable| variable.as_str().unwrap().starts_with("PATH=/usr/local/sbin:")), "{env:?}");
    let labels = &run["Labels"];
    for (label, value) in [("team", "x"), ("smolfreeze.machine", "m1"), ("smolfreeze.machine.image", "local:abc")] {
        assert_eq!(labels[label], value, "{labels}");
    }
    let own = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
    assert_eq!((&config["architecture"], &config["os"]), (&own.into(), &"linux".into()));

    // The guest's word counts, not the host's.
    desk.fill("usr/local/sbin", "printf '#!/bin/sh\\necho aarch64\\n' >uname; chmod 755 uname");
    let overridden = ["--user", "node", "--workdir", "/home/node", "--env", "GREETING=hi", "--label", "team=y"];
    let command = ["--entrypoint", "/init", "--entrypoint", "--", "--cmd", "node"];
    desk.freeze(&[&["--to", &to][..], &LITTLE, &overridden, &command].concat());
    let config = desk.config(&image);
    let run = &config["config"];
    assert_eq!(config["architecture"], "arm64");
    assert_eq!((&run["User"], &run["WorkingDir"]), (&"node".into(), &"/home/node".into()));
    assert_eq!((&run["Entrypoint"], &run["Cmd"]), (&serde_json::json!(["/init", "--"]), &serde_json::json!(["node"])));
    let greetings: Vec<_> =
        run["Env"].as_array().unwrap().iter().filter(|v| v.as_str().unwrap().contains("GR")).collect();
    assert_eq!(greetings, ["GREETING=hi"]);
    assert_eq!((&run["Labels"]["team"], &run["Labels"]["smolfreeze.machine"]), (&"y".into(), &"m1".into()));
    desk.freeze(&[&["--to", &to, "--architecture", "amd64"][..], &LITTLE].concat());
    assert_eq!(desk.config(&image)["architecture"], "amd64");
}

#[test]
fn a_bare_machine_runs_as_root() {
    let desk = Desk::new(Kind::Bare);
    let to = format!("oci:{}:it", desk.host.text("layout"));
    desk.freeze(&["--to", &to]);
    let config = desk.config(&to);
    assert_eq!((&config["config"]["User"], &config["config"]["WorkingDir"]), (&serde_json::Value::Null, &"/".into()));
    assert_eq!(config["config"]["Labels"]["smolfreeze.machine.image"], serde_json::Value::Null);
}

#[test]
fn names_follow_a_rule() {
    let (desk, registry) = (Desk::new(Kind::Busybox), DockerRegistry::start());
    let bottle = desk.machine.beside("bot-bottle-blue", Kind::Busybox);
    let to = format!("{}/bot-bottle-committed-{{name}}:latest", registry.address);
    let layout = format!("oci:{}/{{name}}:{{name}}", desk.host.text("layouts"));
    std::fs::create_dir(desk.host.path("layouts")).unwrap();
    let words = ["--machine-prefix", "bot-bottle-", "--to", &to, "--to", &layout, "--quiet"];
    let output = desk.command_for("blue", &words).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(tags(&registry, "bot-bottle-committed-blue"), ["latest"]);
    let image = format!("oci:{}/blue:blue", desk.host.text("layouts"));
    desk.host.verify(&image);
    assert_eq!(desk.config(&image)["config"]["Labels"]["smolfreeze.machine"], "bot-bottle-blue");
    bottle.assert_clean();
}

//! The Python of docs/embedding.md, as a program would use it.

use std::path::{Path, PathBuf};
use std::process::Output;

use serde_json::Value;

use crate::desk::Desk;
use crate::host::{finish, names, tags};
use crate::standin::Kind;
use crate::support::docker_registry::DockerRegistry;
use crate::trees::Keeps;

const PAGE: &str = include_str!("../../docs/embedding.md");

/// A program that calls the page's `freeze` with these arguments, and prints what it gave or what it raised.
fn call(desk: &Desk, arguments: &str) -> Output {
    let (_, block) = PAGE.split_once("```python\n").unwrap();
    let (module, _) = block.split_once("```\n").unwrap();
    std::fs::write(desk.host.path("embedding.py"), module).unwrap();
    let program = format!(
        "import embedding, json, subprocess
try:
    print(json.dumps(embedding.freeze({arguments})))
except embedding.FreezeFailed as failed:
    print(json.dumps(dict(code=failed.code, line=str(failed))))
except subprocess.TimeoutExpired:
    print(json.dumps('too late'))"
    );
    let binary = Path::new(env!("CARGO_BIN_EXE_smolfreeze")).parent().unwrap();
    let path = std::env::join_paths(
        [binary.to_owned()].into_iter().chain(std::env::split_paths(&std::env::var("PATH").unwrap())),
    );
    let agent = desk.host.tree("agent", "mkdir -p sbin; echo agent >sbin/init");
    let mut command = std::process::Command::new("python3");
    desk.host.surround(&mut command).args(["-c", &program]).current_dir(desk.host.path("."));
    command.env("PATH", path.unwrap()).env("SMOLFREEZE_SMOLVM", desk.machine.smolvm_path());
    command.env("SMOLVM_AGENT_ROOTFS", agent).env("PYTHONDONTWRITEBYTECODE", "1");
    finish(command.spawn().unwrap())
}

fn gives(desk: &Desk, arguments: &str) -> Value {
    let output = call(desk, arguments);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn list(desk: &Desk) -> Value {
    let output = finish(desk.host.command(&["ls", "--json"]).spawn().unwrap());
    serde_json::from_slice(&output.stdout).unwrap()
}

/// The users and working folder that a machine made from the artifact has.
fn runs_as(artifact: &Path) -> (Option<String>, Option<String>) {
    let footer = smolvm_pack::read_footer_from_sidecar(artifact).unwrap();
    assert!(smolvm_pack::verify_sidecar_checksum(artifact, &footer).unwrap());
    let manifest = smolvm_pack::read_manifest_from_sidecar(artifact).unwrap();
    (manifest.user, manifest.workdir)
}

#[test]
fn one_call_commits_a_machine() {
    let (desk, registry) = (Desk::new(Kind::Busybox), DockerRegistry::start());
    let bottle = desk.machine.beside("bot-blue", Kind::Busybox);
    bottle.sh("mkdir -p /workspace && echo text >/workspace/file");
    let (to, backup) = (format!("{}/committed-{{name}}:latest", registry.address), desk.host.tree("backup", ""));
    let arguments = format!(
        "'blue', prefix='bot-', to=['{to}'], pack='{}/{{name}}', user='1000:1000', workdir='/workspace', timeout=100",
        backup.display()
    );
    let done = gives(&desk, &arguments);
    let artifact = backup.join("blue.smolmachine");
    assert_eq!(done["artifact"], serde_json::json!(artifact));
    assert_eq!(runs_as(&artifact), (Some("1000:1000".to_owned()), Some("/workspace".to_owned())));
    assert_eq!(tags(&registry, "committed-blue"), ["latest"]);
    let image = format!("docker://{}/committed-blue:latest", registry.address);
    let config = desk.config(&image);
    assert_eq!(
        (&config["config"]["User"], &config["config"]["WorkingDir"]),
        (&"1000:1000".into(), &"/workspace".into())
    );
    assert!(desk.unpacked(&image, Keeps::Seconds).contains_key(Path::new("workspace/file")));
    let list = list(&desk);
    assert_eq!((&list[0]["id"], &list[0]["source"]), (&done["record"], &"bot-blue".into()));
    assert_eq!(list[0]["machine"]["user"], "1000:1000");
    bottle.assert_clean();
}

#[test]
fn without_an_output_the_artifact_is_in_the_state_folder() {
    let desk = Desk::new(Kind::Busybox);
    let done = gives(&desk, "'m1'");
    let artifact = PathBuf::from(done["artifact"].as_str().unwrap());
    assert!(artifact.starts_with(desk.host.path("home/.local/state/smolfreeze/artifacts/m1")), "{artifact:?}");
    runs_as(&artifact);
    assert_eq!(list(&desk)[0]["outputs"][0]["path"], done["artifact"]);
    desk.machine.assert_clean();
}

#[test]
fn what_fails_has_a_code_and_a_line_and_leaves_nothing() {
    let desk = Desk::new(Kind::Busybox);
    let failed = gives(&desk, "'nope'");
    assert_eq!(failed["code"], 3, "{failed}");
    assert!(failed["line"].as_str().unwrap().contains("'nope'"), "{failed}");
    assert_eq!(gives(&desk, "'m1', to=['oci:']")["code"], 2);
    desk.machine.faults("cp-hang 1000");
    assert_eq!(gives(&desk, "'m1', timeout=2"), "too late");
    desk.machine.faults("");
    desk.machine.assert_clean();
    assert_eq!(list(&desk), serde_json::json!([]));
    assert_eq!(names(&desk.host.path("home/.local/state/smolfreeze/artifacts")), Vec::<String>::new());
}

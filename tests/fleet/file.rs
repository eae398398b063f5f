//! `fleet init`, `fleet check` and `fleet schema`, as a person calls them.

use std::path::Path;
use std::process::{Command, Output};

fn fleet(home: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_smolfreeze"));
    command.env_clear().env("HOME", home).arg("fleet").args(arguments).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[test]
fn the_file_that_init_writes_is_right_and_is_not_written_over() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join(".config/smolfreeze/fleet.toml");
    let written = fleet(home.path(), &["init"]);
    assert_eq!((written.status.code(), text(&written.stdout).trim()), (Some(0), path.to_str().unwrap()));
    let checked = fleet(home.path(), &["check"]);
    assert_eq!(checked.status.code(), Some(0), "{}", text(&checked.stderr));
    assert!(text(&checked.stdout).contains("is right: 3 policies, 2 destinations"), "{}", text(&checked.stdout));
    std::fs::write(&path, "mine").unwrap();
    let refused = fleet(home.path(), &["init"]);
    assert_eq!(refused.status.code(), Some(4));
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "mine");
}

#[test]
fn check_names_each_mistake_with_its_place() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("f.toml");
    let file = path.to_str().unwrap();
    std::fs::write(&path, "concurency = 4\n").unwrap();
    let checked = fleet(home.path(), &["check", "--file", file]);
    assert_eq!(checked.status.code(), Some(2));
    let said = text(&checked.stderr);
    assert!(said.contains("f.toml: line 1, column 1: ") && said.contains("did you mean 'concurrency'?"), "{said}");
    std::fs::write(&path, "[destinations.a]\nto = \"registry.example/{machin}\"\n[[policies]]\nto = [\"b\"]\n")
        .unwrap();
    let said = text(&fleet(home.path(), &["check", "--file", file]).stderr);
    assert_eq!(said.lines().count(), 2, "{said}");
    assert!(said.contains("line 2, column 6: there is no placeholder '{machin}'"), "{said}");
    assert!(said.contains("line 4, column 7: there is no destination 'b'"), "{said}");
    let absent = fleet(home.path(), &["check"]);
    assert_eq!(absent.status.code(), Some(2));
    assert!(text(&absent.stderr).contains("fleet init"), "{}", text(&absent.stderr));
}

#[test]
fn the_schema_is_json_and_knows_the_keys() {
    let home = tempfile::tempdir().unwrap();
    let printed = fleet(home.path(), &["schema"]);
    let schema: serde_json::Value = serde_json::from_slice(&printed.stdout).unwrap();
    assert!(schema["properties"]["policies"].is_object() && schema["additionalProperties"] == false);
}

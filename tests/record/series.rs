//! Which freezes are of one source: by what was frozen, and not by how it was called.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::host::{finish, shell};
use crate::remembered::Desk;

/// Freezes `source` in a working directory; with `input` on standard input. The record's ID.
fn freeze(desk: &Desk, folder: &Path, words: &[&str], input: Option<&Path>) -> String {
    let to = format!("oci:{}", desk.host.text("layout"));
    let mut command = desk.host.command(&[&["freeze", "--to", &to][..], words].concat());
    if let Some(input) = input {
        command.stdin(fs::File::open(input).unwrap());
    }
    let output = finish(command.current_dir(folder).spawn().unwrap());
    assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
    let said = String::from_utf8(output.stdout).unwrap();
    said.lines().find_map(|line| line.strip_prefix("record      ")).unwrap().to_owned()
}

/// What a command in `folder` lists under a key: the IDs, sorted.
fn ids(desk: &Desk, folder: &Path, words: &[&str], key: Option<&str>) -> Vec<String> {
    let output = finish(desk.host.command(words).current_dir(folder).spawn().unwrap());
    assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
    let found: Value = serde_json::from_slice(&output.stdout).unwrap();
    let list = key.map_or(&found, |key| &found[key]);
    let mut ids: Vec<_> = list.as_array().unwrap().iter().map(|one| one["id"].as_str().unwrap().to_owned()).collect();
    ids.sort();
    ids
}

fn sorted<const N: usize>(mut ids: [&String; N]) -> Vec<String> {
    ids.sort();
    ids.map(String::clone).into()
}

const PRUNE: [&str; 5] = ["prune", "--keep-last", "1", "--dry-run", "--json"];

#[test]
fn one_folder_is_one_source_however_it_is_called() {
    let desk = Desk::new();
    let (one, other) = (desk.host.tree("one", "echo one >file"), desk.host.tree("other", "echo other >file"));
    shell(&desk.host.path("."), "ln -s one link");
    let of_other = freeze(&desk, &other, &["dir:."], None);
    let spelled = [
        freeze(&desk, &one, &["dir:."], None),
        freeze(&desk, &other, &["dir:../one"], None),
        freeze(&desk, &desk.host.path("."), &["dir:link"], None),
        freeze(&desk, &one, &[&format!("dir:{}", one.display())], None),
    ];
    let [first, second, third, last] = &spelled;
    assert_eq!(ids(&desk, &one, &PRUNE, Some("kept")), sorted([&of_other, last]));
    assert_eq!(ids(&desk, &one, &PRUNE, Some("removed")), sorted([first, second, third]));
    // `dir:.` is the folder that one is in.
    for source in ["dir:.", "dir:../one", "dir:../link/"] {
        assert_eq!(ids(&desk, &one, &["ls", source, "--json"], None), sorted([first, second, third, last]), "{source}");
    }
    assert_eq!(ids(&desk, &other, &["ls", "dir:.", "--json"], None), sorted([&of_other]));
    assert_eq!(ids(&desk, &other, &[&PRUNE[..], &["dir:."]].concat(), Some("removed")), Vec::<String>::new());
    // The spelling is what is shown.
    assert!(desk.says(&["ls"]).contains("  dir:../one  "));
}

#[test]
fn standard_input_is_a_source_only_by_a_name() {
    let desk = Desk::new();
    let tree = desk.host.path("tree");
    shell(&desk.host.path("."), "tar -C tree -cf a.tar .");
    let tar = desk.host.path("a.tar");
    let piped = |words: &[&str]| freeze(&desk, &tree, &[&["tar:-"], words].concat(), Some(&tar));
    let (one, other) = (piped(&[]), piped(&[]));
    let (named, again) = (piped(&["--name", "nightly"]), piped(&["--name", "nightly"]));
    let file = [
        freeze(&desk, &tree, &["tar:../a.tar"], None),
        freeze(&desk, &tree, &[&format!("tar:{}", tar.display())], None),
    ];
    // A file that comes in as standard input has a name still.
    let stdin = [piped(&[]), freeze(&desk, &tree, &["tar:/dev/stdin"], Some(&tar))];
    assert_eq!(ids(&desk, &tree, &PRUNE, Some("removed")), sorted([&named, &file[0], &file[1]]), "{stdin:?}");
    assert_eq!(ids(&desk, &tree, &["ls", "nightly", "--json"], None), sorted([&named, &again]));
    assert!(desk.says(&["ls"]).contains("  tar:- (nightly)  "));
    assert_eq!(ids(&desk, &tree, &[&PRUNE[..], &["tar:-"]].concat(), Some("kept")).len(), 4);
    assert!(ids(&desk, &tree, &["ls", "tar:-", "--json"], None).contains(&one) && one != other);
    let line = desk.refuses(&["freeze", "tar:-", "--name", "a/b", "--to", "oci:x"]);
    assert!(line.contains("--name") && line.contains("'a/b'"), "{line}");
}

#[test]
fn old_records_are_what_they_were() {
    let desk = Desk::new();
    let tree = desk.host.path("tree");
    // Records of a release that knew the spelling alone.
    let old = |source: &str, day: u32| {
        let (id, _) = desk.remember("dev", &format!("202601{day:02}T030405Z"), None);
        let path = desk.state().join(format!("records/{id}.json"));
        let mut record: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        record["source"] = json!(source);
        fs::write(&path, record.to_string()).unwrap();
        id
    };
    let absolute = desk.tree.clone();
    let before = [old("dir:.", 1), old("dir:.", 2), old("tar:-", 3), old("tar:-", 4), old("dir:tree", 5)];
    let (sixth, seventh) = (old(&absolute, 6), old(&absolute, 7));
    let (eighth, ninth) = (old("dev", 8), old("dev", 9));
    let today = freeze(&desk, &tree, &["dir:."], None);
    assert_eq!(ids(&desk, &tree, &PRUNE, Some("removed")), sorted([&sixth, &seventh, &eighth]));
    assert_eq!(
        ids(&desk, &tree, &PRUNE, Some("kept")),
        sorted([&before[0], &before[1], &before[2], &before[3], &before[4], &ninth, &today])
    );
}

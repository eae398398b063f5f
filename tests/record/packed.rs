//! Artifacts and their records: the one in the state folder where no output was named, and one at a place of the user's.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::json;

use crate::host::{finish, names, shell};
use crate::remembered::Desk;
use crate::support::kills::Kills;
use crate::support::sidecar::{assert_whole, is_whole};

const ROUNDS: u32 = 20;

/// What every artifact carries.
fn agent(desk: &Desk) -> String {
    desk.host.tree("agent", "mkdir -p sbin; echo agent >sbin/init").display().to_string()
}

/// All artifacts in the state folder, unfinished ones too.
fn artifacts(desk: &Desk) -> Vec<PathBuf> {
    let folder = desk.state().join("artifacts");
    let of = |source: String| names(&folder.join(&source)).into_iter().map(move |name| (source.clone(), name));
    names(&folder).into_iter().flat_map(of).map(|(source, name)| folder.join(source).join(name)).collect()
}

#[test]
fn without_an_output_an_artifact_goes_into_the_state_folder() {
    let desk = Desk::new();
    let agent = agent(&desk);
    let quiet = desk.says(&["freeze", &desk.tree, "--agent-rootfs", &agent, "--quiet"]);
    let path = Path::new(quiet.strip_suffix('\n').unwrap());
    assert_eq!(artifacts(&desk), [path], "the path, and nothing else");
    assert_whole(path);
    let said = desk.run(&["freeze", &desk.tree, "--agent-rootfs", &agent, "--progress", "none"]).stdout;
    let said = String::from_utf8(said).unwrap();
    let second = Path::new(said.lines().last().unwrap());
    assert_eq!(artifacts(&desk).len(), 2);
    assert_whole(second);

    let list = desk.json(&["ls", "--json"]);
    for (at, path) in [path, second].iter().enumerate() {
        let output = &list[at]["outputs"][0];
        assert_eq!(
            (&output["kind"], &output["path"], &output["name"]),
            (&json!("artifact"), &json!(path), &json!(path))
        );
        assert_eq!(output["bytes"], path.metadata().unwrap().len());
        assert_eq!(output["digest"], json!(smolvm_pack::read_manifest_from_sidecar(path).unwrap().digest));
        assert_eq!(list[at]["missing"], false);
        assert_eq!(path.file_stem().unwrap().to_str(), list[at]["id"].as_str());
    }
    let removed = desk.json(&["prune", "--keep-last", "1", "--json"]);
    assert_eq!(removed["removed"][0]["artifacts"], json!([path]));
    assert_eq!(artifacts(&desk), [second]);
    let id = list[1]["id"].as_str().unwrap();
    assert_eq!(desk.says(&["rm", id]), format!("removed {id}, {}\n", second.display()));
    assert_eq!((artifacts(&desk), desk.names()), (vec![], vec![]));
}

#[test]
fn a_place_of_the_users_is_recorded_and_left_alone() {
    let desk = Desk::new();
    let (agent, place) = (agent(&desk), desk.host.path("backup/dev.smolmachine"));
    fs::create_dir(desk.host.path("backup")).unwrap();
    let to = format!("oci:{}", desk.host.text("layout"));
    // As smolvm names its sidecars.
    let pack = desk.host.text("backup/dev");
    let words = ["freeze", &desk.tree, "--agent-rootfs", &agent, "--pack", &pack, "--to", &to, "--quiet"];
    assert_eq!(desk.says(&words), "", "who names an output knows where it is");
    let list = desk.json(&["ls", "--json"]);
    assert_eq!(list[0]["outputs"][1]["path"], json!(place));
    assert_eq!(list[0]["outputs"][0]["digest"], list[0]["outputs"][1]["digest"]);
    let id = list[0]["id"].as_str().unwrap();
    assert_eq!(desk.says(&["rm", id]), format!("removed {id}; still there: {to}:latest, {}\n", place.display()));
    assert_whole(&place);
}

#[test]
fn a_home_is_frozen_without_the_artifacts_in_it() {
    let desk = Desk::new();
    let (agent, home) = (agent(&desk), format!("dir:{}", desk.host.text("home")));
    shell(&desk.host.path("home"), "head -c 3000000 /dev/urandom >noise");
    for _ in 0..3 {
        let report = desk.host.freeze(&[&home, "--agent-rootfs", &agent]);
        assert!(report.tar_bytes < 4_000_000, "{} bytes: earlier artifacts are in it", report.tar_bytes);
    }
    let report = desk.host.freeze(&[&home, "--to", &format!("oci:{}", desk.host.text("layout"))]);
    let left: Vec<_> = report.notices.named().iter().map(|notice| notice.path.as_str()).collect();
    assert_eq!(left, [".local/state/smolfreeze/artifacts"]);
    assert_eq!(artifacts(&desk).len(), 3);
}

#[test]
fn a_freeze_that_fails_leaves_neither_artifact_nor_folder() {
    let desk = Desk::new();
    let line = desk.refuses(&["freeze", &desk.tree, "--agent-rootfs", &agent(&desk), "--no-record"]);
    assert!(line.contains("--to or --pack"), "{line}");
    assert!(!desk.state().exists());
    let tar = desk.host.path("half.tar");
    shell(
        &desk.host.path("."),
        "head -c 3000000 /dev/urandom >tree/noise; tar -cf whole.tar tree; head -c 2000000 whole.tar >half.tar",
    );
    let output = desk.run(&["freeze", &format!("tar:{}", tar.display()), "--agent-rootfs", &agent(&desk), "--quiet"]);
    assert_eq!(output.status.code(), Some(3), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!((artifacts(&desk), desk.names()), (vec![], vec![]));
    assert_eq!(names(&desk.state().join("artifacts")), Vec::<String>::new());
}

#[test]
fn a_full_state_folder_for_records_says_that_the_artifact_is_there() {
    let desk = Desk::new();
    let agent = agent(&desk);
    // In the way of every record.
    fs::create_dir_all(desk.state().join("records")).unwrap();
    let mount = crate::host::Tmpfs::mount(&desk.state().join("records"), "4k");
    shell(&desk.state().join("records"), "head -c 1M /dev/zero >full || true");
    let output = desk.run(&["freeze", &desk.tree, "--agent-rootfs", &agent, "--quiet"]);
    let line = crate::host::one_line(&output);
    assert_eq!(output.status.code(), Some(4));
    let left = artifacts(&desk);
    let [artifact] = &left[..] else { panic!("{left:?}") };
    assert!(line.contains("the freeze itself is complete") && line.contains("move it elsewhere"), "{line}");
    assert!(line.contains(&artifact.display().to_string()), "{line}");
    assert_whole(artifact);
    drop(mount);
    desk.says(&["freeze", &desk.tree, "--agent-rootfs", &agent, "--quiet"]);
    assert!(!artifact.exists(), "as it said");
    assert_eq!(artifacts(&desk).len(), 1);
}

/// Artifacts that got their names, in the state folder and in `out`.
fn named(desk: &Desk) -> Vec<PathBuf> {
    let out = desk.host.path("out");
    let all = artifacts(desk).into_iter().chain(names(&out).into_iter().map(|name| out.join(name)));
    all.filter(|path| path.extension().is_some_and(|extension| extension == "smolmachine")).collect()
}

/// Kills at random moments of a freeze, each round into `pack`'s place.
fn killed_freezes_leave_no_record_without_its_artifact(desk: &Desk, pack: impl Fn(u32) -> Vec<String>) -> usize {
    let agent = agent(desk);
    shell(&desk.host.path("tree"), "head -c 8000000 /dev/urandom >noise");
    fs::create_dir(desk.host.path("out")).unwrap();
    let freeze = |round| {
        let mut command = desk.host.command(&["freeze", &desk.tree, "--agent-rootfs", &agent, "--quiet"]);
        command.args(pack(round)).spawn().unwrap()
    };
    let began = std::time::Instant::now();
    assert!(finish(freeze(ROUNDS)).status.success());
    let mut kills = Kills::within(began.elapsed());
    for round in 0..ROUNDS {
        let mut child = freeze(round);
        kills.wait();
        let _ = child.kill();
        child.wait().unwrap();
        for record in desk.json(&["ls", "--json"]).as_array().unwrap() {
            assert_eq!(record["missing"], false, "{kills}: {record}");
            assert!(is_whole(Path::new(record["outputs"][0]["path"].as_str().unwrap())), "{kills}: {record}");
        }
        // What has its name is whole, recorded or not.
        for path in named(desk) {
            assert!(is_whole(&path), "{kills}: {}", path.display());
        }
    }
    assert!(finish(freeze(ROUNDS + 1)).status.success(), "{kills}");
    let recorded = desk.json(&["ls", "--json"]).as_array().unwrap().len();
    assert!(recorded >= 2 && recorded < ROUNDS as usize + 2, "{kills}: {recorded} were over before they were killed");
    assert_eq!(desk.names().len(), recorded, "{kills}: something else is left");
    let everything = artifacts(desk).len() + names(&desk.host.path("out")).len();
    assert_eq!(everything, named(desk).len(), "{kills}: something unfinished is left");
    recorded
}

#[test]
fn a_killed_freeze_leaves_no_record_without_its_artifact() {
    let desk = Desk::new();
    let recorded = killed_freezes_leave_no_record_without_its_artifact(&desk, |_| vec![]);
    assert_eq!(artifacts(&desk).len(), recorded, "an artifact without a record is swept");
}

#[test]
fn a_killed_freeze_to_a_place_of_the_users_leaves_no_record_without_its_artifact() {
    let desk = Desk::new();
    let pack = |round| vec!["--pack".to_owned(), desk.host.text(&format!("out/{round}"))];
    killed_freezes_leave_no_record_without_its_artifact(&desk, pack);
}

//! Artifacts and their records: the one in the state folder where no output was named, and one at a place of the user's.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::json;

use crate::host::{finish, names, shell};
use crate::remembered::Desk;

const ROUNDS: u32 = 20;

/// What every artifact carries.
fn agent(desk: &Desk) -> String {
    desk.host.tree("agent", "mkdir -p sbin; echo agent >sbin/init").display().to_string()
}

fn assert_whole(artifact: &Path) {
    let footer = smolvm_pack::read_footer_from_sidecar(artifact).unwrap();
    assert!(smolvm_pack::verify_sidecar_checksum(artifact, &footer).unwrap(), "{}", artifact.display());
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

#[test]
fn a_killed_freeze_leaves_no_record_without_its_artifact() {
    let desk = Desk::new();
    let agent = agent(&desk);
    shell(&desk.host.path("tree"), "head -c 8000000 /dev/urandom >noise");
    let freeze = || desk.host.command(&["freeze", &desk.tree, "--agent-rootfs", &agent, "--quiet"]).spawn().unwrap();
    let began = std::time::Instant::now();
    assert!(finish(freeze()).status.success());
    let whole = began.elapsed();
    let mut random = fastrand::Rng::with_seed(12);
    for _ in 0..ROUNDS {
        let mut child = freeze();
        std::thread::sleep(whole.mul_f64(random.f64() * 1.1));
        let _ = child.kill();
        child.wait().unwrap();
        for record in desk.json(&["ls", "--json"]).as_array().unwrap() {
            assert_eq!(record["missing"], false, "{record}");
            assert_whole(Path::new(record["outputs"][0]["path"].as_str().unwrap()));
        }
        // What has its name is whole, recorded or not.
        let named = |path: &&PathBuf| path.extension().is_some_and(|extension| extension == "smolmachine");
        artifacts(&desk).iter().filter(named).for_each(|path| assert_whole(path));
    }
    assert!(finish(freeze()).status.success());
    let list = desk.json(&["ls", "--json"]);
    let recorded = list.as_array().unwrap().len();
    assert!(recorded >= 2 && recorded < ROUNDS as usize + 2, "{recorded} were over before they were killed");
    assert_eq!((artifacts(&desk).len(), desk.names().len()), (recorded, recorded), "nothing else is left");
}

//! State folders that can't be written to, and files in them that are no records.

use std::fs;

use crate::host::{Tmpfs, finish, one_line, shell};
use crate::remembered::Desk;

#[test]
fn a_read_only_state_folder_is_told_before_anything_is_done() {
    let desk = Desk::new();
    fs::create_dir_all(desk.state()).unwrap();
    let _disk = Tmpfs::mount(&desk.state(), "1M");
    shell(&desk.state(), "mount -o remount,ro \"$PWD\"");
    let to = format!("oci:{}", desk.host.text("layout"));
    let line = desk.host.refuses(4, &desk.state().display().to_string(), &[&desk.tree, "--to", &to]);
    assert!(line.contains("--no-record"), "{line}");
    assert!(!desk.host.path("layout").exists());
    desk.host.freeze(&[&desk.tree, "--to", &to, "--no-record"]);
    desk.host.verify(&to);
}

#[test]
fn a_full_state_folder_does_not_undo_the_freeze() {
    let desk = Desk::new();
    fs::create_dir_all(desk.state()).unwrap();
    let _disk = Tmpfs::mount(&desk.state(), "64k");
    shell(&desk.state(), "mkdir records artifacts; touch lock; head -c 1M /dev/zero >full || true");
    let to = format!("oci:{}", desk.host.text("layout"));
    let output = finish(desk.host.command(&["freeze", &desk.tree, "--to", &to, "--quiet"]).spawn().unwrap());
    let line = one_line(&output);
    assert_eq!(output.status.code(), Some(4), "{line}");
    assert!(line.contains("the freeze itself is complete") && line.contains(&to), "{line}");
    desk.host.verify(&to);
    assert_eq!(desk.names(), Vec::<String>::new());
}

#[test]
fn files_that_are_no_records_are_named_and_left_alone() {
    let desk = Desk::new();
    let (id, _) = desk.remember("dev", "20260102T030405Z", None);
    let (gone, _) = desk.remember("dev", "20260101T030405Z", None);
    let script = format!(
        "cp {id}.json 20270102T030405Z-other-00000b.json
         sed 's/\"version\":1/\"version\":2/' {id}.json >20270102T030405Z-newer-00000b.json
         head -c 100 {id}.json >20270102T030405Z-half-00000b.json
         printf '\\000\\377' >binary.json; : >empty; mkdir folder; mkfifo pipe; ln -s /etc/passwd link
         truncate -s 17M large.json"
    );
    shell(&desk.state().join("records"), &script);
    let foreign: Vec<_> =
        desk.names().into_iter().filter(|name| !name.contains(&id) && !name.contains(&gone)).collect();
    assert_eq!(foreign.len(), 9);
    for words in [&["ls"][..], &["prune", "--keep-last", "1"]] {
        let output = desk.run(words);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{errors}");
        assert_eq!(errors.lines().count(), foreign.len(), "{errors}");
        assert!(foreign.iter().all(|name| errors.contains(&format!("/{name}'"))), "{errors}");
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(said.contains(&id) && said.contains(&gone), "{said}");
    }
    let mut left = foreign;
    left.push(format!("{id}.json"));
    left.sort();
    assert_eq!(desk.names(), left);
}

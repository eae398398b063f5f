//! On a folder that rests: everything is kept, in a fixed order.

use super::*;

#[test]
fn gnu_tar_makes_the_same_folder_of_it() {
    let ((_around, root), copy) = (awkward::make(), tempfile::tempdir().unwrap());
    let streamed = stream(&root, &Selection::default()).unwrap();
    assert_eq!(streamed.notices.counts().len(), 0, "{:?}", streamed.noticed());
    let into = copy.path().to_str().unwrap();
    streamed.tar(&[
        "--xattrs",
        "--xattrs-include=*",
        "--delay-directory-restore",
        "--numeric-owner",
        "--warning=no-timestamp",
        "-xpf",
        "-",
        "-C",
        into,
    ]);
    let (mut expected, found) = (inventory::take(&root), inventory::take(copy.path()));
    assert_eq!(expected.keys().collect::<Vec<_>>(), found.keys().collect::<Vec<_>>());
    expected.retain(|path, line| found[path] != *line);
    let differing: Vec<_> =
        expected.iter().map(|(path, line)| format!("{path:?}\n  {line}\n  {}", found[path])).collect();
    assert!(differing.is_empty(), "{}", differing.join("\n"));
}

#[test]
fn the_same_folder_gives_the_same_bytes() {
    let (_around, root) = awkward::make();
    let first = stream(&root, &Selection::default()).unwrap();
    assert_eq!(first.tar.len() % 512, 0);
    assert!(first.tar.ends_with(&[0; 1024]));
    let again = collect(Directory::open(&root, &Selection::default()).unwrap(), 40).unwrap();
    assert!(first.tar == again.tar, "whatever the memory");
}

#[test]
fn names_are_sorted_and_links_come_last_in_groups() {
    let tree = tempfile::tempdir().unwrap();
    shell(
        tree.path(),
        "mkdir b a c; touch a.b a/x a/y b/z; ln a/y a/other; ln a/y c/y; ln b/z c/z; touch c/one; ln c/one ../$$-one; rm ../$$-one",
    );
    let names = stream(tree.path(), &Selection::default()).unwrap();
    let expected =
        ["./", "./a/", "./a/x", "./a.b", "./b/", "./c/", "./c/one", "./a/other", "./a/y", "./c/y", "./b/z", "./c/z"];
    assert_eq!(names.names(), expected);
    assert!(names.line("./c/y").contains("./c/y link to ./a/other"));
    assert!(names.line("./b/z").starts_with('-'));
}

#[test]
fn a_path_may_be_longer_than_the_kernel_takes() {
    let tree = tempfile::tempdir().unwrap();
    let depth = 150;
    awkward::make_deep(tree.path(), depth);
    let streamed = stream(tree.path(), &Selection::default()).unwrap();
    assert_eq!(streamed.notices.counts().len(), 0, "{:?}", streamed.noticed());
    let names = streamed.names();
    assert_eq!(names.len(), 1 + 3 * depth);
    assert!(names.iter().map(String::len).max() > Some(9_000));
    assert!(names.last().unwrap() == "./past" && names[1] == "./before");
}

#[test]
fn a_survey_is_exact_where_nothing_is_extended() {
    let tree = tempfile::tempdir().unwrap();
    shell(
        tree.path(),
        "mkdir a; head -c 300000 /dev/zero >a/file; ln a/file b; ln -s a c; touch -d @5 d; truncate -s 3M e",
    );
    let surveyed = Directory::open(tree.path(), &Selection::default()).unwrap().survey(&Stop::new()).unwrap();
    let streamed = stream(tree.path(), &Selection::default()).unwrap();
    assert_eq!(surveyed.tar_bytes, Some(streamed.tar.len() as u64));
    assert_eq!(surveyed.entries, streamed.names().len() as u64);
    assert_eq!(surveyed.largest_entry_bytes, 3 << 20);
    assert!(!surveyed.unordered);
}

#[test]
fn a_survey_of_anything_is_close() {
    let (_around, root) = awkward::make();
    let surveyed = Directory::open(&root, &Selection::default()).unwrap().survey(&Stop::new()).unwrap();
    let streamed = stream(&root, &Selection::default()).unwrap();
    let (expected, found) = (surveyed.tar_bytes.unwrap(), streamed.tar.len() as u64);
    assert!(expected.abs_diff(found) < 32 << 10, "{expected} is not {found}");
}

#[test]
fn many_small_files_come_whole() {
    let tree = tempfile::tempdir().unwrap();
    shell(tree.path(), "for d in {1..40}; do mkdir $d; for f in {1..100}; do echo $d-$f >$d/$f; done; done");
    let streamed = stream(tree.path(), &Selection::default()).unwrap();
    assert_eq!(streamed.names().len(), 1 + 40 + 4_000);
    assert_eq!(streamed.content("./17/93"), b"17-93\n");
}

#[test]
fn more_folders_and_links_than_may_be_open_come_whole() {
    let tree = tempfile::tempdir().unwrap();
    shell(tree.path(), "for d in {1..700}; do mkdir $d; echo $d >$d/file; echo $d >$d/one; ln $d/one $d/two; done");
    let streamed = stream(tree.path(), &Selection::default()).unwrap();
    assert_eq!(streamed.names().len(), 1 + 4 * 700);
    assert_eq!((streamed.content("./617/file"), streamed.content("./618/one")), (b"617\n".to_vec(), b"618\n".to_vec()));
}

#[test]
fn a_hole_costs_nothing_but_its_zeros() {
    let tree = tempfile::tempdir().unwrap();
    shell(tree.path(), "truncate -s 9G huge");
    let stop = Stop::new();
    let (pieces, edge) = crossbeam_channel::bounded(1);
    let memory = Memory::new(0, stop.clone());
    let outlet = Outlet::new(pieces, memory, Arc::new(Meters::default()), Arc::new(Silent));
    let directory = Directory::open(tree.path(), &Selection::default()).unwrap();
    let counted = std::thread::spawn(move || {
        edge.iter().map(|piece| if let Piece::Bytes(bytes) = piece { bytes.len() as u64 } else { 0 }).sum::<u64>()
    });
    directory.stream(outlet, &stop).unwrap();
    // The root with a time of its own, the file with a size and a time of its own, the end.
    assert_eq!(counted.join().unwrap(), (9 << 30) + 3 * 512 + 3 * 512 + 2 * 512);
}

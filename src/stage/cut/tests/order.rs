//! Names that come twice, and entries below what is no folder.

use super::*;

fn symlink(name: &str, target: &str) -> Vec<u8> {
    let mut header = block(name.as_bytes(), b'2', 0);
    header[157..157 + target.len()].copy_from_slice(target.as_bytes());
    seal(&mut header);
    header.to_vec()
}

fn file(name: &str) -> Vec<u8> {
    entry(name, b'0', &[1; 700])
}

fn folder(name: &str) -> Vec<u8> {
    entry(name, b'5', b"")
}

/// Enough for another layer.
fn filler() -> Vec<u8> {
    (0..10).flat_map(|at| file(&format!("filler{at}"))).collect()
}

fn in_layers(entries: &[Vec<u8>]) -> Result<Vec<Vec<u8>>> {
    cut(&CutOptions { unordered: true, ..about(2048) }, &archive(entries), 700)
}

#[test]
fn below_a_link_means_below_a_link_of_the_same_layer() {
    let merged = [folder("usr"), folder("usr/bin"), file("usr/bin/sh"), symlink("bin", "usr/bin"), file("bin/x")];
    let tar = archive(&merged);
    assert!(cut(&CutOptions { unordered: true, ..CutOptions::default() }, &tar, 700).unwrap() == [tar]);
    let error = in_layers(&[symlink("bin", "usr/bin"), filler(), file("bin/x")]).unwrap_err().to_string();
    assert!(error.contains("'bin/x'") && error.contains("'bin'") && error.contains("--layer-size"), "{error}");
    // Also by a link, and further down.
    let through = [symlink("bin", "usr/bin"), filler(), file("a"), link("bin/deep/x", "a")];
    assert!(in_layers(&through).unwrap_err().to_string().contains("'bin/deep/x'"));
    // A folder has taken the link's place meanwhile.
    in_layers(&[symlink("bin", "usr/bin"), filler(), folder("bin/"), filler(), file("bin/x")]).unwrap();
}

#[test]
fn nothing_is_below_a_file() {
    for entries in [vec![file("a"), file("a/b")], vec![file("a"), folder("a/b/"), file("a/b/c")]] {
        let error = cut(&CutOptions::default(), &archive(&entries), 512).unwrap_err().to_string();
        assert!(error.contains("'a/b") && error.contains("'a', which is no folder"), "{error}");
    }
    assert!(in_layers(&[file("a"), filler(), file("a/b")]).is_err());
}

#[test]
fn a_file_in_the_place_of_a_folder_is_refused() {
    for replacing in [file("a"), symlink("a", "b"), link("a", "other")] {
        for before in [folder("a/"), file("a/b")] {
            let tar = archive(&[file("other"), before, replacing.clone()]);
            let error = cut(&CutOptions::default(), &tar, 512).unwrap_err().to_string();
            assert!(error.contains("'a'") && error.contains("folder"), "{error}");
        }
    }
}

#[test]
fn the_last_of_a_name_counts() {
    let kept = |entries: &[Vec<u8>]| {
        let tar = archive(entries);
        assert!(cut(&CutOptions::default(), &tar, 512).unwrap() == [tar], "as it came");
    };
    kept(&[file("a"), link("b", "a"), file("b"), file("a"), link("c", "a")]);
    kept(&[symlink("bin", "usr/bin"), file("bin/x"), symlink("bin", "usr/bin"), file("bin/y")]);
    kept(&[file("a"), folder("a/"), file("a/b")]);
    // A link that became a file has nothing below it; one that became a folder is nothing to link to.
    let then = |entries: &[Vec<u8>]| cut(&CutOptions::default(), &archive(entries), 512).unwrap_err().to_string();
    assert!(then(&[symlink("bin", "usr"), file("bin/x"), file("bin"), file("bin/y")]).contains("'bin/y'"));
    assert!(then(&[file("a"), folder("a/"), link("b", "a")]).contains("'b'"));
}

use super::*;
use crate::stage::header::tests::{block, seal};

fn entry(name: &str, flag: u8) -> Vec<u8> {
    block(name.as_bytes(), flag, 0).to_vec()
}

fn link(name: &str, target: &str) -> Vec<u8> {
    let mut header = block(name.as_bytes(), b'1', 0);
    header[157..157 + target.len()].copy_from_slice(target.as_bytes());
    seal(&mut header);
    header.to_vec()
}

fn scan(tar: &[u8]) -> Result<Scanned> {
    let scan_in = |chunk| {
        let mut scanner = Scanner::default();
        tar.chunks(chunk).try_for_each(|bytes| scanner.push(bytes)).and_then(|()| scanner.finish())
    };
    let whole = scan_in(tar.len());
    for chunk in [1, 300, 512, 700] {
        assert_eq!(
            scan_in(chunk).map_err(|error| error.to_string()),
            whole.as_ref().map_err(ToString::to_string).cloned()
        );
    }
    whole
}

/// Which entries, each of one block, are linked, and which are replaced; nothing where their order matters.
fn scanned(entries: &[Vec<u8>]) -> Option<(Vec<u64>, Vec<u64>)> {
    let scanned = scan(&[entries.concat(), vec![0; 1024]].concat()).unwrap();
    let numbers = |extents: &[Range<u64>]| extents.iter().flat_map(|at| at.start / 512..at.end / 512).collect();
    (!scanned.order_matters).then(|| (numbers(&scanned.linked), numbers(&scanned.replaced)))
}

#[test]
fn the_last_of_a_name_counts_but_for_what_was_linked_to() {
    let file = |name| entry(name, b'0');
    for (entries, linked, replaced) in [
        (vec![file("a"), file("b"), link("c", "a"), file("d")], vec![0, 2], vec![]),
        (vec![file("a"), file("b"), file("./a"), file("a")], vec![], vec![0, 2]),
        (vec![file("a"), link("b", "a"), file("b")], vec![0], vec![1]),
        (vec![file("a"), link("b", "a"), file("a")], vec![0, 1, 2], vec![]),
        (vec![file("b"), file("a"), link("b", "a")], vec![1, 2], vec![0]),
        (vec![file("a"), link("b", "a"), file("c"), link("b", "c")], vec![0, 2, 3], vec![1]),
        (vec![entry("a", b'2'), entry("a", b'2'), entry("d/", b'5'), entry("d/", b'5')], vec![], vec![0]),
    ] {
        assert_eq!(scanned(&entries), Some((linked, replaced)));
    }
}

#[test]
fn where_a_name_is_a_folder_and_something_else_the_order_matters() {
    let (file, folder) = (|name| entry(name, b'0'), |name| entry(name, b'5'));
    for entries in [
        vec![entry("bin", b'2'), file("bin/x")],
        vec![file("bin/deep/x"), file("y"), entry("bin", b'2')],
        vec![folder("a/"), file("a")],
        vec![file("a"), folder("a/")],
        vec![file("b"), link("a", "b"), folder("a/b/")],
    ] {
        assert_eq!(scanned(&entries), None);
    }
    assert!(scanned(&[folder("a/"), file("a/b"), folder("a/"), entry("b", b'2')]).is_some());
}

#[test]
fn what_follows_the_end_mark_is_no_silent_loss() {
    let one = [entry("a", b'0'), link("b", "a")].concat();
    let whole = |behind: &[u8]| scan(&[&one[..], behind].concat()).map(|scanned| scanned.entry_bytes);
    assert_eq!(whole(&[0; 1024]).unwrap(), 1024);
    assert_eq!(whole(&[0; 10_240]).unwrap(), 1024);
    for behind in [&[][..], &[0; 512], &[0; 1023]] {
        assert!(whole(behind).unwrap_err().to_string().contains("cut off"));
    }
    let twice = [&[0; 1024][..], &entry("c", b'0'), &[0; 1024]].concat();
    let error = whole(&twice).unwrap_err().to_string();
    assert!(error.contains("byte 2048") && error.contains("end mark"), "{error}");
    assert!(whole(&[&[0; 512][..], &entry("c", b'0'), &[0; 1024]].concat()).is_err());
}

#[test]
fn a_name_that_is_refused_replaces_nothing() {
    assert_eq!(scanned(&[entry("../a", b'0'), entry("../b", b'0')]), Some((vec![], vec![])));
}

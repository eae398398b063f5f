//! On a folder that changes, can't be read, or whose reader goes away.

use std::path::PathBuf;

use super::*;
use crate::error::Kind;
use crate::exclude::Exclude;

/// Streams a folder made by `script`, and runs `change` in it when `path` is at `moment`.
fn changed(script: &str, moment: Moment, path: &'static str, change: &'static str) -> Streamed {
    let tree = tempfile::tempdir().unwrap();
    shell(tree.path(), script);
    let folder: PathBuf = tree.path().to_owned();
    let seam = move |at: Moment, seen: &[u8]| {
        if at == moment && seen == path.as_bytes() {
            shell(&folder, change);
        }
    };
    stream_while(tree.path(), seam).unwrap()
}

#[test]
fn a_file_that_shrinks_is_filled_with_zeros() {
    let large =
        changed("head -c 3000000 /dev/zero | tr '\\0' x >file", Moment::Opened, "file", "truncate -s 1500000 file");
    let content = large.content("./file");
    assert_eq!(content.len(), 3_000_000);
    assert!(
        content[..1_500_000].iter().all(|byte| *byte == b'x') && content[1_500_000..].iter().all(|byte| *byte == 0)
    );
    assert_eq!(large.noticed(), [(NoticeKind::Shrank, "file")]);
}

#[test]
fn a_file_that_grows_is_cut() {
    let large = changed("head -c 3000000 /dev/zero >file", Moment::Opened, "file", "printf more >>file");
    assert_eq!(large.content("./file").len(), 3_000_000);
    assert_eq!(large.noticed(), [(NoticeKind::Grew, "file")]);
}

#[test]
fn a_file_that_changes_is_told() {
    let script = "head -c 3000000 /dev/zero >file; sleep 0.01";
    let large = changed(script, Moment::Opened, "file", "printf x | dd of=file conv=notrunc status=none");
    assert_eq!(large.noticed(), [(NoticeKind::Changed, "file")]);
}

#[test]
fn a_small_file_is_what_it_is_when_it_is_opened() {
    for (change, content, notice) in [
        ("truncate -s 3 file", b"123".to_vec(), None),
        ("printf 456789 >file", b"456789".to_vec(), None),
        ("head -c 3000000 /dev/zero >file", vec![0; 3_000_000], None),
        ("head -c 3000000 /dev/zero >.new; mv .new file", vec![0; 3_000_000], Some((NoticeKind::Replaced, "file"))),
    ] {
        let streamed = changed("printf 123456 >file; touch last", Moment::Looked, "file", change);
        assert!(streamed.content("./file") == content, "{change}");
        assert_eq!((streamed.noticed(), streamed.names().len()), (Vec::from_iter(notice), 3), "{change}");
    }
}

#[test]
fn an_entry_that_vanishes_is_left_out_and_told() {
    let cases = [
        ("touch gone last", "rm gone"),
        ("head -c 200000 /dev/zero >gone; touch last", "rm gone"),
        ("mkdir gone; touch gone/x last", "rm -r gone"),
        ("ln -s x gone; touch last", "rm gone"),
        ("touch gone last", "ln -sf last gone"),
        ("touch gone last", "rm gone; mkfifo gone"),
        ("printf x >gone; touch last", "rm gone; mkdir gone; touch gone/inside"),
        ("head -c 200000 /dev/zero >gone; touch last", "rm gone; mkfifo gone"),
        ("mkdir gone; touch last", "rmdir gone; ln -s / gone"),
        ("mkdir gone; touch last", "rmdir gone; touch gone"),
    ];
    for (script, change) in cases {
        let streamed = changed(script, Moment::Looked, "gone", change);
        assert_eq!(streamed.names(), ["./", "./last"], "{script} / {change}");
        assert_eq!(streamed.noticed(), [(NoticeKind::Vanished, "gone")], "{script} / {change}");
    }
}

#[test]
fn a_file_that_is_replaced_has_the_header_of_its_content() {
    let script = "printf old >file; chmod 0644 file; printf replacement >.new; chmod 0600 .new; touch last";
    let streamed = changed(script, Moment::Looked, "file", "mv .new file");
    assert_eq!(streamed.content("./file"), b"replacement");
    assert!(streamed.line("./file").starts_with("-rw-------"));
}

#[test]
fn a_group_of_links_survives_the_loss_of_its_first_name() {
    let script = "printf one >a; ln a b; ln a c; touch z";
    let streamed = changed(script, Moment::Looked, "z", "rm a; printf two >.n; mv .n b; ln c d");
    assert_eq!(streamed.noticed(), [(NoticeKind::Vanished, "a"), (NoticeKind::Replaced, "b")]);
    assert_eq!(streamed.names(), ["./", "./z", "./b", "./c"]);
    assert_eq!((streamed.content("./b"), streamed.content("./c")), (b"two".to_vec(), b"one".to_vec()));
    let streamed = changed(script, Moment::Looked, "z", "printf two >.n; mv .n b");
    assert_eq!(streamed.names(), ["./", "./z", "./a", "./b", "./c"]);
    assert!(streamed.line("./c").contains("link to ./a"));
    assert_eq!(streamed.content("./b"), b"two");
}

#[test]
fn a_folder_that_is_moved_while_the_walk_is_far_below_is_told() {
    let tree = tempfile::tempdir().unwrap();
    awkward::make_deep(tree.path(), 150);
    let folder = tree.path().to_owned();
    let top = "d".repeat(60);
    let moved = top.clone();
    let deepest = vec![top.as_str(); 150].join("/");
    let seam = move |_: Moment, seen: &[u8]| {
        if seen == deepest.as_bytes() {
            std::fs::rename(folder.join(&moved), folder.join("moved")).unwrap();
        }
    };
    let streamed = stream_while(tree.path(), seam).unwrap();
    let vanished = streamed.notices.count(NoticeKind::Vanished);
    assert!((1..150).contains(&vanished), "{vanished}");
    assert_eq!(streamed.names().last().unwrap(), "./past");
}

/// Two files in there can be written, but be read by nobody, root included; others say 4096 bytes and have two.
#[test]
fn a_file_that_cannot_be_read_is_an_error_that_says_what_to_do() {
    let folder = Path::new("/sys/bus/cpu");
    if !folder.join("drivers_probe").exists() {
        return;
    }
    let without = |patterns: &[&str]| {
        stream(folder, &Selection { exclude: Exclude::new(patterns).unwrap(), ..Selection::default() })
    };
    let error = without(&["/devices", "/drivers"]).map(|_| ()).unwrap_err();
    assert_eq!(error.kind(), Kind::Source);
    assert_eq!(
        error.to_string(),
        "reading a file failed: './drivers_probe': Permission denied (os error 13); leave it out with --exclude '/drivers_probe'"
    );
    let streamed = without(&["/drivers_probe", "/uevent", "/devices", "/drivers"]).unwrap();
    assert_eq!(streamed.noticed(), [(NoticeKind::Shrank, "drivers_autoprobe")]);
}

#[test]
fn a_hang_up_or_a_stop_ends_it_promptly() {
    let tree = tempfile::tempdir().unwrap();
    shell(tree.path(), "for i in {1..60}; do head -c 1000000 /dev/zero >$i; done; truncate -s 1T z");
    let streamed_until = |pieces_taken: usize, interrupts: bool| {
        let stop = Stop::new();
        let (pieces, edge) = crossbeam_channel::bounded(1);
        let memory = Memory::new(4 << 20, stop.clone());
        let outlet = Outlet::new(pieces, memory, Arc::new(Meters::default()), Arc::new(Silent));
        let directory = Directory::open(tree.path(), &Selection::default()).unwrap();
        let taker = std::thread::spawn({
            let stop = stop.clone();
            move || {
                // As many as the memory allows are held until the hang-up.
                let mut held = std::collections::VecDeque::new();
                for piece in edge.iter().take(pieces_taken) {
                    held.push_back(piece);
                    held.truncate(3);
                }
                if interrupts {
                    stop.interrupt();
                    // It goes on taking, as a stage does that has not noticed yet.
                    edge.iter().for_each(drop);
                }
                drop(edge);
            }
        });
        let error = directory.stream(outlet, &stop).unwrap_err();
        assert_eq!(error.kind(), Kind::HungUp);
        taker.join().unwrap();
    };
    for pieces_taken in [0, 1, 3, 1_000] {
        for interrupts in [false, true] {
            streamed_until(pieces_taken, interrupts);
        }
    }
}

//! Everything that is parsed from a guest: an answer's lines, the look, the mounts, the chunks, tar's verdict.
#![no_main]

use libfuzzer_sys::fuzz_target;
use smolfreeze::source::Selection;
use smolfreeze::source::machine::{answer, capture, verdict};
use smolfreeze::source::mounts::Mount;

fuzz_target!(|input: (&[u8], bool, u64, u64)| {
    let (stdout, bare, from, chunk_bytes) = input;
    let lines: Vec<&[u8]> = stdout.split(|byte| *byte == b'\n').collect();
    if let Ok(marked) = answer::lines(stdout, "look") {
        assert!(marked.len() <= lines.len());
    }
    let _ = answer::Whoami::read(&lines);
    let _ = answer::survey(&lines);
    if let Ok(next) = answer::Next::read(&lines, from, chunk_bytes) {
        for item in &next.items {
            if let answer::Item::Chunk { size, .. } = item {
                assert!(*size > 0 && *size <= chunk_bytes, "a chunk larger than what was asked for");
            }
        }
        let _ = verdict::judge(&next.codes, &next.words);
    }
    let look = answer::Look::read(&lines);
    for mount in look.mounts.iter().filter_map(|line| Mount::read(line)) {
        assert!(mount.point.starts_with(b"/") && mount.root.starts_with(b"/"));
    }
    if let Ok(capture) = capture::decide(&look, bare, &Selection::default()) {
        assert_eq!(capture.plan.lines().count(), 4, "'{}' is no plan", capture.plan);
        for folder in ["storage", "oldroot", "proc", "sys", "dev", "run", "tmp"] {
            let is_taken = capture.wanted.include.iter().any(|taken| taken.as_os_str() == folder);
            assert!(!is_taken, "/{folder} is not the machine's");
        }
    }
});

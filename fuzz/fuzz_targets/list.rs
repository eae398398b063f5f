//! A list from a guest, and the answers to questions about it: nothing but what a walk can give comes out.

#![no_main]

use std::io::Write as _;

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use smolfreeze::night::list::{List, MAGIC, answer};
use smolfreeze::night::record::walk_order;

#[derive(Debug, Arbitrary)]
struct Input {
    /// What is in the list's frame.
    records: Vec<u8>,
    questions: Vec<u8>,
    /// What is behind the magic, instead of a head and a frame.
    raw: Option<Vec<u8>>,
}

fn framed(plain: &[u8]) -> Vec<u8> {
    zstd::encode_all(plain, 1).expect("memory can be written")
}

fuzz_target!(|input: Input| {
    let head = br#"{"began":[1,2],"identity":{"Ok":{"text":"it","inodes_last":false}}}"#;
    let length = u32::try_from(head.len()).expect("it is short").to_le_bytes();
    let rest = input.raw.unwrap_or_else(|| [&length, &head[..], &framed(&input.records)].concat());
    let mut file = tempfile::tempfile().expect("a file");
    file.write_all(&[MAGIC, &rest].concat()).expect("a file can be written");
    let Ok(list) = List::open(file) else { return };
    let mut last: Option<Vec<u8>> = None;
    let _ = list.each(|path, _, _| {
        assert!(last.as_ref().is_none_or(|last| walk_order(last, path).is_lt()), "out of order");
        assert!(!path.starts_with(b"/") && !path.split(|byte| *byte == b'/').any(|name| name == b".."));
        last = Some(path.to_vec());
        Ok(())
    });
    let mut answers = Vec::new();
    let _ = answer(&list, &framed(&input.questions)[..], &mut answers, |_, _| Ok(Some(1)));
    assert_eq!(answers.len() % 9, 0);
});

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

const HEAD: &[u8] =
    br#"{"settled":{"began":[1,2],"is_stored":true},"identity":{"Ok":{"text":"it","inodes_last":false}}}"#;
const LEFT_OUT: &[u8] = br#"{"counts":{},"named":[]}"#;

fn framed(plain: &[u8]) -> Vec<u8> {
    zstd::encode_all(plain, 1).expect("memory can be written")
}

fuzz_target!(|input: Input| {
    let has_form = input.raw.is_none();
    let rest = input.raw.unwrap_or_else(|| {
        let [head, left_out] = [HEAD, LEFT_OUT].map(|json| (json.len() as u32).to_le_bytes());
        [&head, HEAD, &framed(&input.records), LEFT_OUT, &left_out].concat()
    });
    let mut file = tempfile::tempfile().expect("a file");
    file.write_all(&[MAGIC, &rest].concat()).expect("a file can be written");
    let list = List::open(file);
    // Or nothing but this would be tried.
    assert!(list.is_ok() || !has_form);
    let Ok(list) = list else { return };
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

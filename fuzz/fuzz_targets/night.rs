//! Records of listings and indexes, as a disk may give them: what is read is written again as the same.

#![no_main]

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use smolfreeze::night::record::{Reader, Record, Writer};

#[derive(Debug, Arbitrary)]
enum Input {
    /// What is in a frame.
    Records(Vec<u8>),
    Raw(Vec<u8>),
}

/// All records up to the first that is none.
fn read(bytes: &[u8]) -> (Vec<Record>, bool) {
    let mut records = Vec::new();
    let Ok(mut reader) = Reader::new(bytes) else { return (records, false) };
    loop {
        match reader.take() {
            Ok(Some(record)) => records.push(record),
            Ok(None) => return (records, true),
            Err(_) => return (records, false),
        }
    }
}

fuzz_target!(|input: Input| {
    let bytes = match input {
        Input::Records(plain) => zstd::encode_all(&plain[..], 1).expect("memory can be written"),
        Input::Raw(bytes) => bytes,
    };
    let (records, _) = read(&bytes);
    let mut writer = Writer::new(Vec::new()).expect("memory can be written");
    for record in &records {
        writer.write(&record.path, &record.body).expect("memory can be written");
    }
    let written = writer.finish().expect("memory can be written");
    assert_eq!(read(&written), (records, true));
});

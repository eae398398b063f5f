//! The upload's core against a registry that answers as the fuzzer likes: what arrives is the blob, or there is an error.

#![no_main]

use std::cell::RefCell;

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use smolfreeze::sink::registry::fuzzing::drive;
use tokio::runtime::{Builder, Runtime};

#[derive(Debug, Arbitrary)]
struct Input {
    held_bytes: Option<u8>,
    blob_bytes: u8,
    script: Vec<u8>,
}

thread_local! {
    static RUNTIME: RefCell<Option<Runtime>> = const { RefCell::new(None) };
}

fuzz_target!(|input: Input| {
    // What the bytes are does not matter, only that no two places look alike.
    let blob: Vec<u8> = (0..input.blob_bytes).map(|at| at.wrapping_mul(167)).collect();
    RUNTIME.with_borrow_mut(|runtime| {
        let runtime = runtime.get_or_insert_with(|| Builder::new_current_thread().enable_time().build().unwrap());
        runtime.block_on(drive(&blob, &input.script, input.held_bytes.map(usize::from)));
    });
});

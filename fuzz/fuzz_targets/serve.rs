//! Everything that the registry parses of a request: paths, names, references, digests, ranges, queries, manifests.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (&str, u64)| {
    let (text, size) = input;
    smolfreeze::serve::fuzzing::check(text, size);
});

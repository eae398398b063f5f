//! The artifact reader: footer, manifest, frames and the tars in them. What it takes it describes as it found it.

#![no_main]

use std::io::Cursor;

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use smolfreeze::stored::artifact::{Artifact, Checked};
use smolfreeze_fuzz::sidecar::Sidecar;

#[derive(Debug, Arbitrary)]
enum Input {
    /// A sidecar that was put together, with some of its bytes changed: the checksum is made right afterwards.
    Built(Sidecar),
    Raw(Vec<u8>),
}

fuzz_target!(|input: Input| {
    let (bytes, untouched) = match input {
        Input::Built(sidecar) => (sidecar.bytes(), sidecar.is_untouched()),
        Input::Raw(bytes) => (bytes, false),
    };
    let Ok(mut artifact) = Artifact::read(Cursor::new(&bytes)) else {
        assert!(!untouched, "a sidecar that is right is refused");
        return;
    };
    let said = artifact.describe("it");
    assert_eq!(said.stored_bytes, bytes.len() as u64);
    let mut told = 0;
    let checked = artifact.check(|so_far| told = so_far.layers).expect("memory can always be read");
    let Checked { layers, tar_bytes, faults, .. } = &checked;
    assert_eq!(*layers, told, "not every layer was told");
    assert!(*layers <= said.layers.len() && faults.len() <= 102, "more than there can be");
    assert!(!untouched || faults.is_empty(), "{faults:?}");
    if faults.is_empty() {
        assert_eq!(*layers, said.layers.len(), "a layer was not read");
        assert_eq!(*tar_bytes, said.layers.iter().map(|layer| layer.size).sum::<u64>(), "sizes that differ");
    }
    assert_eq!(artifact.check(|_| ()).expect("memory can always be read"), checked, "another reading, another result");
});

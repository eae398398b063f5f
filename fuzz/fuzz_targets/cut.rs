//! The cut against the `tar` crate: what both can read must mean the same whole and in layers.

#![no_main]

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use smolfreeze::stage::cut::{CutOptions, LayerSize};
use smolfreeze_fuzz::build::Built;
use smolfreeze_fuzz::{check, oracle, run};

#[derive(Debug, Arbitrary)]
struct Input {
    layer_bytes: Option<u16>,
    own_folder: bool,
    unordered: bool,
    whole_from_block: Option<u8>,
    chunks: Vec<u16>,
    tar: Tar,
}

#[derive(Debug, Arbitrary)]
enum Tar {
    Built(Built),
    Raw(Vec<u8>),
}

fuzz_target!(|input: Input| {
    let tar = match input.tar {
        Tar::Built(built) => built.bytes(),
        Tar::Raw(bytes) => bytes,
    };
    let options = CutOptions {
        layer_size: input.layer_bytes.map_or(LayerSize::One, |bytes| LayerSize::About(u64::from(bytes))),
        own_layers: if input.own_folder { vec![b"a".to_vec()] } else { Vec::new() },
        unordered: input.unordered,
        whole_from: input.whole_from_block.map(|block| u64::from(block) * 512),
        ..CutOptions::default()
    };
    let whole = run::cut(&options, &tar, &[]);
    assert_eq!(run::cut(&options, &tar, &input.chunks), whole, "another chunking, another cut");
    assert_eq!(run::scan(&tar, &input.chunks), run::scan(&tar, &[]), "another chunking, another scan");
    let Ok((layers, summary, unmarked)) = whole else { return };
    layers.iter().for_each(|layer| check::form(layer));
    // Of what is unmarked, some is left out and some is only without its attributes.
    let scanned = run::scan(&tar, &[]).expect("a tar that was cut");
    let possible = summary.entries..=summary.entries + unmarked.len() as u64;
    assert!(possible.contains(&scanned.entries), "the scan counts otherwise");
    // The tar crate refuses some of what others take; then there is nothing to compare with.
    let Ok(entries) = oracle::read(&tar) else { return };
    let layers: Vec<_> = layers.iter().map(|layer| oracle::read(layer).expect("a layer that can't be read")).collect();
    check::nothing_lost(&entries, &layers);
    layers.iter().for_each(|layer| check::closed(layer));
    if options.unordered {
        check::no_way_lost(&layers);
    }
});

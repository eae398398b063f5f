//! The code under test, fed in chunks.

use bytes::Bytes;
use smolfreeze::stage::cut::{CutOptions, CutPiece, CutSummary, Cutter};
use smolfreeze::stage::scan::{Scanned, Scanner};

/// Complete layers and what marks of overlayfs are not in them, or the error's words.
pub type Cut = Result<(Vec<Vec<u8>>, CutSummary, Vec<Vec<u8>>), String>;

/// Cuts `tar` in chunks of these lengths, over and over; in one without any.
pub fn cut(options: &CutOptions, tar: &[u8], chunks: &[u16]) -> Cut {
    let mut layers: Vec<Vec<u8>> = Vec::new();
    let mut open = false;
    let mut emit = |piece| {
        match piece {
            CutPiece::Begin { .. } => {
                assert!(!std::mem::replace(&mut open, true), "a layer in a layer");
                layers.push(Vec::new());
            }
            CutPiece::Bytes(bytes) | CutPiece::Own(bytes) => {
                assert!(open, "bytes outside of a layer");
                layers.last_mut().expect("a layer").extend_from_slice(&bytes);
            }
            CutPiece::End => assert!(std::mem::replace(&mut open, false), "an end without a begin"),
        }
        Ok(())
    };
    let mut cutter = Cutter::new(options.clone());
    let mut unmarked = Vec::new();
    let cut = split(tar, chunks)
        .try_for_each(|chunk| {
            let pushed = cutter.push(&Bytes::copy_from_slice(chunk), &mut emit);
            unmarked.append(&mut cutter.unmarked());
            pushed
        })
        .and_then(|()| cutter.finish(&mut emit))
        .map_err(|error| error.to_string())?;
    assert!(!open, "the last layer has no end");
    Ok((layers, cut, unmarked))
}

/// Scans `tar` in chunks of these lengths.
pub fn scan(tar: &[u8], chunks: &[u16]) -> Result<Scanned, String> {
    let mut scanner = Scanner::default();
    split(tar, chunks)
        .try_for_each(|chunk| scanner.push(chunk))
        .and_then(|()| scanner.finish())
        .map_err(|error| error.to_string())
}

fn split<'a>(mut rest: &'a [u8], chunks: &'a [u16]) -> impl Iterator<Item = &'a [u8]> {
    let mut lengths = chunks.iter().map(|length| usize::from(*length).max(1)).cycle();
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let (now, later) = rest.split_at(lengths.next().unwrap_or(rest.len()).min(rest.len()));
        rest = later;
        Some(now)
    })
}

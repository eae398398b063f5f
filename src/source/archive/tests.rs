use std::io::Write;
use std::sync::Arc;

use super::*;
use crate::pipeline::memory::Memory;
use crate::progress::{Meters, Silent};
use crate::source::Piece;
use crate::stage::header::tests::{block, seal};

/// More pieces than any tar here has.
const PIECES: usize = 1000;

#[test]
fn what_lies_between_extents() {
    assert_eq!(outside(&[10..20, 30..40], 100), [0..10, 20..30, 40..100]);
    assert_eq!(outside(&[0..20, 30..40], 40), vec![20..30]);
    assert_eq!(outside(&[], 7), vec![0..7]);
}

fn file(name: &str, bytes: usize) -> Vec<u8> {
    let mut entry = block(name.as_bytes(), b'0', bytes as u64).to_vec();
    entry.resize(entry.len() + bytes, name.as_bytes()[0]);
    entry.resize(entry.len().next_multiple_of(BLOCK_BYTES), 0);
    entry
}

fn link(name: &str, target: &str) -> Vec<u8> {
    let mut header = block(name.as_bytes(), b'1', 0);
    header[157..157 + target.len()].copy_from_slice(target.as_bytes());
    seal(&mut header);
    header.to_vec()
}

/// What is streamed of the tar at `path`, in the pieces that it is sent in.
fn streamed(path: &Path) -> Result<Vec<Vec<u8>>> {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let (pieces_end, pieces) = crossbeam_channel::bounded(PIECES);
    let memory = Memory::new(1 << 30, Stop::new());
    let outlet = Outlet::new(pieces_end, memory, Arc::new(Meters::default()), Arc::new(Silent));
    let mut archive = Archive::open(path)?;
    archive.survey(&Stop::new(), runtime.handle())?;
    archive.stream(outlet, &Stop::new(), runtime.handle())?;
    let bytes = pieces.into_iter().filter_map(|piece| match piece {
        Piece::Bytes(bytes) => Some(bytes.to_vec()),
        Piece::End => None,
    });
    Ok(bytes.collect())
}

/// Linked files among many others, of sizes around that of a buffer.
fn linked() -> (Vec<u8>, Vec<u8>) {
    let (mut tar, mut single, mut last) = (Vec::new(), Vec::new(), Vec::new());
    for at in 0..400 {
        for (name, bytes) in [("single", 20_000 + at * 10), ("group", 3000)] {
            let entry = file(&format!("{name}{at}"), if at == 77 { BUFFER_BYTES } else { bytes });
            tar.extend_from_slice(&entry);
            if name == "single" { &mut single } else { &mut last }.extend(entry);
        }
        let entry = link(&format!("link{at}"), &format!("group{at}"));
        tar.extend_from_slice(&entry);
        last.extend(entry);
    }
    let end = [0; 2 * BLOCK_BYTES];
    (tar.into_iter().chain(end).collect(), single.into_iter().chain(last).chain(end).collect())
}

#[test]
fn buffers_are_filled_to_the_end_whatever_is_read_of_the_tar() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name| folder.path().join(name);
    let (tar, expected) = linked();
    std::fs::write(path("plain"), &tar).unwrap();
    let mut gzip = flate2::write::GzEncoder::new(File::create(path("gzip")).unwrap(), flate2::Compression::fast());
    gzip.write_all(&tar).unwrap();
    gzip.finish().unwrap();
    for name in ["plain", "gzip"] {
        let pieces = streamed(&path(name)).unwrap();
        assert!(pieces.concat() == expected, "{name}: other bytes");
        assert!(pieces.len() > 5 && pieces.iter().rev().skip(1).all(|piece| piece.len() == BUFFER_BYTES), "{name}");
    }
}

#[test]
fn a_pipe_is_read_once_and_in_its_own_order() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("fifo");
    rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
    let (tar, _) = linked();
    let writing = std::thread::spawn({
        let (path, tar) = (path.clone(), tar.clone());
        move || std::fs::write(path, tar)
    });
    let pieces = streamed(&path).unwrap();
    writing.join().unwrap().unwrap();
    assert!(pieces.concat() == tar);
}

#[test]
fn a_file_that_shrinks_between_its_readings_is_cut_off() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tar");
    let (tar, _) = linked();
    std::fs::write(&path, &tar).unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let mut archive = Archive::open(&path).unwrap();
    archive.survey(&Stop::new(), runtime.handle()).unwrap();
    std::fs::write(&path, &tar[..tar.len() / 2]).unwrap();
    let memory = Memory::new(1 << 30, Stop::new());
    let (pieces_end, _pieces) = crossbeam_channel::bounded(PIECES);
    let outlet = Outlet::new(pieces_end, memory, Arc::new(Meters::default()), Arc::new(Silent));
    let error = archive.stream(outlet, &Stop::new(), runtime.handle()).unwrap_err();
    assert!(error.to_string().contains("cut off"), "{error}");
}

use super::*;
use crate::error::{Error, Kind};

#[test]
fn a_buffer_comes_home_with_its_last_slice() {
    let memory = Memory::new(2 * BUFFER_BYTES as u64, Stop::new());
    let (mut first, _second) = (memory.buffer().unwrap(), memory.buffer().unwrap());
    first.bytes_mut().resize(SMALL_BYTES, b'a');
    first.bytes_mut()[SMALL_BYTES - 1] = b'b';
    let whole = first.freeze();
    let slice = whole.bytes().slice(SMALL_BYTES - 1..);
    drop(whole);
    let waiter = std::thread::spawn({
        let memory = memory.clone();
        move || memory.buffer().map(|buffer| buffer.is_empty())
    });
    assert_eq!(&slice[..], b"b");
    drop(slice);
    assert!(waiter.join().unwrap().unwrap(), "a reused buffer starts empty");
    assert_eq!(memory.held_bytes_peak(), 2 * BUFFER_BYTES as u64);
}

#[test]
fn a_slice_says_what_it_holds() {
    let memory = Memory::new(8 * BUFFER_BYTES as u64, Stop::new());
    let filled = |bytes: usize| {
        let mut buffer = memory.buffer().unwrap();
        buffer.bytes_mut().reserve_exact(bytes);
        buffer.bytes_mut().resize(bytes, 1);
        buffer.freeze()
    };
    let held = |slices: &[Slice]| slices.iter().map(Slice::held_bytes).sum::<u64>();
    for (bytes, kept, passes) in [
        (BUFFER_BYTES, BUFFER_BYTES, true),
        (BUFFER_BYTES, BUFFER_BYTES - 100_000, true),
        (BUFFER_BYTES, BUFFER_BYTES / 2, false),
        (BUFFER_BYTES / 2, BUFFER_BYTES / 2, false),
        (SMALL_BYTES - 1, SMALL_BYTES - 1, true),
        (BUFFER_BYTES + 70_000, BUFFER_BYTES + 70_000, true),
    ] {
        let whole = filled(bytes);
        assert_eq!(whole.held_bytes(), memory.held_bytes(), "{bytes} bytes");
        let parts = [whole.bytes().slice(..kept / 3), whole.bytes().slice(kept / 3..kept)];
        let slices = whole.parts(&parts);
        assert_eq!(slices.is_some(), passes, "{kept} of {bytes}");
        assert!(slices.is_none_or(|slices| held(&slices) >= memory.held_bytes()), "{kept} of {bytes}");
        drop((whole, parts));
        assert_eq!(memory.held_bytes(), 0);
    }
}

#[test]
fn tables_take_from_the_others() {
    let memory = Memory::with_tables(8 << 20, 4 << 20, Stop::new());
    let mut table = Table::default();
    memory.count(&mut table, 2 << 20).unwrap();
    assert_eq!((memory.held_bytes(), memory.share(4 << 20)), (2 << 20, 3 << 20));
    memory.count(&mut table, 1 << 20).unwrap();
    assert_eq!(memory.held_bytes(), 1 << 20);
    let error = memory.count(&mut table, 5 << 20).unwrap_err().to_string();
    assert!(error.contains("folders and links") && error.contains("--memory"), "{error}");
    drop(table);
    assert_eq!((memory.held_bytes(), memory.share(4 << 20)), (0, 4 << 20));
}

#[test]
fn what_is_reserved_is_waited_for() {
    let stop = Stop::new();
    let memory = Memory::new(4 * BUFFER_BYTES as u64, stop.clone());
    // Who has to wait now is told of the stop.
    stop.stop(Error::interrupted());
    assert!(memory.reserve(3 * BUFFER_BYTES as u64).is_none());
    let reserved = memory.reserve(2 * BUFFER_BYTES as u64).unwrap();
    let first = memory.buffer().unwrap();
    let _second = memory.buffer().unwrap();
    assert!(memory.buffer().is_err());
    drop(first);
    // What is reread takes what was reserved, and nothing of the rest.
    let _reread = memory.reread();
    let _third = memory.buffer().unwrap();
    assert!(memory.buffer().is_err());
    drop(reserved);
    assert!(memory.buffer().is_ok());
}

#[test]
fn a_stopped_freeze_does_not_wait_for_memory() {
    let stop = Stop::new();
    let memory = Memory::new(0, stop.clone());
    let _held = (memory.buffer().unwrap(), memory.buffer().unwrap());
    stop.stop(Error::interrupted());
    assert_eq!(memory.buffer().unwrap_err().kind(), Kind::HungUp);
}

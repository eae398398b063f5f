//! What our own reader is as a program in a guest: its verbs, for `smolfreeze` and for `smolfreeze-guest` alike. It is called
//! by `guest.sh` of the same version and by nobody else, so words stand at fixed places.

use std::ffi::{OsStr, OsString};
use std::io;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use super::reader::{Spool, fill, pause, wait};
use crate::error::{Error, Result};

/// What our reader answers to `--version`, and what decides whether it is ours.
pub const VERSION: &str = concat!("smolfreeze ", env!("CARGO_PKG_VERSION"));

/// Does what these arguments (without the program's own name) ask of a reader; none where they ask for something else.
/// What happened to files meanwhile, and an error, go to `words`, a line each.
pub fn main(arguments: &[OsString], words: &mut dyn io::Write) -> Option<ExitCode> {
    let (verb, rest) = arguments.split_first()?;
    let done = match (verb.to_str()?, rest) {
        // Reads this machine's root filesystem into a spool: its folder, window, bytes of a chunk, and what is wanted.
        ("guest-reader", [spool, window, chunk_bytes, wanted]) => read(spool, window, chunk_bytes, wanted, words),
        // Waits for an item in a spool: its folder, the item's index, and seconds.
        ("guest-wait", [spool, index, seconds]) => await_item(spool, index, seconds),
        // Waits for the order to end: the spool's folder, and milliseconds.
        ("guest-pause", [spool, millis]) => await_stop(spool, millis),
        _ => return None,
    };
    Some(done.map_or_else(
        |error| {
            // Without anybody to hear it, the exit code says it all the same.
            let _ = writeln!(words, "smolfreeze: {error}");
            ExitCode::from(error.kind().exit_code())
        },
        |()| ExitCode::SUCCESS,
    ))
}

fn read(spool: &OsStr, window: &OsStr, chunk_bytes: &OsStr, wanted: &OsStr, words: &mut dyn io::Write) -> Result<()> {
    let spool = Spool {
        folder: Path::new(spool),
        window_chunks: number(window)?.max(1),
        chunk_bytes: number(chunk_bytes)?.max(1),
    };
    fill(Path::new("/"), &wanted.to_string_lossy(), spool, words)
}

fn await_item(spool: &OsStr, index: &OsStr, seconds: &OsStr) -> Result<()> {
    wait(Path::new(spool), number(index)?, Duration::from_secs(number(seconds)?));
    Ok(())
}

fn await_stop(spool: &OsStr, millis: &OsStr) -> Result<()> {
    pause(Path::new(spool), Duration::from_millis(number(millis)?));
    Ok(())
}

fn number(word: &OsStr) -> Result<u64> {
    let parsed = word.to_str().and_then(|word| word.parse().ok());
    parsed.ok_or_else(|| Error::usage("reading the arguments", word.display(), "it is no number"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_readers_verbs_are_its_own() {
        let mut words = Vec::new();
        let mut ask = |line: &str| main(&line.split(' ').map(OsString::from).collect::<Vec<_>>(), &mut words);
        assert!(ask("freeze m1 --to oci:x").is_none());
        assert!(ask("--version").is_none());
        assert!(ask("guest-wait").is_none());
        assert_eq!(ask("guest-wait /nowhere 0 5"), Some(ExitCode::SUCCESS));
        assert_eq!(ask("guest-wait /nowhere x 5"), Some(ExitCode::from(2)));
        assert_eq!(ask("guest-pause /nowhere 10"), Some(ExitCode::SUCCESS));
        assert_eq!(ask("guest-reader /nowhere 1 65536 {}"), Some(ExitCode::from(2)));
        let words = String::from_utf8(words).unwrap();
        assert_eq!(words.lines().count(), 2, "{words}");
        assert!(words.contains("x: it is no number"), "{words}");
    }
}

//! One run at a time.

use std::fs::{File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use rustix::fs::{FlockOperation, flock};

use crate::error::{Error, Kind, Result, Side};
use crate::text;

/// Bytes that are read of who has it.
const WORDS_BYTES_MAX: u64 = 200;

/// Held by the run that is under way. It ends with the process, however that ends.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

/// What came of the wish to have it.
#[derive(Debug)]
pub enum Taken {
    /// It is ours.
    Ours(Lock),
    /// Another run has it, and says who it is.
    Theirs(String),
}

impl Lock {
    /// Takes the lock in the fleet's folder, or finds who has it.
    ///
    /// # Errors
    /// When the file can't be opened.
    pub fn take(folder: &Path) -> Result<Taken> {
        let path = folder.join("lock");
        let failed = |error: std::io::Error| {
            Error::new(Kind::Sink, Side::Plan, "locking the fleet", format_args!("'{}'", path.display()), &error)
                .because(error)
        };
        let opened = OpenOptions::new().create(true).truncate(false).read(true).write(true).mode(0o600).open(&path);
        let mut file = opened.map_err(failed)?;
        if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
            let mut words = String::new();
            let _ = file.take(WORDS_BYTES_MAX).read_to_string(&mut words);
            return Ok(Taken::Theirs(text::line(words.trim()).into_owned()));
        }
        let words = format!("process {}\n", std::process::id());
        file.set_len(0).and_then(|()| file.write_all(words.as_bytes())).map_err(failed)?;
        Ok(Taken::Ours(Self { _file: file }))
    }
}

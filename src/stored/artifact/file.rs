//! An artifact's file, whose reading ends when the command is stopped.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::sync::Arc;

use crate::progress::{Observer, Silent};
use crate::stop::Stop;

/// A plain file and the switch that ends its reading.
pub struct Watched {
    file: File,
    stop: Stop,
    observer: Arc<dyn Observer>,
}

impl std::fmt::Debug for Watched {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Watched").field("file", &self.file).finish_non_exhaustive()
    }
}

impl Watched {
    /// Watches over `file`, which has to be a plain one: others have no end, or none that can be sought.
    pub(super) fn new(file: File, stop: Stop) -> io::Result<Self> {
        if file.metadata()?.is_file() {
            return Ok(Self { file, stop, observer: Arc::new(Silent) });
        }
        Err(io::Error::other("it is not a plain file"))
    }

    /// `observer` is told of all bytes that are read from now on.
    pub(super) fn observed_by(&mut self, observer: Arc<dyn Observer>) {
        self.observer = observer;
    }
}

impl Read for Watched {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.stop.check().map_err(io::Error::other)?;
        self.file.read(into).inspect(|read| self.observer.read(*read as u64))
    }
}

impl Seek for Watched {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.file.seek(to)
    }
}

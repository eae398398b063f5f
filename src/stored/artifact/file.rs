//! An artifact's file, whose reading ends when the command is stopped.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};

use crate::stop::Stop;

/// A plain file and the switch that ends its reading.
#[derive(Debug)]
pub struct Watched {
    file: File,
    stop: Stop,
}

impl Watched {
    /// Watches over `file`, which has to be a plain one: others have no end, or none that can be sought.
    pub(super) fn new(file: File, stop: Stop) -> io::Result<Self> {
        if file.metadata()?.is_file() {
            return Ok(Self { file, stop });
        }
        Err(io::Error::other("it is not a plain file"))
    }
}

impl Read for Watched {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.stop.check().map_err(io::Error::other)?;
        self.file.read(into)
    }
}

impl Seek for Watched {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.file.seek(to)
    }
}

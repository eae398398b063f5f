//! Where records come from.

use std::io::{self, Read};

use super::record::{Body, Reader, Record};

/// Records, one after the other, the next of which may be looked at.
pub trait Records: Send {
    /// The record at hand; none after the last.
    fn peek(&self) -> Option<(&[u8], &Body)>;

    /// Takes the record at hand.
    ///
    /// # Errors
    /// When what follows it is no record.
    fn take(&mut self) -> io::Result<Option<Record>>;
}

impl<R: Read + Send> Records for Reader<R> {
    fn peek(&self) -> Option<(&[u8], &Body)> {
        Self::peek(self)
    }

    fn take(&mut self) -> io::Result<Option<Record>> {
        Self::take(self)
    }
}

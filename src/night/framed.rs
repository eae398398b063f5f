//! What stands before records in a file: which format it is, and what it says of itself, as JSON behind its length (four
//! bytes, little-endian).

use std::io::{self, Read, Write};

use serde::Serialize;
use serde::de::DeserializeOwned;

/// A head has a line for each of at most 125 layers.
const HEAD_BYTES_MAX: u32 = 1 << 20;

/// Writes `head` behind `magic`.
pub(super) fn write(mut out: impl Write, magic: &[u8], head: &impl Serialize) -> io::Result<()> {
    let head = serde_json::to_vec(head)?;
    let length = u32::try_from(head.len()).ok().filter(|length| *length <= HEAD_BYTES_MAX);
    out.write_all(magic)?;
    out.write_all(&length.ok_or_else(damaged)?.to_le_bytes())?;
    out.write_all(&head)
}

/// Reads what [`write()`] wrote.
pub(super) fn read<T: DeserializeOwned>(mut input: impl Read, magic: &[u8]) -> io::Result<T> {
    let mut found = vec![0; magic.len()];
    input.read_exact(&mut found)?;
    let mut length = [0; 4];
    input.read_exact(&mut length)?;
    let length = u32::from_le_bytes(length);
    if found != magic || length > HEAD_BYTES_MAX {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "it is of another format"));
    }
    let mut head = vec![0; length as usize];
    input.read_exact(&mut head)?;
    serde_json::from_slice(&head).map_err(|_| damaged())
}

pub(super) fn damaged() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "it is damaged")
}

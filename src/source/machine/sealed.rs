//! Small files from the host to our reader in a guest: such as may still be on their way there say when they are whole.
//!
//! Behind the content stand its length and its checksum, of eight bytes each, little-endian.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek as _, SeekFrom, Write as _};
use std::path::Path;

use crate::stage::sum::Sum;

const SEAL_BYTES: u64 = 16;

/// Seals what `file` holds.
pub(super) fn seal(mut file: &File) -> io::Result<()> {
    let length = file.seek(SeekFrom::End(0))?;
    let sum = sum(file, length)?;
    file.seek(SeekFrom::End(0))?;
    file.write_all(&[length.to_le_bytes(), sum.to_le_bytes()].concat())
}

/// The content of the file at `path`; none, as long as it is not whole.
pub(super) fn open(path: &Path) -> io::Result<Option<BufReader<io::Take<File>>>> {
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let Some(length) = file.metadata()?.len().checked_sub(SEAL_BYTES) else { return Ok(None) };
    file.seek(SeekFrom::Start(length))?;
    let (mut said_length, mut said_sum) = ([0; 8], [0; 8]);
    file.read_exact(&mut said_length)?;
    file.read_exact(&mut said_sum)?;
    if u64::from_le_bytes(said_length) != length || u64::from_le_bytes(said_sum) != sum(&file, length)? {
        return Ok(None);
    }
    file.rewind()?;
    Ok(Some(BufReader::new(file.take(length))))
}

fn sum(mut file: &File, length: u64) -> io::Result<u64> {
    file.rewind()?;
    let (mut sum, mut buffer) = (Sum::new(), vec![0; 64 << 10]);
    let mut content = file.take(length);
    loop {
        match content.read(&mut buffer)? {
            0 => return Ok(sum.finish()),
            bytes => sum.update(&buffer[..bytes]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_whole_is_not_there() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        assert!(open(&path).unwrap().is_none());
        for content in [&b""[..], b"what is wanted"] {
            let mut file = File::options().create(true).truncate(true).read(true).write(true).open(&path).unwrap();
            file.write_all(content).unwrap();
            seal(&file).unwrap();
            let whole = std::fs::read(&path).unwrap();
            let mut found = String::new();
            open(&path).unwrap().unwrap().read_to_string(&mut found).unwrap();
            assert_eq!(found.as_bytes(), content);
            for cut in 0..whole.len() {
                std::fs::write(&path, &whole[..cut]).unwrap();
                assert!(open(&path).unwrap().is_none(), "{cut}");
            }
        }
    }
}

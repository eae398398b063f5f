//! What the benches work on: a tar that is the same on every machine, and compresses about as a root filesystem does.

use fastrand::Rng;

/// Bytes of the tar, about.
pub const TAR_BYTES: usize = 64 << 20;

const BLOCK_BYTES: usize = 512;
/// Files in one folder.
const FOLDER_FILES: usize = 50;

/// A tar of about [`TAR_BYTES`] in some 5,000 files of 128 bytes to 128 KiB, fifty in a folder.
#[must_use]
pub fn tar() -> Vec<u8> {
    let mut random = Rng::with_seed(0x5eed);
    let words: Vec<Vec<u8>> = (0..4096).map(|_| (0..random.usize(2..14)).map(|_| random.u8(..)).collect()).collect();
    let mut tar = Vec::with_capacity(TAR_BYTES + (1 << 20));
    let mut files = 0;
    while tar.len() < TAR_BYTES {
        let folder = format!("./usr/share/folder-{:03}/", files / FOLDER_FILES);
        if files % FOLDER_FILES == 0 {
            tar.extend(header(&folder, b'5', 0));
        }
        let below = 128 << random.u32(0..=10);
        let size = random.usize(..below) + 1;
        tar.extend(header(&format!("{folder}file-{files}"), b'0', size));
        let end = tar.len() + size;
        while tar.len() < end {
            // Squared: some words are frequent, as in text and in code.
            let word = random.usize(..64) * random.usize(..64);
            tar.extend_from_slice(&words[word]);
        }
        tar.truncate(end);
        tar.resize(end.next_multiple_of(BLOCK_BYTES), 0);
        files += 1;
    }
    tar.resize(tar.len() + 2 * BLOCK_BYTES, 0);
    tar
}

fn header(name: &str, flag: u8, size: usize) -> [u8; BLOCK_BYTES] {
    let mut block = [0; BLOCK_BYTES];
    let mut put = |at: usize, bytes: &[u8]| block[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, name.as_bytes());
    put(100, b"0000755\x000001000\x000001000\0");
    put(124, format!("{size:011o}\x0014524433000\0        ").as_bytes());
    put(156, &[flag]);
    put(257, b"ustar\x0000");
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    block
}

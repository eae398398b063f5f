//! Tars by hand, for what no tar program would write.

/// A header (POSIX.1-1988 with its magic), its content, and padding.
pub fn entry(name: &str, kind: u8, content: &[u8]) -> Vec<u8> {
    sized_entry(name, kind, content, content.len())
}

/// [`entry`] whose header says another size.
pub fn sized_entry(name: &str, kind: u8, content: &[u8], size: usize) -> Vec<u8> {
    let mut block = vec![0; 512];
    let mut put = |at: usize, text: &[u8]| block[at..at + text.len()].copy_from_slice(text);
    put(0, name.as_bytes());
    put(100, b"0000644\x000000000\x000000000\0");
    put(124, format!("{size:011o}\x0014000000000\x00        ").as_bytes());
    put(156, &[kind]);
    put(257, b"ustar\x0000");
    seal(&mut block);
    block.extend_from_slice(content);
    block.resize(block.len().next_multiple_of(512), 0);
    block
}

/// A hard link.
pub fn link(name: &str, target: &str) -> Vec<u8> {
    let mut block = entry(name, b'1', b"");
    block[157..157 + target.len()].copy_from_slice(target.as_bytes());
    block[148..156].fill(b' ');
    seal(&mut block);
    block
}

/// Puts a header's checksum where it has blanks for it.
fn seal(block: &mut [u8]) {
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
}

/// A PAX header with one record.
pub fn pax(key: &str, value: &str) -> Vec<u8> {
    let rest = format!(" {key}={value}\n");
    // The length counts its own digits; two are enough here.
    let length = rest.len() + 2;
    assert!((10..100).contains(&length), "a record of two-digit length");
    entry("PaxHeaders/x", b'x', format!("{length}{rest}").as_bytes())
}

/// Entries and the end mark.
pub fn tar(entries: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = entries.concat();
    bytes.resize(bytes.len() + 1024, 0);
    bytes
}

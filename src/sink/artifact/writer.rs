//! The bytes of a `.smolmachine` sidecar, as `smolvm_pack::format` lays them out, written front to back in one pass:
//! a zstd-compressed tar of assets, the manifest, a footer with a CRC-32 of all before it.
//!
//! The assets are many zstd frames in a row (RFC 8878, section 3.1: decoders read them as one stream). A layer's own
//! frame goes in as it is; the tar headers and padding between layers are frames of one raw block each. Such a frame has
//! the same length whatever it says, so the header of a file whose size shows only at its end is written twice, and a
//! place can be kept for a file whose frames another hand writes. A place that stays empty is a frame to be skipped.

use std::io::{self, Seek, SeekFrom, Write};

use crc32fast::Hasher;
use smolvm_pack::{PackFooter, PackManifest};

/// Tar counts in blocks of so many bytes.
const TAR_BLOCK_BYTES: usize = 512;

/// The most content that [`raw_frame`] can take: what a two-byte content size can say (RFC 8878, section 3.1.1.1.4).
const RAW_FRAME_BYTES_MAX: usize = 65_791;

/// Begins a frame that decoders skip (RFC 8878, section 3.1.2).
const SKIPPED_MAGIC: u32 = 0x184D_2A50;

/// What such a frame holds at most, of what its length can say.
const SKIPPED_BYTES_MAX: u64 = 1 << 31;

/// A sidecar that is being written.
#[derive(Debug)]
pub(super) struct Writer<W> {
    out: W,
    /// Checksums of what was written, in order. All but the last are complete; a header that was written twice has one
    /// of its own.
    checksums: Vec<Hasher>,
    written_bytes: u64,
    open: Option<OpenFile>,
    /// Places that were kept, and are empty.
    places: Vec<Place>,
    /// Where the content of the file that was ended last lies: its start, and the byte after it.
    last_content: (u64, u64),
}

/// A file inside the assets whose content is being written.
#[derive(Debug)]
struct OpenFile {
    name: String,
    header_at: u64,
    content_at: u64,
    /// Which of the checksums is the header's.
    header_checksum: usize,
    announced_bytes: Option<u64>,
}

/// Room for the header and the content of a file.
#[derive(Debug)]
struct Place {
    header_at: u64,
    content_at: u64,
    end: u64,
    /// Which of the checksums is that of all of it.
    checksum: usize,
}

impl<W: Write + Seek> Writer<W> {
    /// Writes to the start of `out`, which is empty.
    pub(super) fn new(out: W) -> Self {
        Self {
            out,
            checksums: vec![Hasher::new()],
            written_bytes: 0,
            open: None,
            places: Vec::new(),
            last_content: (0, 0),
        }
    }

    /// Begins the file `name`, whose content is `tar_bytes` long uncompressed; unknown, it is told at its end.
    pub(super) fn begin(&mut self, name: &str, tar_bytes: Option<u64>) -> io::Result<()> {
        if let Some(open) = &self.open {
            return Err(io::Error::other(format!("{} is still being written", open.name)));
        }
        let frame = raw_frame(&header(name, tar_bytes.unwrap_or(0))?);
        if tar_bytes.is_none() {
            self.checksums.push(Hasher::new());
        }
        let (header_at, header_checksum) = (self.written_bytes, self.checksums.len() - 1);
        self.append(&frame)?;
        if tar_bytes.is_none() {
            self.checksums.push(Hasher::new());
        }
        let content_at = self.written_bytes;
        let (name, announced_bytes) = (name.to_owned(), tar_bytes);
        self.open = Some(OpenFile { name, header_at, content_at, header_checksum, announced_bytes });
        Ok(())
    }

    /// The next bytes of whole zstd frames, which decode to the content of the file that was begun.
    pub(super) fn frames(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.open.is_none() {
            return Err(io::Error::other("content outside a file"));
        }
        self.append(bytes)
    }

    /// Whether a file of so many bytes needs no padding.
    pub(super) fn is_whole(tar_bytes: u64) -> bool {
        tar_bytes.is_multiple_of(TAR_BLOCK_BYTES as u64)
    }

    /// Ends the file, whose content was `tar_bytes` long uncompressed, and pads it to a whole block.
    pub(super) fn end(&mut self, tar_bytes: u64) -> io::Result<()> {
        let open = self.open.take().ok_or_else(|| io::Error::other("no file was begun"))?;
        self.last_content = (open.content_at, self.written_bytes);
        match open.announced_bytes {
            None => self.write_header_again(&open, tar_bytes)?,
            Some(announced) if announced != tar_bytes => {
                let reason = format!("{} is {tar_bytes} bytes of tar and was said to be {announced}", open.name);
                return Err(io::Error::new(io::ErrorKind::InvalidData, reason));
            }
            Some(_) => {}
        }
        let block = TAR_BLOCK_BYTES as u64;
        let padding = usize::try_from(tar_bytes.next_multiple_of(block) - tar_bytes).unwrap_or(0);
        if padding == 0 { Ok(()) } else { self.append(&raw_frame(&[0; TAR_BLOCK_BYTES][..padding])) }
    }

    /// Keeps a place for a file whose frames are `length` bytes; gives the place in the output where they go.
    pub(super) fn reserve(&mut self, length: u64) -> io::Result<u64> {
        if let Some(open) = &self.open {
            return Err(io::Error::other(format!("{} is still being written", open.name)));
        }
        let header_at = self.written_bytes;
        let content_at = header_at + raw_frame(&[0; TAR_BLOCK_BYTES]).len() as u64;
        let end = content_at + length;
        self.places.push(Place { header_at, content_at, end, checksum: self.checksums.len() });
        self.checksums.extend([Hasher::new(), Hasher::new()]);
        self.written_bytes = end;
        self.out.seek(SeekFrom::Start(end))?;
        Ok(content_at)
    }

    /// Makes a file of the place whose content begins at `content_at`, and was written there. It needs no padding.
    pub(super) fn settle(&mut self, content_at: u64, name: &str, tar_bytes: u64, content: &Hasher) -> io::Result<()> {
        let place = self.places.iter().position(|place| place.content_at == content_at);
        let place = place.ok_or_else(|| io::Error::other(format!("no place was kept for {name}")))?;
        let place = self.places.swap_remove(place);
        let mut checksum = self.write_again(place.header_at, &raw_frame(&header(name, tar_bytes)?))?;
        checksum.combine(content);
        self.checksums[place.checksum] = checksum;
        Ok(())
    }

    /// The places that were kept and are no file: where they begin, and how long they are.
    pub(super) fn unsettled(&self) -> impl Iterator<Item = (u64, u64)> {
        self.places.iter().map(|place| (place.header_at, place.end - place.header_at))
    }

    /// Where the frames of the file that was ended last lie: the first byte, and the one after the last.
    pub(super) fn last_content(&self) -> (u64, u64) {
        self.last_content
    }

    /// Leaves nothing in any buffer.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }

    /// Ends the assets and writes what follows them; gives back the output, with nothing left in any buffer. Places that
    /// are no file read as zeros.
    pub(super) fn finish(mut self, manifest: &PackManifest) -> io::Result<W> {
        if let Some(open) = &self.open {
            return Err(io::Error::other(format!("{} was not ended", open.name)));
        }
        self.append(&raw_frame(&[0; 2 * TAR_BLOCK_BYTES]))?;
        while let Some(place) = self.places.pop() {
            self.checksums[place.checksum] = self.skip(place.header_at, place.end)?;
        }
        let assets_size = self.written_bytes;
        let json = manifest.to_json().map_err(io::Error::other)?;
        self.append(&json)?;
        let checksum = self.checksum();
        let manifest_size = json.len() as u64;
        // A sidecar starts with its assets: no launcher before them, so both offsets count from 0.
        let footer = PackFooter {
            stub_size: 0,
            assets_offset: 0,
            assets_size,
            manifest_offset: assets_size,
            manifest_size,
            checksum,
        };
        self.out.write_all(&footer.to_bytes())?;
        self.out.flush()?;
        Ok(self.out)
    }

    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.out.write_all(bytes)?;
        if let Some(checksum) = self.checksums.last_mut() {
            checksum.update(bytes);
        }
        self.written_bytes += bytes.len() as u64;
        Ok(())
    }

    fn write_header_again(&mut self, open: &OpenFile, tar_bytes: u64) -> io::Result<()> {
        let frame = raw_frame(&header(&open.name, tar_bytes)?);
        self.checksums[open.header_checksum] = self.write_again(open.header_at, &frame)?;
        Ok(())
    }

    /// Writes over what is at `place`, and gives the checksum of `bytes`.
    fn write_again(&mut self, place: u64, bytes: &[u8]) -> io::Result<Hasher> {
        self.out.seek(SeekFrom::Start(place))?;
        self.out.write_all(bytes)?;
        self.out.seek(SeekFrom::Start(self.written_bytes))?;
        let mut checksum = Hasher::new();
        checksum.update(bytes);
        Ok(checksum)
    }

    /// Makes frames that are skipped of the zeros from `from` to `to`, and gives their checksum.
    fn skip(&mut self, mut from: u64, to: u64) -> io::Result<Hasher> {
        let (mut checksum, zeros) = (Hasher::new(), vec![0; RAW_FRAME_BYTES_MAX]);
        while from < to {
            let mut head = Vec::from(SKIPPED_MAGIC.to_le_bytes());
            // None is too short to be a frame: each but the last takes half of the most, or less than what is left by that.
            let left = to - from - 8;
            let length = if left > SKIPPED_BYTES_MAX { SKIPPED_BYTES_MAX / 2 } else { left };
            head.extend(u32::try_from(length).unwrap_or(u32::MAX).to_le_bytes());
            checksum.combine(&self.write_again(from, &head)?);
            let mut hashed = 0;
            while hashed < length {
                let step = (length - hashed).min(zeros.len() as u64);
                checksum.update(&zeros[..usize::try_from(step).unwrap_or(0)]);
                hashed += step;
            }
            from += 8 + length;
        }
        Ok(checksum)
    }

    fn checksum(&self) -> u32 {
        let mut whole = Hasher::new();
        for part in &self.checksums {
            whole.combine(part);
        }
        whole.finalize()
    }
}

/// The tar header of a plain file. Nothing in it depends on the clock, so the same layers give the same bytes.
fn header(name: &str, size: u64) -> io::Result<[u8; TAR_BLOCK_BYTES]> {
    let mut header = tar::Header::new_gnu();
    header.set_path(name)?;
    header.set_size(size);
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_entry_type(tar::EntryType::Regular);
    header.set_cksum();
    Ok(*header.as_bytes())
}

/// A zstd frame that holds `content` as it is (RFC 8878, section 3.1.1): the magic number, a descriptor that says "single
/// segment" and how the content size is written, the content size, and one last, raw block.
fn raw_frame(content: &[u8]) -> Vec<u8> {
    debug_assert!(content.len() <= RAW_FRAME_BYTES_MAX);
    let mut frame = Vec::with_capacity(content.len() + 16);
    frame.extend(0xFD2F_B528_u32.to_le_bytes());
    if let Ok(size) = u8::try_from(content.len()) {
        frame.extend([0b0010_0000, size]);
    } else {
        let above_256 = u16::try_from(content.len() - 256).unwrap_or(u16::MAX);
        frame.push(0b0110_0000);
        frame.extend(above_256.to_le_bytes());
    }
    let block = u32::try_from(content.len()).unwrap_or(u32::MAX) << 3 | 1;
    frame.extend(&block.to_le_bytes()[..3]);
    frame.extend(content);
    frame
}

#[cfg(test)]
mod tests {
    use std::io::{Cursor, Read};

    use super::*;

    fn manifest() -> PackManifest {
        PackManifest::new("image".into(), "none".into(), "linux/amd64".into(), "linux/amd64".into())
    }

    fn files_in(sidecar: &[u8]) -> Vec<(String, Vec<u8>)> {
        let footer = PackFooter::from_bytes(&sidecar[sidecar.len() - 64..].try_into().unwrap()).unwrap();
        let checked = usize::try_from(footer.assets_size + footer.manifest_size).unwrap();
        assert_eq!(crc32fast::hash(&sidecar[..checked]), footer.checksum);
        let assets = &sidecar[..usize::try_from(footer.assets_size).unwrap()];
        let mut archive = tar::Archive::new(zstd::Decoder::new(assets).unwrap());
        let entries = archive.entries().unwrap().map(|entry| {
            let mut entry = entry.unwrap();
            let mut content = vec![0; usize::try_from(entry.size()).unwrap()];
            entry.read_exact(&mut content).unwrap();
            (entry.path().unwrap().to_str().unwrap().to_owned(), content)
        });
        entries.collect()
    }

    #[test]
    fn a_raw_frame_decodes_to_its_content() {
        for length in [0, 1, 255, 256, 257, 512, 1024, RAW_FRAME_BYTES_MAX] {
            let content = vec![7; length];
            assert_eq!(zstd::decode_all(&raw_frame(&content)[..]).unwrap(), content, "{length}");
        }
    }

    #[test]
    fn files_of_known_and_unknown_size_are_read_back() {
        let mut writer = Writer::new(Cursor::new(Vec::new()));
        for (name, content, known) in [("a", vec![1; 700], true), ("b", vec![2; 90_000], false), ("c", vec![], false)] {
            let frames = zstd::encode_all(&content[..], 1).unwrap();
            let size = content.len() as u64;
            writer.begin(name, known.then_some(size)).unwrap();
            frames.chunks(100).for_each(|part| writer.frames(part).unwrap());
            writer.end(size).unwrap();
        }
        let sidecar = writer.finish(&manifest()).unwrap().into_inner();
        let expected = [("a", vec![1; 700]), ("b", vec![2; 90_000]), ("c", vec![])];
        assert_eq!(files_in(&sidecar), expected.map(|(name, content)| (name.to_owned(), content)));
    }

    #[test]
    fn places_are_filled_in_any_order_and_empty_ones_are_skipped() {
        let mut writer = Writer::new(Cursor::new(Vec::new()));
        let frames = [0, 1, 2, 3].map(|number| zstd::encode_all(&[number; 1024][..], 1).unwrap());
        // The third is as short as can be, the last one a file that comes after them.
        let lengths = [frames[0].len(), frames[1].len(), 0, 200_000];
        let places = lengths.map(|length| writer.reserve(length as u64).unwrap());
        writer.begin("3", Some(1024)).unwrap();
        assert!(writer.reserve(1).is_err());
        writer.frames(&frames[3]).unwrap();
        writer.end(1024).unwrap();
        for number in [1, 0] {
            let (name, from) = (number.to_string(), usize::try_from(places[number]).unwrap());
            writer.out.get_mut()[from..from + lengths[number]].copy_from_slice(&frames[number]);
            let mut checksum = Hasher::new();
            checksum.update(&frames[number]);
            writer.settle(places[number], &name, 1024, &checksum).unwrap();
            assert!(writer.settle(places[number], &name, 1024, &checksum).is_err());
        }
        assert_eq!(writer.unsettled().map(|(_, length)| length).collect::<Vec<_>>(), [522, 200_522]);
        let sidecar = writer.finish(&manifest()).unwrap().into_inner();
        let expected = [0, 1, 3].map(|number: u8| (number.to_string(), vec![number; 1024]));
        assert_eq!(files_in(&sidecar), expected);
    }

    #[test]
    fn a_size_past_the_octal_field_survives() {
        let size = 9 << 30;
        let header = header("layers/large.tar", size).unwrap();
        assert_eq!(tar::Header::from_byte_slice(&header).entry_size().unwrap(), size);
    }

    #[test]
    fn what_is_out_of_order_is_refused() {
        let mut writer = Writer::new(Cursor::new(Vec::new()));
        assert!(writer.frames(b"x").is_err());
        assert!(writer.end(0).is_err());
        writer.begin("a", Some(5)).unwrap();
        assert!(writer.begin("b", None).is_err());
        assert!(writer.end(6).is_err());
        writer.begin("b", None).unwrap();
        assert!(writer.finish(&manifest()).is_err());
    }
}

//! A reader: carries out jobs, one after the other, until there are no more.

use std::os::fd::{AsFd, OwnedFd};

use crossbeam_channel::Receiver;
use rustix::buffer::spare_capacity;
use rustix::fs::OFlags;
use rustix::io::Errno;

use super::header::{Header, Target, Writer, padding};
use super::job::{Done, File, Job, Noticed, Split, Step, verdict};
use super::meta::{self, Kind, Meta};
use super::unreadable;
use super::xattrs::Xattrs;
use crate::error::Result;
use crate::pipeline::memory::BUFFER_BYTES;
use crate::progress::NoticeKind;
use crate::stop::Stop;

/// Carries out jobs until the walker has no more, or throws them away once stopped.
pub(super) fn run(jobs: &Receiver<Job>, stop: &Stop) {
    let mut reader = Reader::default();
    for mut job in jobs {
        if stop.is_stopped() {
            continue;
        }
        let written = reader.write(&mut job);
        let Job { buffer, notices, held, done, .. } = job;
        drop(held);
        // Nobody takes it if the stream has failed meanwhile.
        let _ = done.send(written.map(|()| Done { buffer, notices }));
    }
}

#[derive(Default)]
struct Reader {
    headers: Writer,
    xattrs: Xattrs,
}

impl Reader {
    fn write(&mut self, job: &mut Job) -> Result<()> {
        let out = job.buffer.bytes_mut();
        for step in job.steps.drain(..) {
            match step {
                Step::Header(range) => out.extend_from_slice(&job.text[range]),
                Step::Zeros(bytes) => out.resize(out.len() + bytes, 0),
                Step::File(file) => self.file(&file, &job.text[file.path.clone()], out, &mut job.notices)?,
                Step::Segment { file, offset, bytes } => segment(&file, offset, bytes, out, &mut job.notices)?,
            }
        }
        Ok(())
    }

    /// Writes a small file whole. What was written of one that turns out not to be there is taken back.
    fn file(&mut self, file: &File, path: &[u8], out: &mut Vec<u8>, notices: &mut Vec<Noticed>) -> Result<()> {
        let began = out.len();
        match self.open_and_write(file, path, out) {
            Ok(Some(kind)) => notices.push((kind, path.to_vec())),
            Ok(None) => {}
            Err(error) if meta::is_gone(error) => {
                out.truncate(began);
                notices.push((NoticeKind::Vanished, path.to_vec()));
            }
            Err(error) => return Err(unreadable("reading a file", path, error)),
        }
        Ok(())
    }

    fn open_and_write(&mut self, file: &File, path: &[u8], out: &mut Vec<u8>) -> Result<Option<NoticeKind>, Errno> {
        let name = path.rsplit(|byte| *byte == b'/').next().unwrap_or(path);
        let open = meta::open(&file.folder, name, OFlags::empty())?;
        let began = out.len();
        let (later, is_short) = self.header_and_content(&open, path, &file.meta, out)?;
        let mut written = (file.meta, later, is_short);
        if later.id != file.meta.id {
            // Replaced before it was opened: the header must be the new file's, or its content would get the old one's
            // mode. It may be as long as the old one, or as the buffer allows.
            out.truncate(began);
            let bytes_max = file.meta.size_bytes.max(BUFFER_BYTES.saturating_sub(began + 4096) as u64);
            let header = Meta { size_bytes: later.size_bytes.min(bytes_max), ..later };
            let (later, is_short) = self.header_and_content(&open, path, &header, out)?;
            written = (header, later, is_short);
        }
        Ok(verdict(&written.0, &written.1, written.2))
    }

    /// Returns the file as it was after reading, and whether it ended too early.
    fn header_and_content(
        &mut self,
        open: &OwnedFd,
        path: &[u8],
        meta: &Meta,
        out: &mut Vec<u8>,
    ) -> Result<(Meta, bool), Errno> {
        self.xattrs.read_open(open.as_fd())?;
        self.headers.write(out, &Header { path, meta, target: Target::Nowhere, xattrs: &self.xattrs });
        // Small enough: it was planned to fit a buffer.
        let bytes = usize::try_from(meta.size_bytes).map_err(|_| Errno::FBIG)?;
        let is_short = fill(open, 0, bytes, out)?;
        out.resize(out.len() + padding(meta.size_bytes), 0);
        let later = Meta::of_open(open)?;
        if later.kind == Kind::Regular { Ok((later, is_short)) } else { Err(Errno::NODEV) }
    }
}

fn segment(file: &Split, offset: u64, bytes: usize, out: &mut Vec<u8>, notices: &mut Vec<Noticed>) -> Result<()> {
    let read = || {
        if fill(&file.open, offset, bytes, out)? {
            file.ended_early();
        }
        file.finish_one()
    };
    if let Some(kind) = { read }().map_err(|error| unreadable("reading a file", &file.path, error))? {
        notices.push((kind, file.path.clone()));
    }
    Ok(())
}

/// Appends `bytes` of content from `offset` on; zeros past the file's end. Returns whether it ended too early.
fn fill(open: &OwnedFd, offset: u64, bytes: usize, out: &mut Vec<u8>) -> Result<bool, Errno> {
    let (began, end) = (out.len(), out.len() + bytes);
    out.reserve(bytes);
    while out.len() < end {
        // May read past `end` where the buffer has room; cheaper than limiting it.
        let from = offset + (out.len() - began) as u64;
        match rustix::io::pread(open, spare_capacity(out), from) {
            Ok(0) => break,
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error),
        }
    }
    let is_short = out.len() < end;
    out.resize(end, 0);
    Ok(is_short)
}

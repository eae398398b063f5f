//! A reader: carries out jobs, one after the other, until there are no more.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use crossbeam_channel::Receiver;
use rustix::buffer::spare_capacity;
use rustix::fs::OFlags;
use rustix::io::Errno;

use super::header::{Header, Target, Writer, padding};
use super::job::{Done, File, Job, Split, Step, Work, verdict};
use super::meta::{self, Kind, Meta};
use super::unreadable;
use super::xattrs::Xattrs;
use crate::error::Result;
use crate::pipeline::memory::Buffer;
use crate::progress::NoticeKind;
use crate::stop::Stop;

/// Carries out jobs until the walker has no more, or throws them away once stopped.
pub(super) fn run(jobs: &Receiver<Job>, stop: &Stop) {
    let mut reader = Reader::default();
    for job in jobs {
        if !stop.is_stopped() {
            // Nobody takes it if the stream has failed meanwhile.
            let _ = job.done.send(reader.write(job.work, job.buffer));
        }
    }
}

/// Writes stretches.
#[derive(Default)]
pub(super) struct Reader {
    headers: Writer,
    header: Vec<u8>,
    xattrs: Xattrs,
}

impl Reader {
    /// Writes as much of `work` as there is room for, and some of it in any case.
    pub(super) fn write(&mut self, mut work: Work, mut buffer: Buffer) -> Result<Done> {
        while let Some(step) = work.steps.pop_front() {
            if let Some(left) = self.step(step, &mut work, &mut buffer)? {
                work.steps.push_front(left);
                break;
            }
        }
        let notices = std::mem::take(&mut work.notices);
        Ok(Done { buffer, notices, rest: (!work.steps.is_empty()).then_some(work) })
    }

    /// Returns what is left of a step.
    fn step(&mut self, step: Step, work: &mut Work, buffer: &mut Buffer) -> Result<Option<Step>> {
        match step {
            Step::Header(range) if range.len() > buffer.room() && !buffer.is_empty() => Ok(Some(Step::Header(range))),
            Step::Header(range) => {
                buffer.bytes_mut().extend_from_slice(&work.text[range]);
                Ok(None)
            }
            Step::Zeros(bytes) => {
                let now = bytes.min(buffer.room() as u64);
                let end = buffer.len() + buffer.room().min(index(now));
                buffer.bytes_mut().resize(end, 0);
                Ok((now < bytes).then_some(Step::Zeros(bytes - now)))
            }
            Step::Segment { file, offset, bytes } => {
                let now = bytes.min(buffer.room() as u64);
                let failed = |error| unreadable("reading a file", &file.path, error);
                if fill(&file.open, offset, index(now), buffer.bytes_mut()).map_err(failed)? {
                    file.ended_early();
                }
                if now < bytes {
                    return Ok(Some(Step::Segment { file, offset: offset + now, bytes: bytes - now }));
                }
                if let Some(kind) = file.finish_one().map_err(failed)? {
                    work.notices.push((kind, file.path.clone()));
                }
                Ok(None)
            }
            Step::File(file) => self.file(file, work, buffer),
        }
    }

    fn file(&mut self, file: File, work: &mut Work, buffer: &mut Buffer) -> Result<Option<Step>> {
        let path = work.text[file.path.clone()].to_vec();
        match self.open(&file, &path) {
            Ok((open, meta)) => {
                let failed = |error| unreadable("reading a file", &path, error);
                let content = meta.size_bytes + padding(meta.size_bytes) as u64;
                let is_whole = self.header.len() as u64 + content <= buffer.room() as u64;
                if !is_whole && !buffer.is_empty() {
                    return Ok(Some(Step::File(file)));
                }
                if meta.id != file.id {
                    work.notices.push((NoticeKind::Replaced, path.clone()));
                }
                if is_whole {
                    let notice = self.write_whole(&open, &meta, buffer.bytes_mut()).map_err(failed)?;
                    work.notices.extend(notice.map(|kind| (kind, path)));
                    return Ok(None);
                }
                // It has grown since it was listed, or has large attributes: it goes on in further buffers.
                buffer.bytes_mut().reserve_exact(self.header.len());
                buffer.bytes_mut().extend_from_slice(&self.header);
                work.steps.push_front(Step::Zeros(padding(meta.size_bytes) as u64));
                let split = Arc::new(Split::new(open, &path, meta));
                work.steps.push_front(Step::Segment { file: split, offset: 0, bytes: meta.size_bytes });
                Ok(None)
            }
            Err(error) if meta::is_gone(error) => {
                work.notices.push((NoticeKind::Vanished, path));
                Ok(None)
            }
            Err(error) => Err(unreadable("reading a file", &path, error)),
        }
    }

    /// Opens a file first and then looks at it, so that header and content are one file's, whatever takes its name
    /// meanwhile. Leaves its header in `self.header`.
    fn open(&mut self, file: &File, path: &[u8]) -> Result<(OwnedFd, Meta), Errno> {
        let name = path.rsplit(|byte| *byte == b'/').next().unwrap_or(path);
        let open = meta::open(&file.folder, name, OFlags::empty())?;
        let meta = Meta::of_open(&open)?;
        if meta.kind != Kind::Regular {
            return Err(Errno::NODEV);
        }
        self.xattrs.read_open(open.as_fd())?;
        self.header.clear();
        self.headers
            .write(&mut self.header, &Header { path, meta: &meta, target: Target::Nowhere, xattrs: &self.xattrs });
        Ok((open, meta))
    }

    fn write_whole(&self, open: &OwnedFd, meta: &Meta, out: &mut Vec<u8>) -> Result<Option<NoticeKind>, Errno> {
        out.extend_from_slice(&self.header);
        let is_short = fill(open, 0, index(meta.size_bytes), out)?;
        out.resize(out.len() + padding(meta.size_bytes), 0);
        Ok(verdict(meta, &Meta::of_open(open)?, is_short))
    }
}

fn index(bytes: u64) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX)
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

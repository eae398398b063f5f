//! Our reader's side of a night: it lists, answers what is asked about the list, and waits for what is picked.
//!
//! Three archives go through the spool: the list, the answers (where anything is asked), the tar. The list stays beside them,
//! to be followed by the walk that reads.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::time::Duration;

use crossbeam_channel::{RecvTimeoutError, bounded};

use super::order::{ListOrder, PICKS, QUESTIONS};
use super::reader::Slots;
use super::sealed;
use crate::error::{Error, Result};
use crate::night::list::{self, Head, List, Lister};
use crate::night::listing::Entries;
use crate::night::picker::Picker;
use crate::night::picks;
use crate::night::record::Stat;
use crate::progress::NoticeKind;
use crate::source::directory::Directory;
use crate::stop::Stop;

/// How long to wait before looking again whether the host has said more.
const WORD_PAUSE: Duration = Duration::from_millis(3);
/// How often the host is told that work goes on.
const WORK_PAUSE: Duration = Duration::from_secs(1);

/// Lists `directory`, and gives what the host picks of it.
pub(super) fn list(directory: &Directory, order: ListOrder, slots: &mut Slots<'_>, stop: &Stop) -> Result<Picker> {
    let spool = slots.folder();
    let failed = |error: io::Error| Error::source("listing", spool.display(), &error).because(error);
    let settled = directory.settle().ok_or_else(|| failed(io::Error::other("the clock is before 1970")))?;
    let head = Head { settled, identity: directory.identity() };
    let path = spool.join("list");
    let lister = Lister::begin(File::create(&path).map_err(failed)?, &head, order.sample).map_err(failed)?;
    let mut lister = Beside { lister, spools: spools(spool) };
    telling(directory, spool, || directory.list(&mut lister, stop))?;
    lister.lister.end().map_err(failed)?;
    let file = File::options().read(true).open(&path).map_err(failed)?;
    send(slots, &file).map_err(failed)?;
    let list = List::open(file).map_err(failed)?;
    let mut answered = false;
    loop {
        // First, or there may be questions by the time that there are picks.
        if let Some(picks) = sealed::open(&spool.join(PICKS)).map_err(failed)? {
            return picks::picker(&list, picks).map_err(failed);
        }
        match sealed::open(&spool.join(QUESTIONS)).map_err(failed)? {
            Some(questions) if !answered => {
                answered = true;
                answer(directory, &list, questions, slots, stop)?;
            }
            _ if !spool.exists() => return Err(failed(io::ErrorKind::NotFound.into())),
            _ => std::thread::sleep(WORD_PAUSE),
        }
    }
}

fn answer(
    directory: &Directory,
    list: &List,
    questions: impl Read + Send,
    slots: &mut Slots<'_>,
    stop: &Stop,
) -> Result<()> {
    let path = slots.folder().join("answers");
    let failed = |error: io::Error| Error::source("answering", path.display(), &error).because(error);
    let mut checker = directory.checker(stop);
    let file = File::options().create(true).truncate(true).read(true).write(true).open(&path).map_err(failed)?;
    let mut check = |path: &[u8], listed: &Stat| checker.check(path, listed).map_err(io::Error::other);
    let answered =
        telling(directory, slots.folder(), || list::answer(list, questions, io::BufWriter::new(&file), &mut check));
    answered.and_then(|()| send(slots, &file)).map_err(failed)
}

/// Does `work` on `directory`, which gives the host nothing until it is done, and leaves in the spool how far it is: what goes on
/// may take any time.
fn telling<T>(directory: &Directory, spool: &Path, work: impl FnOnce() -> T) -> T {
    let (new, shown) = (spool.join("work.new"), spool.join("work"));
    std::thread::scope(|scope| {
        let (done_end, done) = bounded::<()>(0);
        scope.spawn(move || {
            while done.recv_timeout(WORK_PAUSE) == Err(RecvTimeoutError::Timeout) {
                // Whoever hears nothing of it waits for as long as a walk may take.
                let _ = std::fs::write(&new, format!("{}\n", directory.work()))
                    .and_then(|()| std::fs::rename(&new, &shown));
            }
        });
        let worked = work();
        drop(done_end);
        worked
    })
}

/// The file as an archive of its own.
fn send(slots: &mut Slots<'_>, file: &File) -> io::Result<()> {
    use std::os::unix::fs::FileExt as _;
    let (mut buffer, mut at) = (vec![0; 256 << 10], 0);
    loop {
        match file.read_at(&mut buffer, at)? {
            0 => return slots.end(),
            bytes => {
                slots.take(&buffer[..bytes])?;
                at += bytes as u64;
            }
        }
    }
}

/// The folder that spools are in, as a path in the root.
fn spools(spool: &Path) -> Option<Vec<u8>> {
    let spool = spool.canonicalize().ok()?;
    Some(spool.parent()?.strip_prefix("/").ok()?.as_os_str().as_bytes().to_vec())
}

/// Lists the folder that the spool is in as one that never changed: making the spool there did that.
struct Beside {
    lister: Lister,
    spools: Option<Vec<u8>>,
}

impl Entries for Beside {
    fn asks_for_extra(&mut self, path: &[u8], stat: &Stat) -> bool {
        self.lister.asks_for_extra(path, stat)
    }

    fn see(&mut self, path: &[u8], stat: Stat, tar_bytes: u64) -> bool {
        let changed = if self.spools.as_deref() == Some(path) { (0, 0) } else { stat.changed };
        self.lister.see(path, Stat { changed, ..stat }, tar_bytes)
    }

    fn answer(&mut self, found: Option<u64>) {
        self.lister.answer(found);
    }

    fn left_out(&mut self, kind: NoticeKind, path: &[u8]) {
        self.lister.left_out(kind, path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::wanted::Wanted;

    #[test]
    fn how_far_long_work_is_can_be_seen_in_the_spool() {
        let (root, spool) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        std::fs::write(root.path().join("file"), "content").unwrap();
        let directory = Directory::open_root(root.path(), Wanted::default()).unwrap();
        let shown = spool.path().join("work");
        let told = || std::fs::read_to_string(&shown).ok().and_then(|text| text.trim().parse::<u64>().ok());
        let awaited = |more: &dyn Fn(u64) -> bool| {
            for _ in 0..6_000 {
                match told().filter(|work| more(*work)) {
                    Some(work) => return work,
                    None => std::thread::sleep(Duration::from_millis(10)),
                }
            }
            panic!("nothing is told of what goes on");
        };
        telling(&directory, spool.path(), || {
            directory.survey(&Stop::new()).unwrap();
            let walked = awaited(&|work| work >= 2);
            directory.survey(&Stop::new()).unwrap();
            assert!(awaited(&|work| work > walked) > walked);
        });
    }
}

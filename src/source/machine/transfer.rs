//! A transfer as those see it who want it: it begins, may be listed and asked, and then is streamed or let go. All that is
//! done in the machine, from taking it to leaving it, is one session on a thread of its own.

use std::fs::File;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use tokio::runtime::Handle;
use tokio::sync::{mpsc::channel, oneshot};

use super::Machine;
use super::capture;
use super::deliver::{Archive, deliver};
use super::order::{ListOrder, PICKS, QUESTIONS};
use super::relay::{HOST_CHUNKS_MAX, SEAMS_MAX};
use super::session::{Found, Session};
use crate::error::{Error, Kind, Result, Side};
use crate::night::Night;
use crate::night::list::{self, List};
use crate::oci::Compression;
use crate::pipeline::memory::Memory;
use crate::progress::{Meters, NoticeKind, Notices, Silent};
use crate::source::{Outlet, Piece, Selection};
use crate::stop::Stop;

/// Of a list, or of answers about it: some 50 million entries.
const LIST_BYTES_MAX: u64 = 1 << 30;

/// A machine that is being read.
pub struct Transfer {
    session: Arc<Session>,
    runtime: Handle,
    stop: Stop,
    under_way: Mutex<Option<UnderWay>>,
    /// Of a session that has all, and leaves the machine.
    leaving: Mutex<Option<JoinHandle<Result<()>>>>,
}

struct UnderWay {
    archive: Archive,
    carried: oneshot::Receiver<Found>,
    thread: JoinHandle<Result<()>>,
    /// Its reader waits to hear what is to be read.
    is_listed: bool,
}

impl Transfer {
    /// Takes the machine and begins to read what is selected, listed first if there is an order to. `runtime` runs the
    /// calls of smolvm; it must be a multi-threaded one, or driven by another thread. However it ends, and if it is dropped,
    /// the machine is left as it was.
    ///
    /// # Errors
    /// When it can't be selected so.
    pub fn begin(
        machine: &Machine,
        selection: &Selection,
        list: Option<ListOrder>,
        stop: &Stop,
        runtime: &Handle,
    ) -> Result<Self> {
        let tool = machine.options.guest_compression.to_string();
        if machine.options.guest_compression != Compression::None && !machine.look.tools.contains(&tool) {
            let reason = format!("the guest has no {tool}");
            return Err(Error::usage("reading --guest-compression", machine.subject(), reason));
        }
        let capture = capture::decide(&machine.look, machine.facts().image.is_none(), selection)?;
        let session = Arc::new(Session::new(machine.clone(), capture, list)?);
        // Chunks wait in files, not here; this only has to hold their order. With room for every chunk, seam and the
        // end, the relay never waits for it: it has to go on telling the guest that it lives.
        let (sender, receiver) = channel(HOST_CHUNKS_MAX + SEAMS_MAX + 1);
        let (carrying, stopped, driver) = (Arc::clone(&session), stop.clone(), runtime.clone());
        let (told, carried) = oneshot::channel();
        let thread =
            std::thread::spawn(move || carrying.on_thread(|| driver.block_on(carrying.run(sender, told, &stopped))));
        let under_way = UnderWay { archive: Archive::new(receiver), carried, thread, is_listed: false };
        let (runtime, stop) = (runtime.clone(), stop.clone());
        Ok(Self { session, runtime, stop, under_way: Mutex::new(Some(under_way)), leaving: Mutex::default() })
    }

    /// The list of what is there, in a file in `scratch`; none where the guest's own tools read, which make none. Blocks.
    ///
    /// # Errors
    /// When the machine can't be listed.
    pub fn list(&self, scratch: &Path) -> Result<Option<List>> {
        self.collected("listing", |under_way| {
            if !under_way.archive.begins_with(list::MAGIC)? {
                return Ok(None);
            }
            let file = tempfile::tempfile_in(scratch)?;
            under_way.archive.collect(&file, LIST_BYTES_MAX)?;
            under_way.is_listed = true;
            List::open(file).map(Some)
        })
    }

    /// The answers to `questions` about the list, in a file in `scratch`. Blocks.
    ///
    /// # Errors
    /// When they can't be asked or answered.
    pub fn ask(&self, questions: &File, scratch: &Path) -> Result<File> {
        self.tell(QUESTIONS, |mut out| {
            let mut questions = questions.try_clone()?;
            std::io::Seek::rewind(&mut questions)?;
            std::io::copy(&mut questions, &mut out).map(drop)
        })?;
        self.collected("asking", |under_way| {
            let mut file = tempfile::tempfile_in(scratch)?;
            under_way.archive.collect(&file, LIST_BYTES_MAX)?;
            std::io::Seek::rewind(&mut file)?;
            Ok(file)
        })
    }

    /// Puts what our reader waits for into its spool. What has failed in the machine meanwhile comes first.
    fn tell(&self, name: &str, write: impl FnOnce(&File) -> std::io::Result<()>) -> Result<()> {
        let put = self.runtime.block_on(async {
            tokio::select! {
                put = self.session.put_sealed(name, write) => put,
                () = self.stop.stopped() => Err(Error::hung_up("the freeze")),
            }
        });
        self.session.keeps_waiting.store(false, Ordering::Relaxed);
        put.map_err(|error| self.cause(error))
    }

    fn collected<T>(&self, doing: &str, collect: impl FnOnce(&mut UnderWay) -> std::io::Result<T>) -> Result<T> {
        let subject = self.session.machine.subject();
        let collected = match self.lock().as_mut() {
            Some(under_way) => collect(under_way).map_err(|error| match error.kind() {
                std::io::ErrorKind::BrokenPipe => Error::hung_up("the relay"),
                _ => Error::source(doing, subject, &error).because(error),
            }),
            None => Err(Error::hung_up("the transfer")),
        };
        // Until it is told more.
        self.session.keeps_waiting.store(true, Ordering::Relaxed);
        collected.map_err(|error| self.cause(error))
    }

    /// Ends the session, and says what its own error was, if that is the cause.
    fn cause(&self, error: Error) -> Error {
        let Some(UnderWay { archive, thread, .. }) = self.lock().take() else { return error };
        drop(archive);
        match self.joined(thread) {
            Err(session) => Error::first_cause(session, error),
            Ok(()) => error,
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<UnderWay>> {
        self.under_way.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn joined(&self, thread: JoinHandle<Result<()>>) -> Result<()> {
        let subject = || self.session.machine.subject();
        thread
            .join()
            .unwrap_or_else(|_| Err(Error::new(Kind::Internal, Side::Source, "the relay", subject(), "it panicked")))
    }

    /// Carries the files over as one tar, into `outlet`: those that `night` has picked, or all. The machine is left
    /// meanwhile, see [`Transfer::left`]. For a plain thread: it blocks while the edge is full.
    ///
    /// # Errors
    /// The first cause; what could not be cleaned up is attached to it.
    pub fn stream(&self, night: Option<&Night>, mut outlet: Outlet) -> Result<Notices> {
        let (meters, observer) = outlet.watchers();
        self.session.watchers.set(Arc::clone(&meters), observer);
        if self.lock().as_ref().is_some_and(|under_way| under_way.is_listed) {
            self.tell(PICKS, |mut out| match night {
                Some(night) => night.picks(out),
                None => std::io::Write::write_all(&mut out, &crate::night::picks::EVERYTHING),
            })?;
        }
        let Some(UnderWay { archive, carried, thread, .. }) = self.lock().take() else {
            return Err(Error::hung_up("the transfer"));
        };
        let compression = self.session.machine.options.guest_compression;
        let delivered = deliver(archive, &mut outlet, compression, &self.session.machine.subject())
            .and_then(|()| outlet.complete());
        let carried = match carried.blocking_recv() {
            Ok(found) => {
                *self.leaving.lock().unwrap_or_else(PoisonError::into_inner) = Some(thread);
                Ok(found)
            }
            Err(_) => Err(self.joined(thread).err().unwrap_or_else(|| Error::hung_up("the relay"))),
        };
        self.session.told_to(&meters);
        let found = match (carried, delivered) {
            (Ok(found), Ok(())) => found,
            (Err(error), Ok(())) | (Ok(_), Err(error)) => return Err(error),
            (Err(relay), Err(delivery)) => return Err(Error::first_cause(relay, delivery)),
        };
        for (kind, path) in found {
            outlet.notice(kind, &path);
        }
        for path in self.left_mounts() {
            outlet.notice(NoticeKind::Mount, path);
        }
        Ok(outlet.tidied())
    }

    /// Mounts of which the contents are left out.
    pub fn left_mounts(&self) -> &[Vec<u8>] {
        &self.session.capture.left_mounts
    }

    /// Nothing of it is read any more: the machine is left meanwhile. What could not be done there is told to `meters`.
    pub fn let_go(&self, meters: Arc<Meters>) {
        let Some(UnderWay { archive, thread, is_listed, .. }) = self.lock().take() else { return };
        meters.own_reader.store(is_listed, Ordering::Relaxed);
        self.session.watchers.set(meters, Arc::new(Silent));
        self.session.is_released.store(true, Ordering::Relaxed);
        drop(archive);
        *self.leaving.lock().unwrap_or_else(PoisonError::into_inner) = Some(thread);
    }

    /// Returns when the machine is left, after a stream or [`Transfer::let_go`].
    pub async fn left(&self) {
        let thread = self.leaving.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(thread) = thread else { return };
        let left = tokio::task::spawn_blocking(move || thread.join()).await;
        if let Some(meters) = self.session.watchers.meters() {
            self.session.told_to(meters);
            if let Ok(Ok(Err(error))) = left {
                meters.left_undone(error.to_string());
            }
        }
    }

    /// Lets it go, where it still goes on, and returns when the machine is left.
    pub async fn release(&self) {
        self.let_go(Arc::default());
        self.left().await;
    }
}

impl Machine {
    /// Carries the machine's files over as one tar, into `outlet`; see [`Transfer`].
    ///
    /// # Errors
    /// Those of [`Transfer::begin`] and [`Transfer::stream`].
    pub fn stream(&self, selection: &Selection, outlet: Outlet, stop: &Stop, runtime: &Handle) -> Result<Notices> {
        let transfer = Transfer::begin(self, selection, None, stop, runtime)?;
        let streamed = transfer.stream(None, outlet);
        runtime.block_on(transfer.left());
        streamed
    }

    /// For tests: the whole stream into `writer`, without a pipeline.
    ///
    /// # Errors
    /// Those of [`Machine::stream`], and those of `writer`.
    #[doc(hidden)]
    pub fn copy_to(
        &self,
        selection: &Selection,
        writer: &mut (dyn std::io::Write + Send),
        stop: &Stop,
        runtime: &Handle,
    ) -> Result<(Notices, u64)> {
        let meters = Arc::new(Meters::default());
        let (pieces, edge) = crossbeam_channel::bounded(4);
        let outlet = Outlet::new(pieces, Memory::new(8 << 20, stop.clone()), Arc::clone(&meters), Arc::new(Silent));
        std::thread::scope(|scope| {
            let source = scope.spawn(|| self.stream(selection, outlet, stop, runtime));
            let mut written = Ok(());
            for piece in edge {
                if let Piece::Bytes(bytes) = piece {
                    written = written.and_then(|()| writer.write_all(&bytes));
                }
            }
            let notices = source.join().unwrap_or_else(|_| Err(Error::hung_up("the source")))?;
            written.map_err(|error| Error::sink("writing", "the test's file", error))?;
            Ok((notices, meters.source.read().retries))
        })
    }
}

//! Upload sessions: a blob on its way, in a temporary file of the layout, hashed as it grows.
//!
//! A session takes one request at a time. What arrived stays, also when a request was cut off in its middle. Sessions
//! don't outlive the process; their files are removed by whoever opens the layout next.

use std::collections::HashMap;
use std::os::unix::fs::FileExt as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tempfile::NamedTempFile;
use tokio::sync::OwnedMutexGuard;

use super::fault::{Code, Fault};
use super::name::{self, Repository};
use super::store::Store;
use crate::error::Result;
use crate::layout::io_failed;
use crate::oci::Digest;
use crate::stage::digest::DigestHasher;

/// After a cut, the request that was cut off needs a moment to see it.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(2);

/// A request that only looks at a session has it for a moment.
const LOOK_TIMEOUT: Duration = Duration::from_millis(100);

/// A session while a request has it.
pub type Held = OwnedMutexGuard<Option<Upload>>;

/// A blob's bytes so far.
#[derive(Debug)]
pub struct Upload {
    file: NamedTempFile,
    hasher: DigestHasher,
    received: Arc<AtomicU64>,
}

/// One session. Without an upload in it, it is over.
#[derive(Debug, Clone)]
pub struct Session {
    /// Its name in a URL.
    pub id: String,
    repository: Repository,
    upload: Arc<tokio::sync::Mutex<Option<Upload>>>,
    received: Arc<AtomicU64>,
    used: Arc<Mutex<Instant>>,
}

/// All sessions that are open.
#[derive(Debug)]
pub struct Sessions {
    open: Mutex<HashMap<String, Session>>,
    count_max: usize,
    idle_max: Duration,
}

impl Upload {
    /// Bytes received.
    #[must_use]
    pub fn received(&self) -> u64 {
        self.received.load(Ordering::Acquire)
    }

    /// Adds the next bytes; blocks. A write that failed half-way does not count.
    ///
    /// # Errors
    /// When the disk does not take them.
    pub fn append(&mut self, slices: &[Bytes]) -> Result<()> {
        for bytes in slices {
            self.file
                .as_file()
                .write_all_at(bytes, self.received())
                .map_err(|error| io_failed("writing an upload", self.file.path(), error))?;
            self.hasher.update(bytes);
            self.received.fetch_add(bytes.len() as u64, Ordering::AcqRel);
        }
        Ok(())
    }

    /// Makes a blob of what was received; blocks. If it is another one, nothing is kept.
    ///
    /// # Errors
    /// `DIGEST_INVALID`; when the disk fails.
    pub fn finish(self, store: &Store, expected: Digest) -> std::result::Result<(), Fault> {
        let (digest, size) = self.hasher.finish();
        if digest != expected {
            let words = format!("the {size} bytes received are {digest}, not {expected}");
            return Err(Fault::new(Code::DigestInvalid, words));
        }
        let set = self.file.as_file().set_len(size);
        set.map_err(|error| io_failed("writing an upload", self.file.path(), error))?;
        Ok(store.publish(self.file, digest)?)
    }
}

impl Session {
    /// Takes the session for one request; none while another has it.
    #[must_use]
    pub fn hold(&self) -> Option<Held> {
        self.touch();
        Arc::clone(&self.upload).try_lock_owned().ok()
    }

    /// As [`Self::hold`], past one that only looks at it.
    pub async fn hold_in_turn(&self) -> Option<Held> {
        self.touch();
        tokio::time::timeout(LOOK_TIMEOUT, Arc::clone(&self.upload).lock_owned()).await.ok()
    }

    /// How many bytes it has, so far if a request is adding to it; none if it is over.
    pub async fn received(&self) -> Option<u64> {
        self.touch();
        let is_over = tokio::time::timeout(SETTLE_TIMEOUT, self.upload.lock()).await.is_ok_and(|held| held.is_none());
        (!is_over).then(|| self.received.load(Ordering::Acquire))
    }

    /// What is said of a session that there isn't, or no more.
    #[must_use]
    pub fn is_over(id: &str) -> Fault {
        let words = format!("there is no upload '{}' here; begin again", name::shown(id));
        Fault::new(Code::BlobUploadUnknown, words)
    }

    fn touch(&self) {
        *self.used.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    fn is_idle(&self, idle_max: Duration) -> bool {
        self.upload.try_lock().is_ok() && self.used.lock().unwrap_or_else(PoisonError::into_inner).elapsed() >= idle_max
    }
}

impl Sessions {
    /// At most `count_max` at a time; one that nobody asked for in `idle_max` is dropped.
    #[must_use]
    pub fn new(count_max: usize, idle_max: Duration) -> Self {
        Self { open: Mutex::default(), count_max, idle_max }
    }

    /// Opens a session; blocks.
    ///
    /// # Errors
    /// `TOOMANYREQUESTS` when all are taken; when the disk fails.
    pub fn open(&self, store: &Store, repository: &Repository) -> std::result::Result<Session, Fault> {
        let received = Arc::<AtomicU64>::default();
        let file = store.temporary_blob()?;
        let upload = Upload { file, hasher: DigestHasher::default(), received: Arc::clone(&received) };
        let session = Session {
            id: format!("{:032x}", fastrand::u128(..)),
            repository: repository.clone(),
            upload: Arc::new(tokio::sync::Mutex::new(Some(upload))),
            received,
            used: Arc::new(Mutex::new(Instant::now())),
        };
        let mut open = self.lock();
        if open.len() >= self.count_max {
            let words = format!("{} uploads are open already", open.len());
            return Err(Fault::new(Code::TooManyRequests, words));
        }
        open.insert(session.id.clone(), session.clone());
        Ok(session)
    }

    /// Finds a session of a repository.
    ///
    /// # Errors
    /// `BLOB_UPLOAD_UNKNOWN`.
    pub fn find(&self, repository: &Repository, id: &str) -> std::result::Result<Session, Fault> {
        let found = self.lock().get(id).filter(|session| session.repository == *repository).cloned();
        found.ok_or_else(|| Session::is_over(id))
    }

    /// Ends a session; its file goes unless it became a blob.
    pub fn close(&self, session: &Session) {
        self.lock().remove(&session.id);
    }

    /// Drops what was idle for too long.
    pub fn drop_idle(&self) {
        self.lock().retain(|_, session| !session.is_idle(self.idle_max));
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Session>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nobody_asks_for_is_dropped_with_its_file() {
        let folder = tempfile::tempdir().unwrap();
        let repository = Repository::parse("a").unwrap();
        let store = Store::make(folder.path(), repository.clone()).unwrap();
        let files = || std::fs::read_dir(folder.path().join("blobs/sha256")).unwrap().count();
        let sessions = Sessions::new(2, Duration::ZERO);
        let (idle, busy) = (sessions.open(&store, &repository).unwrap(), sessions.open(&store, &repository).unwrap());
        assert!(sessions.open(&store, &repository).unwrap_err().to_string().contains("TOOMANYREQUESTS"));
        let held = busy.hold();
        assert!(held.is_some() && busy.hold().is_none() && files() == 2);
        drop((sessions.find(&repository, &idle.id), idle));
        sessions.drop_idle();
        assert!(sessions.find(&repository, &busy.id).is_ok() && files() == 1);
        drop((held, busy));
        sessions.drop_idle();
        assert_eq!(files(), 0);
        let patient = Sessions::new(1, Duration::from_secs(3600));
        let open = patient.open(&store, &repository).unwrap();
        patient.drop_idle();
        assert!(patient.find(&repository, &open.id).is_ok());
    }

    #[test]
    fn a_write_that_failed_does_not_count() {
        let folder = tempfile::tempdir().unwrap();
        let repository = Repository::parse("a").unwrap();
        let store = Store::make(folder.path(), repository.clone()).unwrap();
        let sessions = Sessions::new(1, Duration::MAX);
        let session = sessions.open(&store, &repository).unwrap();
        let mut upload = session.hold().unwrap().take().unwrap();
        upload.append(&[Bytes::from_static(b"good")]).unwrap();
        // As a full disk leaves it: some bytes are in the file, and nobody heard of them.
        upload.file.as_file().write_all_at(b"ba", 4).unwrap();
        let digest = DigestHasher::of(b"good");
        upload.finish(&store, digest).unwrap();
        assert_eq!(store.blob(digest).unwrap().1, 4);
    }
}

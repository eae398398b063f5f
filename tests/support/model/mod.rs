//! A registry of the tests' own: it holds what it is given, computes digests instead of believing them, and has habits that
//! real registries are reported to have. `docs/registries.md` says whose they are.

mod http;
mod names;
mod sessions;
mod tokens;

use std::collections::HashMap;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

use self::http::{Answer, Connection, Request};
pub use self::names::Deletes;
use self::sessions::Session;
pub use self::tokens::Tokens;

const MIB: u64 = 1 << 20;

/// What it does with a `PATCH`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Parts {
    /// Adds it, if it says that it begins where the session is, or says nothing.
    Added,
    /// It replaces all that came before.
    Replacing,
    /// Takes one that begins at the first byte, and none after it.
    Single,
    /// Refuses it.
    Refused(u16),
}

/// Which `Range` it gives, of what a session has.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Told {
    Truth,
    /// For ever what the first part was.
    FirstPart,
    LastPart,
    Nothing,
}

/// What becomes of a body that was cut.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Torn {
    /// What came of it is part of the session.
    Kept,
    /// It is as if it had never been.
    Dropped,
    /// The session answers 404 from then on, to a cancellation, too.
    EndsSession,
}

/// What it does with `?mount=DIGEST&from=REPOSITORY`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Mounts {
    Done,
    Ignored,
    Refused(u16),
}

/// What a registry does otherwise than the specification's own.
#[derive(Clone)]
pub struct Habits {
    pub parts: Parts,
    pub patch_status: u16,
    /// A `PATCH` with Content-Range and more bytes is 416.
    pub ranged_bytes_max: u64,
    /// `OCI-Chunk-Min-Length`: a smaller `PATCH` is 416.
    pub part_bytes_min: Option<u64>,
    /// The answer to a `PATCH` has a `Location`.
    pub is_located: bool,
    /// The answers have `Docker-Upload-UUID`.
    pub is_numbered: bool,
    pub told: Told,
    pub finish_status: u16,
    /// The answer to a session's `GET`, if it is none.
    pub status_refused: Option<u16>,
    /// The answer to a blob's `HEAD`, if it is none.
    pub head_refused: Option<u16>,
    /// A larger body is 413.
    pub body_bytes_max: u64,
    /// Requests go to a front end, which wants a password and passes all of them on with this status.
    pub passed_on: Option<u16>,
    /// So long after the last blob a manifest is 404 `MANIFEST_BLOB_UNKNOWN`.
    pub lag: Duration,
    /// Manifests with layers in zstd are 400.
    pub refuses_zstd: bool,
    pub mounts: Mounts,
    /// It wants tokens.
    pub tokens: Option<Tokens>,
    pub torn: Torn,
    /// Which large bodies are cut in their middle, counted from 1 on.
    pub cut: &'static [usize],
    /// A session takes no more than this: 507.
    pub room: u64,
    pub deletes: Deletes,
    /// So many tags are on a page of their list.
    pub tags_a_page: usize,
}

impl Default for Habits {
    fn default() -> Self {
        Self {
            parts: Parts::Added,
            patch_status: 202,
            ranged_bytes_max: u64::MAX,
            part_bytes_min: None,
            is_located: true,
            is_numbered: true,
            told: Told::Truth,
            finish_status: 201,
            status_refused: None,
            head_refused: None,
            body_bytes_max: u64::MAX,
            passed_on: None,
            lag: Duration::ZERO,
            refuses_zstd: false,
            mounts: Mounts::Ignored,
            tokens: None,
            torn: Torn::Kept,
            cut: &[],
            room: u64::MAX,
            deletes: Deletes::Tags,
            tags_a_page: usize::MAX,
        }
    }
}

/// A running model. Its threads end with the connections, and with the process.
pub struct Model {
    /// Where clients find it.
    pub address: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    habits: Habits,
    /// Where clients find it: that of the front end, if there is one.
    address: SocketAddr,
    /// Where it answers itself.
    own_address: SocketAddr,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// By repository and digest.
    blobs: HashMap<(String, String), Arc<Vec<u8>>>,
    /// By repository and tag, or digest: the media type, and the bytes.
    manifests: HashMap<(String, String), (String, Vec<u8>)>,
    sessions: HashMap<u64, Session>,
    opened: u64,
    body_bytes: u64,
    large_bodies: usize,
    cuts: usize,
    last_blob: Option<Instant>,
    /// Method and target of each request, in order.
    requests: Vec<String>,
    /// Credentials came where they don't belong.
    is_leaked: bool,
}

impl Model {
    pub fn start(habits: Habits) -> Self {
        let own = TcpListener::bind("127.0.0.1:0").expect("a port");
        let own_address = own.local_addr().expect("an address");
        let front = habits.passed_on.map(|status| (status, TcpListener::bind("127.0.0.1:0").expect("a port")));
        let address = front.as_ref().map_or(own_address, |(_, front)| front.local_addr().expect("an address"));
        let shared = Arc::new(Shared { habits, address, own_address, state: Mutex::default() });
        let answering = Arc::clone(&shared);
        listen(own, move |connection| answering.answer(connection));
        if let Some((status, front)) = front {
            let passing = Arc::clone(&shared);
            listen(front, move |connection| passing.pass_on(connection, status));
        }
        Self { address, shared }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.shared.state()
    }

    /// The manifest under a tag.
    pub fn manifest(&self, repository: &str, tag: &str) -> Option<serde_json::Value> {
        let (_, bytes) = self.state().manifests.get(&(repository.to_owned(), tag.to_owned()))?.clone();
        Some(serde_json::from_slice(&bytes).expect("a manifest"))
    }

    /// Bytes of all bodies that it read of sessions' requests.
    pub fn body_bytes(&self) -> u64 {
        self.state().body_bytes
    }

    /// Bytes of all blobs.
    pub fn blob_bytes(&self) -> u64 {
        self.state().blobs.values().map(|blob| blob.len() as u64).sum()
    }

    /// Bodies that were cut.
    pub fn cuts(&self) -> usize {
        self.state().cuts
    }

    /// Sessions that are neither finished nor cancelled, and could be.
    pub fn open_sessions(&self) -> usize {
        self.state().sessions.values().filter(|session| !session.is_lost).count()
    }

    pub fn is_leaked(&self) -> bool {
        self.state().is_leaked
    }

    /// Method and target of each request.
    pub fn requests(&self) -> Vec<String> {
        self.state().requests.clone()
    }
}

fn listen(listener: TcpListener, answer: impl Fn(Connection) -> io::Result<()> + Send + Sync + 'static) {
    let answer = Arc::new(answer);
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let answer = Arc::clone(&answer);
            // Errors end a connection, as they do in life.
            thread::spawn(move || Connection::new(stream).and_then(|connection| answer(connection)));
        }
    });
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("the state")
    }

    /// The front end: it reads no body.
    fn pass_on(&self, mut connection: Connection, status: u16) -> io::Result<()> {
        let request = connection.request()?;
        let answer = if request.header("authorization").is_none() {
            Answer::error(401, "UNAUTHORIZED").with("WWW-Authenticate", "Basic realm=\"front\"")
        } else {
            Answer::of(status).with("Location", &format!("http://{}{}", self.own_address, request.target))
        };
        connection.answer(&request, &answer)
    }

    fn answer(&self, mut connection: Connection) -> io::Result<()> {
        let request = connection.request()?;
        {
            let mut state = self.state();
            state.requests.push(format!("{} {}", request.method, request.target));
            state.is_leaked |= self.habits.passed_on.is_some() && request.header("authorization").is_some();
        }
        if let Some(answer) = self.gate(&request) {
            return connection.answer(&request, &answer);
        }
        let path = request.path().strip_prefix("/v2/").map(str::to_owned);
        let answer = match path.as_deref() {
            None => Answer::error(404, "NOT_FOUND"),
            Some("") => Answer::of(200),
            Some(path) => {
                if let Some((repository, id)) = path.split_once("/blobs/uploads/") {
                    match self.upload(&mut connection, &request, repository, id)? {
                        Some(answer) => answer,
                        // Cut.
                        None => return Ok(()),
                    }
                } else if let Some(repository) = path.strip_suffix("/tags/list") {
                    self.tags(&request, repository)
                } else if let Some((repository, digest)) = path.split_once("/blobs/") {
                    self.blob(&request, repository, digest)
                } else if let Some((repository, name)) = path.split_once("/manifests/") {
                    self.manifest(&mut connection, &request, repository, name)?
                } else {
                    Answer::error(404, "NOT_FOUND")
                }
            }
        };
        connection.answer(&request, &answer)
    }

    fn blob(&self, request: &Request, repository: &str, digest: &str) -> Answer {
        if let Some(status) = self.habits.head_refused.filter(|_| request.method == "HEAD") {
            return Answer::of(status);
        }
        match self.state().blobs.get(&(repository.to_owned(), digest.to_owned())) {
            Some(bytes) => Answer { body: Arc::clone(bytes), ..Answer::of(200) },
            None => Answer::error(404, "BLOB_UNKNOWN"),
        }
    }

    fn manifest(
        &self,
        connection: &mut Connection,
        request: &Request,
        repository: &str,
        name: &str,
    ) -> io::Result<Answer> {
        let key = |name: &str| (repository.to_owned(), name.to_owned());
        if request.method == "DELETE" {
            return Ok(self.delete(repository, name));
        }
        if request.method != "PUT" {
            return Ok(match self.state().manifests.get(&key(name)) {
                Some((media_type, bytes)) => Answer { body: Arc::new(bytes.clone()), ..Answer::of(200) }
                    .with("Content-Type", media_type)
                    .with("Docker-Content-Digest", &sessions::sha256(bytes)),
                None => Answer::error(404, "MANIFEST_UNKNOWN"),
            });
        }
        let body = connection.body(request, u64::MAX, u64::MAX)?.bytes;
        let manifest: serde_json::Value = serde_json::from_slice(&body).map_err(io::Error::other)?;
        let mut state = self.state();
        // An index names no blobs.
        let named = manifest["layers"].as_array().into_iter().flatten().chain(manifest.get("config"));
        let named: Vec<_> = named.collect();
        let is_known = |named: &&serde_json::Value| {
            let digest = named["digest"].as_str().unwrap_or_default();
            let blob = state.blobs.get(&key(digest));
            blob.is_some_and(|blob| Some(blob.len() as u64) == named["size"].as_u64())
        };
        if !named.iter().all(is_known) || state.last_blob.is_some_and(|last| last.elapsed() < self.habits.lag) {
            return Ok(Answer::error(404, "MANIFEST_BLOB_UNKNOWN"));
        }
        let is_zstd =
            |named: &&serde_json::Value| named["mediaType"].as_str().is_some_and(|text| text.ends_with("zstd"));
        if self.habits.refuses_zstd && named.iter().any(is_zstd) {
            return Ok(Answer::error(400, "MANIFEST_INVALID"));
        }
        let (digest, media_type) = (sessions::sha256(&body), request.header("content-type").unwrap_or_default());
        for name in [name, &digest] {
            state.manifests.insert(key(name), (media_type.to_owned(), body.clone()));
        }
        Ok(Answer::of(201).with("Docker-Content-Digest", &digest))
    }
}

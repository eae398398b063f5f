//! A model's upload sessions.

use std::fmt::Write as _;
use std::io;
use std::sync::Arc;
use std::time::Instant;

use sha2::{Digest as _, Sha256};

use super::http::{Answer, Connection, End, Request};
use super::{MIB, Mounts, Parts, Shared, Told, Torn};

/// Smaller bodies are never cut.
const LARGE_BYTES: u64 = MIB / 2;

#[derive(Clone, Default)]
pub struct Session {
    bytes: Vec<u8>,
    parts: usize,
    first_part_bytes: u64,
    last_part_bytes: u64,
    pub is_lost: bool,
}

pub fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().fold("sha256:".to_owned(), |mut text, byte| {
        write!(text, "{byte:02x}").expect("a string takes all");
        text
    })
}

impl Shared {
    /// None where the connection is to be cut.
    pub(super) fn upload(
        &self,
        connection: &mut Connection,
        request: &Request,
        repository: &str,
        id: &str,
    ) -> io::Result<Option<Answer>> {
        if id.is_empty() {
            return Ok(Some(self.open(request, repository)));
        }
        let unknown = Answer::error(404, "BLOB_UPLOAD_INVALID");
        let number = id.parse().unwrap_or(0);
        let Some(session) = self.state().sessions.get(&number).cloned().filter(|session| !session.is_lost) else {
            return Ok(Some(unknown));
        };
        match request.method.as_str() {
            "GET" => Ok(Some(match self.habits.status_refused {
                Some(status) => Answer::of(status),
                None => self.located(204, repository, number, &session),
            })),
            "DELETE" => {
                self.state().sessions.remove(&number);
                Ok(Some(Answer::of(204)))
            }
            _ => {
                if let Some(refusal) = self.refusal(request, &session) {
                    return Ok(Some(refusal));
                }
                self.take(connection, request, repository, (number, session))
            }
        }
    }

    fn open(&self, request: &Request, repository: &str) -> Answer {
        if let (Mounts::Refused(status), Some(_)) = (self.habits.mounts, request.field("mount")) {
            return Answer::of(status);
        }
        let mut state = self.state();
        if let (Mounts::Done, Some(digest), Some(from)) =
            (self.habits.mounts, request.field("mount"), request.field("from"))
            && let Some(blob) = state.blobs.get(&(from, digest.clone())).cloned()
        {
            state.blobs.insert((repository.to_owned(), digest), blob);
            return Answer::of(201);
        }
        state.opened += 1;
        let number = state.opened;
        state.sessions.insert(number, Session::default());
        drop(state);
        let answer = self.located(202, repository, number, &Session::default());
        match self.habits.part_bytes_min {
            Some(bytes) => answer.with("OCI-Chunk-Min-Length", &bytes.to_string()),
            None => answer,
        }
    }

    fn located(&self, status: u16, repository: &str, number: u64, session: &Session) -> Answer {
        let mut answer = Answer::of(status);
        if self.habits.is_located || status != self.habits.patch_status || session.parts == 0 {
            let place = format!("http://{}/v2/{repository}/blobs/uploads/{number}?state=a%2Bb", self.address);
            answer = answer.with("Location", &place);
        }
        if self.habits.is_numbered {
            answer = answer.with("Docker-Upload-UUID", &number.to_string());
        }
        let received = match self.habits.told {
            Told::Truth => session.bytes.len() as u64,
            Told::FirstPart => session.first_part_bytes,
            Told::LastPart => session.last_part_bytes,
            Told::Nothing => return answer,
        };
        answer.with("Range", &format!("0-{}", received.saturating_sub(1)))
    }

    /// What a request is refused with before its body is read.
    fn refusal(&self, request: &Request, session: &Session) -> Option<Answer> {
        let habits = &self.habits;
        if request.length().is_some_and(|length| length > habits.body_bytes_max) {
            return Some(Answer { body: Arc::new(b"<html>".to_vec()), ..Answer::of(413) });
        }
        let held = session.bytes.len() as u64;
        if held.saturating_add(request.length().unwrap_or(0)) > habits.room {
            return Some(Answer::error(507, "UNKNOWN"));
        }
        if request.method != "PATCH" {
            return None;
        }
        let range = request.header("content-range");
        let from: Option<u64> = range.and_then(|range| range.split('-').next()?.parse().ok());
        match habits.parts {
            Parts::Refused(status) => return Some(Answer::of(status)),
            Parts::Single if session.parts > 0 || from.is_some_and(|from| from > 0) => {
                return Some(Answer::error(400, "UNSUPPORTED"));
            }
            Parts::Added if from.is_some_and(|from| from != held) => {
                return Some(Answer::error(416, "BLOB_UPLOAD_INVALID"));
            }
            _ => {}
        }
        let is_small = request.length().is_some_and(|length| length < habits.part_bytes_min.unwrap_or(0));
        let is_large = range.is_some() && request.length().is_some_and(|length| length > habits.ranged_bytes_max);
        (is_small || is_large).then(|| Answer::error(416, "BLOB_UPLOAD_INVALID"))
    }

    fn take(
        &self,
        connection: &mut Connection,
        request: &Request,
        repository: &str,
        (number, mut session): (u64, Session),
    ) -> io::Result<Option<Answer>> {
        let habits = &self.habits;
        let body = connection.body(request, self.cut_at(request), habits.body_bytes_max)?;
        let length = body.bytes.len() as u64;
        self.state().body_bytes += length;
        if body.end == End::TooLarge {
            return Ok(Some(Answer::of(413)));
        }
        if body.end == End::Whole || habits.torn == Torn::Kept {
            if habits.parts == Parts::Replacing && length > 0 {
                session.bytes.clear();
            }
            session.bytes.extend_from_slice(&body.bytes);
            session.parts += 1;
            session.last_part_bytes = length;
            if session.parts == 1 {
                session.first_part_bytes = length;
            }
        }
        if body.end == End::Cut {
            session.is_lost = habits.torn == Torn::EndsSession;
            self.state().sessions.insert(number, session);
            return Ok(None);
        }
        if request.method == "PATCH" {
            let answer = self.located(habits.patch_status, repository, number, &session);
            self.state().sessions.insert(number, session);
            return Ok(Some(answer));
        }
        Ok(Some(self.finish(request, repository, (number, session))))
    }

    fn finish(&self, request: &Request, repository: &str, (number, session): (u64, Session)) -> Answer {
        let digest = sha256(&session.bytes);
        let mut state = self.state();
        state.sessions.remove(&number);
        if request.field("digest").as_ref() != Some(&digest) {
            return Answer::error(400, "DIGEST_INVALID");
        }
        state.last_blob = Some(Instant::now());
        state.blobs.insert((repository.to_owned(), digest), Arc::new(session.bytes));
        Answer::of(self.habits.finish_status)
    }

    /// Where this body ends early.
    fn cut_at(&self, request: &Request) -> u64 {
        let length = request.length();
        if length.is_some_and(|length| length < LARGE_BYTES) {
            return u64::MAX;
        }
        let mut state = self.state();
        state.large_bodies += 1;
        if !self.habits.cut.contains(&state.large_bodies) {
            return u64::MAX;
        }
        state.cuts += 1;
        // Of one whose end isn't known, so much that nobody holds all of it any more.
        length.map_or(40 * MIB, |length| length / 2)
    }
}

//! The upload's core against a registry that answers as a fuzzer likes. For `fuzz/` and tests only.
//!
//! The scripted registry lies about everything but one thing: it takes a blob only if its bytes have its digest, as a
//! real one does. Then [`drive`] checks that an upload which says it is done is done, that progress is the blob's size
//! and never more, and that the number of requests is bounded.

use std::collections::VecDeque;
use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use sha2::{Digest as _, Sha256};

use super::content::Content;
use super::failure::{Cause, Code, Failure, Io, Stale, Step};
use super::parts::{Live, Parts};
use super::report::{Patience, RegistryOptions, Report};
use super::retry;
use super::upload::{Sessions, Upload};
use super::wire::{Accepted, Found, Opened, Session, Wire};
use crate::oci::{Descriptor, Digest};
use crate::pipeline::gather::{Body, LiveEnd, LiveLayer, LivePiece};
use crate::progress::{Meters, Observer};
use crate::sink::SinkContext;
use crate::stage::digest::DiffIdHasher;
use crate::stop::Stop;

/// Past so many requests an upload does not end.
const REQUESTS_MAX: u64 = 20_000;

/// A registry that takes its answers from a script of bytes, and is honest once the script is at its end.
#[derive(Debug)]
struct Scripted(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    script: VecDeque<u8>,
    session: Option<Vec<u8>>,
    sessions: u64,
    stored: Option<Vec<u8>>,
    requests: u64,
    /// Bytes of the bodies that came, one after the other.
    bodies: Vec<usize>,
}

/// What becomes of a request.
enum Fate {
    /// It is carried out and answered.
    Honest,
    /// It is carried out, and the answer says this many bytes were received.
    Lie(Option<u64>),
    /// It is carried out in part, and the answer is lost.
    Cut,
    /// It is refused.
    Failed(Cause),
}

impl Scripted {
    fn with<T>(&self, work: impl FnOnce(&mut State) -> T) -> T {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.requests += 1;
        assert!(state.requests <= REQUESTS_MAX, "the upload does not end");
        work(&mut state)
    }
}

impl State {
    fn fate(&mut self) -> Fate {
        let status = |status, code| Fate::Failed(Cause::Status { status, code });
        match self.script.pop_front().unwrap_or(0) {
            1 => Fate::Lie(self.script.pop_front().map(u64::from)),
            2 => Fate::Lie(Some(u64::MAX)),
            3 => Fate::Lie(None),
            4 | 5 => Fate::Cut,
            6 => {
                self.session = None;
                status(404, Some(Code::BlobUploadInvalid))
            }
            7 => status(404, Some(Code::BlobUploadUnknown)),
            8 => status(416, None),
            9 => status(401, None),
            10 => status(429, None),
            11 => status(502, None),
            12 => status(400, Some(Code::DigestInvalid)),
            13 => status(u16::from(self.script.pop_front().unwrap_or(0)) + 300, Some(Code::Other)),
            14 => Fate::Failed(Cause::Io(Io::Unreachable)),
            15 => Fate::Failed(Cause::Io(Io::Stalled)),
            16 => Fate::Failed(Cause::Nonsense),
            _ => Fate::Honest,
        }
    }

    /// Bytes of `body` that arrive before a cut.
    fn cut(&mut self, body: &[u8]) -> usize {
        body.len() * usize::from(self.script.pop_front().unwrap_or(0)) / 255
    }

    fn honest(&self, at: &Session) -> Accepted {
        Accepted { session: at.clone(), received: self.session.as_ref().map(|session| session.len() as u64) }
    }

    fn lost(step: Step) -> Failure {
        Failure::new(step, Cause::Status { status: 404, code: Some(Code::BlobUploadUnknown) }, "unknown session")
    }

    fn is_current(&self, at: &Session) -> bool {
        self.session.is_some() && at.0.path() == format!("/{}", self.sessions)
    }
}

fn failed(step: Step, cause: Cause) -> Failure {
    Failure::new(step, cause, "as the script says")
}

/// A whole body, as a registry gets it.
async fn read(step: Step, content: &Content) -> Result<Vec<u8>, Failure> {
    let pieces: Result<Vec<Bytes>, _> = futures_util::TryStreamExt::try_collect(content.stream()).await;
    pieces.map(|pieces| pieces.concat()).map_err(|error| Failure::local(step, error))
}

fn cut(step: Step) -> Failure {
    failed(step, Cause::Io(Io::Cut))
}

impl Wire for Scripted {
    async fn head(&self, digest: &Digest) -> Result<Found, Failure> {
        self.with(|state| match state.fate() {
            Fate::Failed(Cause::Status { status: 404, .. }) => Ok(Found::Absent),
            Fate::Failed(cause) => Err(failed(Step::Head, cause)),
            Fate::Cut => Err(cut(Step::Head)),
            _ => Ok(match &state.stored {
                Some(stored) if hash(stored) == *digest => Found::Present { size: Some(stored.len() as u64) },
                _ => Found::Absent,
            }),
        })
    }

    async fn open(&self) -> Result<Opened, Failure> {
        self.with(|state| {
            let fate = state.fate();
            if let Fate::Failed(cause) = fate {
                return Err(failed(Step::Open, cause));
            }
            state.sessions += 1;
            state.session = Some(Vec::new());
            let url = format!("http://registry.example/{}", state.sessions).parse();
            let session = Session(url.map_err(|_| failed(Step::Open, Cause::Nonsense))?);
            match fate {
                Fate::Cut => Err(cut(Step::Open)),
                Fate::Lie(part_bytes_min) => Ok(Opened { session, part_bytes_min }),
                _ => Ok(Opened { session, part_bytes_min: None }),
            }
        })
    }

    async fn mount(&self, _: &Digest, _: &str) -> Result<Option<Opened>, Failure> {
        self.open().await.map(Some)
    }

    async fn patch(&self, at: &Session, offset: Option<u64>, content: Content) -> Result<Accepted, Failure> {
        let body = read(Step::Patch, &content).await?;
        self.with(|state| {
            if !state.is_current(at) {
                return Err(State::lost(Step::Patch));
            }
            let fate = state.fate();
            state.bodies.push(body.len());
            if let Fate::Failed(cause) = fate {
                return Err(failed(Step::Patch, cause));
            }
            let arrives = if matches!(fate, Fate::Cut) { state.cut(&body) } else { body.len() };
            let Some(session) = state.session.as_mut().filter(|session| session.len() as u64 == offset.unwrap_or(0))
            else {
                return Err(failed(Step::Patch, Cause::Status { status: 416, code: None }));
            };
            session.extend_from_slice(&body[..arrives]);
            match fate {
                Fate::Cut => Err(cut(Step::Patch)),
                Fate::Lie(lie) => Ok(Accepted { session: at.clone(), received: lie }),
                _ => Ok(state.honest(at)),
            }
        })
    }

    async fn status(&self, at: &Session) -> Result<Accepted, Failure> {
        self.with(|state| match state.fate() {
            _ if !state.is_current(at) => Err(State::lost(Step::Status)),
            Fate::Failed(cause) => Err(failed(Step::Status, cause)),
            Fate::Cut => Err(cut(Step::Status)),
            Fate::Lie(lie) => Ok(Accepted { session: at.clone(), received: lie }),
            Fate::Honest => Ok(state.honest(at)),
        })
    }

    async fn finish(&self, at: &Session, digest: &Digest, content: Content) -> Result<(), Failure> {
        let body = read(Step::Finish, &content).await?;
        self.with(|state| {
            if !state.is_current(at) {
                return Err(State::lost(Step::Finish));
            }
            let fate = state.fate();
            state.bodies.push(body.len());
            if let Fate::Failed(cause) = fate {
                return Err(failed(Step::Finish, cause));
            }
            let mut blob = state.session.take().unwrap_or_default();
            blob.extend(body);
            if hash(&blob) != *digest {
                return Err(failed(Step::Finish, Cause::Status { status: 400, code: Some(Code::DigestInvalid) }));
            }
            state.stored = Some(blob);
            if matches!(fate, Fate::Cut) { Err(cut(Step::Finish)) } else { Ok(()) }
        })
    }

    async fn cancel(&self, at: &Session) -> Result<(), Failure> {
        self.with(|state| match state.fate() {
            Fate::Failed(cause) => Err(failed(Step::Cancel, cause)),
            Fate::Cut => Err(cut(Step::Cancel)),
            _ => {
                if state.is_current(at) {
                    state.session = None;
                }
                Ok(())
            }
        })
    }

    async fn refresh(&self, _: &Stale) -> Result<(), Failure> {
        self.with(|state| match state.fate() {
            Fate::Failed(cause) => Err(failed(Step::Token, cause)),
            _ => Ok(()),
        })
    }
}

fn hash(bytes: &[u8]) -> Digest {
    Digest::from_bytes(Sha256::digest(bytes).into())
}

#[derive(Debug, Default)]
struct Sum(AtomicU64);

impl Observer for Sum {
    fn part_sent(&self, _: usize, bytes: u64) {
        self.0.fetch_add(bytes, Ordering::Relaxed);
    }
}

/// Uploads `blob`, in small parts or all at once, to a registry that answers by `script`, as a gathered layer, or live with
/// the first `held_bytes` held. Whether it arrived. Wants a runtime of tokio's with time; there are no delays.
///
/// # Panics
/// When the upload's word and the registry's state differ, progress is wrong, or the upload does not end.
pub async fn drive(blob: &[u8], script: &[u8], held_bytes: Option<usize>) -> bool {
    let (wire, seen) = (scripted(script), Arc::new(Sum::default()));
    let report = report(&seen);
    if script.first().is_some_and(|byte| byte % 2 == 1) {
        report.habits.was_too_large(20);
    }
    let (descriptor, sessions) =
        (Descriptor { media_type: String::new(), digest: hash(blob), size: blob.len() as u64 }, Sessions::default());

    let outcome = match held_bytes {
        None => {
            let body = Body::from_chunks(blob.chunks(7).map(Bytes::copy_from_slice).collect());
            let parts = Parts::Gathered { descriptor: &descriptor, body: &body };
            run(&wire, &sessions, &report, parts).await
        }
        Some(held_bytes) => {
            let (head, tail) = blob.split_at(held_bytes.min(blob.len()));
            let (sender, receiver) = tokio::sync::mpsc::channel(2);
            let head = Body::from_chunks(vec![Bytes::copy_from_slice(head)]);
            let layer = LiveLayer { index: 0, media_type: String::new(), workspace: false, head, tail: receiver };
            let diff_id = DiffIdHasher::default().finish().0;
            let end = LiveEnd { descriptor: descriptor.clone(), diff_id, tar_bytes: 0 };
            let feed = async {
                let pieces = tail.chunks(3).map(|piece| LivePiece::Bytes(Bytes::copy_from_slice(piece)));
                for piece in pieces.chain([LivePiece::End(end)]) {
                    if sender.send(piece).await.is_err() {
                        break;
                    }
                }
            };
            tokio::join!(
                run(&wire, &sessions, &report, Parts::Live(Arc::new(tokio::sync::Mutex::new(Live::new(layer, 10))))),
                feed
            )
            .0
        }
    };

    let progress = seen.0.load(Ordering::Relaxed);
    assert!(progress <= descriptor.size, "progress {progress} is more than there is");
    if outcome {
        assert_eq!(progress, descriptor.size, "done, but progress is wrong");
        wire.with(|state| assert_eq!(state.stored.as_deref(), Some(blob), "done, but the registry has something else"));
        assert!(sessions.take().len() <= usize::try_from(report.patience.restarts_max).unwrap_or(usize::MAX));
    }
    outcome
}

fn scripted(script: &[u8]) -> Scripted {
    Scripted(Mutex::new(State { script: script.iter().copied().collect(), ..State::default() }))
}

/// For parts of 10 bytes, without delays.
fn report(seen: &Arc<Sum>) -> Report {
    let context = SinkContext { observer: seen.clone(), meters: Arc::new(Meters::default()), stop: Stop::new() };
    let patience = Patience { first_delay: Duration::ZERO, longest_delay: Duration::ZERO, ..Patience::default() };
    let options = RegistryOptions { part_bytes: 10, patience, ..RegistryOptions::default() };
    Report::new(&options, context, "registry.example".to_owned(), String::new())
}

fn run<'a>(
    wire: &'a Scripted,
    sessions: &'a Sessions,
    report: &'a Report,
    parts: Parts<'a>,
) -> impl Future<Output = bool> + 'a {
    let upload = Upload::new(wire, sessions, report, Some(0), parts);
    async move { retry::run(wire, report, "a blob", upload).await.is_ok() }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The bodies that an upload of 35 bytes in memory sends.
    async fn bodies(report: &Report, script: &[u8]) -> Vec<usize> {
        let (wire, blob, sessions) = (scripted(script), [7; 35], Sessions::default());
        let descriptor = Descriptor { media_type: String::new(), digest: hash(&blob), size: 35 };
        let body = Body::from_chunks(blob.chunks(8).map(Bytes::copy_from_slice).collect());
        assert!(run(&wire, &sessions, report, Parts::Gathered { descriptor: &descriptor, body: &body }).await);
        wire.with(|state| std::mem::take(&mut state.bodies))
    }

    #[tokio::test]
    async fn a_blob_goes_at_once_until_that_is_too_large() {
        let report = report(&Arc::default());
        assert_eq!(bodies(&report, &[]).await, [35]);
        // HEAD and POST are honest, then comes 413.
        assert_eq!(bodies(&report, &[0, 0, 13, 113]).await, [35, 17, 17, 1, 0]);
        assert_eq!(bodies(&report, &[]).await, [17, 17, 1, 0], "that it was too large stays known");
        // 8 bytes of the first part arrive.
        assert_eq!(bodies(&report, &[0, 0, 4, 128]).await, [17, 17, 10, 0], "it goes on from there");
        assert_eq!(bodies(&report, &[0, 0, 13, 113]).await, [17, 10, 10, 10, 5, 0]);
    }

    #[tokio::test]
    async fn a_body_of_the_smallest_size_that_is_too_large_is_an_error() {
        let too_large: Vec<u8> = [[0, 0], [13, 113]].concat().repeat(8);
        assert!(!drive(&[7; 35], &too_large, None).await);
    }

    #[tokio::test]
    async fn a_session_that_was_wrong_is_not_asked_again() {
        let report = report(&Arc::default());
        report.habits.was_too_large(34);
        // Of the first part 8 bytes arrive, the session says 12, and the next part is refused.
        let sent = bodies(&report, &[0, 0, 4, 128, 1, 12]).await;
        assert_eq!(sent, [17, 17, 17, 17, 1, 0]);
        assert!(!report.habits.can_resume());
    }

    #[tokio::test]
    async fn an_answer_that_was_lost_is_looked_for() {
        let report = report(&Arc::default());
        assert_eq!(bodies(&report, &[0, 0, 9]).await, [35, 35], "a token that expired");
        assert_eq!(bodies(&report, &[0, 0, 4]).await, [35], "it was there, though");
    }

    #[tokio::test]
    async fn any_script_ends_in_the_right_bytes_or_an_error() {
        let mut random = fastrand::Rng::with_seed(0x5eed);
        let mut arrived = [0, 0];
        for round in 0..3000 {
            let blob: Vec<u8> = (0..random.usize(..120)).map(|_| random.u8(..)).collect();
            let (length, fates) = (random.usize(..40), random.u8(2..60));
            let script: Vec<u8> = (0..length).map(|_| random.u8(..fates)).collect();
            let held_bytes = (round % 2 == 1).then(|| random.usize(..40));
            arrived[usize::from(drive(&blob, &script, held_bytes).await)] += 1;
        }
        assert!(arrived.iter().all(|count| *count > 100), "too one-sided to mean anything: {arrived:?}");
    }
}

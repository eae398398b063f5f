//! What a registry, or what stands before it, was seen to do: learned once a run, by whichever upload met it first.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use bytes::Bytes;
use tokio::sync::OnceCell;

use super::content::Content;
use super::failure::Failure;
use super::retry::{Verdict, verdict};
use super::upload::{PART_BYTES_MAX, Sessions};
use super::wire::{Session, Wire};
use crate::stage::digest::DigestHasher;

/// A registry that refuses bodies of this size has no use for smaller ones.
const BODY_BYTES_MIN: u64 = 1 << 20;
/// The empty blob of the image specification: harmless wherever it is left.
const EMPTY: [&[u8]; 2] = [b"{", b"}"];

/// The habits of one registry, over all its uploads.
#[derive(Debug)]
pub(super) struct Habits {
    /// No body is larger.
    body_bytes_max: AtomicU64,
    /// Bodies are not made smaller than this.
    body_bytes_min: u64,
    /// What a session said of itself was wrong, or it says nothing.
    is_forgetful: AtomicBool,
    keeps_parts: OnceCell<bool>,
    /// A blob of another repository was not mounted.
    mounts_nothing: AtomicBool,
}

impl Habits {
    /// Nothing is known. `part_bytes` is the size of parts.
    pub(super) fn new(part_bytes: u64) -> Self {
        Self {
            body_bytes_max: AtomicU64::new(u64::MAX),
            body_bytes_min: part_bytes.min(BODY_BYTES_MIN),
            is_forgetful: AtomicBool::new(false),
            keeps_parts: OnceCell::new(),
            mounts_nothing: AtomicBool::new(false),
        }
    }

    /// Bytes that a body may have.
    pub(super) fn body_bytes_max(&self) -> u64 {
        self.body_bytes_max.load(Ordering::Relaxed)
    }

    /// A body of `bytes` was too large. Whether smaller ones are left to be tried.
    pub(super) fn was_too_large(&self, bytes: u64) -> bool {
        if bytes <= self.body_bytes_min {
            return false;
        }
        self.body_bytes_max.fetch_min((bytes / 2).max(self.body_bytes_min), Ordering::Relaxed);
        true
    }

    /// Whether a session is worth asking how far it got.
    pub(super) fn can_resume(&self) -> bool {
        !self.is_forgetful.load(Ordering::Relaxed)
    }

    /// Sessions are not asked any more.
    pub(super) fn forgets(&self) {
        self.is_forgetful.store(true, Ordering::Relaxed);
    }

    /// Whether it is worth asking for a blob of another repository.
    pub(super) fn mounts(&self) -> bool {
        !self.mounts_nothing.load(Ordering::Relaxed)
    }

    /// It isn't asked any more.
    pub(super) fn mounts_nothing(&self) {
        self.mounts_nothing.store(true, Ordering::Relaxed);
    }

    /// Whether the registry adds one part to the other, as the specification has it. Some take the last one for all of the
    /// blob, and that shows in the digest alone, when a layer that is sent while it is made is gone. So two bytes are tried.
    pub(super) async fn keeps_parts(&self, wire: &impl Wire, sessions: &Sessions) -> Result<bool, Failure> {
        self.keeps_parts.get_or_try_init(|| try_parts(wire, sessions)).await.copied()
    }
}

async fn try_parts(wire: &impl Wire, sessions: &Sessions) -> Result<bool, Failure> {
    let opened = wire.open().await?;
    let id = sessions.add(opened.session.clone());
    let mut session = opened.session;
    let tried = match opened.part_bytes_min {
        // One that says how large parts have to be takes parts.
        Some(wanted) => Ok(wanted <= PART_BYTES_MAX),
        None => match send_parts(wire, &mut session).await {
            Ok(()) => {
                sessions.remove(id);
                return Ok(true);
            }
            Err(failure) if is_no_answer(&failure) => Err(failure),
            Err(_) => Ok(false),
        },
    };
    // Where it can't be cancelled, it stays listed for the abort.
    sessions.update(id, session.clone());
    if wire.cancel(&session).await.is_ok() {
        sessions.remove(id);
    }
    tried
}

async fn send_parts(wire: &impl Wire, session: &mut Session) -> Result<(), Failure> {
    for (offset, part) in (0..).zip(EMPTY) {
        let content = Content::chunks(vec![Bytes::from_static(part)]);
        *session = wire.patch(session, Some(offset), content).await?.session;
    }
    wire.finish(session, &DigestHasher::of(&EMPTY.concat()), Content::chunks(Vec::new())).await
}

/// Whether the failure says nothing of parts: the same may go well at another time.
fn is_no_answer(failure: &Failure) -> bool {
    let verdict = verdict(failure.step, &failure.cause, failure.retry_after);
    match verdict {
        Verdict::Refresh | Verdict::Again { .. } => true,
        Verdict::Resume { .. } => !failure.is_out_of_step(),
        Verdict::Done | Verdict::Restart | Verdict::Fatal => false,
    }
}

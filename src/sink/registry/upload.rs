//! One blob on its way: look, open, parts, finish; and after a failure, from where the registry says it is.
//!
//! What the registry answers is what counts, as long as it can be true; what was sent never does. All verdicts come from
//! `retry`; here is only what they mean for an upload.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use super::Report;
use super::failure::{Cause, Failure, Io, Step};
use super::parts::{Part, Parts};
use super::retry::{Attempt, Recovery};
use super::wire::{Accepted, Found, Session, Wire};
use crate::oci::Descriptor;
use crate::sink::Put;

/// A registry that wants larger parts than this is refused: every running upload holds one part.
pub(super) const PART_BYTES_MAX: u64 = 64 << 20;

/// The upload sessions that are open, so that they can be cancelled whatever became of their uploads.
#[derive(Debug, Default)]
pub(super) struct Sessions {
    next: AtomicU64,
    open: Mutex<HashMap<u64, Session>>,
}

impl Sessions {
    fn add(&self, session: Session) -> u64 {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        self.update(id, session);
        id
    }

    fn update(&self, id: u64, session: Session) {
        self.open.lock().unwrap_or_else(PoisonError::into_inner).insert(id, session);
    }

    fn remove(&self, id: u64) {
        self.open.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
    }

    /// All of them, taken out.
    pub(super) fn take(&self) -> Vec<Session> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner).drain().map(|(_, session)| session).collect()
    }
}

/// Asks whether a blob is there: a question that only saves an upload, so a registry that can't answer it is told the blob.
#[derive(Debug, Default)]
pub(super) struct Look {
    failed: AtomicU32,
}

impl Look {
    /// A registry that was killed while it named a blob says 500 to every look at it, until the blob is sent anew
    /// (docker-registry 2.8 with an empty link).
    const TRIES_MAX: u32 = 3;

    /// Whether the registry has the blob. One that it has with another size counts as missing.
    pub(super) async fn at(&self, wire: &impl Wire, descriptor: &Descriptor) -> Result<bool, Failure> {
        match wire.head(&descriptor.digest).await {
            Ok(Found::Present { size }) => Ok(size.is_none_or(|size| size == descriptor.size)),
            Ok(Found::Absent) => Ok(false),
            Err(Failure { cause: Cause::Status { status: 500, .. }, .. })
                if self.failed.fetch_add(1, Ordering::Relaxed) + 1 >= Self::TRIES_MAX =>
            {
                Ok(false)
            }
            Err(failure) => Err(failure),
        }
    }
}

/// The session of the moment.
#[derive(Debug)]
struct Held {
    id: u64,
    session: Session,
    /// Bytes the registry acknowledged in this session.
    confirmed: u64,
    /// No byte past this one was ever sent in this session.
    sent: u64,
}

/// The state of one upload.
pub(super) struct Upload<'a, W> {
    wire: &'a W,
    parts: Parts<'a>,
    sessions: &'a Sessions,
    report: &'a Report,
    /// The layer's place in the image; a config has none.
    index: Option<usize>,
    part_bytes: u64,
    look: Look,
    held: Option<Held>,
    must_ask: bool,
    /// The most that was ever acknowledged, over all sessions.
    reported: u64,
    bytes_sent: u64,
}

impl<'a, W: Wire> Upload<'a, W> {
    pub(super) fn new(wire: &'a W, sessions: &'a Sessions, report: &'a Report, parts: Parts<'a>) -> Self {
        let part_bytes = report.part_bytes;
        Self {
            wire,
            parts,
            sessions,
            report,
            index: None,
            part_bytes,
            look: Look::default(),
            held: None,
            must_ask: false,
            reported: 0,
            bytes_sent: 0,
        }
    }

    /// Reports progress as that of layer `index`.
    pub(super) fn of_layer(self, index: usize) -> Self {
        Self { index: Some(index), ..self }
    }

    /// Tells of what was never acknowledged before, so that the sum is the blob's size however often it was sent.
    fn confirm(&mut self, bytes: u64) {
        if bytes > self.reported {
            self.report.confirmed(self.index, bytes - self.reported);
            self.reported = bytes;
        }
    }

    /// Gives the session up.
    async fn give_up(&mut self) {
        self.must_ask = false;
        if let Some(held) = self.held.take() {
            // One try, so that the registry need not keep it. Where it fails, the session stays listed for the abort.
            if self.wire.cancel(&held.session).await.is_ok() {
                self.sessions.remove(held.id);
            }
        }
    }

    async fn open(&mut self) -> Result<Held, Failure> {
        if let Parts::Live(live) = &self.parts {
            live.can_restart().map_err(|lost| Failure::local(Step::Open, lost))?;
        }
        let opened = self.wire.open().await?;
        let id = self.sessions.add(opened.session.clone());
        let wanted = opened.part_bytes_min.unwrap_or(0);
        if wanted > PART_BYTES_MAX {
            let words = format!("it wants parts of at least {wanted} bytes; smolfreeze sends at most {PART_BYTES_MAX}");
            return Err(Failure::new(Step::Open, Cause::Io(Io::Refused), words));
        }
        self.part_bytes = self.report.part_bytes.max(wanted);
        Ok(Held { id, session: opened.session, confirmed: 0, sent: 0 })
    }

    /// How far the session got, as the session says.
    async fn ask(&mut self, held: &mut Held) -> Result<(), Failure> {
        let accepted = self.wire.status(&held.session).await?;
        let Some(received) = accepted.received else {
            return Err(Failure::new(Step::Status, Cause::Nonsense, "the answer doesn't say how far the session got"));
        };
        self.believe(held, Step::Status, accepted.session, received)
    }

    /// Takes the registry's word, unless it can't be true.
    fn believe(&mut self, held: &mut Held, step: Step, session: Session, received: u64) -> Result<(), Failure> {
        if received > held.sent {
            let words = format!("the session claims {received} bytes, and only {} were sent", held.sent);
            return Err(Failure::new(step, Cause::Nonsense, words));
        }
        self.sessions.update(held.id, session.clone());
        held.session = session;
        held.confirmed = received;
        self.parts.acknowledge(received);
        self.confirm(received);
        Ok(())
    }

    async fn patch(&mut self, held: &mut Held, part: Part) -> Result<(), Failure> {
        let before = held.confirmed;
        held.sent = held.sent.max(before + part.length);
        self.bytes_sent += part.length;
        let began = Instant::now();
        let Accepted { session, received } = self.wire.patch(&held.session, before, part.bytes).await?;
        let took = began.elapsed();
        self.believe(held, Step::Patch, session, received.unwrap_or(before + part.length))?;
        if held.confirmed <= before {
            let words = format!("a part was accepted, and the session still has {} bytes", held.confirmed);
            return Err(Failure::new(Step::Patch, Cause::TookNothing, words));
        }
        self.report.speed.learn(held.confirmed - before, took);
        Ok(())
    }

    async fn finish(&mut self, held: &mut Held, part: Part) -> Result<Descriptor, Failure> {
        let Some(descriptor) = self.parts.descriptor().cloned() else {
            return Err(Failure::new(Step::Finish, Cause::Nonsense, "the layer has no end"));
        };
        held.sent = held.sent.max(held.confirmed + part.length);
        self.bytes_sent += part.length;
        let began = Instant::now();
        self.wire.finish(&held.session, &descriptor.digest, part.bytes).await?;
        self.report.speed.learn(part.length, began.elapsed());
        self.sessions.remove(held.id);
        self.confirm(descriptor.size);
        Ok(descriptor)
    }

    async fn is_present(&mut self) -> Result<Option<Descriptor>, Failure> {
        let Some(descriptor) = self.parts.descriptor().cloned() else { return Ok(None) };
        let is_there = self.look.at(self.wire, &descriptor).await?;
        Ok(is_there.then_some(descriptor))
    }

    /// What moves in a moment, within bounds: each part costs the registry a request and, likely, a write to its disk. A part
    /// of what is in memory takes no more of it.
    fn memory_part_bytes(&self) -> u64 {
        self.report.speed.part_bytes().min(self.report.part_bytes_max)
    }

    /// An enlarged part failed. Whether it would have gone through in smaller ones is found out where it was only its size.
    fn was_too_large(&mut self, failure: &Failure) -> bool {
        if !matches!(failure.cause, Cause::Status { status: 401 | 429, .. }) {
            self.report.speed.give_up();
        }
        self.must_ask = true;
        matches!(failure.cause, Cause::Status { status: 413, .. })
    }

    /// Goes on in `held` until the blob is complete.
    async fn send(&mut self, held: &mut Held) -> Result<Descriptor, Failure> {
        loop {
            self.report.stop.check().map_err(|error| Failure::local(Step::Patch, error))?;
            if self.must_ask {
                self.ask(held).await?;
                self.must_ask = false;
            }
            let part = self.parts.part(held.confirmed, self.part_bytes, self.memory_part_bytes()).await;
            let part = part.map_err(|error| Failure::local(Step::Patch, error))?;
            // What fits into one part needs no PATCH; in a session that has bytes already, PUT comes empty.
            let (is_all, is_enlarged) =
                (part.is_last && (held.confirmed == 0 || part.length == 0), part.length > self.part_bytes);
            let sent = if is_all {
                self.finish(held, part).await.map(Some)
            } else {
                self.patch(held, part).await.map(|()| None)
            };
            match sent {
                Ok(Some(descriptor)) => return Ok(descriptor),
                Ok(None) => {}
                Err(failure) if is_enlarged && self.was_too_large(&failure) => {}
                Err(failure) => return Err(failure),
            }
        }
    }
}

impl<W: Wire> Attempt for Upload<'_, W> {
    type Output = (Descriptor, Put);

    async fn attempt(&mut self, recovery: Recovery) -> Result<Self::Output, Failure> {
        match recovery {
            Recovery::GoOn => {}
            Recovery::Resume => self.must_ask = self.held.is_some(),
            Recovery::Restart => self.give_up().await,
        }
        let mut held = if let Some(held) = self.held.take() {
            held
        } else {
            // After a lost session too: the answer that was lost may have been the one to the last PUT.
            if let Some(descriptor) = self.is_present().await? {
                self.confirm(descriptor.size);
                let put = if self.bytes_sent == 0 { Put::Present } else { Put::Sent { bytes_sent: self.bytes_sent } };
                return Ok((descriptor, put));
            }
            self.open().await?
        };
        let sent = self.send(&mut held).await;
        if sent.is_err() {
            self.held = Some(held);
        }
        Ok((sent?, Put::Sent { bytes_sent: self.bytes_sent }))
    }

    fn progress(&self) -> u64 {
        self.reported
    }
}

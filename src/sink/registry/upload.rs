//! One blob on its way: look, open, send, finish; and after a failure, from where the registry says it is.
//!
//! ```text
//! its digest is known       POST, one PUT of all of it          what every registry takes
//! not yet: a live layer     POST, one PATCH of all of it, PUT   as docker does; parts of 8 MiB where parts were tried
//! a body is too large       POST, PATCH after PATCH, PUT        after a 413: half as large, until it goes
//! after a failure           PATCH of the rest, PUT              where the session says how far it got; else all again
//! ```
//!
//! All verdicts come from `retry`, and what is learned for all uploads is in `habits`; here is only what they mean for one.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::Report;
use super::content::{Content, Sent};
use super::failure::{Cause, Code, Failure, Step};
use super::mount::{Mounted, mount};
use super::parts::Parts;
use super::retry::{Attempt, Recovery, Verdict, verdict};
use super::wire::{Accepted, Found, Session, Wire};
use crate::oci::Descriptor;
use crate::sink::Put;

/// A registry that wants larger parts than this gets none: every upload of a live layer holds one part.
pub(super) const PART_BYTES_MAX: u64 = 64 << 20;

/// More than any blob has.
const UNKNOWN: u64 = u64::MAX;

/// The upload sessions that are open, so that they can be cancelled whatever became of their uploads.
#[derive(Debug, Default)]
pub(super) struct Sessions {
    next: AtomicU64,
    open: Mutex<HashMap<u64, Session>>,
}

impl Sessions {
    pub(super) fn add(&self, session: Session) -> u64 {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        self.update(id, session);
        id
    }

    pub(super) fn update(&self, id: u64, session: Session) {
        self.open.lock().unwrap_or_else(PoisonError::into_inner).insert(id, session);
    }

    pub(super) fn remove(&self, id: u64) {
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
            Err(Failure { cause: Cause::Status { status: 500, .. }, .. })
                if self.failed.fetch_add(1, Ordering::Relaxed) + 1 >= Self::TRIES_MAX =>
            {
                Ok(false)
            }
            // Some don't answer this question at all.
            Ok(Found::Absent) | Err(Failure { cause: Cause::Status { status: 400 | 405 | 501, .. }, .. }) => Ok(false),
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
    /// No byte past this one was ever sent in this session; [`UNKNOWN`] while a layer is sent as a whole.
    sent: u64,
    /// The session was asked, and went on from where it said it was: here.
    resumed_at: Option<u64>,
}

/// How an upload begins.
enum Begun {
    /// The registry has the blob.
    There(Descriptor),
    Open(Held),
}

/// The next request of an upload.
enum Next {
    /// These bytes complete the blob; all of it, or none.
    Finish(Content, Descriptor),
    /// A part, which says where it belongs.
    Part(Content),
    /// All of a layer whose digest isn't known yet.
    Stream(Content),
}

/// The state of one upload.
pub(super) struct Upload<'a, W> {
    wire: &'a W,
    parts: Parts<'a>,
    sessions: &'a Sessions,
    report: &'a Report,
    /// The registry takes no smaller parts.
    part_bytes_min: u64,
    look: Look,
    held: Option<Held>,
    must_ask: bool,
    /// The most that was ever acknowledged, over all sessions.
    acknowledged: u64,
    /// The size of the last body.
    last_body: u64,
    sent: Arc<Sent>,
}

impl<'a, W: Wire> Upload<'a, W> {
    /// `index` is the layer's place in the image; a config has none.
    pub(super) fn new(
        wire: &'a W,
        sessions: &'a Sessions,
        report: &'a Report,
        index: Option<usize>,
        parts: Parts<'a>,
    ) -> Self {
        Self {
            wire,
            parts,
            sessions,
            report,
            part_bytes_min: 1,
            look: Look::default(),
            held: None,
            must_ask: false,
            acknowledged: 0,
            last_body: 0,
            sent: Sent::new(report, index),
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

    /// Finds the blob, after a lost session too: the answer that was lost may have been the one to the last PUT. Else opens
    /// a session.
    async fn begin(&mut self) -> Result<Begun, Failure> {
        let descriptor = self.parts.descriptor().await;
        if let Some(descriptor) = &descriptor
            && self.look.at(self.wire, descriptor).await?
        {
            return Ok(Begun::There(descriptor.clone()));
        }
        let mounted = match &self.parts {
            Parts::Live(live) => {
                live.lock().await.can_restart().map_err(|lost| Failure::local(Step::Open, lost))?;
                Mounted::Nothing
            }
            Parts::Gathered { descriptor, .. } => mount(self.wire, self.report, descriptor).await?,
        };
        let opened = match mounted {
            Mounted::There(descriptor) => return Ok(Begun::There(descriptor)),
            Mounted::Opened(opened) => opened,
            Mounted::Nothing => self.wire.open().await?,
        };
        let id = self.sessions.add(opened.session.clone());
        self.part_bytes_min = opened.part_bytes_min.unwrap_or(0).max(1);
        Ok(Begun::Open(Held { id, session: opened.session, confirmed: 0, sent: 0, resumed_at: None }))
    }

    /// Asks the session how far it got. Whether it can go on: from where it says it is, which can't be before what it
    /// acknowledged, nor past what it was sent; where it says nothing of use, from what it acknowledged.
    async fn resume(&mut self, held: &mut Held) -> Result<bool, Failure> {
        // All that was sent is acknowledged: nothing is in doubt.
        if held.sent == held.confirmed {
            return Ok(true);
        }
        if held.sent == UNKNOWN {
            return Ok(false);
        }
        let may_be = held.confirmed.max(1)..=held.sent;
        if self.report.habits.can_resume() {
            match self.wire.status(&held.session).await {
                Ok(Accepted { session, received: Some(received) }) if may_be.contains(&received) => {
                    held.resumed_at = Some(received);
                    self.believe(held, session, received).await;
                    return Ok(true);
                }
                Ok(_) => {}
                Err(failure) if failure.is_of_no_session() => return Ok(false),
                Err(failure) if verdict(failure.step, &failure.cause, None) == Verdict::Restart => {}
                Err(failure) => return Err(failure),
            }
        }
        Ok(held.confirmed > 0)
    }

    async fn believe(&mut self, held: &mut Held, session: Session, received: u64) {
        self.sessions.update(held.id, session.clone());
        held.session = session;
        held.confirmed = received;
        if let Parts::Live(live) = &self.parts {
            live.lock().await.acknowledge(received);
        }
        self.acknowledged = self.acknowledged.max(received);
        self.sent.reached(received);
    }

    async fn next(&mut self, held: &Held) -> Result<Next, Failure> {
        let (confirmed, body_bytes_max) = (held.confirmed, self.report.habits.body_bytes_max());
        let live = match &self.parts {
            Parts::Gathered { descriptor, body } => {
                let rest = descriptor.size - confirmed.min(descriptor.size);
                let content = Content::of_body(body, rest.min(body_bytes_max)).told(confirmed, &self.sent);
                let is_all = rest == 0 || (confirmed == 0 && rest <= body_bytes_max);
                return Ok(if is_all { Next::Finish(content, (*descriptor).clone()) } else { Next::Part(content) });
            }
            Parts::Live(live) => live,
        };
        let end = live.lock().await.end();
        if let Some(descriptor) = end.filter(|descriptor| descriptor.size == confirmed) {
            return Ok(Next::Finish(Content::chunks(Vec::new()), descriptor));
        }
        if !self.report.habits.keeps_parts(self.wire, self.sessions).await? {
            return Ok(Next::Stream(Content::live(Arc::clone(live)).told(0, &self.sent)));
        }
        let mut live = live.lock().await;
        let part = live.part(confirmed, self.report.part_bytes.max(self.part_bytes_min).min(body_bytes_max)).await;
        let part = part.map_err(|error| Failure::local(Step::Patch, error))?;
        let content = Content::chunks(part.bytes).told(confirmed, &self.sent);
        let is_too_small = part.length < self.part_bytes_min;
        Ok(match live.end().filter(|_| part.is_last && (confirmed == 0 || is_too_small)) {
            Some(descriptor) => Next::Finish(content, descriptor),
            None => Next::Part(content),
        })
    }

    /// A part, or everything, is sent. An answer that is good means that all of it was taken: what `Range` says then is
    /// that of the last part with some, and of the first one with others. Only what can be true counts: a beginning of it.
    async fn patch(&mut self, held: &mut Held, content: Content, is_part: bool) -> Result<(), Failure> {
        let before = held.confirmed;
        let offset = is_part.then_some(before);
        held.sent = content.length().map_or(UNKNOWN, |length| held.sent.max(before + length));
        let accepted = self.wire.patch(&held.session, offset, content.clone()).await?;
        let end = match (content.length(), self.parts.descriptor().await) {
            (Some(length), _) => before + length,
            (None, Some(descriptor)) => descriptor.size,
            (None, None) => {
                return Err(Failure::new(Step::Patch, Cause::Nonsense, "it answered before the layer's end"));
            }
        };
        let received = accepted.received.filter(|received| is_part && *received > before && *received < end);
        held.sent = end;
        self.believe(held, accepted.session, received.unwrap_or(end)).await;
        Ok(())
    }

    async fn finish(&mut self, held: &mut Held, content: Content, descriptor: &Descriptor) -> Result<(), Failure> {
        held.sent = held.sent.max(held.confirmed + content.length().unwrap_or(0));
        self.wire.finish(&held.session, &descriptor.digest, content).await?;
        self.sessions.remove(held.id);
        self.sent.reached(descriptor.size);
        Ok(())
    }

    /// Goes on in `held` until the blob is complete.
    async fn send(&mut self, held: &mut Held) -> Result<Descriptor, Failure> {
        loop {
            self.report.stop.check().map_err(|error| Failure::local(Step::Patch, error))?;
            let next = self.next(held).await?;
            self.last_body = match &next {
                Next::Finish(content, _) | Next::Part(content) | Next::Stream(content) => content.length().unwrap_or(0),
            };
            match next {
                Next::Finish(content, descriptor) => {
                    self.finish(held, content, &descriptor).await?;
                    return Ok(descriptor);
                }
                Next::Part(content) => self.patch(held, content, true).await?,
                Next::Stream(content) => self.patch(held, content, false).await?,
            }
        }
    }

    /// Learns from a failure. Whether the blob can be sent at once in another way.
    fn learn(&mut self, held: &Held, failure: &Failure) -> bool {
        let Cause::Status { status, code } = failure.cause else { return false };
        if status == 413 {
            return self.report.habits.was_too_large(self.last_body);
        }
        let is_whole = matches!(self.parts, Parts::Gathered { .. });
        let is_wrong = held.resumed_at.is_some() && matches!(code, Some(Code::DigestInvalid | Code::SizeInvalid));
        // Some take blobs only whole, and others forget what they had.
        let is_refused = is_whole && held.resumed_at == Some(held.confirmed) && failure.is_refusal_of_a_part();
        if is_wrong || is_refused {
            self.report.habits.forgets();
        }
        is_refused
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
        loop {
            if self.must_ask
                && let Some(mut held) = self.held.take()
            {
                let resumed = self.resume(&mut held).await;
                self.held = Some(held);
                if resumed? {
                    self.must_ask = false;
                } else {
                    self.give_up().await;
                }
            }
            let mut held = if let Some(held) = self.held.take() {
                held
            } else {
                match self.begin().await? {
                    Begun::Open(held) => held,
                    Begun::There(descriptor) => {
                        self.sent.reached(descriptor.size);
                        let put = match self.sent.bytes() {
                            0 => Put::Present,
                            bytes_sent => Put::Sent { bytes_sent },
                        };
                        return Ok((descriptor, put));
                    }
                }
            };
            let failure = match self.send(&mut held).await {
                Ok(descriptor) => return Ok((descriptor, Put::Sent { bytes_sent: self.sent.bytes() })),
                Err(failure) => failure,
            };
            let is_to_be_smaller = self.learn(&held, &failure);
            self.held = Some(held);
            if !is_to_be_smaller {
                return Err(failure);
            }
            self.give_up().await;
        }
    }

    fn progress(&self) -> u64 {
        self.acknowledged
    }
}

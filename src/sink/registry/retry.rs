//! All decisions about answers: one table, one loop. Nobody else in this room judges a status, and nobody else
//! sleeps but `pace`, which decides nothing.

use std::future::Future;
use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use tokio::time::Instant;

use super::failure::{Cause, Code, Failure, Io, Step};
use super::wire::Wire;
use super::{Patience, Report};
use crate::error::{Error, Result};

/// What to do after an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The answer is what the step wanted.
    Done,
    /// The same request again, not before `after`.
    Again {
        /// The registry's own wish; a floor.
        after: Option<Duration>,
    },
    /// A new token, then the same request once more.
    Refresh,
    /// Ask the session how far it got, not before `after`, and go on from there.
    Resume {
        /// The registry's own wish; a floor.
        after: Option<Duration>,
    },
    /// The session is of no use any more: send the blob again from its first byte.
    Restart,
    /// Trying again can't help.
    Fatal,
}

/// The table: step, cause and the registry's wish to a verdict. It has no memory; [`Tries`] bounds what follows.
#[must_use]
pub fn verdict(step: Step, cause: &Cause, after: Option<Duration>) -> Verdict {
    let once_more = if step.has_session() { Verdict::Resume { after } } else { Verdict::Again { after } };
    match *cause {
        Cause::Status { status: 401, .. } if step != Step::Token => Verdict::Refresh,
        Cause::Status { status, code } => match (step, status, code) {
            // "Not there" is an answer: to a question, and to who wants it gone.
            (_, 200..=299, _) | (Step::Head | Step::Cancel | Step::Delete, 404, _) => Verdict::Done,
            // From 520 on: a content network that can't reach the registry.
            (_, 408 | 425 | 429 | 500 | 502..=504 | 520..=599, _) => once_more,
            (Step::Patch | Step::Finish, 416, _) => Verdict::Resume { after },
            // Right after the last blob a registry may not know of it yet; see `Tries`.
            (Step::Manifest, 400 | 404, Some(Code::BlobUnknown)) => Verdict::Again { after },
            // Docker's registry 2.8 keeps the offset it expects in Location. When it has more than that, because a part
            // was cut or its answer lost, it says 404 BLOB_UPLOAD_INVALID to every further request, DELETE included.
            (_, 400..=499, Some(Code::BlobUploadUnknown | Code::BlobUploadInvalid)) if step.has_session() => {
                Verdict::Restart
            }
            // A session that can't be asked is of no use after a failure.
            (Step::Patch | Step::Finish, 404, _)
            | (Step::Finish, 400, Some(Code::DigestInvalid | Code::SizeInvalid))
            | (Step::Status, 400 | 402..=499 | 501, _) => Verdict::Restart,
            _ => Verdict::Fatal,
        },
        Cause::Io(Io::Untrusted | Io::Refused) | Cause::Local(_) => Verdict::Fatal,
        Cause::Io(Io::Unreachable | Io::Cut | Io::Stalled | Io::NoHttp) => once_more,
        Cause::Nonsense if step.has_session() => Verdict::Restart,
        Cause::Nonsense => Verdict::Again { after },
    }
}

/// How an attempt has to begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Recovery {
    /// As if nothing had happened, from the state the attempt is in.
    GoOn,
    /// The session has to be asked first.
    Resume,
    /// The blob has to be sent from its first byte.
    Restart,
}

/// Something that can be tried again; its state survives between attempts.
pub trait Attempt: Send {
    /// What it gives in the end.
    type Output: Send;

    /// Goes on until it is done or fails.
    fn attempt(&mut self, recovery: Recovery) -> impl Future<Output = Result<Self::Output, Failure>> + Send;

    /// Grows whenever something was gained for good; patience then starts anew.
    fn progress(&self) -> u64 {
        0
    }
}

/// One request without state, as an [`Attempt`].
pub struct Request<F>(pub F);

impl<F, Answer, T> Attempt for Request<F>
where
    F: FnMut() -> Answer + Send,
    Answer: Future<Output = Result<T, Failure>> + Send,
    T: Send,
{
    type Output = T;

    async fn attempt(&mut self, _: Recovery) -> Result<T, Failure> {
        (self.0)().await
    }
}

/// A registry that does not know a blob that it has just taken may come to know it within this time.
const BLOB_UNKNOWN_PATIENCE: Duration = Duration::from_secs(10);
/// An answer that can't be read is asked for so often again: bytes get lost on the way, but they don't change.
const NONSENSE_TRIES: u32 = 2;
/// How long a request that is under way may take to end once the freeze was stopped.
const STOP_GRACE: Duration = Duration::from_millis(600);

/// The loop: attempt, verdict, wait, again. `subject` names the blob or manifest for people.
///
/// # Errors
/// The last failure with the number of tries and the time they took; a hang-up when the freeze was stopped meanwhile.
pub async fn run<A: Attempt>(wire: &impl Wire, report: &Report, subject: &str, mut work: A) -> Result<A::Output> {
    let attempts = async {
        let mut tries = Tries::new(&report.patience);
        let (mut recovery, mut stale) = (Recovery::GoOn, None);
        loop {
            let renewed = match &stale {
                Some(stale) => wire.refresh(stale).await,
                None => Ok(()),
            };
            let outcome = match renewed {
                Ok(()) => {
                    stale = None;
                    work.attempt(recovery).await
                }
                Err(failure) => Err(failure),
            };
            let mut failure = match outcome {
                Ok(output) => return Ok(output),
                Err(failure) => failure,
            };
            let Some((next, delay)) = tries.after(&failure, work.progress()) else {
                return Err(tries.give_up(failure, report, subject));
            };
            // A challenge is how a registry says which credentials it wants: nothing went wrong.
            if !is_challenge(&failure) {
                report.retrying(subject, &failure.to_string(), delay);
            }
            tokio::select! {
                biased;
                () = report.stop.stopped() => return Err(Error::hung_up("the freeze")),
                () = tokio::time::sleep(delay) => {}
            }
            // A token that could not be fetched says nothing of the session: the recovery stays what it was.
            if failure.step != Step::Token {
                (recovery, stale) = (next, failure.stale.take());
            }
        }
    };
    tokio::pin!(attempts);
    tokio::select! {
        biased;
        () = report.stop.stopped() => {}
        outcome = &mut attempts => return outcome,
    }
    // docker-registry 2.8 loses a session whose part is cut in its middle, and then nobody can cancel it any more: the
    // request under way gets a moment to end, and none follows it.
    let _ = tokio::time::timeout(STOP_GRACE, attempts).await;
    Err(Error::hung_up("the freeze"))
}

/// What was tried so far, and what is left of the patience.
struct Tries<'a> {
    patience: &'a Patience,
    delays: ExponentialBackoff,
    random: super::Random,
    failing_since: Option<Instant>,
    failures: u32,
    nonsense: u32,
    progress: u64,
    restarts: u32,
    digest_restarts: u32,
    refreshed: bool,
    out_of_step: bool,
}

impl<'a> Tries<'a> {
    fn new(patience: &'a Patience) -> Self {
        Self {
            patience,
            delays: delays(patience),
            random: patience.random.clone(),
            failing_since: None,
            failures: 0,
            nonsense: 0,
            progress: 0,
            restarts: 0,
            digest_restarts: 0,
            refreshed: false,
            out_of_step: false,
        }
    }

    /// How and when to go on after `failure`; none when it is final, or patience is at its end.
    fn after(&mut self, failure: &Failure, progress: u64) -> Option<(Recovery, Duration)> {
        if progress > self.progress {
            self.progress = progress;
            self.failing_since = None;
            (self.failures, self.refreshed, self.out_of_step) = (0, false, false);
            self.delays = delays(self.patience);
        }
        if is_challenge(failure) {
            return (!std::mem::replace(&mut self.refreshed, true)).then_some((Recovery::GoOn, Duration::ZERO));
        }
        self.failures += 1;
        self.nonsense += u32::from(is_nonsense(failure));
        if self.nonsense > NONSENSE_TRIES {
            return None;
        }
        let failing_since = *self.failing_since.get_or_insert_with(Instant::now);
        let (recovery, after) = self.bounded(failure)?;
        let delay = self.delays.next()?.mul_f64((self.random)()).max(after.unwrap_or_default());
        let is_late = matches!(failure.cause, Cause::Status { code: Some(Code::BlobUnknown), .. });
        let total = if is_late { self.patience.total.min(BLOB_UNKNOWN_PATIENCE) } else { self.patience.total };
        (failing_since.elapsed() + delay <= total).then_some((recovery, delay))
    }

    fn bounded(&mut self, failure: &Failure) -> Option<(Recovery, Option<Duration>)> {
        match verdict(failure.step, &failure.cause, failure.retry_after) {
            Verdict::Done | Verdict::Fatal | Verdict::Refresh => None,
            Verdict::Again { after } => Some((Recovery::GoOn, after)),
            // Asked, and out of step all the same: this session can't be trusted.
            Verdict::Resume { after } if failure.is_out_of_step() && self.out_of_step => {
                Some((self.restart(failure)?, after))
            }
            Verdict::Resume { after } => {
                self.out_of_step |= failure.is_out_of_step();
                Some((Recovery::Resume, after))
            }
            Verdict::Restart => Some((self.restart(failure)?, None)),
        }
    }

    fn restart(&mut self, failure: &Failure) -> Option<Recovery> {
        let of_digest =
            matches!(failure.cause, Cause::Status { code: Some(Code::DigestInvalid | Code::SizeInvalid), .. });
        self.restarts += 1;
        self.digest_restarts += u32::from(of_digest);
        self.out_of_step = false;
        (self.restarts <= self.patience.restarts_max && self.digest_restarts <= 1).then_some(Recovery::Restart)
    }

    fn give_up(&self, failure: Failure, report: &Report, subject: &str) -> Error {
        let tried = self.failing_since.filter(|_| self.failures > 1).map(|since| (self.failures, since.elapsed()));
        failure.into_error(report, subject, tried)
    }
}

/// Whether the registry wants other credentials than it was given.
fn is_challenge(failure: &Failure) -> bool {
    verdict(failure.step, &failure.cause, failure.retry_after) == Verdict::Refresh
}

/// Whether the answer itself is wrong. One that makes a session worthless is no such: that begins anew.
fn is_nonsense(failure: &Failure) -> bool {
    match failure.cause {
        Cause::Nonsense => !failure.step.has_session(),
        Cause::Io(Io::NoHttp) => true,
        _ => false,
    }
}

fn delays(patience: &Patience) -> ExponentialBackoff {
    // Without backon's own jitter, which only adds to the delay: full jitter takes any part of it.
    ExponentialBuilder::new()
        .with_min_delay(patience.first_delay)
        .with_max_delay(patience.longest_delay)
        .with_factor(2.0)
        .with_max_times(patience.tries_max)
        .build()
}

#[cfg(test)]
#[path = "retry_tests.rs"]
mod tests;

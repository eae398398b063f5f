//! Errors, and the law they follow.
//!
//! 1. The first cause wins, chosen by type: [`Kind::HungUp`] ("the other side went away") never beats a real error,
//!    whichever of the two arrives first.
//! 2. A clean-up that fails is attached to the cause ([`Error::attach`]) and never replaces it.
//! 3. An error names the [`Side`], the operation, the subject (machine, chunk, entry, layer, registry), the reason and,
//!    where it was tried again, how hard. Text is for people; decisions look at [`Kind`] alone.
//! 4. An error prints as one line, whatever a name or an answer in it holds ([`text`](crate::text)).

use std::error::Error as StdError;
use std::fmt::{self, Write as _};

use crate::text::Line;

/// The result of everything in this crate that can fail.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Which part of a freeze failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Side {
    /// The choices made before anything ran: arguments, references, budgets.
    Plan,
    /// Where the root filesystem comes from.
    Source,
    /// Between source and sinks: cutting, packing, gathering.
    Stage,
    /// Where layers go.
    Sink,
}

/// What went wrong, as far as a program has to know; each kind has an exit code of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A choice that can't be carried out: a reference with a typo, a budget that is too small.
    Usage,
    /// The source can't be read to its end, or holds something that must not go into an image.
    Source,
    /// A destination can't take the image.
    Sink,
    /// A destination refused the credentials, or wants some.
    Unauthorized,
    /// `verify` found that what is stored is not what it says it is.
    Corrupt,
    /// The user, or a signal, asked to stop.
    Interrupted,
    /// The neighbour in the pipe went away; its own error is the cause, this one never is.
    HungUp,
    /// A bug in smolfreeze itself.
    Internal,
}

impl Kind {
    /// The kind's name in reports.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Usage => "usage",
            Self::Source => "source",
            Self::Sink => "sink",
            Self::Unauthorized => "unauthorized",
            Self::Corrupt => "corrupt",
            Self::Interrupted => "interrupted",
            Self::HungUp | Self::Internal => "internal",
        }
    }

    /// The process's exit code for this kind, as README.md documents it.
    #[must_use]
    pub fn exit_code(self) -> u8 {
        match self {
            Self::HungUp | Self::Internal => 1,
            Self::Usage => 2,
            Self::Source => 3,
            Self::Sink => 4,
            Self::Unauthorized => 5,
            Self::Corrupt => 6,
            Self::Interrupted => 130,
        }
    }
}

/// One failure: side, operation, subject, reason, and what to do about it.
#[derive(Debug)]
pub struct Error(Box<Inner>);

#[derive(Debug)]
struct Inner {
    kind: Kind,
    side: Side,
    operation: String,
    subject: String,
    reason: String,
    hint: Option<String>,
    cause: Option<Box<dyn StdError + Send + Sync>>,
    attached: Vec<Error>,
}

impl Error {
    /// `operation` is what was being done ("reading a header"), `subject` the thing it was done to, `reason` what
    /// went wrong in lower case and without a full stop.
    pub fn new(
        kind: Kind,
        side: Side,
        operation: impl Into<String>,
        subject: impl fmt::Display,
        reason: impl fmt::Display,
    ) -> Self {
        Self(Box::new(Inner {
            kind,
            side,
            operation: operation.into(),
            subject: subject.to_string(),
            reason: reason.to_string(),
            hint: None,
            cause: None,
            attached: Vec::new(),
        }))
    }

    /// A source's error. See [`Error::new`] for the words.
    pub fn source(operation: impl Into<String>, subject: impl fmt::Display, reason: impl fmt::Display) -> Self {
        Self::new(Kind::Source, Side::Source, operation, subject, reason)
    }

    /// A sink's error.
    pub fn sink(operation: impl Into<String>, subject: impl fmt::Display, reason: impl fmt::Display) -> Self {
        Self::new(Kind::Sink, Side::Sink, operation, subject, reason)
    }

    /// A choice of the user's that can't be carried out.
    pub fn usage(operation: impl Into<String>, subject: impl fmt::Display, reason: impl fmt::Display) -> Self {
        Self::new(Kind::Usage, Side::Plan, operation, subject, reason)
    }

    /// The neighbour on an edge is gone. Only the pipeline makes these, and it never reports one.
    pub(crate) fn hung_up(who: &str) -> Self {
        Self::new(Kind::HungUp, Side::Stage, "waiting", who, "the other side hung up")
    }

    /// Somebody asked the whole freeze, or thaw, to stop.
    pub(crate) fn interrupted() -> Self {
        Self::new(Kind::Interrupted, Side::Plan, "the command", "on request", "interrupted")
    }

    /// What the user can do about it, as an imperative clause. A further one stands behind the earlier.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        let hint = hint.into();
        self.0.hint = Some(match self.0.hint.take() {
            Some(earlier) => format!("{earlier}; {hint}"),
            None => hint,
        });
        self
    }

    /// The lower error this one was made from, kept for [`StdError::source`].
    #[must_use]
    pub fn because(mut self, cause: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.0.cause = Some(cause.into());
        self
    }

    /// Adds a failed clean-up behind the cause.
    #[must_use]
    pub fn attach(mut self, cleanup: Error) -> Self {
        self.0.attached.push(cleanup);
        self
    }

    /// What a program has to know.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.0.kind
    }

    /// Which part failed.
    #[must_use]
    pub fn side(&self) -> Side {
        self.0.side
    }

    /// The thing the operation was done to.
    #[must_use]
    pub fn subject(&self) -> &str {
        &self.0.subject
    }

    /// The clean-ups that failed after this error, in order.
    #[must_use]
    pub fn attached(&self) -> &[Error] {
        &self.0.attached
    }

    /// Of two errors of one freeze, the cause: the earlier one, unless it is only a hang-up.
    /// An interruption comes after real errors and before hang-ups.
    #[must_use]
    pub fn first_cause(earlier: Error, later: Error) -> Error {
        let rank = |error: &Error| match error.kind() {
            Kind::HungUp => 2,
            Kind::Interrupted => 1,
            _ => 0,
        };
        if rank(&later) < rank(&earlier) { later } else { earlier }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (inner, mut line) = (&self.0, Line(f));
        write!(line, "{} failed: {}: {}", inner.operation, inner.subject, inner.reason)?;
        if let Some(hint) = &inner.hint {
            write!(line, "; {hint}")?;
        }
        for cleanup in &inner.attached {
            write!(line, " (and cleaning up: {cleanup})")?;
        }
        Ok(())
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0.cause.as_deref().map(|cause| cause as &(dyn StdError + 'static))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hang_up_never_beats_a_cause() {
        let cause = || Error::sink("sending a part", "registry", "502");
        let first = Error::first_cause(Error::hung_up("cut"), cause());
        assert_eq!(first.kind(), Kind::Sink);
        let first = Error::first_cause(cause(), Error::interrupted());
        assert_eq!(first.kind(), Kind::Sink);
        let first = Error::first_cause(Error::interrupted(), Error::hung_up("cut"));
        assert_eq!(first.kind(), Kind::Interrupted);
    }

    #[test]
    fn an_error_is_one_line() {
        let error = Error::sink("sending", "'a\u{1b}[31m'", "said\r\nfrozen").hint("call").hint("\t'b'");
        let error = error.attach(Error::sink("cancelling", "c\n", "d"));
        assert_eq!(
            error.to_string(),
            r"sending failed: 'a\x1b[31m': said\r\nfrozen; call; \t'b' (and cleaning up: cancelling failed: c\n: d)"
        );
    }

    #[test]
    fn a_failed_clean_up_follows_the_cause() {
        let error =
            Error::sink("sending a part", "registry", "502").attach(Error::sink("cancelling", "registry", "503"));
        assert_eq!(
            error.to_string(),
            "sending a part failed: registry: 502 (and cleaning up: cancelling failed: registry: 503)"
        );
    }
}

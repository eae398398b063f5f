//! How the host speaks to a machine: run a command in it, put a file into it, take a file out of it.
//!
//! A [`Link`] does one call and says what became of it. Whether a failed call is made again is decided in `relay`, in one
//! place; how long one may last is decided here. The first kind drives smolvm's own `exec` and `cp`.

use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::process::Command;
use tokio::sync::Semaphore;

/// smolvm calls in flight at once. A guest serves 8 connections at a time, shared with the user's own sessions.
const CALLS_MAX: usize = 3;
/// What asking for smolvm's release may take; it starts nothing.
const VERSION_LIMIT: Duration = Duration::from_secs(10);
/// Bytes of one answer; smolvm itself carries no more than 11 MiB.
const ANSWER_BYTES_MAX: usize = 12 << 20;
/// Bytes kept of what smolvm, or a command, says on stderr.
const WORDS_BYTES_MAX: usize = 64 << 10;

/// A call that did not work.
#[derive(Debug, Clone)]
pub(crate) enum Trouble {
    /// The smolvm executable could not be started.
    NotStarted(String),
    /// It did not end within its time, and was killed.
    TimedOut(Duration),
    /// It ended with this exit code (none: a signal) and these words.
    Failed { code: Option<i32>, words: String },
    /// It said it worked, but what came is not what was sent.
    Damaged(String),
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotStarted(reason) => write!(f, "smolvm could not be started: {reason}"),
            Self::TimedOut(limit) => write!(f, "no answer within {} s", limit.as_secs()),
            Self::Failed { code: Some(code), words } if words.is_empty() => write!(f, "exit code {code}"),
            Self::Failed { code: None, words } if words.is_empty() => write!(f, "smolvm was killed"),
            Self::Failed { words, .. } | Self::Damaged(words) => f.write_str(words),
        }
    }
}

/// What a command in the machine printed, and its exit code.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: String,
}

impl Answer {
    /// The words of a command that failed, or of smolvm itself: their last lines, in one.
    pub(crate) fn trouble(&self) -> Trouble {
        Trouble::Failed { code: self.code, words: last_words(&self.stderr) }
    }
}

/// Whose command it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum As {
    /// As the machine runs a plain exec: an image's own user.
    Own,
    /// root.
    Root,
    /// root, and on its own: it lives on when the call is over, and prints nothing.
    RootDetached,
}

/// A way to a machine. Dropping a call's future ends the call.
pub(crate) trait Link: Sync {
    /// Runs a command to its end. A command that ran and failed is an answer, not a trouble.
    fn run(&self, whose: As, command: &[&str], limit: Duration) -> impl Future<Output = Result<Answer, Trouble>>;
    /// Copies a file of the host's to `to` in the machine.
    fn put(&self, from: &Path, to: &str, limit: Duration) -> impl Future<Output = Result<(), Trouble>>;
    /// Copies the machine's file `from` to the new file `to`.
    fn take(&self, from: &str, to: &Path, limit: Duration) -> impl Future<Output = Result<(), Trouble>>;
    /// What the list of machines says about this one; `None` when it is not in there.
    fn listed(&self) -> impl Future<Output = Result<Option<serde_json::Value>, Trouble>>;
}

/// The first kind of link: the `smolvm` executable, `exec` and `cp`.
#[derive(Debug)]
pub(crate) struct Smolvm {
    executable: PathBuf,
    machine: String,
    /// Whether `-u 0` makes root: an image machine's exec runs as the image's user, a bare machine refuses the flag.
    user_flag: bool,
    calls: Semaphore,
}

impl Smolvm {
    pub(crate) fn new(executable: PathBuf, machine: &str) -> Self {
        Self { executable, machine: machine.to_owned(), user_flag: false, calls: Semaphore::new(CALLS_MAX) }
    }

    /// Says whether this is a machine with an image.
    pub(crate) fn set_image_machine(&mut self, image_machine: bool) {
        self.user_flag = image_machine;
    }

    /// smolvm's release: the number that `--version` prints.
    pub(crate) async fn version(&self) -> Option<String> {
        let answer = self.call(vec!["--version".into()], VERSION_LIMIT).await.ok()?;
        let text = String::from_utf8_lossy(&answer.stdout).into_owned();
        text.split_whitespace().find(|word| word.starts_with(|first: char| first.is_ascii_digit())).map(str::to_owned)
    }

    async fn call(&self, arguments: Vec<OsString>, limit: Duration) -> Result<Answer, Trouble> {
        let not_started =
            |error: std::io::Error| Trouble::NotStarted(format!("{}: {error}", self.executable.display()));
        let _turn = self.calls.acquire().await.map_err(|_| Trouble::NotStarted("the link is closed".to_owned()))?;
        let mut command = Command::new(&self.executable);
        command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        // A group of its own: a Ctrl-C at the terminal is for us, and we end the call in our own order.
        command.process_group(0);
        let mut child = command.spawn().map_err(not_started)?;
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        let work = async {
            let (stdout, stderr, status) =
                tokio::join!(read_some(stdout, ANSWER_BYTES_MAX), read_some(stderr, WORDS_BYTES_MAX), child.wait());
            let status = status.map_err(not_started)?;
            let stderr = String::from_utf8_lossy(&stderr).into_owned();
            Ok(Answer { code: status.code(), stdout, stderr })
        };
        tokio::time::timeout(limit, work).await.unwrap_or(Err(Trouble::TimedOut(limit)))
    }

    async fn copy(&self, from: OsString, to: OsString, limit: Duration) -> Result<(), Trouble> {
        let answer = self.call(vec!["machine".into(), "cp".into(), from, to], limit).await?;
        if answer.code == Some(0) { Ok(()) } else { Err(answer.trouble()) }
    }

    fn inside(&self, path: &str) -> OsString {
        format!("{}:{path}", self.machine).into()
    }
}

impl Link for Smolvm {
    async fn run(&self, whose: As, command: &[&str], limit: Duration) -> Result<Answer, Trouble> {
        let mut arguments: Vec<OsString> = ["machine", "exec", "--name", &self.machine].map(OsString::from).into();
        if whose != As::Own && self.user_flag {
            arguments.extend(["-u", "0"].map(OsString::from));
        }
        if whose == As::RootDetached {
            arguments.push("-d".into());
        }
        arguments.push("--".into());
        arguments.extend(command.iter().map(OsString::from));
        self.call(arguments, limit).await
    }

    async fn put(&self, from: &Path, to: &str, limit: Duration) -> Result<(), Trouble> {
        self.copy(from.into(), self.inside(to), limit).await
    }

    async fn take(&self, from: &str, to: &Path, limit: Duration) -> Result<(), Trouble> {
        self.copy(self.inside(from), to.into(), limit).await
    }

    async fn listed(&self) -> Result<Option<serde_json::Value>, Trouble> {
        let answer = self.call(["machine", "ls", "--json"].map(OsString::from).into(), Duration::from_secs(60)).await?;
        if answer.code != Some(0) {
            return Err(answer.trouble());
        }
        let list: Vec<serde_json::Value> = serde_json::from_slice(&answer.stdout)
            .map_err(|error| Trouble::Damaged(format!("`machine ls --json` printed something else: {error}")))?;
        Ok(list.into_iter().find(|machine| machine["name"] == self.machine.as_str()))
    }
}

/// Reads to the end and keeps at most `bytes_max`; the rest is read and dropped, so that the writer can end.
async fn read_some(from: Option<impl AsyncRead + Unpin>, bytes_max: usize) -> Vec<u8> {
    let (mut kept, mut buffer) = (Vec::new(), vec![0; 64 << 10]);
    let Some(mut from) = from else { return kept };
    while let Ok(count @ 1..) = from.read(&mut buffer).await {
        kept.extend_from_slice(&buffer[..count.min(bytes_max - kept.len())]);
    }
    kept
}

/// The last three lines that are not empty, joined; smolvm's progress may stand on the same line as its error.
fn last_words(stderr: &str) -> String {
    let error_at = stderr.rfind("Error: ").map_or(0, |at| at + "Error: ".len());
    let lines: Vec<&str> = stderr[error_at..].lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    lines[lines.len().saturating_sub(3)..].join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_words_are_smolvms_own() {
        let stderr = "Copying t:/x 12% Error: agent operation failed: read file: connection closed\n";
        assert_eq!(last_words(stderr), "agent operation failed: read file: connection closed");
        assert_eq!(last_words("one\n\ntwo\nthree\nfour\n"), "two; three; four");
        assert_eq!(last_words(""), "");
    }
}

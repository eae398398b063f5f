//! Running smolvm: one call of its command line, what it answered, and its own words when it failed.
//!
//! What the calls mean is known by those who make them: `source/machine/link.rs` reads machines, `thaw` makes some,
//! `sink/packed.rs` has an image packed.

use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::process::{Child, ChildStderr, ChildStdout, Command};

/// Bytes of one answer; smolvm itself carries no more than 11 MiB.
const ANSWER_BYTES_MAX: usize = 12 << 20;
/// Bytes kept of what smolvm, or a command, says on stderr.
pub(crate) const WORDS_BYTES_MAX: usize = 64 << 10;
/// What the list of machines may take.
const LIST_LIMIT: Duration = Duration::from_secs(60);
/// What asking for smolvm's release may take; it starts nothing.
const VERSION_LIMIT: Duration = Duration::from_secs(10);

/// smolvm on this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Program {
    /// The executable.
    pub executable: PathBuf,
    /// The folder where it keeps its machines, where that is not its usual one (`--state-dir`).
    pub state_dir: Option<PathBuf>,
}

impl Default for Program {
    /// `$SMOLFREEZE_SMOLVM`, else `smolvm` on the `PATH`.
    fn default() -> Self {
        std::env::var_os("SMOLFREEZE_SMOLVM").unwrap_or_else(|| "smolvm".into()).into()
    }
}

impl<T: Into<PathBuf>> From<T> for Program {
    fn from(executable: T) -> Self {
        Self { executable: executable.into(), state_dir: None }
    }
}

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

/// What a call printed, and its exit code.
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

    /// Whether smolvm did not even get through to the machine, so that nothing ran in it.
    pub(crate) fn never_began(&self) -> bool {
        self.code == Some(1)
            && self.stdout.is_empty()
            && self.stderr.contains("Error: agent operation failed: connect: ")
    }

    /// Nothing, if smolvm says that it worked.
    pub(crate) fn done(&self) -> Result<(), Trouble> {
        if self.code == Some(0) { Ok(()) } else { Err(self.trouble()) }
    }
}

/// Makes one call to its end. Dropping the future kills it.
pub(crate) async fn call(program: &Program, arguments: Vec<OsString>, limit: Duration) -> Result<Answer, Trouble> {
    Call::start(program, arguments, &[])?.answer(limit).await
}

/// A call under way. Dropped, it is killed; [`Call::terminate`] lets it tidy up.
#[derive(Debug)]
pub(crate) struct Call {
    child: Child,
    stdout: Option<ChildStdout>,
    stderr: Option<ChildStderr>,
}

impl Call {
    /// `environment` adds to our own.
    pub(crate) fn start(
        program: &Program,
        arguments: Vec<OsString>,
        environment: &[(&str, OsString)],
    ) -> Result<Self, Trouble> {
        let mut command = Command::new(&program.executable);
        if let Some(folder) = &program.state_dir {
            command.arg("--state-dir").arg(folder);
        }
        command
            .args(arguments)
            .envs(environment.iter().cloned())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        // A group of its own: a Ctrl-C at the terminal is for us, and we end the call in our own order.
        command.process_group(0);
        let spawned = command.spawn();
        let mut child =
            spawned.map_err(|error| Trouble::NotStarted(format!("{}: {error}", program.executable.display())))?;
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        Ok(Self { child, stdout, stderr })
    }

    /// Waits for its end. One that takes longer than `limit` goes on; it is the caller's to end.
    pub(crate) async fn answer(&mut self, limit: Duration) -> Result<Answer, Trouble> {
        let work = async {
            let (stdout, stderr, status) = tokio::join!(
                read_some(self.stdout.as_mut(), ANSWER_BYTES_MAX),
                read_some(self.stderr.as_mut(), WORDS_BYTES_MAX),
                self.child.wait()
            );
            let status = status.map_err(|error| Trouble::NotStarted(error.to_string()))?;
            let stderr = String::from_utf8_lossy(&stderr).into_owned();
            Ok(Answer { code: status.code(), stdout, stderr })
        };
        tokio::time::timeout(limit, work).await.unwrap_or(Err(Trouble::TimedOut(limit)))
    }

    /// Asks it and all that it started to end, and kills what has not within `grace`. Does nothing after its end.
    pub(crate) async fn terminate(mut self, grace: Duration) {
        signal_group(&self.child, Signal::TERM);
        if self.answer(grace).await.is_err() {
            signal_group(&self.child, Signal::KILL);
            let _ = self.child.wait().await;
        }
    }
}

/// To the whole group of a child that leads one; the number is its own until it was waited for.
pub(crate) fn signal_group(child: &Child, signal: Signal) {
    if let Some(pid) = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw) {
        let _ = kill_process_group(pid, signal);
    }
}

/// smolvm's release (`1.32.2`), where it says one.
pub(crate) async fn version(program: &Program) -> Result<Option<String>, Trouble> {
    let answer = call(program, vec!["--version".into()], VERSION_LIMIT).await?;
    answer.done()?;
    let text = String::from_utf8_lossy(&answer.stdout);
    let is_number = |word: &&str| word.starts_with(|first: char| first.is_ascii_digit());
    Ok(text.split_whitespace().find(is_number).map(str::to_owned))
}

/// What the list of machines says about `machine`; `None` when it is not in there.
pub(crate) async fn listed(program: &Program, machine: &str) -> Result<Option<serde_json::Value>, Trouble> {
    let list: Vec<serde_json::Value> = list(program).await?;
    Ok(list.into_iter().find(|listed| listed["name"] == machine))
}

/// All machines.
pub(crate) async fn list<T: DeserializeOwned>(program: &Program) -> Result<Vec<T>, Trouble> {
    let answer = call(program, ["machine", "ls", "--json"].map(OsString::from).into(), LIST_LIMIT).await?;
    answer.done()?;
    let list = serde_json::from_slice(&answer.stdout);
    list.map_err(|error| Trouble::Damaged(format!("`machine ls --json` printed something else: {error}")))
}

/// Reads to the end and keeps at most `bytes_max`; the rest is read and dropped, so that the writer can end.
pub(crate) async fn read_some(from: Option<impl AsyncRead + Unpin>, bytes_max: usize) -> Vec<u8> {
    let (mut kept, mut buffer) = (Vec::new(), vec![0; 64 << 10]);
    let Some(mut from) = from else { return kept };
    while let Ok(count @ 1..) = from.read(&mut buffer).await {
        kept.extend_from_slice(&buffer[..count.min(bytes_max - kept.len())]);
    }
    kept
}

/// The last three lines that are not empty, joined; smolvm's progress may stand on the same line as its error.
pub(crate) fn last_words(stderr: &str) -> String {
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

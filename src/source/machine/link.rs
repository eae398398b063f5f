//! How the host speaks to a machine: run a command in it, put a file into it, take a file out of it.
//!
//! A [`Link`] does one call and says what became of it. Whether a failed call is made again is decided in `relay`, in one
//! place; how long one may last is decided here. The first kind drives smolvm's own `exec` and `cp`.

use std::ffi::OsString;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;

use crate::smolvm::{self, Answer, Call, Program, Trouble};

/// smolvm calls in flight at once. A guest serves 8 connections at a time, shared with the user's own sessions.
const CALLS_MAX: usize = 3;

/// Where smolvm reads the most bytes that one `cp` may carry. It counts before it writes, in all releases that know it.
const COPY_BYTES_MAX: &str = "SMOLVM_FILE_TRANSFER_MAX_BYTES";

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
    /// Copies the machine's file `from` to the new file `to`, if it has at most `bytes_max`: whatever it is made to in the
    /// guest meanwhile, this host takes no more.
    fn take(&self, from: &str, to: &Path, bytes_max: u64, limit: Duration)
    -> impl Future<Output = Result<(), Trouble>>;
    /// What the list of machines says about this one; `None` when it is not in there.
    fn listed(&self) -> impl Future<Output = Result<Option<serde_json::Value>, Trouble>>;
}

/// The first kind of link: the `smolvm` executable, `exec` and `cp`.
#[derive(Debug, Clone)]
pub(crate) struct Smolvm {
    program: Program,
    machine: String,
    /// Whether `-u 0` makes root: an image machine's exec runs as the image's user, a bare machine refuses the flag.
    user_flag: bool,
    calls: Arc<Semaphore>,
}

impl Smolvm {
    pub(crate) fn new(program: Program, machine: &str) -> Self {
        Self { program, machine: machine.to_owned(), user_flag: false, calls: Arc::new(Semaphore::new(CALLS_MAX)) }
    }

    /// Says whether this is a machine with an image.
    pub(crate) fn set_image_machine(&mut self, image_machine: bool) {
        self.user_flag = image_machine;
    }

    /// smolvm's release: the number that `--version` prints.
    pub(crate) async fn version(&self) -> Option<String> {
        let _turn = self.calls.acquire().await.ok()?;
        smolvm::version(&self.program).await.ok()?
    }

    async fn call(
        &self,
        arguments: Vec<OsString>,
        environment: &[(&str, OsString)],
        limit: Duration,
    ) -> Result<Answer, Trouble> {
        let _turn = self.calls.acquire().await.map_err(|_| Trouble::NotStarted("the link is closed".to_owned()))?;
        Call::start(&self.program, arguments, environment)?.answer(limit).await
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
        self.call(arguments, &[], limit).await
    }

    async fn put(&self, from: &Path, to: &str, limit: Duration) -> Result<(), Trouble> {
        let arguments = vec!["machine".into(), "cp".into(), from.into(), self.inside(to)];
        self.call(arguments, &[], limit).await?.done()
    }

    async fn take(&self, from: &str, to: &Path, bytes_max: u64, limit: Duration) -> Result<(), Trouble> {
        let arguments = vec!["machine".into(), "cp".into(), self.inside(from), to.into()];
        self.call(arguments, &[(COPY_BYTES_MAX, bytes_max.to_string().into())], limit).await?.done()
    }

    async fn listed(&self) -> Result<Option<serde_json::Value>, Trouble> {
        smolvm::listed(&self.program, &self.machine).await
    }
}

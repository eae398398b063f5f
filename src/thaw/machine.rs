//! A machine on its way: created and started by smolvm, deleted again when it never came to run.

use std::ffi::OsString;
use std::path::Path;
use std::time::Duration;

use super::Wishes;
use crate::error::{Error, Result};
use crate::smolvm::{self, Answer, Program, Trouble};
use crate::stop::Stop;

/// What creating may take: smolvm unpacks the whole artifact in it.
const CREATE_LIMIT: Duration = Duration::from_secs(4 * 3600);
/// What a first start may take: on a Mac the guest unpacks the layers in it.
const START_LIMIT: Duration = Duration::from_secs(3600);
/// What deleting may take.
const DELETE_LIMIT: Duration = Duration::from_secs(60);
/// How long a create may go on once stopped. One that is killed leaves data behind, which only smolvm's next create
/// removes; one that ends leaves a machine that can be deleted. The user waits.
const CREATE_GRACE: Duration = Duration::from_secs(3);

/// What smolvm says while another call of it has its database.
const LOCKED: &str = "database is locked";
/// How often it is asked then, and how long after another.
const LOCKED_TRIES: u32 = 10;
const LOCKED_WAIT: Duration = Duration::from_secs(1);

/// The new machine, by its name.
#[derive(Debug)]
pub(super) struct NewMachine {
    pub(super) smolvm: Program,
    pub(super) name: String,
}

impl NewMachine {
    /// Sees that smolvm answers and has no machine of this name.
    pub(super) async fn check_free(&self) -> Result<()> {
        match smolvm::listed(&self.smolvm, &self.name).await {
            Ok(None) => Ok(()),
            Ok(Some(_)) => Err(self.failed("creating the machine", &"smolvm has a machine of this name already")),
            Err(trouble) => {
                let hint = "is smolvm installed? --smolvm names it";
                Err(self.failed("asking smolvm for its machines", &trouble).hint(hint))
            }
        }
    }

    /// Makes it from an artifact. However this fails, or is stopped, there is no such machine of ours afterwards.
    pub(super) async fn create(&self, artifact: &Path, wishes: &Wishes, stop: &Stop) -> Result<()> {
        let mut arguments = self.words("create");
        arguments.extend(["--from".into(), artifact.into()]);
        if let Some(cpus) = wishes.cpus {
            arguments.extend(["--cpus".into(), cpus.to_string().into()]);
        }
        if let Some(memory_mib) = wishes.memory_mib {
            arguments.extend(["--mem".into(), memory_mib.to_string().into()]);
        }
        if wishes.network {
            arguments.push("--net".into());
        }
        let mut creating = Box::pin(self.unlocked(arguments, CREATE_LIMIT));
        let (answer, stopped) = tokio::select! {
            answer = &mut creating => (Some(answer), false),
            () = stop.stopped() => (tokio::time::timeout(CREATE_GRACE, &mut creating).await.ok(), true),
        };
        drop(creating);
        match done(answer) {
            // smolvm refused: what has this name, if anything, is not ours.
            Err(trouble @ (Trouble::Failed { code: Some(_), .. } | Trouble::NotStarted(_))) => {
                Err(if stopped { Error::interrupted() } else { self.failed("creating the machine", &trouble) })
            }
            Ok(()) if !stopped => Ok(()),
            Ok(()) => Err(self.without(Error::interrupted()).await),
            Err(_) if stopped => Err(self.without(Error::interrupted()).await),
            Err(trouble) => Err(self.without(self.failed("creating the machine", &trouble)).await),
        }
    }

    /// Starts it; if that fails, or is stopped, it is deleted.
    pub(super) async fn start(&self, stop: &Stop) -> Result<()> {
        let answer = tokio::select! {
            answer = self.unlocked(self.words("start"), START_LIMIT) => answer,
            () = stop.stopped() => return Err(self.without(Error::interrupted()).await),
        };
        let Err(trouble) = done(Some(answer)) else { return Ok(()) };
        let hint = "the machine was deleted again; --no-start leaves it to be looked into";
        Err(self.without(self.failed("starting the machine", &trouble).hint(hint)).await)
    }

    /// Calls smolvm, again where its database was locked: it refuses at once then, and has done nothing (SMOLVM.md).
    async fn unlocked(&self, arguments: Vec<OsString>, limit: Duration) -> Result<Answer, Trouble> {
        for _ in 1..LOCKED_TRIES {
            let answer = smolvm::call(&self.smolvm, arguments.clone(), limit).await?;
            if answer.code == Some(0) || !answer.stderr.contains(LOCKED) {
                return Ok(answer);
            }
            tokio::time::sleep(LOCKED_WAIT).await;
        }
        smolvm::call(&self.smolvm, arguments, limit).await
    }

    /// Deletes the machine, running or not, because of `cause`.
    pub(super) async fn without(&self, cause: Error) -> Error {
        match self.gone().await {
            Ok(()) => cause,
            Err(error) => cause.attach(error),
        }
    }

    /// Deletes the machine, running or not, if it is there.
    pub(super) async fn gone(&self) -> Result<()> {
        self.delete().await.map_err(|trouble| {
            let by_hand = format!("`smolvm machine delete --name {} --force` does it by hand", self.name);
            self.failed("deleting the machine", &trouble).hint(by_hand)
        })
    }

    async fn delete(&self) -> Result<(), Trouble> {
        let Some(listed) = smolvm::listed(&self.smolvm, &self.name).await? else { return Ok(()) };
        if listed["state"] != "created" {
            // What a start left running; a machine that does not run says so, and is deleted all the same.
            let _ = smolvm::call(&self.smolvm, self.words("stop"), DELETE_LIMIT).await;
        }
        let mut arguments = self.words("delete");
        arguments.push("--force".into());
        smolvm::call(&self.smolvm, arguments, DELETE_LIMIT).await?.done()
    }

    fn words(&self, verb: &str) -> Vec<OsString> {
        ["machine", verb, "--name", &self.name].map(OsString::from).into()
    }

    fn failed(&self, operation: &str, reason: &dyn std::fmt::Display) -> Error {
        Error::sink(operation, format_args!("machine '{}'", self.name), reason)
    }
}

/// None: the call was killed.
fn done(answer: Option<Result<Answer, Trouble>>) -> Result<(), Trouble> {
    answer.unwrap_or(Err(Trouble::TimedOut(CREATE_GRACE)))?.done()
}

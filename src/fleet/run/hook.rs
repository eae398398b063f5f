//! Commands on this host, and smolvm's start and stop of a machine: each with a limit.

use std::ffi::OsString;
use std::time::Duration;

use crate::smolvm::{self, Call, Program, Trouble};
use crate::stop::Stop;

/// What a command, asked to end, may take for it.
const GRACE: Duration = Duration::from_secs(3);
/// What smolvm may take to start a machine.
const START_LIMIT: Duration = Duration::from_secs(600);
/// What smolvm may take to stop one.
const STOP_LIMIT: Duration = Duration::from_secs(120);

/// Runs `command` by `sh -c`. One that takes too long, or that `stop` ends, is killed with all that it started.
pub(super) async fn run(
    command: &str,
    environment: &[(&str, OsString)],
    limit: Duration,
    stop: Option<&Stop>,
) -> Result<(), String> {
    let shell = Program::from("sh");
    let started = Call::start(&shell, vec!["-c".into(), command.into()], environment);
    let mut call = started.map_err(|trouble| trouble.to_string())?;
    let stopped = async {
        match stop {
            Some(stop) => stop.stopped().await,
            None => std::future::pending().await,
        }
    };
    let answer = tokio::select! {
        answer = call.answer(limit) => answer,
        () = stopped => {
            call.terminate(GRACE).await;
            return Err("interrupted".to_owned());
        }
    };
    match answer {
        Ok(answer) => answer.done().map_err(|trouble| match &trouble {
            Trouble::Failed { code: Some(code), words } if !words.is_empty() => format!("exit code {code}: {words}"),
            _ => trouble.to_string(),
        }),
        Err(trouble) => {
            call.terminate(GRACE).await;
            Err(trouble.to_string())
        }
    }
}

/// Starts a machine.
pub(super) async fn start_machine(program: &Program, machine: &str, stop: &Stop) -> Result<(), String> {
    tokio::select! {
        answer = smolvm::call(program, words("start", machine), START_LIMIT) => done(answer),
        () = stop.stopped() => Err("interrupted".to_owned()),
    }
}

/// Stops a machine, whatever else is stopped.
pub(super) async fn stop_machine(program: &Program, machine: &str) -> Result<(), String> {
    done(smolvm::call(program, words("stop", machine), STOP_LIMIT).await)
}

fn words(verb: &str, machine: &str) -> Vec<OsString> {
    ["machine", verb, "--name", machine].map(OsString::from).into()
}

fn done(answer: Result<smolvm::Answer, Trouble>) -> Result<(), String> {
    answer.and_then(|answer| answer.done()).map_err(|trouble| trouble.to_string())
}

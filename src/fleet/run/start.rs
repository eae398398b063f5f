//! smolvm's start and stop of a machine, each with a limit.

use std::ffi::OsString;
use std::time::Duration;

use super::job::is_stopped;
use crate::smolvm::{self, Program, Trouble};
use crate::stop::Stop;

/// What smolvm may take to start a machine.
const START_LIMIT: Duration = Duration::from_secs(600);
/// What smolvm may take to stop one.
const STOP_LIMIT: Duration = Duration::from_secs(120);

/// Starts a machine.
pub(super) async fn start_machine(program: &Program, machine: &str, stop: &Stop) -> Result<(), String> {
    tokio::select! {
        answer = smolvm::call(program, words("start", machine), START_LIMIT) => done(answer),
        () = stop.stopped() => Err("interrupted".to_owned()),
    }
}

/// Stops a machine, whatever else is stopped. It fails where the machine may still run.
pub(super) async fn stop_machine(program: &Program, machine: &str) -> Result<(), String> {
    let Err(why) = done(smolvm::call(program, words("stop", machine), STOP_LIMIT).await) else { return Ok(()) };
    match smolvm::listed(program, machine).await {
        Ok(None) => Ok(()),
        Ok(Some(listed)) if is_stopped(listed["state"].as_str().unwrap_or_default()) => Ok(()),
        Ok(Some(_)) | Err(_) => Err(why),
    }
}

fn words(verb: &str, machine: &str) -> Vec<OsString> {
    ["machine", verb, "--name", machine].map(OsString::from).into()
}

fn done(answer: Result<smolvm::Answer, Trouble>) -> Result<(), String> {
    answer.and_then(|answer| answer.done()).map_err(|trouble| trouble.to_string())
}

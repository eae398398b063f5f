//! smolvm's start and stop of a machine, each with a limit.

use std::ffi::OsString;
use std::time::Duration;

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

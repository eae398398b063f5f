//! A command on this host that is told.

use std::ffi::OsString;
use std::io::{Seek as _, Write as _};
use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::process::{Child, Command};

use super::Night;

/// What it finds in its environment.
pub(super) fn environment(night: &Night, exit: u8) -> [(&'static str, OsString); 3] {
    [
        ("SMOLFREEZE_FLEET", night.fleet.clone().into()),
        ("SMOLFREEZE_NIGHT", night.night.clone().into()),
        ("SMOLFREEZE_EXIT", exit.to_string().into()),
    ]
}

/// Runs `command` by `sh -c`, with `input` to read. One that takes longer than `limit` is killed with all that it started.
pub(super) async fn run(
    command: &str,
    input: &str,
    environment: &[(&str, OsString)],
    limit: Duration,
) -> Result<(), String> {
    let failed = |reason: String| format!("the command that is told of a run failed: {reason}");
    let mut child = start(command, input, environment).map_err(|error| failed(error.to_string()))?;
    match tokio::time::timeout(limit, child.wait()).await {
        Ok(Ok(status)) if status.success() => Ok(()),
        Ok(Ok(status)) => Err(failed(status.to_string())),
        Ok(Err(error)) => Err(failed(error.to_string())),
        Err(_) => {
            kill(&mut child).await;
            Err(failed(format!("it took longer than {}", humantime::format_duration(limit))))
        }
    }
}

fn start(command: &str, input: &str, environment: &[(&str, OsString)]) -> std::io::Result<Child> {
    // A file, not a pipe: a command that does not read it blocks nobody.
    let mut file = tempfile::tempfile()?;
    file.write_all(input.as_bytes())?;
    file.rewind()?;
    let mut shell = Command::new("sh");
    shell.args(["-c", command]).envs(environment.iter().cloned()).stdin(file).stdout(Stdio::null()).kill_on_drop(true);
    shell.process_group(0).spawn()
}

async fn kill(child: &mut Child) {
    let pid = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
    if let Some(pid) = pid {
        let _ = kill_process_group(pid, Signal::KILL);
    }
    let _ = child.wait().await;
}

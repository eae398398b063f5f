//! Commands of the user's on this host.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Seek as _, Write as _};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::Signal;
use tokio::process::{Child, Command};

use crate::smolvm::{WORDS_BYTES_MAX, last_words, read_some, signal_group};
use crate::stop::Stop;

/// What a command, asked to end, may take for it.
const GRACE: Duration = Duration::from_secs(3);

/// Runs `command` by `sh -c`, with `input` to read. One that takes longer than `limit`, or that `stop` ends, is ended with all
/// that it started; what one that has ended left running on purpose (a tunnel, say) stays.
///
/// # Errors
/// Why it failed, with its last words.
pub(super) async fn run(
    command: &str,
    input: &str,
    environment: &[(&str, OsString)],
    (limit, stop): (Duration, Option<&Stop>),
) -> Result<(), String> {
    // Files, not pipes: one that does not read blocks nobody, and what is left running has none of our ends open.
    let words = tempfile::tempfile().map_err(|error| error.to_string())?;
    let mut child = start(command, input, environment, &words).map_err(|error| error.to_string())?;
    let stopped = async {
        match stop {
            Some(stop) => stop.stopped().await,
            None => std::future::pending().await,
        }
    };
    let why = tokio::select! {
        status = child.wait() => return judge(status.map_err(|error| error.to_string())?, words).await,
        () = tokio::time::sleep(limit) => format!("it did not end within {}", humantime::format_duration(limit)),
        () = stopped => "interrupted".to_owned(),
    };
    signal_group(&child, Signal::TERM);
    if tokio::time::timeout(GRACE, child.wait()).await.is_err() {
        signal_group(&child, Signal::KILL);
        let _ = child.wait().await;
    }
    Err(why)
}

fn start(command: &str, input: &str, environment: &[(&str, OsString)], words: &File) -> io::Result<Child> {
    let mut file = tempfile::tempfile()?;
    file.write_all(input.as_bytes())?;
    file.rewind()?;
    let mut shell = Command::new("sh");
    shell.args(["-c", command]).envs(environment.iter().cloned()).stdin(file).stdout(Stdio::null());
    // A group of its own: a Ctrl-C at the terminal is for us, and we end it in our own order.
    shell.stderr(words.try_clone()?).kill_on_drop(true).process_group(0).spawn()
}

async fn judge(status: ExitStatus, mut words: File) -> Result<(), String> {
    if status.success() {
        return Ok(());
    }
    // The last ones say why.
    let end = words.seek(io::SeekFrom::End(0)).unwrap_or_default();
    let from = io::SeekFrom::Start(end.saturating_sub(WORDS_BYTES_MAX as u64));
    let words = words.seek(from).ok().map(|_| tokio::fs::File::from_std(words));
    let said = last_words(&String::from_utf8_lossy(&read_some(words, WORDS_BYTES_MAX).await));
    let how = status.code().map_or_else(|| status.to_string(), |code| format!("exit code {code}"));
    Err(if said.is_empty() { how } else { format!("{how}: {said}") })
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    async fn ran(command: &str, limit: Duration) -> Result<(), String> {
        run(command, "given", &[("GIVEN", "too".into())], (limit, None)).await
    }

    #[tokio::test]
    async fn a_command_is_judged_by_its_own_end() {
        let long = Duration::from_secs(60);
        let began = Instant::now();
        assert_eq!(ran("test $(cat) = given && test $GIVEN = too", long).await, Ok(()));
        // What it left has its output open.
        assert_eq!(ran("sleep 600 & exit 0", long).await, Ok(()));
        assert_eq!(ran("echo no >&2; sleep 600 & exit 3", long).await, Err("exit code 3: no".to_owned()));
        assert!(began.elapsed() < Duration::from_secs(100));
        let late = ran("sleep 600; true", Duration::from_millis(50)).await;
        assert_eq!(late, Err("it did not end within 50ms".to_owned()));
        let stop = Stop::new();
        stop.interrupt();
        assert_eq!(run("sleep 600", "", &[], (long, Some(&stop))).await, Err("interrupted".to_owned()));
        assert!(began.elapsed() < Duration::from_secs(120));
    }
}

//! One freeze: its command line, its deadline, its memory, its report.

use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};
use serde_json::Value;

use crate::work::Work;

/// No freeze of a tree of this size takes this long; one that does hangs.
const DEADLINE: Duration = Duration::from_secs(120);

/// Descriptors that a process has unless it asks for more.
const DESCRIPTORS: &str = "--nofile=1024:1024";

/// A freeze that ended.
pub struct Ended {
    /// None where it was killed at the deadline.
    pub code: Option<i32>,
    pub said: String,
    /// Most bytes that the process had resident, as the system says.
    pub resident_bytes: u64,
    pub report: Value,
}

/// Runs `smolfreeze freeze` with these words; `input` is piped into it.
pub fn freeze(work: &Work, binary: &Path, words: &[String], input: Option<&Path>) -> Ended {
    let (peak, report) = (work.path("peak"), work.path("report.json"));
    let mut command = Command::new("/usr/bin/time");
    command.args(["-q", "-f", "%M", "-o"]).arg(&peak).args(["prlimit", DESCRIPTORS]).arg(binary);
    command.args(["freeze", "--quiet", "--no-record", "--no-known", "--report"]).arg(&report).args(words);
    std::fs::write(work.path("command"), format!("{command:?}\n")).unwrap();
    surround(work, &mut command);
    let mut feeder = input.map(|input| {
        let mut feeder = Command::new("cat");
        feeder.arg(input).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap()
    });
    if let Some(feeder) = &mut feeder {
        command.stdin(feeder.stdout.take().unwrap());
    }
    let error = work.path("stderr");
    command.stdout(File::create(work.path("stdout")).unwrap()).stderr(File::create(&error).unwrap()).process_group(0);
    let mut child = command.spawn().unwrap();
    drop(command);
    let code = ended_by(&mut child, DEADLINE);
    if let Some(mut feeder) = feeder {
        let _ = feeder.kill();
        let _ = feeder.wait();
    }
    let kibibytes = std::fs::read_to_string(&peak).unwrap_or_default();
    let kibibytes: u64 = kibibytes.lines().last().and_then(|line| line.trim().parse().ok()).unwrap_or(0);
    let report = std::fs::read(&report).ok().and_then(|text| serde_json::from_slice(&text).ok());
    Ended {
        code,
        said: String::from_utf8_lossy(&std::fs::read(&error).unwrap()).into_owned(),
        resident_bytes: kibibytes << 10,
        report: report.unwrap_or_default(),
    }
}

/// Nothing of the user's is around it.
pub fn surround(work: &Work, command: &mut Command) {
    for name in ["XDG_RUNTIME_DIR", "XDG_STATE_HOME", "DOCKER_CONFIG", "REGISTRY_AUTH_FILE", "SOURCE_DATE_EPOCH"] {
        command.env_remove(name);
    }
    command.env("HOME", work.path("home")).env("XDG_CACHE_HOME", work.path("cache"));
    command.env("TMPDIR", work.path("scratch")).stdin(Stdio::null());
}

/// Its exit code; a signal's is 128 and more. At the deadline it is killed with all that it started.
fn ended_by(child: &mut Child, deadline: Duration) -> Option<i32> {
    let began = Instant::now();
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status.code().or(Some(128));
        }
        if began.elapsed() > deadline {
            let _ = kill_process_group(Pid::from_child(child), Signal::KILL);
            let _ = child.wait();
            return None;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

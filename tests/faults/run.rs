//! One run of the command: in a mount namespace whose `/dev/shm` is its own, with a mark that its processes inherit, and
//! with an end to all patience.

use std::fs::{self, File};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::process::{Child, Command};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};

use crate::case::{Case, PLAIN};
use crate::fault::Fault;
use crate::strike::Target;
use crate::world::World;

/// The variable that marks processes.
const MARK: &str = "SMOLFREEZE_FAULTS";

/// How a run ended.
pub struct Ended {
    /// None where a signal ended it.
    pub code: Option<i32>,
    pub signal: Option<i32>,
    pub stdout: String,
    pub stderr: String,
    pub took: Duration,
    /// It had to be killed: its time was over.
    pub hung: bool,
    /// The faults that there was something to strike for.
    pub struck: Vec<Fault>,
    /// What its processes had in their environment.
    pub mark: String,
}

/// `smolfreeze freeze` with these words, and the case's faults where `is_struck`.
pub fn freeze(world: &World, case: &Case, words: &[String], is_struck: bool) -> Ended {
    let mark = format!("{}-{}-{is_struck}", std::process::id(), case.seed);
    let (out, err) = (world.host.path("stdout"), world.host.path("stderr"));
    // The same process all along: what is told its pid tells the freeze.
    let script = "mount --bind \"$0\" /dev/shm && exec \"$@\"";
    let mut command = Command::new("unshare");
    world.host.surround(&mut command).args(["--mount", "--propagation", "private", "--", "sh", "-c", script]);
    command.arg(world.host.path("shm")).arg(&world.host.binary).arg("freeze").args(words);
    command.env(MARK, &mark).process_group(0);
    command.stdout(File::create(&out).unwrap()).stderr(File::create(&err).unwrap());
    let began = Instant::now();
    let mut child = command.spawn().unwrap();
    let faults = if is_struck { &case.faults[..] } else { &[] };
    let deadline = if is_struck { case.deadline() } else { PLAIN };
    let (over, pid) = (AtomicBool::new(false), Pid::from_child(&child));
    let target = Target { world, pid, mark: &mark, over: &over };
    let (hung, struck) = std::thread::scope(|scope| {
        let target = &target;
        let strikes: Vec<_> = faults.iter().map(|fault| (fault, scope.spawn(|| target.strike(fault)))).collect();
        let hung = !ends_within(&mut child, began + deadline);
        over.store(true, Ordering::SeqCst);
        let struck = strikes.into_iter().filter_map(|(fault, strike)| {
            let hit = strike.join().expect("a strike that does not panic");
            hit.then(|| fault.clone())
        });
        (hung, struck.collect())
    });
    let (took, status) = (began.elapsed(), child.wait().unwrap());
    let text = |path| String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned();
    let (stdout, stderr) = (text(&out), text(&err));
    Ended { code: status.code(), signal: status.signal(), stdout, stderr, took, hung, struck, mark }
}

/// False where it had to be killed.
fn ends_within(child: &mut Child, deadline: Instant) -> bool {
    while child.try_wait().unwrap().is_none() {
        if Instant::now() > deadline {
            let _ = kill_process_group(Pid::from_child(child), Signal::KILL);
            let _ = child.wait();
            return false;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    true
}

/// Processes with this mark: pids, and command lines.
pub fn marked(mark: &str) -> Vec<(i32, String)> {
    let wanted = format!("{MARK}={mark}");
    let pids = fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let has_it = |pid: &i32| {
        let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        environment.split(|byte| *byte == 0).any(|variable| variable == wanted.as_bytes())
    };
    let command = |pid: i32| {
        String::from_utf8_lossy(&fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default()).replace('\0', " ")
    };
    pids.filter(has_it).map(|pid| (pid, command(pid))).collect()
}

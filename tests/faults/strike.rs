//! Faults that strike at a moment of the freeze, each from a thread of its own.

use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rustix::process::{Pid, Signal, kill_process, kill_process_group};

use crate::fault::Fault;
use crate::run::marked;
use crate::world::World;

/// How often is looked whether something is there to be struck.
const LOOK: Duration = Duration::from_millis(2);

/// A freeze that is to be struck.
pub struct Target<'a> {
    pub world: &'a World,
    pub pid: Pid,
    /// What its processes have in their environment.
    pub mark: &'a str,
    /// It has ended.
    pub over: &'a AtomicBool,
}

impl Target<'_> {
    /// Waits for the fault's moment, and strikes. Says whether there was anything to strike.
    pub fn strike(&self, fault: &Fault) -> bool {
        let Some(moment) = fault.moment() else { return true };
        if !self.until(|| self.world.events() >= moment.events) || !self.sleep(Duration::from_millis(moment.millis)) {
            return false;
        }
        match fault {
            Fault::KillRegistry(_, back) => self.kill_registry(*back),
            Fault::FullGuest(_, room) => {
                self.world.fill_guest(true);
                if let Some(room) = room {
                    self.sleep(*room);
                    self.world.fill_guest(false);
                }
                true
            }
            Fault::Smolvm(_, _, order) => self.order(order),
            Fault::Refused(_, time) => {
                let until = SystemTime::now() + *time;
                let until = until.duration_since(UNIX_EPOCH).map_or(0, |time| time.as_millis());
                self.order(&format!("refuse-until {until}"))
            }
            Fault::KillCall(_, call) => self.kill_call(call),
            Fault::KillInGuest(_, what) => self.kill_in_guest(what),
            Fault::StopMachine(_) => self.stop_machine(),
            Fault::KillHost(_) => kill_process(self.pid, Signal::KILL).is_ok(),
            // Before it listens, a signal ends it as it ends any process: nothing has begun then, and nothing is said.
            Fault::Signal(_, signal) => self.until(|| self.catches(*signal)) && self.signal(*signal),
            _ => true,
        }
    }

    /// As a terminal does it, and as an init does.
    fn signal(&self, signal: Signal) -> bool {
        match signal {
            Signal::INT => kill_process_group(self.pid, signal).is_ok(),
            _ => kill_process(self.pid, signal).is_ok(),
        }
    }

    fn catches(&self, signal: Signal) -> bool {
        let program = std::fs::read_link(format!("/proc/{}/exe", self.pid.as_raw_nonzero()));
        if program.is_ok_and(|program| program != self.world.host.binary) {
            return false;
        }
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid.as_raw_nonzero()));
        let caught = status.unwrap_or_default();
        let caught = caught.lines().find_map(|line| line.strip_prefix("SigCgt:")).map(str::trim);
        let caught = caught.and_then(|bits| u64::from_str_radix(bits, 16).ok()).unwrap_or(0);
        caught >> (signal.as_raw() - 1) & 1 == 1
    }

    fn kill_registry(&self, back: Option<Duration>) -> bool {
        let (Some(mut upstream), Some(proxy)) = (self.world.upstream(), &self.world.proxy) else { return false };
        upstream.kill();
        if let Some(back) = back {
            thread::sleep(back);
            upstream.restart_if_gone(&self.world.host);
            proxy.redirect(upstream.address());
        }
        true
    }

    fn order(&self, line: &str) -> bool {
        self.world.machine.as_ref().is_some_and(|machine| {
            machine.one_more_fault(line);
            true
        })
    }

    /// The next one of these calls, on the host's side.
    fn kill_call(&self, call: &str) -> bool {
        let words = format!("machine {call} ");
        self.until(|| {
            let calls = marked(self.mark).into_iter().filter(|(_, command)| command.contains(&words));
            calls.take(1).filter(|(pid, _)| kill(*pid)).count() > 0
        })
    }

    /// The next one of these processes, in the guest.
    fn kill_in_guest(&self, what: &str) -> bool {
        let Some(machine) = &self.world.machine else { return false };
        self.until(|| {
            let there = machine.processes().into_iter().filter(|(_, command)| command.contains(what));
            there.take(1).filter(|(pid, _)| kill(*pid)).count() > 0
        })
    }

    fn stop_machine(&self) -> bool {
        let Some(machine) = &self.world.machine else { return false };
        let mut stop = Command::new(machine.smolvm_path());
        let stopped = stop.args(["machine", "stop", "--name", machine.name]).stderr(Stdio::null()).status();
        stopped.is_ok_and(|status| status.success())
    }

    /// Waits until it is so; false where the freeze is over first.
    fn until(&self, so: impl Fn() -> bool) -> bool {
        while !so() {
            if self.over.load(Ordering::SeqCst) {
                return false;
            }
            thread::sleep(LOOK);
        }
        true
    }

    fn sleep(&self, time: Duration) -> bool {
        let end = Instant::now() + time;
        self.until(|| Instant::now() >= end)
    }
}

pub fn kill(pid: i32) -> bool {
    Pid::from_raw(pid).is_some_and(|pid| kill_process(pid, Signal::KILL).is_ok())
}

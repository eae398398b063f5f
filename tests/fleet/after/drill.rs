//! Drills, as a person calls them: whatever ends one, its machine is gone, or is when the next one begins.

use std::process::Command;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use smolfreeze::fleet::night::{Drilled, Night, Nights, Run};

use super::keeper::outcome;
use crate::host::{Host, finish};
use crate::standin::{Kind, Standin};
use crate::support::sidecar;

struct Drilling {
    host: Host,
    machine: Standin,
    agent: String,
}

impl Drilling {
    /// A machine, frozen in one night.
    fn new() -> Self {
        let (host, machine) = (Host::new(), Standin::start(Kind::Debian));
        let agent = sidecar::agent(&host.path(".")).display().to_string();
        let drilling = Self { host, machine, agent };
        let to = format!("oci:{}:m1", drilling.host.text("layout"));
        let smolvm = drilling.machine.smolvm_path().display().to_string();
        let snapshot = drilling.host.freeze(&["m1", "--smolvm", &smolvm, "--to", &to]);
        let began = "2026-01-01T02:30:00Z".parse().unwrap();
        let mut night = Night::new("fleet", "2026-01-01", "host");
        night.runs.push(Run { began, ended: None, exit: None, pid: 1, troubles: Vec::new() });
        night.outcomes.push(outcome(("m1", "there"), &to, began, Some(snapshot.outputs[0].digest)));
        drilling.nights().make_folder().unwrap();
        drilling.nights().write(&night).unwrap();
        drilling
    }

    fn nights(&self) -> Nights {
        Nights::at(&self.host.path("home/.local/state/smolfreeze"), "fleet")
    }

    /// `fleet drill`, with this drill in its file.
    fn command(&self, drill: &str) -> Command {
        let (smolvm, layout, agent) = (self.machine.smolvm_path().display(), self.host.text("layout"), &self.agent);
        let file = format!(
            "smolvm.executable = \"{smolvm}\"\n[destinations.there]\nto = \"oci:{layout}:{{machine}}\"\n[defaults]\nto = [\"there\"]\n\
             [defaults.freeze]\nagent_rootfs = \"{agent}\"\n[[policies]]\nname = \"all\"\n[policies.drill]\n{drill}\n"
        );
        std::fs::write(self.host.path("fleet.toml"), file).unwrap();
        self.host.command(&["fleet", "drill", "--json", "--file", &self.host.text("fleet.toml")])
    }

    /// Drills to the end: what came of it.
    fn drill(&self, code: i32, drill: &str) -> Vec<Drilled> {
        let output = finish(self.command(drill).spawn().unwrap());
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{said}");
        assert_eq!(self.others(), Vec::<String>::new(), "{said}");
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// All machines but the one that was frozen.
    fn others(&self) -> Vec<String> {
        let listed = self.machine.smolvm(&["machine", "ls", "--json"]).stdout;
        let listed: serde_json::Value = serde_json::from_slice(&listed).unwrap();
        let names = listed.as_array().unwrap().iter().map(|one| one["name"].as_str().unwrap().to_owned());
        names.filter(|name| name != "m1").collect()
    }

    /// One whose machine is at work is sent a signal.
    fn interrupted(&self, signal: Signal) -> Option<i32> {
        let mut child = self.command("command = \"touch /srv/at-work; sleep 100\"").spawn().unwrap();
        let began = Instant::now();
        let is_at_work = || {
            let name = self.others().pop();
            name.is_some_and(|name| {
                let words = ["machine", "exec", "--name", &name, "--", "test", "-e", "/srv/at-work"];
                Command::new(self.machine.smolvm_path())
                    .args(words)
                    .output()
                    .is_ok_and(|output| output.status.success())
            })
        };
        while !is_at_work() {
            assert!(began.elapsed() < Duration::from_secs(100) && child.try_wait().unwrap().is_none());
            std::thread::sleep(Duration::from_millis(50));
        }
        kill_process(Pid::from_child(&child), signal).unwrap();
        child.wait().unwrap();
        child.wait().unwrap().code()
    }
}

#[test]
fn a_machine_is_made_asked_and_deleted_whatever_it_answers() {
    let drilling = Drilling::new();
    let good = drilling.drill(0, "command = \"id -u; head -c 6 /etc/os-release\"\nexpect = \"0\\nPRETTY\"");
    assert_eq!((good.len(), &good[0].machine[..], &good[0].trouble), (1, "m1", &None));
    let remembered = drilling.nights().read("2026-01-01").unwrap().unwrap();
    assert_eq!(remembered.after.drills, good);

    drilling.drill(0, "cpus = 1\nmemory = \"512MiB\"");
    let calls = std::fs::read_to_string(drilling.machine.state.path().join("calls")).unwrap();
    // A host may not have what an image's machine gets by default.
    let creates: Vec<_> = calls.lines().filter(|call| call.contains("create")).collect();
    assert!(!creates[0].contains("--cpus") && creates[1].contains("--cpus 1 --mem 512"), "{creates:?}");

    let other = drilling.drill(11, "command = \"echo one\"\nexpect = \"two\"");
    let trouble = other[0].trouble.as_ref().unwrap();
    assert!(trouble.kind == "drill" && trouble.text.contains("'one'") && trouble.text.contains("'two'"), "{trouble:?}");
    let failed = drilling.drill(11, "command = \"echo no >&2; exit 3\"");
    assert!(failed[0].trouble.as_ref().unwrap().text.contains("exit code 3: no"), "{failed:?}");
    let late = drilling.drill(11, "command = \"sleep 100\"\nlimit = \"5s\"");
    assert_eq!(late[0].trouble.as_ref().unwrap().kind, "deadline", "{late:?}");
}

#[test]
fn a_drill_that_is_interrupted_or_killed_leaves_nothing_for_long() {
    let drilling = Drilling::new();
    assert_eq!(drilling.interrupted(Signal::INT), Some(130));
    assert_eq!(drilling.others(), Vec::<String>::new());
    assert_eq!(drilling.interrupted(Signal::KILL), None);
    let left = drilling.others();
    assert!(left.len() == 1 && left[0].starts_with("smolfreeze-drill-"), "{left:?}");
    // Somebody's own, whatever it is called.
    let mine = drilling.machine.beside("smolfreeze-drill-mine", Kind::Busybox);
    let output = finish(drilling.command("command = \"true\"").spawn().unwrap());
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(drilling.others(), [mine.name]);
}

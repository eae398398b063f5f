//! Signals at every step of a thaw: out in time, no machine of ours, and nothing else left either.

use std::os::unix::process::CommandExt as _;
use std::process::Child;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};

use crate::host::{finish, names, one_line, until};
use crate::standin::Kind;
use crate::support::docker_registry::DockerRegistry;
use crate::support::proxy::{Fault, Habits, Proxy, Rule};
use crate::thawing::Thawing;

const LEAVE_WITHIN: Duration = Duration::from_secs(20);

fn leaves(thaw: Child) {
    let began = Instant::now();
    kill_process_group(Pid::from_child(&thaw), Signal::INT).unwrap();
    let output = finish(thaw);
    let line = one_line(&output);
    assert!(line.contains("interrupted"), "{line}");
    assert_eq!(output.status.code(), Some(130), "{line}");
    assert!(began.elapsed() < LEAVE_WITHIN, "it took {:?}", began.elapsed());
}

/// Runs a thaw until smolvm was called with these words, and interrupts it.
fn interrupted_at(thawing: &Thawing, words: &[&str], call: &str) {
    let calls = thawing.desk.machine.state.path().join("calls");
    std::fs::write(&calls, "").unwrap();
    let thaw = thawing.command(&[words, &["--quiet", "--name", "new"]].concat()).process_group(0).spawn().unwrap();
    until(call, || std::fs::read_to_string(&calls).unwrap().lines().any(|line| line.starts_with(call)));
    // Calls are listed before they do anything.
    std::thread::sleep(Duration::from_millis(200));
    leaves(thaw);
    thawing.assert_nothing_left();
    assert_eq!(thawing.machines(), [("m1".to_owned(), "running".to_owned())], "{call}");
}

#[test]
fn while_smolvm_makes_the_machine() {
    let thawing = Thawing::new(Kind::Busybox);
    let artifact = thawing.artifact();
    let layout = format!("oci:{}", thawing.desk.host.text("layout"));
    for from in [&artifact, &layout] {
        for fault in ["create-slow 1 1000", "create-slow 1 60000", "start-slow 1 60000"] {
            thawing.desk.machine.faults(fault);
            let call = if fault.starts_with("start") { "machine start" } else { "machine create" };
            interrupted_at(&thawing, &[from], call);
        }
    }
    assert!(std::fs::exists(artifact).unwrap());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_layers_come() {
    let thawing = Thawing::new(Kind::Busybox);
    let registry = DockerRegistry::start();
    thawing.desk.freeze(&["--to", &format!("{}/team/machine:v1", registry.address)]);
    let stall = Rule { method: "GET", skip: 3, times: 100, fault: Fault::Stall };
    for keep in [false, true] {
        let proxy = Proxy::start(registry.address, Habits::default(), vec![stall.clone()]).await;
        let name = format!("{}/team/machine:v1", proxy.address);
        let folder = thawing.desk.host.tree("kept", "");
        let kept = folder.join("kept.smolmachine").display().to_string();
        let words: &[&str] = if keep { &["--keep-artifact", &kept] } else { &[] };
        let words = [&[name.as_str(), "--quiet", "--name", "new"], words].concat();
        let thaw = thawing.command(&words).process_group(0).spawn().unwrap();
        until("a layer is asked for", || proxy.seen().iter().filter(|seen| seen.method == "GET").count() > 3);
        leaves(thaw);
        thawing.assert_nothing_left();
        assert_eq!(names(&folder), Vec::<String>::new());
        assert_eq!(thawing.machines().len(), 1);
    }
}

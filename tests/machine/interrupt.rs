//! Signals in the middle of a machine's freeze: out within five seconds, and nothing left on either side.

use std::os::unix::process::CommandExt as _;
use std::process::Child;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process, kill_process_group};

use crate::desk::Desk;
use crate::host::{finish, one_line, open_sessions, tags, until};
use crate::standin::Kind;
use crate::support::docker_registry::DockerRegistry;
use crate::support::proxy::{Habits, Proxy};

const LEAVE_WITHIN: Duration = Duration::from_secs(5);

/// Sees it leave in time, with the code that a shell expects.
fn leaves_by(signal: Signal, freeze: Child) {
    let began = Instant::now();
    let pid = Pid::from_child(&freeze);
    // As a terminal does it, and as an init does.
    if signal == Signal::INT { kill_process_group(pid, signal) } else { kill_process(pid, signal) }.unwrap();
    let output = finish(freeze);
    let (took, line) = (began.elapsed(), one_line(&output));
    assert!(line.contains("interrupted"), "{line}");
    assert_eq!(output.status.code(), Some(if signal == Signal::INT { 130 } else { 143 }), "{line}");
    assert!(took < LEAVE_WITHIN, "it took {took:?}");
}

/// Before it does, a signal ends it as it ends any process: nothing has begun then, and nothing is said.
fn catches(freeze: &Child, signal: Signal) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{}/status", freeze.id())).unwrap();
    let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:")).unwrap().trim();
    u64::from_str_radix(caught, 16).unwrap() >> (signal.as_raw() - 1) & 1 == 1
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_signal_while_layers_are_sent_and_chunks_fetched() {
    let desk = Desk::new(Kind::Busybox);
    desk.fill("srv", "for i in {1..60}; do head -c 1000000 /dev/urandom >$i; done");
    for fault in ["cp-slow 1000 200", "cp-hang 1000"] {
        for signal in [Signal::INT, Signal::TERM] {
            let registry = DockerRegistry::start();
            let habits = Habits { slowness: Some(Duration::from_millis(20)), ..Habits::default() };
            let proxy = Proxy::start(registry.address, habits, vec![]).await;
            let name = format!("{}/team/machine:v1", proxy.address);
            desk.machine.faults("cp-slow 1000 200");
            let mut command =
                desk.command(&["--to", &name, "--quiet", "--chunk-size", "1MiB", "--layer-size", "16MiB"]);
            let freeze = command.process_group(0).spawn().unwrap();
            until("a layer is on its way", || proxy.seen().iter().any(|seen| seen.method == "PUT"));
            desk.machine.faults(fault);
            std::thread::sleep(Duration::from_millis(300));
            leaves_by(signal, freeze);
            desk.machine.faults("");
            desk.machine.assert_clean();
            assert_eq!(open_sessions(&proxy), Vec::<String>::new(), "{fault}");
            assert!(tags(&registry, "team/machine").is_empty());
        }
    }
}

#[test]
fn a_signal_before_the_first_chunk() {
    let desk = Desk::new(Kind::Busybox);
    desk.machine.faults("cp-hang 1000");
    let layout = desk.host.path("layout");
    let to = format!("oci:{}", layout.display());
    for (signal, pause_ms) in [(Signal::TERM, 60), (Signal::INT, 200), (Signal::TERM, 400), (Signal::INT, 1200)] {
        let freeze = desk.command(&["--to", &to, "--quiet"]).process_group(0).spawn().unwrap();
        until("it listens to signals", || catches(&freeze, signal));
        std::thread::sleep(Duration::from_millis(pause_ms));
        leaves_by(signal, freeze);
        desk.machine.assert_clean();
        assert!(!layout.exists());
    }
}

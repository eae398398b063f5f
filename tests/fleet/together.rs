//! Several machines at a time: the bandwidth is theirs together, and the second night carries what changed.
//!
//! `SMOLFREEZE_FLEET_FULL=1` measures the time as well, which needs a host that does nothing else.

use std::time::{Duration, Instant};

use smolfreeze::fleet::night::Night;

use crate::desk::Desk;
use crate::fourteen::is_full;
use crate::standin::Kind;
use crate::support::docker_registry::DockerRegistry;
use crate::support::proxy::{Habits, Proxy};

const MACHINES: [(&str, Kind); 4] =
    [("a", Kind::Busybox), ("b", Kind::Busybox), ("c", Kind::Busybox), ("d", Kind::Busybox)];

fn desk(megabytes: u64) -> Desk {
    let desk = Desk::new(&MACHINES);
    for (name, _) in MACHINES {
        // Files of 40 KiB, so that a hundredth of them is a hundredth of the bytes.
        let script = format!("head -c {megabytes}M /dev/urandom >all; split -b 40960 -a 4 all f; rm all");
        desk.fill(name, &script);
    }
    desk
}

fn file(address: std::net::SocketAddr, concurrency: u32, more: &str) -> String {
    format!(
        "concurrency = {concurrency}
[destinations.registry]
to = \"{address}/c{concurrency}/{{machine}}:{{night}}\"
{more}
[[policies]]
to = [\"registry\"]
freeze = {{ known = {} }}
",
        // Each of the two measures all of it.
        more.is_empty()
    )
}

fn sent_bytes(night: &Night) -> u64 {
    night.made().map(|(_, made)| made.sent_bytes).sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn all_freezes_together_stay_below_the_bandwidth() {
    let registry = DockerRegistry::start();
    let desk = desk(if is_full() { 20 } else { 4 });
    let proxy = Proxy::start(registry.address, Habits::default(), Vec::new()).await;
    desk.write(&file(proxy.address, 4, "bandwidth = \"2MiB\"\nuploads = 2"));
    let run = desk.begin(&["--night", "n1", "--json"]);
    let (begun, mut run) = (Instant::now(), run);
    // What came within each stretch of a second, at most what may be sent in it: a tenth of a second's may be sent at once,
    // and a slice is what is counted at a time.
    let (rate, burst) = (2 << 20, (2 << 20) / 10 + 4 * (64 << 10) + (256 << 10));
    let mut seen = vec![(Duration::ZERO, 0)];
    while run.try_wait().unwrap().is_none() {
        let bytes = ["PUT", "PATCH", "POST"].iter().map(|method| proxy.bytes(method)).sum::<u64>();
        seen.push((begun.elapsed(), bytes));
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(run.wait().unwrap().success());
    let total = seen.last().unwrap().1;
    assert!(total > 12 << 20, "{total} bytes");
    for (at, (from, before)) in seen.iter().enumerate() {
        for (to, after) in &seen[at..] {
            let may = (to.saturating_sub(*from) + Duration::from_millis(60)).as_secs_f64() * f64::from(rate)
                + f64::from(burst);
            let came = after - before;
            assert!((came as f64) < may, "{came} bytes in {:?}", *to - *from);
        }
    }
}

#[test]
fn the_second_night_carries_what_changed_and_four_at_a_time_take_less_time() {
    let registry = DockerRegistry::start();
    let desk = desk(if is_full() { 100 } else { 8 });
    desk.write(&file(registry.address, 4, ""));
    let (first, first_took) = timed(&desk, "n1");
    for (name, _) in MACHINES {
        desk.machine(name)
            .sh("cd /root/d; n=0; for f in f*; do n=$((n + 1)); [ $((n % 100)) = 1 ] && echo new >>$f; done; true");
    }
    let (second, second_took) = timed(&desk, "n2");
    let (all, changed) = (sent_bytes(&first), sent_bytes(&second));
    assert!(all > 24 << 20 && changed * 4 <= all, "{changed} of {all} bytes");
    let read = |night: &Night| night.made().map(|(_, made)| made.read_bytes).sum::<u64>();
    assert!(read(&second) * 4 <= read(&first), "{} of {} bytes are read", read(&second), read(&first));
    if is_full() {
        assert!(second_took * 4 <= first_took, "{second_took:?} after {first_took:?}");
        desk.write(&file(registry.address, 1, "patience = \"10m\""));
        let one = timed(&desk, "n3").1;
        desk.write(&file(registry.address, 4, "patience = \"11m\"").replace("/c4/", "/c5/"));
        let four = timed(&desk, "n4").1;
        println!(
            "one after the other {one:?}, four at a time {four:?}; second night {second_took:?} after {first_took:?}"
        );
        assert!(four.as_secs_f64() <= 0.9 * one.as_secs_f64(), "{four:?} and {one:?}");
    }
}

fn timed(desk: &Desk, night: &str) -> (Night, Duration) {
    let begun = Instant::now();
    (desk.night(0, &["--night", night]), begun.elapsed())
}

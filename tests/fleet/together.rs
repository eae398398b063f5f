//! Several machines at a time: the bandwidth is theirs together, and the second night carries what changed.
//!
//! `SMOLFREEZE_FLEET_FULL=1 … --nocapture` tells the times as well, as medians of five rounds of more bytes; to mean anything
//! they need a host that does nothing else.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use smolfreeze::fleet::night::Night;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::desk::Desk;
use crate::fourteen::is_full;
use crate::standin::Kind;
use crate::support::docker_registry::DockerRegistry;

const MACHINES: [(&str, Kind); 4] =
    [("a", Kind::Busybox), ("b", Kind::Busybox), ("c", Kind::Busybox), ("d", Kind::Busybox)];

/// In each machine, where times are told.
const FULL_MEGABYTES: u64 = 100;

fn desk(megabytes: u64) -> Desk {
    let desk = Desk::new(&MACHINES).released();
    for (name, _) in MACHINES {
        desk.bring_libraries(name);
        // Files of 40 KiB, so that a hundredth of them is a hundredth of the bytes.
        let script = format!("head -c {megabytes}M /dev/urandom >all; split -b 40960 -a 4 all f; rm all");
        desk.fill(name, &script);
    }
    desk
}

/// Of each way to freeze them, the images are in repositories of their own.
fn file(address: SocketAddr, (concurrency, way): (u32, &str), more: &str, is_known: bool) -> String {
    format!(
        "concurrency = {concurrency}
[destinations.registry]
to = \"{address}/{way}/{{machine}}:{{night}}\"
{more}
[[policies]]
to = [\"registry\"]
freeze = {{ known = {is_known} }}
"
    )
}

fn sent_bytes(night: &Night) -> u64 {
    night.made().map(|(_, made)| made.sent_bytes).sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn all_freezes_together_stay_below_the_bandwidth() {
    let registry = DockerRegistry::start();
    let desk = desk(if is_full() { 20 } else { 4 });
    let (address, sent) = counting(registry.address).await;
    desk.write(&file(address, (4, "capped"), "bandwidth = \"2MiB\"\nuploads = 2", false));
    let mut run = desk.begin(&["--night", "n1", "--json"]);
    let (mut seen, mut open) = (Vec::new(), Vec::new());
    while run.try_wait().unwrap().is_none() {
        seen.push((Instant::now(), sent.load(Ordering::Relaxed)));
        let sessions = MACHINES.iter().map(|(name, _)| registry.open_sessions(&format!("capped/{name}")));
        open.push(sessions.sum::<usize>());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(run.wait().unwrap().success());
    // Who looks from folder to folder may see one that ends and one that begins, but not for long.
    assert!(open.windows(2).all(|pair| pair.iter().any(|count| *count <= 2)), "{open:?}");
    assert!(open.windows(2).any(|pair| pair == [2, 2]), "{open:?}");
    let total = seen.last().unwrap().1;
    assert!(total > 12 << 20, "{total} bytes");
    // Who counts may be late, but is never early: up to each moment no more came than may have been sent since the first byte.
    let begun = seen.iter().rev().find(|(_, bytes)| *bytes == 0).unwrap().0;
    let (rate, burst_bytes) = (2 << 20, (2 << 20) / 10 + (512 << 10));
    for (at, bytes) in &seen {
        let may_bytes = (*at - begun).as_millis() * rate / 1000 + burst_bytes;
        assert!(u128::from(*bytes) < may_bytes, "{bytes} bytes in {:?}", *at - begun);
    }
}

/// A way to the registry that counts what goes there.
async fn counting(registry: SocketAddr) -> (SocketAddr, Arc<AtomicU64>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, sent) = (listener.local_addr().unwrap(), Arc::new(AtomicU64::new(0)));
    let counted = Arc::clone(&sent);
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let sent = Arc::clone(&counted);
            tokio::spawn(async move {
                let Ok(registry) = TcpStream::connect(registry).await else { return };
                let ((mut from, mut back), (mut answers, mut to)) = (client.into_split(), registry.into_split());
                let there = async {
                    let mut buffer = vec![0; 64 << 10];
                    while let Ok(count @ 1..) = from.read(&mut buffer).await {
                        sent.fetch_add(count as u64, Ordering::Relaxed);
                        if to.write_all(&buffer[..count]).await.is_err() {
                            break;
                        }
                    }
                    let _ = to.shutdown().await;
                };
                let _ = tokio::join!(there, tokio::io::copy(&mut answers, &mut back));
            });
        }
    });
    (address, sent)
}

#[test]
fn the_second_night_carries_what_changed() {
    let registry = DockerRegistry::start();
    let desk = desk(if is_full() { FULL_MEGABYTES } else { 8 });
    two_nights(&desk, &registry, "c4");
    if is_full() {
        tell_medians(&desk);
    }
}

/// A night that reads everything, and one after a hundredth has changed: what each took.
#[expect(clippy::print_stdout, reason = "figures for whoever asked for the full form")]
fn two_nights(desk: &Desk, registry: &DockerRegistry, way: &str) -> [Duration; 2] {
    desk.write(&file(registry.address, (4, way), "", true));
    let (first, first_took) = timed(desk, &format!("{way}-1"));
    for (name, _) in MACHINES {
        desk.machine(name).sh(
            "cd /home/d || exit; n=0; for f in f*; do n=$((n + 1)); [ $((n % 100)) = 1 ] && echo new >>$f; done; true",
        );
    }
    let (second, second_took) = timed(desk, &format!("{way}-2"));
    let (all, changed) = (sent_bytes(&first), sent_bytes(&second));
    assert!(all > 24 << 20 && changed * 4 <= all, "{changed} of {all} bytes");
    assert!(changed * 200 >= all, "only {changed} of {all} bytes: a hundredth has changed");
    let read = |night: &Night| night.made().map(|(_, made)| made.read_bytes).sum::<u64>();
    assert!(read(&second) * 4 <= read(&first), "{} of {} bytes are read", read(&second), read(&first));
    if is_full() {
        println!("{way}: {first_took:?} and {all} bytes, then {second_took:?} and {changed} bytes");
    }
    [first_took, second_took]
}

/// The times as medians of five rounds, in each of which registries have nothing yet.
#[expect(clippy::print_stdout, reason = "figures for whoever asked for the full form")]
fn tell_medians(desk: &Desk) {
    let (mut one, mut four, mut first, mut second) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for round in 0..5 {
        let registry = DockerRegistry::start();
        let mut ways = [(1, &mut one), (4, &mut four)];
        // Neither is always the second.
        ways.rotate_left(round % 2);
        for (concurrency, times) in ways {
            let way = format!("r{round}c{concurrency}");
            desk.write(&file(registry.address, (concurrency, &way), "", false));
            let (night, took) = timed(desk, &way);
            println!("{way}: {took:?} and {} bytes", sent_bytes(&night));
            times.push(took);
        }
        drop(registry);
        // Nothing is known of the rounds before.
        for folder in ["cache/smolfreeze", "home/.local/state/smolfreeze"] {
            std::fs::remove_dir_all(desk.host.path(folder)).unwrap();
        }
        let [took, then_took] = two_nights(desk, &DockerRegistry::start(), &format!("r{round}"));
        first.push(took);
        second.push(then_took);
    }
    let [one, four, first, second] = [one, four, first, second].map(median);
    println!(
        "medians: one after the other {one:?}, four at a time {four:?} ({:.2}); first night {first:?}, second {second:?} ({:.2})",
        four.as_secs_f64() / one.as_secs_f64(),
        second.as_secs_f64() / first.as_secs_f64()
    );
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

fn timed(desk: &Desk, night: &str) -> (Night, Duration) {
    let begun = Instant::now();
    (desk.night(0, &["--night", night]), begun.elapsed())
}

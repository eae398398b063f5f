//! What a freeze takes in the guest and on the host, and machines larger than one `cp` carries.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use smolfreeze::source::Selection;
use smolfreeze::source::machine::Options;
use smolfreeze::stop::Stop;

use crate::rig::{Kind, Rig};

#[test]
fn a_spool_stays_within_its_window() {
    // 64 MiB under /var/tmp, the default chunks, and a host that is slower than the guest.
    let rig = Rig::with(Kind::Busybox, &serde_json::json!({"var_tmp_bytes": 64 << 20}));
    rig.sh("for i in 1 2 3 4 5 6 7 8; do dd if=/dev/urandom of=/root/random$i bs=1M count=25; done");
    rig.faults("cp-slow 1000 100");
    let options = Options { chunk_bytes: None, ..rig.options() };
    // Of 64 MiB, three quarters hold four chunks of this size.
    let bound = (6 << 20) * options.window_chunks;
    let (done, peak) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                peak.fetch_max(rig.spool_bytes(), Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(2));
            }
        });
        let frozen = rig.freeze(options, &Selection::default());
        done.store(true, Ordering::Relaxed);
        assert!(frozen.unwrap().tar.as_file().metadata().unwrap().len() > 200 << 20);
    });
    let peak = peak.into_inner();
    // Beside the chunks the script, small files, and the words, whose room is taken beforehand.
    assert!(peak > bound / 2 && peak <= bound + (512 << 10), "{peak} bytes in the spool, bound {bound}");
    rig.assert_clean();
}

#[test]
fn too_little_space_is_said_beforehand() {
    let rig = Rig::with(Kind::Debian, &serde_json::json!({"var_tmp_bytes": 2 << 20}));
    let error = rig.freeze(rig.options(), &Selection::default()).err().unwrap().to_string();
    assert!(
        error.contains("5120 KiB are needed") && error.contains("/var/tmp") && error.contains("--chunk-size"),
        "{error}"
    );
    rig.assert_clean();
}

/// `cargo test --test relay -- --ignored`: half a minute and 5 GB of zeros.
#[test]
#[ignore = "slow: carries 5 GB"]
fn a_machine_larger_than_one_cp_comes_over() {
    let rig = Rig::start(Kind::Debian);
    rig.sh("truncate -s 5G /srv/sparse; echo end >> /srv/sparse");
    let mut counted = Counted(0);
    let options = Options { chunk_bytes: Some(16 << 20), call_limit: Duration::from_secs(60), ..rig.options() };
    rig.freeze_to(options, &mut counted, &Stop::new()).unwrap();
    assert!(counted.0 > 5 << 30);
    rig.assert_clean();
}

/// Prints MB/s by chunk size, beside the guest's plain `tar | cat`.
#[test]
#[ignore = "slow: a measurement"]
fn measured_by_chunk_size() {
    let rig = Rig::start(Kind::Debian);
    rig.sh("for i in 1 2 3; do dd if=/dev/urandom of=/srv/random$i bs=1M count=100; done; cp -a /usr /srv/usr1; cp -a /usr /srv/usr2");
    let seconds = |work: &mut dyn FnMut() -> u64| {
        let mut rates: Vec<f64> = (0..3)
            .map(|_| {
                let began = std::time::Instant::now();
                let bytes = work();
                f64::from(u32::try_from(bytes >> 10).unwrap()) * 1.024e-3 / began.elapsed().as_secs_f64()
            })
            .collect();
        rates.sort_by(f64::total_cmp);
        rates[1]
    };
    let plain = seconds(&mut || {
        rig.sh("tar --format=posix --one-file-system -C / -cf - . | cat > /dev/null");
        480_000_000
    });
    println!("tar alone: {plain:.0} MB/s, about");
    for (mib, window) in [(4, 12), (8, 6), (16, 4), (32, 4), (48, 4), (64, 4)] {
        let options = Options { chunk_bytes: Some(mib << 20), window_chunks: window, ..rig.options() };
        let rate = seconds(&mut || {
            let mut counted = Counted(0);
            rig.freeze_to(options.clone(), &mut counted, &Stop::new()).unwrap();
            counted.0
        });
        println!("{mib} MiB, window {window}: {rate:.0} MB/s");
    }
}

struct Counted(u64);

impl std::io::Write for Counted {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0 += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

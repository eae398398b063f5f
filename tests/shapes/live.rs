//! Changes to a tree while it is read, and what may be in the image of what changed.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use fastrand::Rng;
use rustix::fs::{CWD, FileType, Mode};

use crate::check::Named;

/// The folder, at the top of the tree, in which all changes are.
pub const FOLDER: &str = "live";

/// Sizes of the states of a file that is only ever replaced whole: on both sides of every way to read one.
const SIZES: [usize; 8] = [0, 10, 3_000, 100_000, 131_071, 131_072, 1_000_000, 2_500_000];
const ATOMIC: usize = 12;
const GROWING: usize = 4;
const GONE: usize = 20;
const STABLE: usize = 12;
const SWAPPED: usize = 6;

/// The thread that changes it; it ends when this is dropped.
pub struct Live {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

/// Lays out the folder.
pub fn prepare(tree: &Path, random: &mut Rng) {
    let folder = tree.join(FOLDER);
    fs::create_dir_all(folder.join("links")).unwrap();
    (0..ATOMIC).for_each(|number| replace(&folder, number, random.usize(..SIZES.len())));
    for number in 0..GROWING {
        fs::write(folder.join(format!("log-{number}")), lines(0, 200)).unwrap();
        fs::write(folder.join(format!("short-{number}")), lines(0, 3000)).unwrap();
    }
    (0..GONE).for_each(|number| fs::write(folder.join(format!("gone-{number}")), lines(number, 20)).unwrap());
    (0..STABLE).for_each(|number| fs::write(folder.join(format!("stable-{number}")), lines(number, 900)).unwrap());
    (0..SWAPPED).for_each(|number| fs::write(folder.join(format!("swap-{number}")), "a file").unwrap());
}

impl Live {
    pub fn start(tree: &Path, seed: u64) -> Self {
        let (folder, stop) = (tree.join(FOLDER), Arc::new(AtomicBool::new(false)));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let mut random = Rng::with_seed(seed);
            while !stopped.load(Ordering::Relaxed) {
                change(&folder, &mut random);
                if random.u8(..4) == 0 {
                    std::thread::sleep(Duration::from_micros(random.u64(..3000)));
                }
            }
        });
        Self { stop, thread: Some(thread) }
    }

    /// Stops, and says whether it went well.
    pub fn stop(mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().unwrap().join().unwrap();
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

fn change(folder: &Path, random: &mut Rng) {
    let at = |name: &str, most: usize, random: &mut Rng| folder.join(format!("{name}-{}", random.usize(..most)));
    match random.u8(..12) {
        0..=3 => {
            let state = random.usize(..SIZES.len());
            replace(folder, random.usize(..ATOMIC), state);
        }
        4 => {
            let mut log = OpenOptions::new().append(true).open(at("log", GROWING, random)).unwrap();
            let bytes = usize::try_from(log.metadata().unwrap().size()).unwrap();
            if bytes < 4_000_000 {
                log.write_all(&lines(0, bytes / LINE + 100)[bytes..]).unwrap();
            }
        }
        5 => {
            let file = File::options().write(true).open(at("short", GROWING, random)).unwrap();
            file.set_len(random.u64(..300_000)).unwrap();
        }
        // Few of them: they last for the whole freeze.
        6 if random.u8(..20) == 0 => drop(fs::remove_file(at("gone", GONE, random))),
        7..=9 => {
            let number = random.usize(..STABLE);
            let link = folder.join(format!("links/link-{number}"));
            if fs::remove_file(&link).is_err() {
                fs::hard_link(folder.join(format!("stable-{number}")), link).unwrap();
            }
        }
        _ => swap(&at("swap", SWAPPED, random), random),
    }
}

fn replace(folder: &Path, number: usize, state: usize) {
    let (new, path) = (folder.join(".new"), folder.join(format!("atomic-{number}")));
    fs::write(&new, stamped(number, state)).unwrap();
    fs::set_permissions(&new, fs::Permissions::from_mode(mode(state))).unwrap();
    fs::rename(new, path).unwrap();
}

fn swap(path: &Path, random: &mut Rng) {
    let is_folder = path.symlink_metadata().unwrap().is_dir();
    if is_folder {
        fs::remove_dir_all(path).unwrap();
    } else {
        fs::remove_file(path).unwrap();
    }
    match random.u8(..4) {
        0 => fs::write(path, "a file").unwrap(),
        1 => {
            fs::create_dir(path).unwrap();
            fs::write(path.join("inside"), "inside").unwrap();
        }
        2 => symlink("/nowhere", path).unwrap(),
        _ => rustix::fs::mknodat(CWD, path, FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap(),
    }
}

/// What is wrong with the folder as it was unpacked.
pub fn faults(unpacked: &Path, is_read_by_busybox: bool, named: &Named) -> Vec<String> {
    let folder = unpacked.join(FOLDER);
    let mut faults = Vec::new();
    let mut check = |name: String, fault: &dyn Fn(&Path) -> Option<String>| {
        let path = folder.join(&name);
        faults.extend(fault(&path).map(|fault| format!("live {fault}: ./{FOLDER}/{name}")));
    };
    for number in 0..ATOMIC {
        // busybox's tar looks first and opens then, and says nothing.
        if !is_read_by_busybox {
            check(format!("atomic-{number}"), &|path| torn(path, number));
        }
    }
    for number in 0..STABLE {
        check(format!("stable-{number}"), &|path| wrong(path, &lines(number, 900)));
    }
    for number in 0..GONE {
        let name = format!("gone-{number}");
        let is_named = named.names(&format!("{FOLDER}/{name}"));
        check(name, &|path| if is_named || !path.exists() { None } else { wrong(path, &lines(number, 20)) });
    }
    for name in (0..GROWING).flat_map(|number| [format!("log-{number}"), format!("short-{number}")]) {
        let is_named = named.names(&format!("{FOLDER}/{name}"));
        check(name, &|path| if is_named { None } else { mixed_up(path) });
    }
    for number in 0..SWAPPED {
        check(format!("swap-{number}"), &|path| {
            let is_known = match path.symlink_metadata() {
                Err(_) => true,
                Ok(there) if there.is_file() => fs::read(path).unwrap().iter().all(|byte| b"a file\0".contains(byte)),
                Ok(there) => there.is_dir() || there.is_symlink() || there.file_type().is_fifo(),
            };
            (!is_known).then(|| "no state of a swapped entry".to_owned())
        });
    }
    faults
}

fn torn(path: &Path, number: usize) -> Option<String> {
    let Ok(there) = path.symlink_metadata() else { return Some("atomically replaced file is missing".into()) };
    let found = fs::read(path).unwrap();
    let is_state = |state: usize| found == stamped(number, state) && there.mode() & 0o7777 == mode(state);
    let state = SIZES.iter().position(|bytes| *bytes == found.len());
    (!state.is_some_and(is_state))
        .then(|| format!("atomically replaced file is torn ({} bytes, mode {:o})", found.len(), there.mode() & 0o7777))
}

fn wrong(path: &Path, wanted: &[u8]) -> Option<String> {
    match fs::read(path) {
        Err(error) => Some(format!("file that was always there is missing ({error})")),
        Ok(found) => (found != wanted).then(|| "file that never changed is another".to_owned()),
    }
}

/// A beginning of what is written into it; where it was cut and written on, zeros stand for the rest.
fn mixed_up(path: &Path) -> Option<String> {
    let found = fs::read(path).unwrap_or_default();
    let wanted = lines(0, found.len() / LINE + 1);
    let is_right = found.iter().zip(&wanted).all(|(found, wanted)| *found == 0 || found == wanted);
    (!is_right).then(|| "growing file has bytes that never were in it".to_owned())
}

/// Bytes of a line.
const LINE: usize = 64;

fn lines(first: usize, count: usize) -> Vec<u8> {
    (first..first + count).flat_map(|number| format!("{number:063}\n").into_bytes()).collect()
}

fn stamped(number: usize, state: usize) -> Vec<u8> {
    let stamp = format!("{number:03} {state:03} ");
    stamp.bytes().cycle().take(SIZES[state]).collect()
}

fn mode(state: usize) -> u32 {
    0o600 + u32::try_from(state).unwrap()
}

/// Where the folder is, for a path of the tree.
pub fn is_within(path: &[u8]) -> bool {
    let folder = FOLDER.as_bytes();
    path.strip_prefix(folder).is_some_and(|rest| rest.is_empty() || rest[0] == b'/')
}

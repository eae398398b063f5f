//! `machine cp`, both ways, as root, whatever the image's USER.

use std::fs::{File, Permissions};
use std::io::{Read, Seek as _};
use std::os::unix::fs::{FileExt as _, FileTypeExt as _, PermissionsExt as _};
use std::path::Path;
use std::time::Duration;

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat2};

use crate::CopyArguments;
use crate::state::{Failure, Machine, State};
use crate::{faults, guest};

/// Bytes that one copy out carries, unless the environment raises it.
const TRANSFER_BYTES_MAX: u64 = 4 << 30;

pub(crate) fn run(state: &State, arguments: &CopyArguments) -> Result<(), Failure> {
    let side = |word: &str| {
        let (name, path) = word.split_once(':')?;
        (!name.contains('/') && path.starts_with('/')).then(|| (name.to_owned(), path.to_owned()))
    };
    let result = match (side(&arguments.source), side(&arguments.destination)) {
        (Some((name, path)), None) => out(state, &state.machine(&name)?, &path, Path::new(&arguments.destination)),
        (None, Some((name, path))) => into(state, &state.machine(&name)?, &path, arguments),
        _ => Err(Failure::new("CONFIG_ERROR", "cp: exactly one side must be MACHINE:/path")),
    };
    if result.is_ok() {
        progress("done\n");
    } else {
        progress("");
    }
    result
}

fn out(state: &State, machine: &Machine, path: &str, destination: &Path) -> Result<(), Failure> {
    if faults::count_down(state, "stop-at-cp")? {
        guest::stop(state, machine)?;
    }
    let holder = state.running(&machine.name)?;
    faults::connection(state)?;
    if faults::take(state, "cp-hang")?.is_some() {
        std::thread::sleep(Duration::from_secs(3600));
    }
    let from = open_source(machine, holder, path)?;
    progress(&format!("Copying {}:{path} ", machine.name));
    let fresh = !destination.exists();
    let mut to = if fresh { File::create(destination)? } else { staging(destination)? };
    if let Err(failure) = carry(state, &from, &mut to) {
        if fresh {
            let _ = std::fs::remove_file(destination);
        }
        return Err(failure);
    }
    if !fresh {
        to.rewind()?;
        std::io::copy(&mut to, &mut File::options().write(true).truncate(true).open(destination)?).map_err(local)?;
    }
    Ok(())
}

fn carry(state: &State, from: &File, to: &mut File) -> Result<(), Failure> {
    if let Some(millis) = faults::take(state, "cp-slow")? {
        std::thread::sleep(Duration::from_millis(millis));
    }
    let cap = std::env::var("SMOLVM_FILE_TRANSFER_MAX_BYTES").ok().and_then(|text| text.parse().ok());
    let cap: u64 = cap.unwrap_or(TRANSFER_BYTES_MAX);
    let size = from.metadata()?.len();
    let short = faults::take(state, "cp-short")?.is_some();
    let fail = faults::take(state, "cp-fail")?.is_some();
    let end = if short || fail { size / 2 } else { cap.saturating_add(1) };
    // By the kernel, which copies once: what smolvm's own way costs is not ours to measure. A file that shrank meanwhile
    // gives less, and one that grew more; smolvm says nothing either, up to its cap.
    let carried = std::io::copy(&mut from.take(end), to).map_err(local)?;
    if carried > cap {
        return Err(Failure::agent(format!("read file: guest streamed {carried} bytes, exceeding the {cap} byte cap")));
    }
    if fail {
        return Err(Failure::agent("read file: connection closed"));
    }
    if faults::take(state, "cp-flip")?.is_some() && carried > 0 {
        let mut byte = [0];
        from.read_exact_at(&mut byte, carried / 2)?;
        to.write_all_at(&[byte[0] ^ 0x20], carried / 2)?;
    }
    Ok(())
}

#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
fn local(error: std::io::Error) -> Failure {
    Failure::agent(format!("write local file: {error}"))
}

/// Where an existing destination's bytes wait: an unnamed file in its folder, or in /tmp where that can't hold one.
fn staging(destination: &Path) -> Result<File, Failure> {
    let folder = destination.parent().unwrap_or(Path::new("/tmp"));
    Ok(tempfile::tempfile_in(folder).or_else(|_| tempfile::tempfile_in("/tmp"))?)
}

/// Opens a file in the machine's root as its processes see it, links included.
fn open_in(holder: u32, path: &str, flags: OFlags) -> rustix::io::Result<File> {
    let root =
        rustix::fs::openat(CWD, format!("/proc/{holder}/root"), OFlags::PATH | OFlags::DIRECTORY, Mode::empty())?;
    let mode = if flags.contains(OFlags::CREATE) { Mode::from_raw_mode(0o644) } else { Mode::empty() };
    Ok(File::from(openat2(root, path, flags | OFlags::CLOEXEC, mode, ResolveFlags::IN_ROOT)?))
}

fn open_source(machine: &Machine, holder: u32, path: &str) -> Result<File, Failure> {
    let inside = match machine.image {
        None => String::new(),
        Some(_) => format!("failed to read {path} in the workload container: "),
    };
    let failed = |reason: String| Failure::agent(format!("read file: {inside}{reason}"));
    let from = open_in(holder, path, OFlags::RDONLY | OFlags::NONBLOCK).map_err(|errno| {
        let doing = if inside.is_empty() { "failed to open" } else { "open" };
        failed(format!("{doing} {path}: {}", std::io::Error::from(errno)))
    })?;
    let kind = from.metadata()?.file_type();
    if kind.is_dir() {
        return Err(failed(format!("is a directory: {path}")));
    }
    if kind.is_fifo() || kind.is_char_device() || !kind.is_file() {
        return Err(failed(format!("not a regular file: {path}")));
    }
    Ok(from)
}

fn into(state: &State, machine: &Machine, path: &str, arguments: &CopyArguments) -> Result<(), Failure> {
    let holder = state.running(&machine.name)?;
    faults::connection(state)?;
    let mut from =
        File::open(&arguments.source).map_err(|error| Failure::agent(format!("read local file: {error}")))?;
    progress(&format!("Copying to {}:{path} ", machine.name));
    let failed = |error: std::io::Error| Failure::agent(format!("write file: failed to open {path}: {error}"));
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC;
    let mut to = open_in(holder, path, flags).map_err(|errno| failed(errno.into()))?;
    std::io::copy(&mut Read::by_ref(&mut from), &mut to).map_err(failed)?;
    if let Some(mode) = &arguments.mode {
        let mode = u32::from_str_radix(mode, 8).map_err(|_| Failure::new("CONFIG_ERROR", "cp: invalid mode"))?;
        to.set_permissions(Permissions::from_mode(mode))?;
    }
    if arguments.uid.is_some() || arguments.gid.is_some() {
        std::os::unix::fs::fchown(&to, arguments.uid, arguments.gid)?;
    }
    if faults::take(state, "cp-in-lost")?.is_some() {
        return Err(Failure::agent("write file: connection closed"));
    }
    Ok(())
}

#[expect(clippy::print_stderr, reason = "smolvm shows progress on stderr even without a terminal")]
fn progress(words: &str) {
    eprint!("{words}");
}

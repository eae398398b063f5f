//! What has to be so after a freeze, whatever struck it.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::case::{Case, Output};
use crate::fault::Fault;
use crate::host::{finish, names};
use crate::image;
use crate::run::{Ended, marked};
use crate::standin::Standin;
use crate::support::proxy::Proxy;
use crate::trees::difference;
use crate::world::{REPOSITORY, Upstream, World};

/// How long what ends with a freeze may take to be gone.
const GONE_WITHIN: Duration = Duration::from_secs(3);

/// What is wrong with the end itself: code, words, time.
pub fn ending(world: &World, case: &Case, ended: &Ended, named: &str) -> Vec<String> {
    let mut wrong = Vec::new();
    if ended.hung {
        return vec![format!("it was still at it after {:.0?}", ended.took)];
    }
    let is_killed = ended.struck.iter().any(|fault| matches!(fault, Fault::KillHost(_)));
    match (ended.code, ended.signal) {
        (Some(0), _) if ended.stderr.is_empty() && ended.stdout.is_empty() => {}
        (Some(0), _) => wrong.push("it is good, and has something to say".to_owned()),
        (None, Some(9)) if is_killed => {}
        (None, signal) => wrong.push(format!("signal {signal:?} ended it")),
        (Some(code), _) => {
            let codes: Vec<_> = ended.struck.iter().flat_map(Fault::codes).copied().collect();
            if !codes.contains(&code) {
                wrong.push(format!("exit code {code}, and not one of {codes:?}"));
            }
            wrong.extend(words(world, case, &ended.stderr, code, named));
        }
    }
    if case.has_to_succeed() && ended.code != Some(0) {
        wrong.push("all of this can be overcome, and it failed".to_owned());
    }
    wrong
}

/// An error is one line that names what failed.
fn words(world: &World, case: &Case, stderr: &str, code: i32, named: &str) -> Option<String> {
    if !stderr.starts_with("smolfreeze: ") || stderr.matches('\n').count() != 1 || stderr.contains("panicked") {
        return Some("not one line".to_owned());
    }
    if code > 128 {
        return (!stderr.contains("interrupted")).then(|| "it does not say that it was interrupted".to_owned());
    }
    let mut things = vec![named.to_owned(), world.host.text("scratch")];
    for output in &case.outputs {
        let name = world.name(*output);
        let thing = if output.is_registry() { name.split('/').next().unwrap_or_default() } else { &name };
        things.push(thing.trim_start_matches("oci:").trim_end_matches(":tag").to_owned());
    }
    (!things.iter().any(|thing| stderr.contains(thing))).then(|| format!("it names none of {things:?}"))
}

/// What a freeze left in the guest and on the host.
pub fn left(world: &World, ended: &Ended) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut note = |what: &str, there: Vec<String>| {
        if !there.is_empty() {
            wrong.push(format!("left {what}: {there:?}"));
        }
    };
    note("processes", gone(|| marked(&ended.mark).into_iter().map(|(_, command)| command).collect()));
    note("in /dev/shm", names(&world.host.path("shm")));
    note("in TMPDIR", names(&world.host.path("scratch")));
    note("where outputs are", unfinished(&world.host.path("out")));
    if let Some(machine) = world.machine.as_ref().filter(|machine| runs(machine)) {
        note("processes in the guest", gone(|| machine.processes().into_iter().map(|(_, command)| command).collect()));
        for folder in ["var/tmp", "tmp", "run", "dev/shm", ""] {
            let there = names(&machine.root().join(folder));
            note("in the guest", there.into_iter().filter(|name| name.contains("smolfreeze")).collect());
        }
    }
    wrong
}

fn runs(machine: &Standin) -> bool {
    machine.root().join("proc").exists()
}

/// What is still there after a while.
fn gone(look: impl Fn() -> Vec<String>) -> Vec<String> {
    let began = Instant::now();
    loop {
        let there = look();
        if there.is_empty() || began.elapsed() > GONE_WITHIN {
            return there;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Files under temporary names, at any depth.
fn unfinished(folder: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().starts_with('.') {
            found.push(entry.path().display().to_string());
        } else if entry.path().is_dir() {
            found.extend(unfinished(&entry.path()));
        }
    }
    found
}

/// What a freeze left in the registry, which runs: sessions that can still be cancelled, and files.
pub fn left_in_registry(world: &World, case: &Case, ended: &Ended) -> Vec<String> {
    let (Some(upstream), Some(proxy)) = (world.upstream(), &world.proxy) else { return Vec::new() };
    // It was not there to be told, or the error says that it was not.
    let is_away = ended.struck.iter().any(|fault| matches!(fault, Fault::KillRegistry(..)));
    if ended.signal.is_some() || ended.stderr.contains("and cleaning up") || (is_away && ended.code != Some(0)) {
        return Vec::new();
    }
    let open = match &*upstream {
        Upstream::Docker(registry) => {
            let sessions = registry.repository(REPOSITORY).join("_uploads");
            let open = names(&sessions).into_iter().filter(|id| sessions.join(id).join("startedat").exists());
            open.filter(|id| can_be_cancelled(proxy, &upstream, id)).collect()
        }
        Upstream::Served(_) if case.loses_sessions() => Vec::new(),
        Upstream::Served(_) => unfinished(&world.host.path("registry")),
    };
    if open.is_empty() { Vec::new() } else { vec![format!("left in the registry: {open:?}")] }
}

/// With the last address that the session had, as far as requests tell it.
fn can_be_cancelled(proxy: &Proxy, upstream: &Upstream, id: &str) -> bool {
    let seen = proxy.seen();
    let Some(last) = seen.iter().rev().find(|seen| seen.target.contains(id)) else { return false };
    let request = format!("DELETE {} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", last.target, proxy.address);
    let mut answer = String::new();
    let mut stream = TcpStream::connect(upstream.address()).unwrap();
    stream.write_all(request.as_bytes()).and_then(|()| stream.read_to_string(&mut answer)).unwrap();
    answer.starts_with("HTTP/1.1 204")
}

/// What names stand for, by output.
pub type Digests = Vec<Option<String>>;

pub fn digests(world: &World, case: &Case) -> Digests {
    case.outputs.iter().map(|output| image::digest(world, *output)).collect()
}

/// After a freeze that did not end well: what each name stood for before it stands for still, or is complete and said.
pub fn as_before(
    world: &World,
    case: &Case,
    ended: &Ended,
    before: &Digests,
    wanted: &BTreeMap<PathBuf, String>,
) -> Vec<String> {
    let mut wrong = Vec::new();
    for (output, (before, now)) in case.outputs.iter().zip(before.iter().zip(digests(world, case))) {
        if *before == now {
            if before.is_some() {
                wrong.extend(verified(world, *output));
            }
            continue;
        }
        // One that was killed may have stored the name and not have said so: nobody can know then.
        let is_killed = output.is_registry() && case.has(|fault| matches!(fault, Fault::KillRegistry(..)));
        if ended.signal.is_none() && !is_killed && !ended.stderr.contains("is complete") {
            wrong
                .push(format!("{output:?}: its name stood for {before:?} and stands for {now:?}, and nothing is said"));
        }
        if now.is_some() {
            wrong.extend(holds(world, *output, wanted));
        }
    }
    wrong
}

/// The image has all entries of the source, and no others.
pub fn holds(world: &World, output: Output, wanted: &BTreeMap<PathBuf, String>) -> Vec<String> {
    let mut wrong = verified(world, output);
    match image::unpacked(world, output) {
        Err(words) => wrong.push(format!("{output:?} can't be unpacked: {words}")),
        Ok(mut found) => {
            let mut wanted = wanted.clone();
            if world.had_crash {
                wanted.remove(Path::new("var/tmp"));
                found.remove(Path::new("var/tmp"));
            }
            wrong.extend(difference(&wanted, &found).map(|words| format!("{output:?}: {words}")));
        }
    }
    wrong
}

fn verified(world: &World, output: Output) -> Vec<String> {
    let name = world.plain_name(output);
    let ended = finish(world.host.command(&["verify", &name]).spawn().unwrap());
    if ended.status.success() {
        return Vec::new();
    }
    vec![format!("verify {name}: {}", String::from_utf8_lossy(&ended.stderr))]
}

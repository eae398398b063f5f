//! Drills: a machine is made of a snapshot, a command is run in it, and its answer is looked at.
//!
//! The machine's name is written down before it is made, in `drills.json` beside the nights, and struck out when it is gone:
//! so what a killed drill left is found, and no machine of anybody else's is ever touched. Whoever drills holds the fleet's
//! lock.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::Context;
use super::choose::{is_past, last_drill};
use super::places::registry_options;
use super::verify::stored_name;
use crate::error::{Error, Kind, Result};
use crate::fleet::file::{Drill, Terms};
use crate::fleet::night::{Drilled, Night, Snapshot, Trouble, newest_good, snapshots};
use crate::fleet::run::lock::{Lock, Taken};
use crate::progress::Silent;
use crate::smolvm::{self, Answer};
use crate::stop::Stop;
use crate::text;
use crate::thaw::{self, ThawContext, ThawOptions, ThawPlan, Thing, Wishes};

/// What the names of machines that are made for drills begin with. A run leaves them alone.
const PREFIX: &str = "smolfreeze-drill-";
/// A machine that is asked right after its start may not answer yet.
const PAUSE: Duration = Duration::from_millis(500);
/// A create that was cut off may go on for so long, and its machine is only listed then.
const FORGOTTEN: Duration = Duration::from_secs(24 * 3600);
/// Characters of an answer that are told.
const ANSWER_CHARS_MAX: usize = 200;

/// A machine that was, or is, being made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Begun {
    machine: String,
    at: Timestamp,
}

/// Whether a machine is one of a drill's.
#[must_use]
pub fn is_of_a_drill(machine: &str) -> bool {
    machine.starts_with(PREFIX)
}

/// Drills the machines whose last drill is as long ago as their policies say.
pub(super) async fn due(context: &Context<'_>, terms: &BTreeMap<String, Terms>, night: &mut Night, stop: &Stop) {
    sweep(context, |trouble| context.trouble(night, trouble)).await;
    let nights = match context.with(night) {
        Ok(nights) => nights,
        Err(error) => return context.trouble(night, Trouble::from(&error)),
    };
    let mut machines = BTreeMap::new();
    for outcome in &night.outcomes {
        let Some(terms) = terms.get(&outcome.policy) else { continue };
        let every = terms.drill.as_ref().and_then(|drill| drill.every);
        let last = last_drill(nights.iter(), &outcome.machine).map(|drill| drill.at);
        let is_due = |every: Duration| last.is_none_or(|last| is_past(last, every, context.clock.now()));
        if every.is_some_and(|every| is_due(every.0)) {
            machines.insert(outcome.machine.clone(), terms.clone());
        }
    }
    for (machine, terms) in machines {
        if stop.is_stopped() {
            return;
        }
        if let Some(drilled) = drill(context, &nights, (&machine, &terms), stop).await {
            note(context, night, drilled);
        }
    }
}

/// What came of drills that were asked for.
#[derive(Debug)]
pub enum Drills {
    /// A run is under way, or another drill, and says who it is: nothing was done.
    Busy(String),
    /// These were made.
    Done(Vec<Drilled>),
}

/// Drills, now, the machines that `wanted` is true of and whose policy in their last night asks for drills. They are noted in
/// the newest night.
///
/// # Errors
/// When the state folder can't be read or written to; when it was interrupted.
pub async fn drill_now(context: &Context<'_>, wanted: impl Fn(&str) -> bool, stop: &Stop) -> Result<Drills> {
    let _lock = match Lock::take(context.nights.make_folder()?)? {
        Taken::Ours(lock) => lock,
        Taken::Theirs(who) => return Ok(Drills::Busy(who)),
    };
    sweep(context, |trouble| context.watcher.said(&trouble.text)).await;
    let (nights, terms) = (context.nights.history()?.nights, context.terms());
    let Some(mut newest) = nights.last().cloned() else { return Ok(Drills::Done(Vec::new())) };
    let outcomes = nights.iter().flat_map(|night| &night.outcomes).filter(|outcome| wanted(&outcome.machine));
    let policies: BTreeMap<_, _> = outcomes.map(|outcome| (&outcome.machine, &outcome.policy)).collect();
    let mut drills = Vec::new();
    for (machine, policy) in policies {
        let Some(terms) = terms.get(policy) else { continue };
        if let Some(drilled) = drill(context, &nights, (machine, terms), stop).await {
            note(context, &mut newest, drilled.clone());
            drills.push(drilled);
        }
        if stop.is_stopped() {
            return Err(Error::interrupted());
        }
    }
    Ok(Drills::Done(drills))
}

/// Notes a drill in a night, and writes that.
fn note(context: &Context<'_>, night: &mut Night, drilled: Drilled) {
    if let Some(Trouble { kind, text }) = &drilled.trouble {
        let told = format!("drilling {} (machine '{}') failed: {text}", drilled.name, drilled.machine);
        context.trouble(night, Trouble { kind: kind.clone(), text: told });
    }
    night.after.drills.push(drilled);
    context.write(night);
}

/// Drills one machine: of its newest good snapshot at the destination that the policy says a machine is made, asked, and
/// deleted. None where the policy asks for no drill, or it was interrupted.
async fn drill(
    context: &Context<'_>,
    nights: &[Night],
    (machine, terms): (&str, &Terms),
    stop: &Stop,
) -> Option<Drilled> {
    let drill = terms.drill.as_ref()?;
    let destination = drill.from.as_ref().or(terms.to.first())?;
    let known = snapshots(nights.iter());
    let (at, began) = (context.clock.now(), Instant::now());
    let newest = newest_good(&known, machine, destination);
    let outcome = match newest {
        None => Err(Trouble::new("usage", format!("there is no good snapshot at '{destination}'"))),
        Some(snapshot) => one(context, snapshot, (terms, drill), stop).await,
    };
    if stop.is_stopped() {
        return None;
    }
    Some(Drilled {
        machine: machine.to_owned(),
        destination: destination.clone(),
        name: newest.map(|snapshot| snapshot.name.clone()).unwrap_or_default(),
        at,
        seconds: began.elapsed().as_secs_f64(),
        trouble: outcome.err(),
    })
}

async fn one(
    context: &Context<'_>,
    snapshot: &Snapshot,
    (terms, drill): (&Terms, &Drill),
    stop: &Stop,
) -> Result<(), Trouble> {
    let name = format!("{PREFIX}{:06x}", fastrand::u32(..1 << 24));
    context.watcher.said(&format!("drilling {} as machine '{name}'", snapshot.name));
    let begun = Begun { machine: name.clone(), at: context.clock.now() };
    change(context, |all| all.push(begun)).map_err(|error| Trouble::from(&error))?;
    // What is stopped tidies up, and is waited for.
    let (own, until) = (Stop::new(), Instant::now() + drill.limit.0);
    let making = make(context, snapshot, (&name, terms, drill), &own);
    tokio::pin!(making);
    let made = tokio::select! {
        made = &mut making => made.map_err(|error| Trouble::from(&error)),
        () = tokio::time::sleep_until(until) => {
            own.interrupt();
            making.await.and(Err(Error::hung_up("the drill"))).map_err(|_: Error| late(drill))
        }
        () = stop.stopped() => {
            own.interrupt();
            making.await.and(Err(Error::hung_up("the drill"))).map_err(|error: Error| Trouble::from(&error))
        }
    };
    let answered = match made {
        Ok(()) => tokio::select! {
            answered = tokio::time::timeout_at(until, ask(context, &name, drill)) => answered.unwrap_or_else(|_| Err(late(drill))),
            () = stop.stopped() => Err(Trouble::new("interrupted", "interrupted")),
        },
        Err(trouble) => Err(trouble),
    };
    let deleted = thaw::delete(&context.host.smolvm, &name)
        .await
        .and_then(|()| change(context, |all| all.retain(|begun| begun.machine != name)));
    match (answered, deleted) {
        (Err(trouble), _) => Err(trouble),
        (Ok(()), deleted) => deleted.map_err(|error| Trouble::from(&error)),
    }
}

fn late(drill: &Drill) -> Trouble {
    Trouble::new("deadline", format!("it took longer than its limit of {}", drill.limit))
}

async fn make(
    context: &Context<'_>,
    snapshot: &Snapshot,
    (name, terms, drill): (&str, &Terms, &Drill),
    stop: &Stop,
) -> Result<()> {
    let missing = || Error::usage("finding a destination", &snapshot.destination, "the file has none of this name");
    let destination = context.file.destinations.get(&snapshot.destination).ok_or_else(missing)?;
    let stored = stored_name(snapshot, destination)?;
    let options = ThawOptions {
        from: Thing { name: stored, digest: Some(snapshot.digest) },
        name: name.to_owned(),
        start: true,
        smolvm: context.host.smolvm.clone(),
        agent_rootfs: terms.freeze.agent_rootfs.clone(),
        keep_artifact: None,
        cache: context.nights.make_folder()?.join("drill"),
        wishes: Wishes {
            cpus: drill.cpus.map(NonZero::get),
            memory_mib: drill.memory.and_then(|size| Wishes::mebibytes(size.0)),
            network: false,
        },
        platform: None,
        tar_bytes_max: None,
        registry: registry_options(destination),
    };
    let observer = std::sync::Arc::new(Silent);
    let plan = ThawPlan::make(options, ThawContext { observer, stop: stop.clone() }).await?;
    Box::pin(thaw::thaw(plan)).await.map(drop)
}

/// Runs the command in the machine, and looks at its answer.
async fn ask(context: &Context<'_>, name: &str, drill: &Drill) -> Result<(), Trouble> {
    let smolvm = &context.host.smolvm;
    let failed = |why: smolvm::Trouble| Trouble::new(Kind::Source.name(), why);
    // Only an image machine takes the flag; a bare one runs everything as root.
    let is_image = smolvm::listed(smolvm, name).await.map_err(failed)?.is_some_and(|listed| !listed["image"].is_null());
    let user: &[&str] = if is_image { &["-u", "0"] } else { &[] };
    let words = [&["machine", "exec", "--name", name], user, &["--", "sh", "-c", &drill.command]].concat();
    let answer = loop {
        let words = words.iter().map(OsString::from).collect();
        let answer = smolvm::call(smolvm, words, drill.limit.0).await.map_err(failed)?;
        if !answer.never_began() {
            break answer;
        }
        tokio::time::sleep(PAUSE).await;
    };
    judge(&answer, drill.expect.as_deref())
}

fn judge(answer: &Answer, expected: Option<&str>) -> Result<(), Trouble> {
    let said = String::from_utf8_lossy(&answer.stdout);
    let said = said.trim();
    let shown = || said.chars().take(ANSWER_CHARS_MAX).collect::<String>();
    match expected {
        Some(expected) if said == expected.trim() => Ok(()),
        Some(expected) => {
            let words = if said.is_empty() { answer.trouble().to_string() } else { text::quoted(shown().as_bytes()) };
            Err(Trouble::new("drill", format!("the command answered {words}, and '{expected}' is expected")))
        }
        None => answer.done().map_err(|trouble| {
            let code = answer.code.map_or("a signal".to_owned(), |code| format!("exit code {code}"));
            Trouble::new("drill", format!("the command ended with {code}: {trouble}"))
        }),
    }
}

/// Deletes the machines that drills which were killed have left. `told` hears of what can't be deleted.
async fn sweep(context: &Context<'_>, mut told: impl FnMut(Trouble)) {
    let all = match read(&path(context)) {
        Ok(all) => all,
        Err(error) => return told(Trouble::from(&failed("reading what drills left", &path(context), error))),
    };
    for Begun { machine, at } in all {
        if !is_of_a_drill(&machine) {
            continue;
        }
        let listed = smolvm::listed(&context.host.smolvm, &machine).await;
        let is_forgotten = match listed {
            Ok(Some(_)) => match thaw::delete(&context.host.smolvm, &machine).await {
                Ok(()) => true,
                Err(error) => {
                    told(Trouble::from(&error));
                    false
                }
            },
            // It may still be on its way.
            Ok(None) => is_past(at, FORGOTTEN, context.clock.now()),
            Err(_) => false,
        };
        if is_forgotten && let Err(error) = change(context, |all| all.retain(|begun| begun.machine != machine)) {
            told(Trouble::from(&error));
        }
    }
}

fn path(context: &Context<'_>) -> PathBuf {
    context.nights.folder().join("drills.json")
}

fn read(path: &Path) -> io::Result<Vec<Begun>> {
    match fs::read(path) {
        Ok(bytes) => Ok(serde_json::from_slice(&bytes)?),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

/// Changes the list of machines, which is written whole.
fn change(context: &Context<'_>, change: impl FnOnce(&mut Vec<Begun>)) -> Result<()> {
    let folder = context.nights.make_folder()?;
    let path = path(context);
    let changed = || {
        let mut all = read(&path)?;
        change(&mut all);
        let mut file = tempfile::Builder::new().prefix(".smolfreeze-").tempfile_in(folder)?;
        file.write_all(&serde_json::to_vec(&all)?)?;
        file.as_file().sync_all()?;
        file.persist(&path)?;
        File::open(folder)?.sync_all()
    };
    changed().map_err(|error: io::Error| failed("writing down a drill", &path, error))
}

fn failed(operation: &str, path: &Path, error: io::Error) -> Error {
    Error::sink(operation, format_args!("'{}'", path.display()), &error).because(error)
}

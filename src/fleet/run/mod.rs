//! A run: every selected machine is frozen to each of its destinations, and what became of it is written down.
//!
//! ```text
//! lock ▸ night ▸ hooks.before ▸ list ▸ select ▸ job (longest first) ▸ crew (turns, retries, deadlines) ▸ after ▸ hooks.after
//!                                                                      └ freeze (one pass to all destinations) ▸ book
//! ```
//!
//! A machine that fails, or a destination that is dead, stops nothing else. A run that is interrupted leaves what is not done
//! `pending`; the next run of the same night goes on with it, and with what failed.

mod book;
mod clock;
mod crew;
mod ending;
mod exit;
mod freeze;
mod heard;
mod job;
mod lanes;
pub(super) mod lock;
mod log;
mod preview;
mod start;
mod watcher;

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::PathBuf;

use jiff::ZonedDateTime;

use self::book::Book;
use self::crew::{Crew, End};
use self::freeze::Common;
use self::lanes::Lanes;
use self::lock::{Lock, Taken};
use self::log::Log;
use crate::error::{Error, Result};
use crate::exclude::Word;
use crate::fleet::file::File;
use crate::fleet::night::{self, History, Night, Nights, Run, Standing, Trouble};
use crate::fleet::select::{Listed, Selection, select};
use crate::fleet::{after, command, notify};
use crate::pipeline::budget::default_memory_bytes;
use crate::plan::cores;
use crate::smolvm::{self, Program};
use crate::source::machine::Reader;
use crate::stop::Stop;
use crate::text;

pub use self::clock::{Clock, HostClock, night_of};
pub use self::exit::{BUSY, Exit};
pub use self::job::{Job, Naming, Place, Work, forecast_seconds, work};
pub use self::preview::{Preview, preview};
pub use self::watcher::{Unwatched, Watcher};

/// This host.
#[derive(Debug, Clone)]
pub struct Host {
    /// Its name, for `{host}`.
    pub name: String,
    /// The state folder.
    pub state: PathBuf,
    /// The map of layers that this host packed before.
    pub known: Option<PathBuf>,
    /// smolvm.
    pub smolvm: Program,
    /// Who reads guests' files where the file says `auto`.
    pub reader: Reader,
}

/// What is asked for, beside what the file says.
#[derive(Debug, Clone, Default)]
pub struct Asked {
    /// The night's name; by default the date on which it began.
    pub night: Option<String>,
    /// Do again what is done.
    pub force: bool,
    /// Patterns of machines' names: only those.
    pub only: Vec<String>,
    /// Without the file's jitter.
    pub now: bool,
}

/// Who tells the time, and who watches.
#[derive(Clone, Copy)]
pub struct Around<'a> {
    /// The time.
    pub clock: &'a dyn Clock,
    /// Is told what happens.
    pub watcher: &'a dyn Watcher,
}

/// What came of a run.
#[derive(Debug)]
pub enum Ran {
    /// Another one is under way, and says who it is: nothing was done.
    Busy(String),
    /// It came to its end.
    Finished(Box<Finished>),
}

/// A run that came to its end.
#[derive(Debug)]
pub struct Finished {
    /// The night.
    pub night: Night,
    /// The process's exit code.
    pub exit: Exit,
    /// The names of machines that it was about.
    pub machines: Vec<String>,
}

/// Freezes what the file selects.
///
/// # Errors
/// When nothing could begin: the state folder can't be written to, the night can't be read, a pattern is none. When it was
/// interrupted: what is not done can be gone on with.
pub async fn run(file: &File, host: &Host, asked: &Asked, around: Around<'_>, stop: &Stop) -> Result<Ran> {
    let nights = Nights::at(&host.state, &file.name);
    let name = night_name(file, asked, around.clock)?;
    asked.only.iter().try_for_each(|pattern| word(pattern).map(drop))?;
    let _lock = match Lock::take(nights.make_folder()?)? {
        Taken::Ours(lock) => lock,
        Taken::Theirs(who) => return Ok(Ran::Busy(who)),
    };
    nights.sweep();
    if !asked.now {
        tokio::select! {
            () = around.clock.sleep(file.jitter.0.mul_f64(fastrand::f64())) => {}
            () = stop.stopped() => return Err(Error::interrupted()),
        }
    }
    let mut night = nights.read(&name)?.unwrap_or_else(|| Night::new(&file.name, &name, &host.name));
    let began = naming_since(&night, asked, around.clock);
    let pid = std::process::id();
    night.runs.push(Run { began: around.clock.now(), ended: None, exit: None, pid, troubles: Vec::new() });
    nights.write(&night)?;
    let log = Log::new(around.watcher, around.clock);
    let around = Around { watcher: &log, ..around };
    let story = Story { file, host, asked, around, nights: &nights, book: Book::new(nights.clone(), night), began };
    let (unheard, told) = tokio::join!(notify::begun(file), story.tell(stop));
    for trouble in unheard {
        story.book.trouble(trouble);
    }
    let ended = story.end(told, stop).await;
    story.leave(&log, stop).await;
    ended.map(|(exit, machines)| {
        let night = story.book.night().clone();
        Ran::Finished(Box::new(Finished { night, exit, machines }))
    })
}

fn night_name(file: &File, asked: &Asked, clock: &dyn Clock) -> Result<String> {
    let by_date = || night_of(&clock.local(), file.night_begins());
    let name = asked.night.clone().unwrap_or_else(by_date);
    night::check_name(&name).map(|()| name)
}

/// Names keep the date and time of the night's first run: one that is gone on with has no others. Where it is all done again,
/// they are new.
fn naming_since(night: &Night, asked: &Asked, clock: &dyn Clock) -> ZonedDateTime {
    let first = night.began().filter(|_| !asked.force);
    first.map_or_else(|| clock.local(), |first| first.to_zoned_datetime(clock.zone()))
}

/// All machines of this host, but for those of drills.
///
/// # Errors
/// With smolvm's own words, when it does not answer.
pub async fn list(host: &Host) -> Result<Vec<Listed>, String> {
    let mut machines: Vec<Listed> = smolvm::list(&host.smolvm).await.map_err(|trouble| trouble.to_string())?;
    machines.retain(|machine| !after::is_of_a_drill(&machine.name));
    Ok(machines)
}

fn word(pattern: &str) -> Result<Word> {
    Word::new(pattern).map_err(|why| Error::usage("reading --only", text::quoted(pattern.as_bytes()), why))
}

fn selected(file: &File, asked: &Asked, machines: Vec<Listed>) -> Result<Selection> {
    let only = asked.only.iter().map(|pattern| word(pattern)).collect::<Result<Vec<_>>>()?;
    let mut selection = select(file, machines)?;
    if !only.is_empty() {
        selection.selected.retain(|one| only.iter().any(|pattern| pattern.matches(&one.machine.name)));
        selection.unselected.clear();
    }
    Ok(selection)
}

/// One run, from its lock to its end.
struct Story<'a> {
    file: &'a File,
    host: &'a Host,
    asked: &'a Asked,
    around: Around<'a>,
    nights: &'a Nights,
    book: Book,
    began: ZonedDateTime,
}

/// What a story came to.
#[derive(Default)]
struct Told {
    /// The machines that it was about, and their destinations.
    pairs: Vec<(String, String)>,
    /// Nothing could be frozen, because of something that concerns no machine.
    is_hopeless: bool,
}

impl Story<'_> {
    async fn tell(&self, stop: &Stop) -> Told {
        let history = self.history();
        self.stop_machines_of_dead_runs(&history).await;
        let mut hopeless = None;
        if let Some(command) = &self.file.hooks.before {
            let ran = command::run(command, "", &self.environment(), (self.file.hooks.limit.0, Some(stop))).await;
            hopeless = ran.err().map(|why| self.trouble("hook", format!("the command before the run failed: {why}")));
        }
        let listed = tokio::select! {
            listed = list(self.host) => listed,
            () = stop.stopped() => return Told { is_hopeless: true, ..Told::default() },
        };
        let listed = listed.map_err(|why| format!("asking smolvm for its machines failed: {why}"));
        let selection =
            listed.and_then(|machines| selected(self.file, self.asked, machines).map_err(|error| error.to_string()));
        let selection = match selection {
            Ok(selection) => selection,
            Err(why) => {
                self.trouble("source", why);
                return Told { is_hopeless: true, ..Told::default() };
            }
        };
        let told = Told { pairs: self.pairs(&selection), is_hopeless: hopeless.is_some() };
        let jobs = self.plan(&selection, &history);
        match hopeless {
            Some(trouble) => self.fail_all(&jobs, &trouble),
            None => self.freeze(jobs, stop).await,
        }
        told
    }

    fn history(&self) -> History {
        let history = self.nights.history().unwrap_or_else(|error| {
            self.around.watcher.said(&error.to_string());
            History::default()
        });
        for (path, why) in &history.unreadable {
            self.around.watcher.said(&format!("left alone: '{}': {why}", path.display()));
        }
        history
    }

    /// A run that was killed may have left machines running that were stopped before it; so has one that could not stop them.
    /// What still can't be stopped is this night's from now on.
    async fn stop_machines_of_dead_runs(&self, history: &History) {
        let own = self.book.night().clone();
        let others: Vec<_> =
            history.nights.iter().filter(|night| night.night != own.night && !night.started.is_empty()).collect();
        let started: BTreeSet<_> = others.iter().flat_map(|night| &night.started).chain(&own.started).collect();
        if started.is_empty() {
            return;
        }
        let mut running = Vec::new();
        for machine in started {
            if let Err(why) = start::stop_machine(&self.host.smolvm, machine).await {
                let what = "which an earlier run had started and not stopped";
                self.trouble("source", format!("stopping machine '{machine}' failed, {what}: {why}"));
                running.push(machine.clone());
            }
        }
        self.book.change(|night| night.started = running);
        for night in others {
            let night = Night { started: Vec::new(), ..night.clone() };
            self.nights.write(&night).unwrap_or_else(|error| self.around.watcher.said(&error.to_string()));
        }
    }

    fn environment(&self) -> Vec<(&'static str, OsString)> {
        let night = self.book.night().night.clone();
        vec![("SMOLFREEZE_FLEET", self.file.name.clone().into()), ("SMOLFREEZE_NIGHT", night.into())]
    }

    /// Notes what concerns no machine.
    fn trouble(&self, kind: &str, why: String) -> Trouble {
        let trouble = Trouble::new(kind, why);
        self.around.watcher.said(&trouble.text);
        self.book.trouble(trouble.clone());
        trouble
    }

    fn pairs(&self, selection: &Selection) -> Vec<(String, String)> {
        let of_one = |one: &crate::fleet::select::Selected| {
            let policy = self.file.policies.get(one.policy);
            let to = policy.map(|policy| policy.terms(one.policy, self.file).to).unwrap_or_default();
            to.into_iter().map(|name| (one.machine.name.clone(), name)).collect::<Vec<_>>()
        };
        selection.selected.iter().flat_map(of_one).collect()
    }

    /// What is to be done; it is in the book before it begins.
    fn plan(&self, selection: &Selection, history: &History) -> Vec<Job> {
        let name = self.book.night().night.clone();
        let naming = Naming { night: &name, host: &self.host.name, began: &self.began };
        let Work { jobs, settled } =
            work(self.file, selection, &naming, (&self.book.night(), self.asked.force), history);
        self.book.change(|night| {
            if self.asked.only.is_empty() {
                night.unselected.clone_from(&selection.unselected);
            }
            for outcome in settled {
                Book::replace(night, outcome);
            }
            for job in &jobs {
                for place in &job.places {
                    let (machine, policy) = (&job.machine.name, &job.terms.policy);
                    let mut outcome = job::pending(machine, policy, &place.destination, &place.name);
                    let last = night.outcome(machine, &place.destination);
                    // Tries count for the night.
                    outcome.attempts = last.filter(|_| !self.asked.force).map_or(0, |last| last.attempts);
                    Book::replace(night, outcome);
                }
            }
        });
        jobs
    }

    fn fail_all(&self, jobs: &[Job], trouble: &Trouble) {
        for (job, place) in jobs.iter().flat_map(|job| job.places.iter().map(move |place| (job, place))) {
            self.book.outcome(&job.machine.name, &place.destination, |outcome| {
                (outcome.state, outcome.trouble) = (Standing::Failed, Some(trouble.clone()));
            });
        }
    }

    async fn freeze(&self, jobs: Vec<Job>, stop: &Stop) {
        self.around.watcher.began(jobs.len());
        let concurrency = self.file.concurrency.get();
        let memory_bytes = match self.file.memory {
            Some(all) => all.0 / concurrency as u64,
            None => default_memory_bytes(cores()),
        };
        let crew = Crew {
            common: Common { host: self.host, lanes: &Lanes::new(self.file), memory_bytes },
            book: &self.book,
            clock: self.around.clock,
            watcher: self.around.watcher,
            concurrency,
            end: End::default(),
        };
        let deadline = async {
            match self.file.deadline {
                Some(deadline) => self.around.clock.sleep(deadline.0).await,
                None => std::future::pending().await,
            }
        };
        let working = crew.carry_out(jobs);
        tokio::pin!(working);
        tokio::select! {
            () = &mut working => return,
            () = stop.stopped() => crew.end.interrupt(),
            () = deadline => {
                let after = self.file.deadline.map(|deadline| deadline.to_string()).unwrap_or_default();
                let trouble = self.trouble("deadline", format!("not done within the run's deadline of {after}"));
                crew.end.deadline(trouble);
            }
        }
        working.await;
    }
}

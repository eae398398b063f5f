//! Machines get their turns: so many at a time, again after a pause where that may help, and none past its deadline.

use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use jiff::Timestamp;

use super::book::Book;
use super::freeze::{Came, Common};
use super::heard::Heard;
use super::job::{Job, Place, is_stopped};
use super::start;
use super::{Clock, Watcher};
use crate::error::{Error, Kind, Side};
use crate::fleet::file::{Retries, Stopped};
use crate::fleet::night::{Night, Outcome, Standing, Trouble};
use crate::progress::Observer;
use crate::smolvm;
use crate::stop::Stop;

/// What a freeze that was told to stop may take for it.
const LEAVE_LIMIT: Duration = Duration::from_secs(30);

/// Those who carry out a run's jobs.
pub(super) struct Crew<'a> {
    pub(super) common: Common<'a>,
    pub(super) book: &'a Book,
    pub(super) clock: &'a dyn Clock,
    pub(super) watcher: &'a dyn Watcher,
    pub(super) concurrency: usize,
    /// Ends everything.
    pub(super) end: End,
}

/// Why a run ends before its jobs are done.
#[derive(Default)]
pub(super) struct End {
    stop: Stop,
    /// None: on request.
    deadline: OnceLock<Option<Trouble>>,
}

impl End {
    pub(super) fn interrupt(&self) {
        let _ = self.deadline.set(None);
        self.stop.interrupt();
    }

    pub(super) fn deadline(&self, trouble: Trouble) {
        let _ = self.deadline.set(Some(trouble));
        self.stop.interrupt();
    }

    /// None as long as it has not come.
    fn over(&self) -> Option<Over> {
        self.deadline.get().map(|deadline| deadline.clone().map_or(Over::Interrupted, Over::Deadline))
    }
}

/// Why a turn ended early.
#[derive(Clone)]
enum Over {
    Interrupted,
    Deadline(Trouble),
}

/// A job that waits for its turn.
struct Waiting {
    job: Job,
    /// Turns it had.
    turns: u32,
    /// When the first one began.
    since: Option<Timestamp>,
    /// When the next one may.
    ready: Timestamp,
}

/// What a turn came to.
enum Turn {
    Came(Vec<Came>),
    Skipped(Trouble),
}

impl Crew<'_> {
    /// Carries out the jobs, in their order.
    pub(super) async fn carry_out(&self, jobs: Vec<Job>) {
        let ready = self.clock.now();
        let mut waiting: Vec<_> = jobs.into_iter().map(|job| Waiting { job, turns: 0, since: None, ready }).collect();
        let mut running = FuturesUnordered::new();
        loop {
            let now = self.clock.now();
            while running.len() < self.concurrency
                && let Some(at) = waiting.iter().position(|waiting| waiting.ready <= now)
            {
                running.push(self.turn(waiting.remove(at)));
            }
            if running.is_empty() && waiting.is_empty() {
                return;
            }
            let first = waiting.iter().map(|waiting| waiting.ready).min();
            let pause = first.map_or(Duration::ZERO, |first| elapsed(now, first));
            let has_room = running.len() < self.concurrency && first.is_some();
            tokio::select! {
                Some(again) = running.next() => waiting.extend(again),
                () = self.clock.sleep(pause), if has_room => {}
                () = self.end.stop.stopped(), if !waiting.is_empty() => self.give_up(std::mem::take(&mut waiting)),
            }
        }
    }

    /// What gets no turn any more. On request it stays as it is, to be gone on with.
    fn give_up(&self, waiting: Vec<Waiting>) {
        let Some(Over::Deadline(trouble)) = self.end.over() else { return };
        for Waiting { job, .. } in waiting {
            for place in &job.places {
                self.book.outcome(&job.machine.name, &place.destination, |outcome| {
                    outcome.state = Standing::Failed;
                    // One that was tried has a cause of its own.
                    outcome.trouble.get_or_insert_with(|| trouble.clone());
                });
            }
        }
    }

    async fn turn(&self, mut waiting: Waiting) -> Option<Waiting> {
        let now = self.clock.now();
        let since = *waiting.since.get_or_insert(now);
        waiting.turns += 1;
        let job = &mut waiting.job;
        self.note_beginning(job, now);
        let observer = self.watcher.machine_began(&job.machine.name, waiting.turns);
        let began = Instant::now();
        let left = job.terms.deadline.map(|deadline| deadline.saturating_sub(elapsed(since, now)));
        let (turn, over) = self.limited(job, waiting.turns, left, &observer).await;
        let undone = self.stop_again(&job.machine.name).await;
        let turn = turn.unwrap_or_else(|| {
            let trouble = Trouble::new("internal", "it did not leave when it was told to; this is a bug in smolfreeze");
            Turn::Came(job.places.iter().map(|_| Err(trouble.clone())).collect())
        });
        let again = self.note(job, turn, over.as_ref(), (began.elapsed().as_secs_f64(), undone));
        let pause = again.then(|| pause(&job.terms.retries, waiting.turns));
        let now = self.clock.now();
        let fits = |pause: &Duration| job.terms.deadline.is_none_or(|deadline| elapsed(since, now) + *pause < deadline);
        let pause = pause.filter(fits);
        self.tell(job, pause);
        if pause.is_none() || over.is_some() {
            return None;
        }
        job.places.retain(|place| self.is_open(job.machine.name.as_str(), place));
        waiting.ready = pause.and_then(|pause| now.checked_add(pause).ok()).unwrap_or(now);
        Some(waiting)
    }

    /// Whether it is to be tried again.
    fn is_open(&self, machine: &str, place: &Place) -> bool {
        let night = self.book.night();
        let outcome = night.outcome(machine, &place.destination);
        outcome.is_some_and(|outcome| outcome.state == Standing::Failed && can_help(outcome.trouble.as_ref()))
    }

    fn note_beginning(&self, job: &mut Job, now: Timestamp) {
        job.places.iter_mut().for_each(|place| place.attempts += 1);
        self.book.change(|night| {
            let ours = |outcome: &&mut Outcome| {
                job.places.iter().any(|place| outcome.is_of(&job.machine.name, &place.destination))
            };
            for outcome in night.outcomes.iter_mut().filter(ours) {
                outcome.attempts += 1;
                (outcome.state, outcome.began, outcome.ended) = (Standing::Pending, Some(now), None);
            }
        });
    }

    /// One turn, ended by the run's end or the machine's deadline.
    async fn limited(
        &self,
        job: &Job,
        turns: u32,
        left: Option<Duration>,
        observer: &Arc<dyn Observer>,
    ) -> (Option<Turn>, Option<Over>) {
        let (own, heard) = (Stop::new(), Arc::new(Heard::new(Arc::clone(observer))));
        let observer: Arc<dyn Observer> = Arc::clone(&heard) as _;
        let work = self.work(job, turns, &observer, &own);
        tokio::pin!(work);
        let deadline = async {
            match left {
                Some(left) => self.clock.sleep(left).await,
                None => std::future::pending().await,
            }
        };
        let over = tokio::select! {
            biased;
            turn = &mut work => return (Some(turn), None),
            () = self.end.stop.stopped() => self.end.over().unwrap_or(Over::Interrupted),
            () = deadline => Over::Deadline(deadline_trouble(job, heard.last())),
        };
        own.stop(match &over {
            Over::Interrupted => Error::interrupted(),
            Over::Deadline(trouble) => {
                Error::new(Kind::Source, Side::Plan, "freezing", &job.machine.name, &trouble.text)
            }
        });
        (tokio::time::timeout(LEAVE_LIMIT, work).await.ok(), Some(over))
    }

    async fn work(&self, job: &Job, turns: u32, observer: &Arc<dyn Observer>, stop: &Stop) -> Turn {
        // What the list said may be long ago.
        if job.is_stopped() || turns > 1 {
            match self.make_run(job, stop).await {
                Ok(None) => {}
                Ok(Some(skipped)) if turns == 1 => return Turn::Skipped(skipped),
                // It ran when it was its turn, so this is a failure.
                Ok(Some(trouble)) | Err(trouble) => {
                    return Turn::Came(job.places.iter().map(|_| Err(trouble.clone())).collect());
                }
            }
        }
        let places: Vec<_> = job.places.iter().collect();
        Turn::Came(self.common.freeze(job, &places, observer, stop).await)
    }

    /// Sees that the machine runs, or why it is left alone.
    async fn make_run(&self, job: &Job, stop: &Stop) -> Result<Option<Trouble>, Trouble> {
        let (program, name) = (&self.common.host.smolvm, &job.machine.name);
        let listed = tokio::select! {
            listed = smolvm::listed(program, name) => listed,
            () = stop.stopped() => return Err(Trouble::from(&Error::interrupted())),
        };
        let listed = listed.map_err(|trouble| {
            Trouble::new("source", format_args!("asking smolvm for its machines failed: machine '{name}': {trouble}"))
        })?;
        let state = listed.as_ref().and_then(|listed| listed["state"].as_str()).unwrap_or_default();
        if !is_stopped(state) {
            return Ok(None);
        }
        if job.terms.stopped == Stopped::Skip {
            return Ok(Some(Trouble::new(
                "stopped",
                format_args!("machine '{name}' is {state}, and its policy skips such"),
            )));
        }
        // Before it runs: whoever comes after a killed run stops it again.
        if !self.was_started(name) {
            self.book.change(|night| night.started.push(name.clone()));
        }
        let started = start::start_machine(program, name, stop).await;
        started
            .map(|()| None)
            .map_err(|why| Trouble::new("source", format_args!("starting machine '{name}' failed: {why}")))
    }

    fn was_started(&self, name: &str) -> bool {
        self.book.night().started.iter().any(|started| started == name)
    }

    /// Stops a machine that was started for a freeze. Where that fails, the next turn or run tries again.
    async fn stop_again(&self, name: &str) -> Option<String> {
        if !self.was_started(name) {
            return None;
        }
        match start::stop_machine(&self.common.host.smolvm, name).await {
            Ok(()) => {
                self.book.change(|night| night.started.retain(|started| started != name));
                None
            }
            Err(why) => Some(format!("machine '{name}' was started for the freeze, and stopping it failed: {why}")),
        }
    }

    /// Writes down what a turn came to, and says whether another one may help.
    fn note(&self, job: &Job, turn: Turn, over: Option<&Over>, (seconds, undone): (f64, Option<String>)) -> bool {
        let came = match turn {
            Turn::Skipped(trouble) => {
                self.note_skipped(job, &trouble);
                return false;
            }
            Turn::Came(came) => came,
        };
        let (ended, mut again) = (self.clock.now(), false);
        self.book.change(|night| {
            let Night { outcomes, earlier, .. } = night;
            for (place, came) in job.places.iter().zip(came) {
                let ours = |outcome: &&mut Outcome| outcome.is_of(&job.machine.name, &place.destination);
                let Some(outcome) = outcomes.iter_mut().find(ours) else { continue };
                (outcome.ended, outcome.seconds) = (Some(ended), seconds);
                outcome.remarks.clear();
                outcome.remarks.extend(undone.clone());
                match came {
                    Ok((made, remarks)) => {
                        (outcome.state, outcome.trouble, outcome.image) = (Standing::Done, None, Some(made));
                        outcome.remarks.extend(remarks);
                        earlier.retain(|last| {
                            last.name != outcome.name || !last.is_of(&outcome.machine, &outcome.destination)
                        });
                    }
                    Err(trouble) => {
                        let trouble = match over {
                            // To be gone on with.
                            Some(Over::Interrupted) => continue,
                            Some(Over::Deadline(deadline)) => deadline.clone(),
                            None => trouble,
                        };
                        again |= place.attempts < job.terms.retries.attempts.get() && can_help(Some(&trouble));
                        (outcome.state, outcome.trouble) = (Standing::Failed, Some(trouble));
                    }
                }
            }
        });
        again
    }

    fn note_skipped(&self, job: &Job, trouble: &Trouble) {
        for place in &job.places {
            self.book.outcome(&job.machine.name, &place.destination, |outcome| {
                (outcome.state, outcome.trouble) = (Standing::Skipped, Some(trouble.clone()));
            });
        }
    }

    fn tell(&self, job: &Job, again_in: Option<Duration>) {
        let night = self.book.night();
        let outcomes = job.places.iter().filter_map(|place| night.outcome(&job.machine.name, &place.destination));
        let outcomes: Vec<_> = outcomes.cloned().collect();
        drop(night);
        self.watcher.machine_ended(&job.machine.name, &outcomes, again_in);
    }
}

/// Whether trying again may help.
fn can_help(trouble: Option<&Trouble>) -> bool {
    let never = ["usage", "unauthorized", "interrupted", "deadline", "stopped"];
    trouble.is_some_and(|trouble| !never.contains(&trouble.kind.as_str()))
}

fn deadline_trouble(job: &Job, heard: Option<String>) -> Trouble {
    let why = heard.map_or_else(String::new, |heard| format!("; it was trying again: {heard}"));
    let deadline = humantime::format_duration(job.terms.deadline.unwrap_or_default());
    Trouble::new(
        "deadline",
        format_args!("machine '{}' was not done within its deadline of {deadline}{why}", job.machine.name),
    )
}

/// The pause after so many turns: twice as long each time, give or take a quarter, so that what failed together does not
/// come back together.
fn pause(retries: &Retries, turns: u32) -> Duration {
    let doubled = retries.pause.0.saturating_mul(2_u32.saturating_pow(turns.saturating_sub(1)));
    doubled.min(retries.longest_pause.0).mul_f64(0.75 + fastrand::f64() / 2.0)
}

/// From one moment to another; nothing where the clock was set back.
fn elapsed(since: Timestamp, now: Timestamp) -> Duration {
    Duration::try_from(now.duration_since(since)).unwrap_or_default()
}

//! The end of a run: what follows the freezes, and who is told.

use std::time::Duration;

use super::log::Log;
use super::{Around, Exit, Story, Told, list};
use crate::error::{Error, Result};
use crate::fleet::status::Status;
use crate::fleet::{after, command, metrics, notify};
use crate::stop::Stop;

/// What follows the freezes may take so long to leave when it is told to: one question to a registry, or a machine's deletion.
const FOLLOW_LEAVE_LIMIT: Duration = Duration::from_secs(360);

impl Story<'_> {
    /// What follows the freezes; not for longer than the file says.
    async fn follow(&self, stop: &Stop) {
        let Around { clock, watcher } = self.around;
        let context = after::Context::new((self.file, self.nights, self.host), clock, watcher);
        let (own, limit, mut night) = (Stop::new(), self.file.after_limit, self.book.night().clone());
        let is_late = {
            let following = after::carry_out(&context, &mut night, &own);
            tokio::pin!(following);
            let is_late = tokio::select! {
                () = &mut following => None,
                () = clock.sleep(limit.0) => Some(true),
                () = stop.stopped() => Some(false),
            };
            if is_late.is_some() {
                own.interrupt();
                // Removals that were begun are in the night's file: whoever comes next finishes them.
                let _ = tokio::time::timeout(FOLLOW_LEAVE_LIMIT, following).await;
            }
            is_late == Some(true)
        };
        self.book.change(|own| *own = night);
        if is_late {
            let what = "verification, retention and drills were not done";
            self.trouble(
                "deadline",
                format!("{what} within after_limit, which is {limit}: the next run goes on with them"),
            );
        }
    }

    /// What is done on every way out.
    pub(super) async fn end(&self, told: Told, stop: &Stop) -> Result<(Exit, Vec<String>)> {
        if !stop.is_stopped() {
            self.follow(stop).await;
        }
        if let Some(error) = self.book.unwritten() {
            self.trouble("sink", error.to_string());
        }
        let mut exit = Exit::of(&self.book.night(), &told.pairs, told.is_hopeless);
        if let Some(command) = &self.file.hooks.after {
            let code = if stop.is_stopped() { 130 } else { exit.code() };
            let outcomes = self.nights.path(&self.book.night().night);
            let own = [("SMOLFREEZE_EXIT", code.to_string().into()), ("SMOLFREEZE_OUTCOMES", outcomes.into())];
            let environment: Vec<_> = self.environment().into_iter().chain(own).collect();
            if let Err(why) = command::run(command, "", &environment, (self.file.hooks.limit.0, None)).await {
                self.trouble("hook", format!("the command after the run failed: {why}"));
                exit = Exit::of(&self.book.night(), &told.pairs, told.is_hopeless);
            }
        }
        let ended = self.around.clock.now();
        self.book.change(|night| {
            if let Some(run) = night.runs.last_mut() {
                let code = if stop.is_stopped() { 130 } else { exit.code() };
                (run.ended, run.exit) = (Some(ended), Some(code));
            }
        });
        if stop.is_stopped() {
            return Err(stop.take_cause().unwrap_or_else(Error::interrupted));
        }
        let mut machines: Vec<_> = told.pairs.into_iter().map(|(machine, _)| machine).collect();
        machines.dedup();
        Ok((exit, machines))
    }

    /// What monitors read, and who is told. What fails here takes nothing back.
    pub(super) async fn leave(&self, log: &Log<'_>, stop: &Stop) {
        let night = self.book.night().clone();
        let exit = night.runs.last().and_then(|run| run.exit).unwrap_or(if stop.is_stopped() { 130 } else { 1 });
        let log = log.lines().clone();
        for trouble in notify::ended(self.file, &night, &notify::End { exit, log: &log }).await {
            self.trouble(&trouble.kind, trouble.text);
        }
        if self.file.metrics.file.is_some() {
            let machines = list(self.host).await;
            let written = self.nights.history().and_then(|history| {
                let status = Status::of(self.file, &history, machines, self.around.clock.now())?;
                metrics::write(self.file, &status, &history)
            });
            if let Err(error) = written {
                self.trouble("metrics", error.to_string());
            }
        }
    }
}

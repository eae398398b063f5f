//! What a run would do.

use super::watcher::Unwatched;
use super::{Asked, Clock, Host, Job, Naming, Work, list, naming_since, night_name, selected, work};
use crate::error::{Error, Result};
use crate::fleet::after;
use crate::fleet::file::{File, Stopped};
use crate::fleet::night::{Night, Nights};
use crate::stop::Stop;

/// What a run would do.
#[derive(Debug)]
pub struct Preview {
    /// The night's name.
    pub night: String,
    /// What it would do, in this order.
    pub work: Work,
    /// Machines that no policy selects.
    pub unselected: Vec<String>,
    /// Machines that were selected, done or not.
    pub selected: usize,
    /// What retention would do then, if all of it went well.
    pub retention: Vec<after::Step>,
}

/// Says what a run would do: nothing is written, and no machine is started.
///
/// # Errors
/// When smolvm does not answer, a night can't be read, or a name or a pattern is none.
pub async fn preview(file: &File, host: &Host, asked: &Asked, clock: &dyn Clock) -> Result<Preview> {
    let nights = Nights::at(&host.state, &file.name);
    let name = night_name(file, asked, clock)?;
    let night = nights.read(&name)?.unwrap_or_else(|| Night::new(&file.name, &name, &host.name));
    let history = nights.history()?;
    let machines = list(host).await.map_err(|trouble| {
        Error::source("asking smolvm for its machines", "the fleet", trouble).hint("is smolvm installed?")
    })?;
    let selection = selected(file, asked, machines)?;
    let began = naming_since(&night, asked, clock);
    let naming = Naming { night: &name, host: &host.name, began: &began };
    let work = work(file, &selection, &naming, (&night, asked.force), &history);
    let retention = retention(&after::Context::new((file, &nights, host), clock, &Unwatched), &night, &work).await?;
    let (unselected, selected) = (selection.unselected, selection.selected.len());
    Ok(Preview { night: name, work, unselected, selected, retention })
}

async fn retention(context: &after::Context<'_>, night: &Night, work: &Work) -> Result<Vec<after::Step>> {
    let is_frozen = |job: &&Job| !(job.is_stopped() && job.terms.stopped == Stopped::Skip);
    let frozen = work.jobs.iter().filter(is_frozen).flat_map(|job| job.places.iter().map(move |place| (job, place)));
    let assumed = frozen.map(|(job, place)| after::Assumed {
        machine: &job.machine.name,
        policy: &job.terms.policy,
        destination: &place.destination,
        name: &place.name,
    });
    after::preview(context, night, &assumed.collect::<Vec<_>>(), &Stop::new()).await
}

//! Opening a machine: what it says about itself, and, where our own reader can run in it, what of it has changed.

use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;

use super::open::{Opened, Terms, unlisted};
use super::{FreezeOptions, OutputSpec};
use crate::error::{Error, Result};
use crate::exclude::Exclude;
use crate::image::ImageOptions;
use crate::night::listing::Entries as _;
use crate::night::{Listed, Night, Opening, Sample};
use crate::progress::NoticeKind;
use crate::sink::artifact::MachineSettings;
use crate::source::machine::{ListOrder, Machine, MachineFacts, Transfer};
use crate::source::{Selection, Survey};
use crate::stage::cut::WORKSPACE;
use crate::stop::Stop;

/// What may be left in the guest when all is stopped: the spool and processes.
const LEAVE_TIMEOUT: Duration = Duration::from_millis(4500);

/// Probes and looks at a machine; what it says about itself goes into the image where the user said nothing. Where our own
/// reader goes, the transfer begins here, and is let go on an error.
pub(super) async fn open_machine(
    name: &str,
    options: &mut FreezeOptions,
    exclude: Exclude,
    stop: &Stop,
) -> Result<Opened> {
    let machine = Machine::open(name, options.machine.clone(), stop).await?;
    describe_machine(&mut options.image, machine.facts());
    let selection = Selection { exclude, include_mounts: options.include_mounts.clone(), ..Selection::default() };
    let is_packed = options.outputs.iter().any(OutputSpec::is_artifact);
    let smolvm_version = if is_packed { machine.smolvm_version().await } else { None };
    let settings = settings(machine.facts(), smolvm_version);
    // One of the same name that was made anew is another one.
    let canonical = match machine.facts().created_at {
        Some(seconds) => format!("{name}@{seconds}"),
        None => name.to_owned(),
    };
    let no_room = tempfile::tempfile_in(super::scratch_folder()).err().map(|error| unlisted(&error));
    let terms = Terms::new(options).filter(|_| no_room.is_none());
    let own_tools = options.night.map(|_| "the guest's own tools read".to_owned());
    let in_full = if machine.offers_reader() { options.night.and(no_room) } else { own_tools.clone() };
    let opened = |survey, stream| Opened {
        canonical: Some(canonical.clone()),
        survey,
        whole_from: None,
        // Whatever the outputs are: an artifact may be made of the image later.
        own_layers: vec![WORKSPACE.to_vec()],
        settings,
        leave_timeout: LEAVE_TIMEOUT,
        night: None,
        reader: Some(machine.reader()),
        transfer: None,
        in_full,
        stream,
    };
    let (runtime, stop) = (Handle::current(), stop.clone());
    let Some(terms) = terms.filter(|_| machine.offers_reader()) else {
        let survey = machine.survey(&selection, &stop).await?;
        let reading = machine.clone();
        return Ok(opened(survey, Box::new(move |outlet| reading.stream(&selection, outlet, &stop, &runtime))));
    };
    let sample = terms.wish.sample();
    let order = ListOrder { sample: Opening::is_awaited(&terms.index_path(name)).then_some(sample) };
    let transfer = Arc::new(Transfer::begin(&machine, &selection, Some(order), &stop, &runtime)?);
    let (carrier, who) = (Arc::clone(&transfer), canonical.clone());
    let comparison = Comparison { transfer: carrier, terms, sample, name: name.to_owned(), who };
    let compared = tokio::task::spawn_blocking(move || comparison.run()).await;
    let survey = match compared.unwrap_or_else(|_| Err(Error::interrupted())) {
        Ok(Some(compared)) => Ok(compared),
        Ok(None) => machine.survey(&selection, &stop).await.map(|survey| (survey, None)),
        Err(error) => Err(error),
    };
    match survey {
        Ok((survey, night)) => {
            let (reading, picking) = (Arc::clone(&transfer), night.clone());
            let opened = opened(survey, Box::new(move |outlet| reading.stream(picking.as_deref(), outlet)));
            let in_full = own_tools.filter(|_| night.is_none());
            Ok(Opened { night, transfer: Some(transfer), in_full, ..opened })
        }
        Err(error) => {
            transfer.release().await;
            Err(error)
        }
    }
}

/// A list from the guest, beside the index of the machine's last image.
struct Comparison {
    transfer: Arc<Transfer>,
    terms: Terms,
    sample: Sample,
    name: String,
    who: String,
}

impl Comparison {
    /// Blocks. None where the guest's own tools read.
    fn run(self) -> Result<Option<(Survey, Option<Arc<Night>>)>> {
        let scratch = super::scratch_folder();
        let Some(list) = self.transfer.list(&scratch)? else { return Ok(None) };
        let failed = |error: std::io::Error| {
            let error = Error::source("comparing with the last freeze", format!("machine '{}'", self.name), &error)
                .because(error);
            error.hint("--guest-reader tar reads all, by the guest's own tools")
        };
        let identity = list.head.identity.clone().map(|read| self.terms.form_of(&read));
        let listed = Listed { who: self.who.clone(), identity, settled: list.head.settled, sample: self.sample };
        let path = self.terms.index_path(&self.name);
        let mut opening = Opening::new(&path, listed, self.terms.wish.squash, &scratch).map_err(failed)?;
        let mut questions = tempfile::tempfile_in(&scratch).map_err(failed)?;
        let seen = opening.see(&list, &questions, &scratch).map_err(|error| opening.told(failed(error)))?;
        let totals = if let Some(totals) = seen {
            totals
        } else {
            let answers = self.transfer.ask(&questions, &scratch).map_err(|error| opening.told(error))?;
            std::io::Seek::rewind(&mut questions).map_err(failed)?;
            let heard = opening.hear(&list, &questions, std::io::BufReader::new(answers));
            heard.map_err(|error| opening.told(failed(error)))?
        };
        let mounts = self.transfer.left_mounts().iter().map(|path| (NoticeKind::Mount, &path[..]));
        mounts.chain(list.left_out()).for_each(|(kind, path)| opening.listing().left_out(kind, path));
        let night = opening.end(&scratch).map_err(failed)?;
        let survey = Survey {
            tar_bytes: Some(totals.tar_bytes),
            entries: totals.entries,
            largest_entry_bytes: totals.largest_bytes,
            unordered: false,
        };
        Ok(Some((survey, Some(Arc::new(night)))))
    }
}

/// A new machine is like the one that was frozen.
fn settings(facts: &MachineFacts, smolvm_version: Option<String>) -> MachineSettings {
    let defaults = MachineSettings::new(facts.image.as_ref().unwrap_or(&facts.name));
    MachineSettings {
        cpus: facts.cpus.and_then(|cpus| u8::try_from(cpus).ok()).unwrap_or(defaults.cpus),
        memory_mib: facts.memory_mib.and_then(|mebibytes| u32::try_from(mebibytes).ok()).unwrap_or(defaults.memory_mib),
        network: facts.network.unwrap_or(defaults.network),
        smolvm_version,
        ..defaults
    }
}

fn describe_machine(image: &mut ImageOptions, facts: &MachineFacts) {
    image.user = image.user.take().or_else(|| facts.user.clone());
    image.workdir = image.workdir.take().or_else(|| Some(facts.workdir.clone()).filter(|workdir| !workdir.is_empty()));
    let given = |variable: &String| variable.split('=').next().unwrap_or_default().to_owned();
    let names: Vec<_> = image.env.iter().map(given).collect();
    let own: Vec<_> = facts.env.iter().filter(|variable| !names.contains(&given(variable))).cloned().collect();
    image.env.splice(..0, own);
    if image.entrypoint.is_empty() && image.cmd.is_empty() {
        image.entrypoint.clone_from(&facts.entrypoint);
        image.cmd.clone_from(&facts.cmd);
    }
    if image.architecture.is_empty() {
        image.architecture.clone_from(&facts.architecture);
    }
    let told = [("smolfreeze.machine", Some(&facts.name)), ("smolfreeze.machine.image", facts.image.as_ref())];
    let told = told.into_iter().filter_map(|(label, value)| Some((label.to_owned(), value?.clone())));
    for (label, value) in facts.labels.clone().into_iter().chain(told) {
        image.labels.entry(label).or_insert(value);
    }
}

//! Probe and look: is there such a machine, does it answer, who is it, and how large.

use std::collections::BTreeMap;
use std::time::Duration;

use super::answer::{self, Look, Whoami};
use super::capture;
use super::folder::Folder;
use super::link::{As, Link, Smolvm};
use super::offer::{Guest, Offer};
use super::trying::Trying;
use super::{GUEST_SCRIPT, Options};
use crate::error::{Error, Result};
use crate::oci::Compression;
use crate::oci::platform::architecture;
use crate::smolvm::{Answer, Trouble};
use crate::source::{Selection, Survey};
use crate::stop::Stop;

/// Bytes that a tar adds for an entry: its header, and an extended one for times and the like.
const ENTRY_OVERHEAD_BYTES: u64 = 1536;
/// What a survey may take, on a large machine with a cold cache.
pub(super) const SURVEY_LIMIT: Duration = Duration::from_secs(900);

/// What is known about a machine before it is read; an image's config is made from it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MachineFacts {
    /// The machine's name.
    pub name: String,
    /// What it was made from; none for a bare machine.
    pub image: Option<String>,
    /// The architecture in the words of the OCI image specification (`amd64`, `arm64`).
    pub architecture: String,
    /// `UID:GID` of a plain exec, or none where that is root.
    pub user: Option<String>,
    /// Where a plain exec starts.
    pub workdir: String,
    /// `KEY=VALUE`, as a plain exec sees them.
    pub env: Vec<String>,
    /// As `smolvm machine ls` has it.
    pub entrypoint: Vec<String>,
    /// As `smolvm machine ls` has it.
    pub cmd: Vec<String>,
    /// As `smolvm machine ls` has it.
    pub labels: BTreeMap<String, String>,
    /// When it was created, in seconds since 1970, where `smolvm machine ls` says so.
    pub created_at: Option<u64>,
    /// Virtual CPUs, where `smolvm machine ls` says so.
    pub cpus: Option<u64>,
    /// Memory, where `smolvm machine ls` says so.
    pub memory_mib: Option<u64>,
    /// Whether the guest may reach the network, where `smolvm machine ls` says so.
    pub network: Option<bool>,
}

/// A running machine that answered.
#[derive(Debug, Clone)]
pub struct Machine {
    pub(super) link: Smolvm,
    pub(super) options: Options,
    pub(super) look: Look,
    pub(super) offer: Offer,
    facts: MachineFacts,
}

impl Machine {
    /// Finds the machine `name` and looks at it: three calls of smolvm, nothing is changed in the guest.
    ///
    /// # Errors
    /// One clear error that names the machine, smolvm's own words and the likely cause; a hang-up when stopped.
    pub async fn open(name: &str, options: Options, stop: &Stop) -> Result<Self> {
        options.check()?;
        tokio::select! {
            machine = Self::probe(name, options) => machine,
            () = stop.stopped() => Err(Error::hung_up("the freeze")),
        }
    }

    async fn probe(name: &str, options: Options) -> Result<Self> {
        let mut link = Smolvm::new(options.smolvm.clone(), name);
        let subject = format!("machine '{name}'");
        let trying = Trying::quietly(&link, name, &options);
        let listed = trying.until_it_works("finding the machine", || link.listed()).await;
        let Some(listed) = listed.map_err(|error| error.hint("is smolvm installed? --smolvm names it"))? else {
            let error = Error::source("finding the machine", &subject, "smolvm knows no machine of this name");
            return Err(error.hint("`smolvm machine ls` lists them"));
        };
        let state = listed["state"].as_str().unwrap_or("running");
        if matches!(state, "stopped" | "created") {
            let error = Error::source(
                "finding the machine",
                &subject,
                format!("it is {state}, and only a running machine can be frozen"),
            );
            return Err(error.hint(format!("start it with `smolvm machine start --name {name}`")));
        }
        let image = listed["image"].as_str().map(str::to_owned);
        link.set_image_machine(image.is_some());
        let trying = Trying::quietly(&link, name, &options);
        let (own, root) = tokio::join!(
            asked(&trying, "probing", As::Own, &["whoami"], options.call_limit),
            asked(&trying, "looking", As::Root, &["look"], options.call_limit),
        );
        let whoami = Whoami::read(&understood(&subject, "probing", &own?, "whoami")?);
        let look = Look::read(&understood(&subject, "looking", &root?, "look")?);
        usable(&subject, &look)?;
        let facts = facts(name, image, &listed, whoami, &look);
        let mut options = options;
        options.decide_chunk_bytes(look.free_kib.unwrap_or(0) << 10, Folder::free_bytes());
        let free_bytes = (look.free_kib.unwrap_or(0) << 10).saturating_sub(options.guest_bytes_max());
        let is_plain = options.guest_compression == Compression::None;
        let guest = Guest { architecture: &look.architecture, free_bytes, is_plain };
        let offer = Offer::new(&options.reader, &guest)?;
        Ok(Self { link, options, look, offer, facts })
    }

    /// What is known about the machine.
    #[must_use]
    pub fn facts(&self) -> &MachineFacts {
        &self.facts
    }

    /// smolvm's release (`1.32.2`); none where it does not say.
    pub async fn smolvm_version(&self) -> Option<String> {
        self.link.version().await
    }

    /// How large what is captured is, about: one walk in the guest.
    ///
    /// # Errors
    /// When the selection can't be, the machine does not answer, or on a stop.
    pub async fn survey(&self, selection: &Selection, stop: &Stop) -> Result<Survey> {
        let capture = capture::decide(&self.look, self.facts.image.is_none(), selection)?;
        let trying = Trying::quietly(&self.link, &self.facts.name, &self.options);
        let (subject, doing, verb) = (self.subject(), "surveying", ["survey", &capture.plan]);
        let answer = tokio::select! {
            answer = asked(&trying, doing, As::Root, &verb, SURVEY_LIMIT) => answer?,
            () = stop.stopped() => return Err(Error::hung_up("the freeze")),
        };
        let counted = answer::survey(&understood(&subject, doing, &answer, "survey")?);
        // A guest without awk can't count; then nobody knows.
        let Some((entries, bytes, largest)) = counted else { return Ok(Survey::default()) };
        let tar_bytes = entries.saturating_mul(ENTRY_OVERHEAD_BYTES).saturating_add(bytes);
        Ok(Survey { tar_bytes: Some(tar_bytes), entries, largest_entry_bytes: largest, unordered: false })
    }

    /// Who is going to read, in words for people, and in further lines why others can't.
    #[must_use]
    pub fn reader(&self) -> String {
        self.offer.to_string()
    }

    /// Whether a reader of our own is offered to this guest; what is tried there decides whether it reads.
    #[must_use]
    pub fn offers_reader(&self) -> bool {
        !self.offer.programs.is_empty()
    }

    /// The machine, as errors name it.
    pub(super) fn subject(&self) -> String {
        format!("machine '{}'", self.facts.name)
    }
}

/// Runs a verb of the script before it is in the guest.
pub(super) async fn run(link: &impl Link, options: &Options, whose: As, verb: &[&str]) -> Result<Answer, Trouble> {
    link.run(whose, &before_it_is_there(verb), options.call_limit).await
}

fn before_it_is_there<'a>(verb: &[&'a str]) -> Vec<&'a str> {
    [&["sh", "-c", GUEST_SCRIPT, "smolfreeze"], verb].concat()
}

/// The same for a verb whose name its answer ends with, tried again where smolvm did not get it to its end. What the guest
/// itself can't do, it can't do the next time; nor does what takes its whole time.
pub(super) async fn asked(
    trying: &Trying<'_, Smolvm>,
    doing: &str,
    whose: As,
    verb: &[&str],
    limit: Duration,
) -> Result<Result<Answer, Trouble>> {
    let command = before_it_is_there(verb);
    let attempt = async || match trying.link.run(whose, &command, limit).await {
        Ok(answer) => match answer::lines(&answer.stdout, verb[0]) {
            Err(reason) if answer.code == Some(0) => Err(Trouble::Damaged(reason)),
            Err(_) if may_pass(&answer) => Err(answer.trouble()),
            _ => Ok(Ok(answer)),
        },
        Err(trouble @ Trouble::TimedOut(_)) => Ok(Err(trouble)),
        Err(trouble) => Err(trouble),
    };
    trying.until_it_works(doing, attempt).await
}

/// Whether a failed call may work the next time: smolvm ends with 1 where it is its own failure, unless it says that
/// there is no such command, or that a session has the machine.
fn may_pass(answer: &Answer) -> bool {
    let words = answer.stderr.to_lowercase();
    let is_final = ["no such file", "not found", "session", "busy"].iter().any(|word| words.contains(word));
    answer.code.is_none_or(|code| code == 1) && !is_final
}

/// The lines of an answer, or an error with the likely cause.
pub(super) fn understood<'a>(
    subject: &str,
    doing: &str,
    answer: &'a Result<Answer, Trouble>,
    end_mark: &str,
) -> Result<Vec<&'a [u8]>> {
    let answer = answer.as_ref().map_err(|trouble| Error::source(doing, subject, trouble))?;
    answer::lines(&answer.stdout, end_mark).map_err(|reason| {
        let words = answer.stderr.to_lowercase();
        if answer.code == Some(0) {
            return Error::source(doing, subject, reason);
        }
        let error = Error::source(doing, subject, answer.trouble());
        if words.contains("not running") {
            error.hint("start the machine first")
        } else if words.contains("no such file") || words.contains("not found") || answer.code == Some(255) {
            error.hint("the machine has no shell (`sh`), and without one nothing can be read from it")
        } else if words.contains("session") || words.contains("busy") {
            error.hint("this release of smolvm may allow only one exec at a time: leave the interactive session")
        } else {
            error
        }
    })
}

/// Whether a guest has all it takes.
fn usable(subject: &str, look: &Look) -> Result<()> {
    let refused = |reason: String| Err(Error::source("looking", subject, reason));
    if !look.is_root {
        return refused("commands do not run as root there".to_owned());
    }
    let has = |tool: &str| look.tools.contains(tool);
    if look.tar == "none" || look.tar.is_empty() {
        return refused("the guest has no tar".to_owned());
    }
    if let Some(tool) = ["find", "sort", "dd", "tr", "sed", "xargs"].into_iter().find(|tool| !has(tool)) {
        return refused(format!("the guest has no {tool}"));
    }
    if !has("cksum") && !has("md5sum") {
        return refused("the guest has neither cksum nor md5sum".to_owned());
    }
    if look.spool_folder.is_none() {
        return refused("the guest has neither a /var/tmp nor a /tmp that can be written to".to_owned());
    }
    Ok(())
}

fn facts(name: &str, image: Option<String>, listed: &serde_json::Value, whoami: Whoami, look: &Look) -> MachineFacts {
    let texts = |key: &str| -> Vec<String> {
        let array = listed[key].as_array().into_iter().flatten();
        array.filter_map(|value| value.as_str().map(str::to_owned)).collect()
    };
    let labels = listed["labels"].as_object().into_iter().flatten();
    MachineFacts {
        name: name.to_owned(),
        image,
        architecture: architecture(&look.architecture).to_owned(),
        user: (whoami.uid != 0).then(|| format!("{}:{}", whoami.uid, whoami.gid)),
        workdir: whoami.workdir,
        env: whoami.env,
        entrypoint: texts("entrypoint"),
        cmd: texts("cmd"),
        created_at: listed["created_at"].as_u64(),
        cpus: listed["cpus"].as_u64(),
        memory_mib: listed["memory_mib"].as_u64(),
        network: listed["network"].as_bool(),
        labels: labels.filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned()))).collect(),
    }
}

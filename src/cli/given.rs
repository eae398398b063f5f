//! Options that were given although they can't take effect: refused, for their user believes that they did.

use std::collections::BTreeSet;

use clap::ArgMatches;
use clap::parser::ValueSource;
use smolfreeze::error::{Error, Result};
use smolfreeze::plan::{OutputSpec, SourceSpec};
use smolfreeze::text;

/// How a machine is read.
const OF_MACHINES: &[&str] = &[
    "machine_prefix",
    "chunk_size",
    "window",
    "guest_compression",
    "guest_reader",
    "pre_exec",
    "post_exec",
    "exec_timeout",
    "wait",
];
/// How a registry is spoken to.
const OF_REGISTRIES: &[&str] = &["ca_cert", "plain_http", "patience", "bandwidth"];
/// How much is read again of what a folder was.
const OF_NIGHTS: &[&str] = &["reread", "squash"];
/// How an artifact is made.
const OF_ARTIFACTS: &[&str] = &["agent_rootfs", "pack_with"];

/// The options of a command line, by their names in the code; those that the environment or a default gave are not in it.
#[derive(Clone, Default)]
pub struct Given(BTreeSet<String>);

impl Given {
    /// Those of the command that was called.
    pub fn of(matches: &ArgMatches) -> Self {
        let Some((_, command)) = matches.subcommand() else { return Self::default() };
        let is_given = |id: &&str| command.value_source(id) == Some(ValueSource::CommandLine);
        Self(command.ids().map(clap::Id::as_str).filter(is_given).map(str::to_owned).collect())
    }

    fn has(&self, option: &str) -> bool {
        self.0.contains(option)
    }

    /// Refuses what a freeze of `source` into `outputs` has no use for.
    pub fn check_freeze(&self, source: &SourceSpec, outputs: &[OutputSpec]) -> Result<()> {
        let is_machine = matches!(source, SourceSpec::Machine(_));
        let is_archive = matches!(source, SourceSpec::Archive(_));
        // With no output there is an artifact, in the state folder.
        let is_artifact = |output: &OutputSpec| matches!(output, OutputSpec::Artifact(_) | OutputSpec::Packed { .. });
        let has_artifact = outputs.is_empty() || outputs.iter().any(is_artifact);
        let is_packed = outputs.iter().any(|output| matches!(output, OutputSpec::Packed { .. }));
        let has_registry = outputs.iter().any(|output| matches!(output, OutputSpec::Registry(_)));
        let names: Vec<_> = outputs.iter().map(ToString::to_string).collect();
        let outputs = match names.as_slice() {
            [] => "an artifact in the state folder is the only output".to_owned(),
            [only] => format!("the only output is {only}"),
            several => format!("the outputs are {}", several.join(", ")),
        };
        self.refuse_unless(is_machine, OF_MACHINES, "is for machines", &format!("the source is {source}"))?;
        self.refuse_unless(
            !is_archive,
            &["include_mount"],
            "is for folders and machines",
            &format!("the source is {source}"),
        )?;
        self.refuse_unless(has_registry, OF_REGISTRIES, "is for registries", &outputs)?;
        self.refuse_unless(has_artifact, OF_ARTIFACTS, "is for artifacts (--pack)", &outputs)?;
        let others = format!("the source is {source}, and {outputs}");
        self.refuse_unless(is_machine || has_artifact, &["smolvm"], "is for machines and artifacts", &others)?;
        let is_remembered = !self.has("no_known") && !self.has("no_record");
        let is_night = !is_archive && !is_packed && is_remembered;
        let others = if is_remembered { others } else { "--no-known or --no-record is given".to_owned() };
        self.refuse_unless(is_night, OF_NIGHTS, "is for folders and machines, and not where smolvm packs", &others)?;
        let has_command = self.has("pre_exec") || self.has("post_exec");
        self.refuse_unless(has_command, &["exec_timeout"], "bounds --pre-exec and --post-exec", "neither is given")?;
        self.check_tls()
    }

    /// Refuses what reading `name` has no use for.
    pub fn check_read(&self, name: &str, is_registry: bool) -> Result<()> {
        let other = format!("'{}' is none", text::name(name.as_bytes()));
        self.refuse_unless(is_registry, OF_REGISTRIES, "is for registries", &other)?;
        self.check_tls()
    }

    fn check_tls(&self) -> Result<()> {
        self.refuse_unless(!self.has("plain_http"), &["ca_cert"], "is for TLS", "--plain-http asks for none")
    }

    fn refuse_unless(&self, is_useful: bool, options: &[&str], purpose: &str, other: &str) -> Result<()> {
        match options.iter().find(|option| !is_useful && self.has(option)) {
            Some(option) => {
                let option = format!("--{}", option.replace('_', "-"));
                let reason = format!("it {purpose}, and {other}");
                Err(Error::usage("reading the options", option, reason).hint("leave out one of the two"))
            }
            None => Ok(()),
        }
    }
}

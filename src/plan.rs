//! All choices of a freeze, made before it starts, and printable.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use tokio::runtime::Handle;

use crate::budget::{Budget, Wish};
use crate::error::{Error, Result};
use crate::exclude::Exclude;
use crate::image::{ImageOptions, host_architecture};
use crate::oci::Compression;
use crate::pipeline::StreamFn;
use crate::source::archive::Archive;
use crate::source::directory::Directory;
use crate::source::machine::{self, Machine, MachineFacts};
use crate::source::{Selection, Survey};
use crate::stage::compress::Method;
use crate::stage::cut::{CutOptions, LayerSize};
use crate::stop::Stop;

/// What is to be frozen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SourceSpec {
    /// `dir:PATH`: a folder of this host.
    Directory(PathBuf),
    /// `tar:FILE`, or `tar:-` for standard input.
    Archive(PathBuf),
    /// `NAME`: a running smolvm machine.
    Machine(String),
}

impl std::fmt::Display for SourceSpec {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Directory(path) => write!(f, "dir:{}", path.display()),
            Self::Archive(path) => write!(f, "tar:{}", path.display()),
            Self::Machine(name) => f.write_str(name),
        }
    }
}

impl std::str::FromStr for SourceSpec {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let missing = |what| Error::usage("reading the source", format_args!("'{text}'"), what);
        match text.split_once(':') {
            Some((_, "")) => Err(missing("nothing stands behind the colon")),
            Some(("dir", path)) => Ok(Self::Directory(path.into())),
            Some(("tar", path)) => Ok(Self::Archive(path.into())),
            None if is_machine_name(text) => Ok(Self::Machine(text.to_owned())),
            _ => Err(missing("a source is a machine's NAME, dir:PATH, tar:FILE or tar:-")),
        }
    }
}

/// smolvm takes letters, digits, `-`, `_` and `.`; a name that begins with a dash would be an option.
pub(crate) fn is_machine_name(text: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    !text.is_empty() && !text.starts_with('-') && text.bytes().all(allowed)
}

/// Where an image is to go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OutputSpec {
    /// `oci:DIR[:TAG]`: an OCI image layout folder.
    Layout {
        /// The folder.
        folder: PathBuf,
        /// The tag, `latest` by default.
        tag: String,
    },
    /// An image reference in a registry.
    Registry(String),
}

impl std::fmt::Display for OutputSpec {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Layout { folder, tag } => write!(f, "oci:{}:{tag}", folder.display()),
            Self::Registry(reference) => f.write_str(reference),
        }
    }
}

impl std::str::FromStr for OutputSpec {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let Some(path) = text.strip_prefix("oci:") else {
            return Ok(Self::Registry(text.to_owned()));
        };
        let (folder, tag) = match path.rsplit_once(':') {
            Some((folder, tag)) if !tag.contains('/') => (folder, tag),
            _ => (path, "latest"),
        };
        let is_tag_byte = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte);
        let tag_is_fine =
            !tag.is_empty() && tag.len() <= 128 && tag.bytes().all(is_tag_byte) && !tag.starts_with(['.', '-']);
        if folder.is_empty() || !tag_is_fine {
            let reason = "a layout is oci:DIR or oci:DIR:TAG, the tag of letters, digits, '_', '.' and '-'";
            return Err(Error::usage("reading --to", format_args!("'{text}'"), reason));
        }
        Ok(Self::Layout { folder: folder.into(), tag: tag.to_owned() })
    }
}

/// What a user asks for; everything has a default.
#[derive(Debug, Clone)]
pub struct FreezeOptions {
    /// Where the root filesystem comes from.
    pub source: SourceSpec,
    /// Where the image goes; at least one.
    pub outputs: Vec<OutputSpec>,
    /// Patterns of entries to leave out.
    pub exclude: Vec<String>,
    /// Mounts to bring back in, as paths in the source.
    pub include_mounts: Vec<PathBuf>,
    /// Bytes of tar in a layer, about; `Some(0)` for one layer. By default 32 MiB, growing with the source.
    pub layer_bytes: Option<u64>,
    /// Blobs to send at a time; 4 by default.
    pub uploads: usize,
    /// Most resident bytes; 256 MiB by default.
    pub memory_bytes: u64,
    /// Most bytes of scratch files; computed by default.
    pub scratch_bytes: Option<u64>,
    /// How layers are stored; zstd by default.
    pub compression: Compression,
    /// The compressor's level; 1 by default for zstd and gzip.
    pub level: Option<i32>,
    /// A source with more bytes of tar than this is refused.
    pub tar_bytes_max: Option<u64>,
    /// How a machine is read.
    pub machine: machine::Options,
    /// What the image says about running it. What is empty here comes from the machine, if one is frozen. Architecture, date and source are filled in where empty.
    pub image: ImageOptions,
    /// Certificates to trust besides the system's, as a PEM file.
    pub ca_cert: Option<PathBuf>,
    /// Speak plain http to the registry, wherever it is.
    pub plain_http: bool,
    /// Where the map of known layers is kept; none forgets.
    pub known: Option<PathBuf>,
}

impl FreezeOptions {
    /// The defaults for `source` and `outputs`.
    #[must_use]
    pub fn new(source: SourceSpec, outputs: Vec<OutputSpec>) -> Self {
        Self {
            source,
            outputs,
            exclude: Vec::new(),
            include_mounts: Vec::new(),
            layer_bytes: None,
            uploads: 4,
            memory_bytes: 256 << 20,
            scratch_bytes: None,
            compression: Compression::Zstd,
            level: None,
            tar_bytes_max: None,
            machine: machine::Options::default(),
            image: ImageOptions::default(),
            ca_cert: None,
            plain_http: false,
            known: None,
        }
    }
}

/// A freeze, decided and ready to run. It prints as what will happen.
pub struct Plan {
    pub(crate) options: FreezeOptions,
    pub(crate) method: Method,
    pub(crate) layer_size: LayerSize,
    pub(crate) cut: CutOptions,
    pub(crate) survey: Survey,
    pub(crate) budget: Budget,
    pub(crate) scratch_folder: PathBuf,
    pub(crate) stream: StreamFn,
    pub(crate) leave_timeout: Duration,
}

/// A folder or a tar has nothing to tidy up.
const LEAVE_TIMEOUT: Duration = Duration::from_millis(500);
/// A machine has: the spool and the processes in the guest.
const MACHINE_LEAVE_TIMEOUT: Duration = Duration::from_millis(4500);

impl Plan {
    /// Makes all choices: opens and surveys the source, divides the memory. Writes nothing anywhere.
    ///
    /// # Errors
    /// When a choice can't be carried out, or the source can't be read.
    pub async fn make(options: FreezeOptions, stop: &Stop) -> Result<Self> {
        // What hung up because of a stop is not the cause.
        let made = Self::decide(options, stop).await;
        made.map_err(|error| stop.take_cause().unwrap_or(error))
    }

    async fn decide(mut options: FreezeOptions, stop: &Stop) -> Result<Self> {
        let method = Method::new(options.compression, options.level)?;
        let exclude = Exclude::new(&options.exclude)?;
        let opened = if let SourceSpec::Machine(name) = options.source.clone() {
            open_machine(&name, &mut options, exclude.clone(), stop).await?
        } else {
            let (options, exclude, opened_stop, runtime) =
                (options.clone(), exclude.clone(), stop.clone(), Handle::current());
            let opening = tokio::task::spawn_blocking(move || open(&options, exclude, &opened_stop, &runtime));
            tokio::select! {
                opened = opening => opened.map_err(|_| Error::interrupted())??,
                () = stop.stopped() => return Err(Error::interrupted()),
            }
        };
        fill_in(&mut options.image, &options.source)?;
        let survey = opened.survey;
        let layer_size = match (options.layer_bytes, survey.tar_bytes) {
            (Some(0), _) => LayerSize::One,
            (Some(bytes), _) => LayerSize::About(bytes),
            (None, _) if survey.links_unordered => LayerSize::One,
            (None, Some(tar_bytes)) => LayerSize::for_tar(tar_bytes),
            (None, None) => LayerSize::One,
        };
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let wish = Wish {
            memory_bytes: options.memory_bytes,
            scratch_bytes: options.scratch_bytes,
            uploads: options.uploads,
            cores,
            method,
        };
        let budget = Budget::plan(&wish, &survey, layer_size)?;
        let cut = CutOptions {
            layer_size,
            exclude: if matches!(options.source, SourceSpec::Archive(_)) { exclude } else { Exclude::default() },
            tar_bytes_max: options.tar_bytes_max,
            whole_from: opened.whole_from,
            own_layers: opened.own_layers,
        };
        Ok(Self {
            options,
            method,
            layer_size,
            cut,
            survey,
            budget,
            scratch_folder: scratch_folder(),
            stream: opened.stream,
            leave_timeout: opened.leave_timeout,
        })
    }

    /// The division of memory and scratch space.
    #[must_use]
    pub fn budget(&self) -> &Budget {
        &self.budget
    }
}

struct Opened {
    survey: Survey,
    whole_from: Option<u64>,
    own_layers: Vec<Vec<u8>>,
    leave_timeout: Duration,
    stream: StreamFn,
}

impl Opened {
    fn new(survey: Survey, stream: StreamFn) -> Self {
        Self { survey, whole_from: None, own_layers: Vec::new(), leave_timeout: LEAVE_TIMEOUT, stream }
    }
}

/// Probes and looks at a machine; what it says about itself goes into the image where the user said nothing.
async fn open_machine(name: &str, options: &mut FreezeOptions, exclude: Exclude, stop: &Stop) -> Result<Opened> {
    let machine = Machine::open(name, options.machine.clone(), stop).await?;
    describe_machine(&mut options.image, machine.facts());
    let selection = Selection { exclude, include_mounts: options.include_mounts.clone(), own_outputs: Vec::new() };
    let survey = machine.survey(&selection, stop).await?;
    let (stop, runtime) = (stop.clone(), Handle::current());
    Ok(Opened {
        // smolvm mounts its own `/workspace` over an image's: apart from the rest, it can become the workspace's seed.
        own_layers: vec![b"workspace".to_vec()],
        leave_timeout: MACHINE_LEAVE_TIMEOUT,
        ..Opened::new(survey, Box::new(move |outlet| machine.stream(&selection, outlet, &stop, &runtime)))
    })
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

fn open(options: &FreezeOptions, exclude: Exclude, stop: &Stop, runtime: &Handle) -> Result<Opened> {
    let (stop, runtime) = (stop.clone(), runtime.clone());
    match &options.source {
        SourceSpec::Archive(path) => {
            let mut archive = Archive::open(path)?;
            let survey = archive.survey(&stop, &runtime)?;
            let whole_from = archive.whole_from();
            let stream: StreamFn = Box::new(move |outlet| archive.stream(outlet, &stop, &runtime));
            Ok(Opened { whole_from, ..Opened::new(survey, stream) })
        }
        SourceSpec::Directory(path) => {
            let own_outputs = options.outputs.iter().filter_map(|output| match output {
                OutputSpec::Layout { folder, .. } => Some(folder.clone()),
                OutputSpec::Registry(_) => None,
            });
            let selection = Selection {
                exclude,
                include_mounts: options.include_mounts.clone(),
                own_outputs: own_outputs.collect(),
            };
            let directory = Directory::open(path, &selection)?;
            let survey = directory.survey(&stop)?;
            Ok(Opened::new(survey, Box::new(move |outlet| directory.stream(outlet, &stop))))
        }
        SourceSpec::Machine(name) => Err(Error::usage(
            "opening the source",
            name,
            "a machine is opened without blocking; this is a bug in smolfreeze",
        )),
    }
}

/// Where scratch files go: a folder on a disk, which `/tmp` often is not.
fn scratch_folder() -> PathBuf {
    std::env::var_os("TMPDIR").map_or_else(|| Path::new("/var/tmp").to_owned(), PathBuf::from)
}

fn fill_in(image: &mut ImageOptions, source: &SourceSpec) -> Result<()> {
    if image.architecture.is_empty() {
        host_architecture().clone_into(&mut image.architecture);
    }
    if image.source.is_empty() {
        image.source = source.to_string();
    }
    if image.created.is_empty() {
        image.created = humantime::format_rfc3339_seconds(created()?).to_string();
    }
    Ok(())
}

/// Now, or what SOURCE_DATE_EPOCH says (reproducible-builds.org).
fn created() -> Result<SystemTime> {
    let Some(text) = std::env::var_os("SOURCE_DATE_EPOCH") else { return Ok(SystemTime::now()) };
    let seconds = text.to_str().and_then(|text| text.parse().ok()).filter(|seconds| *seconds < 253_402_300_800_u64);
    let wrong = || {
        Error::usage(
            "reading SOURCE_DATE_EPOCH",
            format_args!("'{}'", text.display()),
            "it is no number of seconds since 1970",
        )
    };
    Ok(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds.ok_or_else(wrong)?))
}

impl std::fmt::Display for Plan {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let size = |bytes: u64| humansize::format_size(bytes, humansize::BINARY);
        writeln!(f, "source       {}", self.options.source)?;
        match self.survey.tar_bytes {
            Some(bytes) => writeln!(
                f,
                "             about {} of tar in {} entries, the largest {}",
                size(bytes),
                self.survey.entries,
                size(self.survey.largest_entry_bytes)
            )?,
            None => writeln!(f, "             of unknown size")?,
        }
        for output in &self.options.outputs {
            writeln!(f, "output       {output}")?;
        }
        match self.layer_size {
            LayerSize::One => writeln!(f, "layers       one")?,
            LayerSize::About(bytes) => writeln!(f, "layers       of about {} of tar", size(bytes))?,
        }
        writeln!(f, "compression  {} (level {})", self.method.compression, self.method.level)?;
        writeln!(f, "at once      {} packers, {} uploads", self.budget.workers, self.budget.uploads)?;
        writeln!(
            f,
            "memory       at most {}, {} of it layers",
            size(self.budget.memory_bytes_max()),
            size(self.budget.held_bytes_max)
        )?;
        write!(f, "scratch      at most {} in {}", size(self.budget.scratch_bytes_max), self.scratch_folder.display())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_and_outputs_parse() {
        assert_eq!("dir:/usr".parse::<SourceSpec>().unwrap(), SourceSpec::Directory("/usr".into()));
        assert_eq!("tar:-".parse::<SourceSpec>().unwrap(), SourceSpec::Archive("-".into()));
        assert!("dir:".parse::<SourceSpec>().is_err());
        let layout = |folder: &str, tag: &str| OutputSpec::Layout { folder: folder.into(), tag: tag.to_owned() };
        assert_eq!("oci:./usr".parse::<OutputSpec>().unwrap(), layout("./usr", "latest"));
        assert_eq!("oci:/a:b/c:v1".parse::<OutputSpec>().unwrap(), layout("/a:b/c", "v1"));
        assert_eq!("oci:/a:b/c".parse::<OutputSpec>().unwrap(), layout("/a:b/c", "latest"));
        for bad in ["oci:", "oci::x", "oci:a:", "oci:a:.b", "oci:a:b c"] {
            assert!(bad.parse::<OutputSpec>().is_err(), "{bad}");
        }
    }
}

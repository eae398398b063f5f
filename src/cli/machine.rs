//! How `smolfreeze freeze` reads a machine.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use smolfreeze::plan::SourceSpec;
use smolfreeze::source::machine::{self, Reader};

use super::bytes;
use super::freeze::CompressionArgument;

/// Everything that is said of machines.
#[derive(Args)]
#[command(next_help_heading = "Machines")]
pub struct MachineArguments {
    /// The smolvm executable.
    #[arg(long, value_name = "PATH", env = "SMOLFREEZE_SMOLVM", default_value = "smolvm")]
    smolvm: PathBuf,
    /// What stands before NAME in the machine's name, for programs that name machines by a rule.
    #[arg(long, value_name = "PREFIX", default_value = "")]
    machine_prefix: String,
    /// Bytes of one chunk, of which two are on this host at a time; by default 48 MiB, or less where space is short.
    #[arg(long, value_name = "SIZE", value_parser = bytes)]
    chunk_size: Option<u64>,
    /// Chunks that may lie in the guest at once.
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u64).range(1..=1024))]
    window: u64,
    /// How the guest compresses what crosses the link; worth it only where the link is slower than the guest's cores.
    #[arg(long, value_enum, default_value_t = CompressionArgument::None, value_name = "HOW")]
    guest_compression: CompressionArgument,
    /// Who reads the guest's files: a copy of smolfreeze-guest, which is looked for beside this program and in its library
    /// folder, or of this program, where one runs there, else the guest's own tools (auto); always these (tar); or a copy of
    /// this FILE, which has to run there.
    #[arg(long, value_name = "auto|tar|FILE", env = "SMOLFREEZE_GUEST_READER", default_value = "auto")]
    guest_reader: ReaderArgument,
    /// Run this in the guest by `sh -c`, as root, before anything is read.
    #[arg(long, value_name = "COMMAND")]
    pre_exec: Option<String>,
    /// Run this in the guest afterwards, on every way out. Where it fails behind a complete capture, the image is kept, and
    /// the exit code is 7.
    #[arg(long, value_name = "COMMAND")]
    post_exec: Option<String>,
    /// How long each of the two may take (10m, 2h).
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration, default_value = "1h")]
    exec_timeout: Duration,
    /// Wait this long while another freeze has the machine (30s, 10m).
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration, default_value = "0s")]
    wait: Duration,
}

impl MachineArguments {
    /// The source with the machine's own name.
    pub fn full_name(&self, source: &SourceSpec) -> SourceSpec {
        match source {
            SourceSpec::Machine(name) => SourceSpec::Machine(format!("{}{name}", self.machine_prefix)),
            other => other.clone(),
        }
    }

    /// What the library is told.
    pub fn options(self) -> machine::Options {
        machine::Options {
            smolvm: self.smolvm.into(),
            chunk_bytes: self.chunk_size,
            window_chunks: self.window,
            reader: match self.guest_reader {
                ReaderArgument::Auto => std::env::current_exe().map_or(Reader::Tools, Reader::FoundFor),
                ReaderArgument::Tar => Reader::Tools,
                ReaderArgument::File(path) => Reader::File(path),
            },
            guest_compression: self.guest_compression.into(),
            wait: self.wait,
            pre_exec: self.pre_exec,
            post_exec: self.post_exec,
            exec_limit: self.exec_timeout,
            ..machine::Options::default()
        }
    }
}

#[derive(Clone)]
enum ReaderArgument {
    Auto,
    Tar,
    File(PathBuf),
}

impl From<OsString> for ReaderArgument {
    fn from(word: OsString) -> Self {
        match word.to_str() {
            Some("auto") => Self::Auto,
            Some("tar") => Self::Tar,
            _ => Self::File(word.into()),
        }
    }
}

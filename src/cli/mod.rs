//! The command line: one file a command.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::{CommandFactory as _, FromArgMatches as _, Parser, Subcommand};
use smolfreeze::error::{Error, Kind, Result, Side};
use smolfreeze::oci::Platform;
use smolfreeze::progress::Silent;
use smolfreeze::record::Record;
use smolfreeze::record::store::{Listing, Removed};
use smolfreeze::sink::SinkContext;
use smolfreeze::sink::registry::RegistryOptions;
use smolfreeze::state::State;
use smolfreeze::stop::Stop;
use smolfreeze::stored::{StoredName, Wanted};
use smolfreeze::text;

mod columns;
mod fleet;
mod freeze;
mod gc;
mod given;
mod inspect;
mod ls;
mod machine;
mod prune;
mod report;
mod rm;
mod serve;
mod thaw;
mod trace;
mod verify;

/// Freezes a root filesystem into an OCI image, in one bounded pass, and thaws it into a machine.
///
/// Exit codes: 0 done; 1 a bug; 2 a wrong argument; 3 the source can't be read or must not become an image; 4 a
/// destination can't take the image, or smolvm makes no machine of it; 5 a registry refused the credentials; 6 verify
/// found a fault; 7 something was left undone in the machine; 8 a file of earlier images was not what it should have been; 129, 130 and 143 ended by SIGHUP, SIGINT and SIGTERM, which end `serve` with 0. Whatever ends a freeze, no destination is left
/// with half an image.
#[derive(Parser)]
#[command(name = "smolfreeze", version, max_term_width = 110)]
pub struct Arguments {
    #[command(subcommand)]
    command: Command,
    /// The options that stand there.
    #[arg(skip)]
    given: given::Given,
}

#[derive(Subcommand)]
enum Command {
    Freeze(Box<freeze::Freeze>),
    Thaw(Box<thaw::Thaw>),
    Inspect(inspect::Inspect),
    Serve(serve::Serve),
    Verify(verify::Verify),
    Ls(ls::Ls),
    Rm(rm::Rm),
    Prune(prune::Prune),
    Gc(gc::Gc),
    Fleet(fleet::Fleet),
    /// Print shell completions.
    Completions {
        /// The shell to complete in.
        shell: clap_complete::Shell,
    },
    /// Print the manual page, or that of one command.
    Man {
        /// The command whose page to print.
        command: Option<String>,
    },
}

/// How to reach a registry.
#[derive(clap::Args, Clone)]
struct RegistryArguments {
    /// Trust the certificates in this PEM file, besides the system's.
    #[arg(long, value_name = "FILE")]
    ca_cert: Option<PathBuf>,
    /// Speak plain http; without this it is only spoken to loopback addresses.
    #[arg(long)]
    plain_http: bool,
    /// Give a registry up that fails, or stands still, for so long (30s, 1h); by default 10m.
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    patience: Option<Duration>,
}

/// Which image of several is meant.
#[derive(clap::Args, Clone)]
struct PlatformArgument {
    /// Of an image for several platforms the one for OS/ARCH[/VARIANT]; this host's by default.
    #[arg(long, value_name = "PLATFORM")]
    platform: Option<Platform>,
}

impl PlatformArgument {
    fn of<'a>(&'a self, name: &'a StoredName) -> Wanted<'a> {
        Wanted { name, platform: self.platform.as_ref(), tar_bytes_max: None }
    }
}

impl RegistryArguments {
    fn options(&self) -> RegistryOptions {
        let (ca_cert, plain_http) = (self.ca_cert.clone(), self.plain_http);
        RegistryOptions { ca_cert, plain_http, ..RegistryOptions::default().with_patience(self.patience) }
    }

    /// A context for reading: nobody watches, and the whole command stops at once.
    fn context() -> SinkContext {
        SinkContext { observer: Arc::new(Silent), meters: Arc::default(), stop: Stop::new() }
    }
}

impl Arguments {
    /// Those of this process.
    pub fn read() -> Result<Self, clap::Error> {
        let matches = Self::command().try_get_matches()?;
        let given = given::Given::of(&matches);
        Ok(Self { given, ..Self::from_arg_matches(&matches)? })
    }
}

/// Runs one command.
pub async fn run(arguments: Arguments, stop: Stop) -> Result<ExitCode> {
    let given = arguments.given;
    match arguments.command {
        Command::Freeze(freeze) => freeze.run(&given, stop).await,
        Command::Thaw(thaw) => thaw.run(&given, stop).await,
        Command::Inspect(inspect) => until_stopped(inspect.run(&given), &stop).await,
        Command::Serve(serve) => serve.run(stop).await,
        Command::Verify(verify) => until_stopped(verify.run(&given), &stop).await,
        Command::Ls(ls) => ls.run(),
        Command::Rm(rm) => rm.run(),
        Command::Prune(prune) => prune.run(),
        Command::Gc(gc) => gc.run(),
        Command::Fleet(fleet) => fleet.run(stop).await,
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Arguments::command(), "smolfreeze", &mut script);
            print(&String::from_utf8_lossy(&script))
        }
        Command::Man { command } => print(&manual_page(command.as_deref())?),
    }
}

/// `smolfreeze` in one of the user's XDG folders: the one that a variable names, or its default in HOME.
fn xdg_folder(variable: &str, default: &str) -> Option<PathBuf> {
    let absolute = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let folder = absolute(variable).or_else(|| absolute("HOME").map(|home| home.join(default)))?;
    Some(folder.join("smolfreeze"))
}

/// A number of bytes, with a unit or without.
fn bytes(text: &str) -> Result<u64, String> {
    parse_size::Config::new().with_binary().parse_size(text).map_err(|error| error.to_string())
}

/// Where freezes are remembered; nowhere, if there is no HOME.
fn state_folder() -> Option<PathBuf> {
    xdg_folder("XDG_STATE_HOME", ".local/state")
}

/// Where freezes are remembered, for who can't do without.
fn state_path() -> Result<PathBuf> {
    let reason = "neither it nor HOME is an absolute path";
    state_folder().ok_or_else(|| Error::usage("finding the state folder", "XDG_STATE_HOME", reason))
}

/// The state folder, to change something in it.
fn state() -> Result<State> {
    State::open(&state_path()?)
}

/// Names the files that are no records: they are left alone, and nothing fails because of them.
fn warn_of(listing: &Listing) {
    for (path, reason) in &listing.unreadable {
        let _ = writeln!(
            std::io::stderr(),
            "smolfreeze: left alone: '{}': {}",
            text::line(&path.to_string_lossy()),
            text::line(reason)
        );
    }
}

/// A line for people, on standard error; it is no error.
fn remark(text: &str) {
    let _ = writeln!(std::io::stderr(), "smolfreeze: {}", text::line(text));
}

/// What was removed, and what is still where.
fn removal_line(verb: &str, record: &Record, removed: &Removed) -> String {
    let artifacts = removed.artifacts.iter().map(|path| path.display().to_string());
    let gone: Vec<_> = std::iter::once(record.id.to_string()).chain(artifacts).collect();
    let mut line = format!("{verb} {}", gone.join(", "));
    if !removed.left.is_empty() {
        line = line + "; still there: " + &removed.left.join(", ");
    }
    text::line(&line).into_owned()
}

fn manual_page(command: Option<&str>) -> Result<String> {
    let failed = |subject: &str, reason: &dyn std::fmt::Display| {
        Error::new(Kind::Usage, Side::Plan, "rendering the manual page", format_args!("'{subject}'"), reason)
    };
    let mut whole = Arguments::command();
    whole.build();
    let shown = match command {
        None => whole,
        Some(name) => whole.find_subcommand(name).cloned().ok_or_else(|| failed(name, &"there is no such command"))?,
    };
    let mut page = Vec::new();
    let rendered = clap_mangen::Man::new(shown).render(&mut page);
    rendered.map_err(|error| failed(command.unwrap_or("smolfreeze"), &error))?;
    Ok(String::from_utf8_lossy(&page).into_owned())
}

async fn until_stopped(command: impl Future<Output = Result<ExitCode>>, stop: &Stop) -> Result<ExitCode> {
    tokio::select! {
        done = command => done,
        () = stop.stopped() => Err(Error::new(Kind::Interrupted, Side::Plan, "the command", "on request", "interrupted")),
    }
}

/// Prints to standard output; a reader that hung up (`| head`) is no error.
fn print(text: &str) -> Result<ExitCode> {
    let text = text.trim_end();
    match writeln!(std::io::stdout(), "{text}") {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(Error::new(Kind::Sink, Side::Plan, "printing", "standard output", &error).because(error))
        }
        _ => Ok(ExitCode::SUCCESS),
    }
}

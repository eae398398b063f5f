//! A stand-in for the `smolvm` command line, for tests: same calls, same limits, same words (SMOLVM.md), real commands in
//! real root filesystems, no virtualization, and faults that a test orders. Root on Linux only. Never shipped.
//!
//! `STANDIN_STATE` names its folder: `NAME/machine.json` describes a machine ([`state::Machine`]), `faults` orders faults
//! ([`faults`]), `calls` lists every call that was made. `machine start` and `stop` are how a test runs a machine.

mod copy;
mod create;
mod exec;
mod faults;
mod guest;
mod pack;
mod state;

use std::process::ExitCode;

use clap::{Args, Parser, Subcommand, ValueEnum};

use state::{Failure, State};

#[derive(Parser)]
#[command(name = "smolvm", version = "1.32.2", about = "Stand-in for smolvm")]
struct Cli {
    /// How failures are printed.
    #[arg(long, global = true, value_enum, default_value = "text")]
    error_format: ErrorFormat,
    #[command(subcommand)]
    command: Command,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum ErrorFormat {
    Text,
    Json,
}

#[derive(Subcommand)]
enum Command {
    /// Machines.
    Machine {
        #[command(subcommand)]
        command: MachineCommand,
    },
    /// Artifacts.
    Pack {
        #[command(subcommand)]
        command: PackCommand,
    },
    /// The first process of a machine; started by `machine start`.
    #[command(name = "__hold", hide = true)]
    Hold { root: std::path::PathBuf },
}

#[derive(Subcommand)]
enum MachineCommand {
    Ls {
        #[arg(long)]
        json: bool,
    },
    Status {
        #[arg(long, default_value = "default")]
        name: String,
        #[arg(long)]
        json: bool,
    },
    Start {
        #[arg(long, default_value = "default")]
        name: String,
    },
    Stop {
        #[arg(long, default_value = "default")]
        name: String,
    },
    Create(CreateArguments),
    Delete {
        #[arg(long)]
        name: String,
        #[arg(short = 'f', long)]
        force: bool,
    },
    Exec(ExecArguments),
    Cp(CopyArguments),
}

#[derive(Subcommand)]
enum PackCommand {
    Create(PackArguments),
}

/// `machine create`.
#[derive(Args)]
pub(crate) struct CreateArguments {
    #[arg(long)]
    name: String,
    #[arg(long)]
    from: std::path::PathBuf,
    #[arg(long)]
    cpus: Option<u8>,
    #[arg(long)]
    mem: Option<u32>,
    #[arg(long)]
    net: bool,
}

/// `pack create`.
#[derive(Args)]
pub(crate) struct PackArguments {
    #[arg(short = 'I', long)]
    image: String,
    #[arg(short = 'o', long)]
    output: std::path::PathBuf,
}

/// `machine exec`.
#[derive(Args)]
#[expect(clippy::struct_excessive_bools, reason = "they are the flags of smolvm")]
pub(crate) struct ExecArguments {
    #[arg(long, default_value = "default")]
    name: String,
    #[arg(short = 'u', long)]
    user: Option<String>,
    #[arg(short = 'w', long)]
    workdir: Option<String>,
    #[arg(short = 'e', long)]
    env: Vec<String>,
    #[arg(short = 'd', long)]
    detach: bool,
    #[arg(short = 'i', long)]
    interactive: bool,
    #[arg(short = 't', long)]
    tty: bool,
    #[arg(long)]
    stream: bool,
    #[arg(long)]
    timeout: Option<String>,
    #[arg(last = true, required = true)]
    command: Vec<String>,
}

/// `machine cp`.
#[derive(Args)]
pub(crate) struct CopyArguments {
    source: String,
    destination: String,
    #[arg(long)]
    mode: Option<String>,
    #[arg(long)]
    uid: Option<u32>,
    #[arg(long)]
    gid: Option<u32>,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(cli.command) {
        Ok(code) => ExitCode::from(code),
        Err(failure) => {
            failure.print(cli.error_format == ErrorFormat::Json);
            ExitCode::from(failure.exit)
        }
    }
}

fn run(command: Command) -> Result<u8, Failure> {
    let command = match command {
        Command::Hold { root } => return guest::hold(&root).map(|()| 0),
        Command::Pack { command: PackCommand::Create(arguments) } => {
            let state = State::from_env()?;
            state.log_call()?;
            return pack::create(&state, &arguments).map(|()| 0);
        }
        Command::Machine { command } => command,
    };
    let state = State::from_env()?;
    state.log_call()?;
    match command {
        MachineCommand::Ls { json } => {
            let machines: Vec<_> = state.machines()?.iter().map(|machine| machine.listing(&state)).collect();
            print_listing(json, &serde_json::Value::from(machines));
        }
        MachineCommand::Status { name, json } => {
            let machine = state.machine(&name).map_err(|_| Failure::status_unknown(&name))?;
            print_listing(json, &machine.listing(&state));
        }
        MachineCommand::Create(arguments) => create::create(&state, &arguments)?,
        MachineCommand::Delete { name, force } => create::delete(&state, &name, force)?,
        MachineCommand::Start { name } => guest::start(&state, &state.machine(&name)?)?,
        MachineCommand::Stop { name } => guest::stop(&state, &state.machine(&name)?)?,
        MachineCommand::Exec(arguments) => return exec::run(&state, &arguments),
        MachineCommand::Cp(arguments) => copy::run(&state, &arguments)?,
    }
    Ok(0)
}

#[expect(clippy::print_stdout, reason = "a command line")]
fn print_listing(json: bool, value: &serde_json::Value) {
    if json {
        println!("{value:#}");
    } else {
        println!("{value}");
    }
}

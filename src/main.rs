//! The `smolfreeze` command: arguments to a plan, progress to a terminal, errors to exit codes. Only here is printed.

use std::io::Write as _;
use std::process::ExitCode;
use std::sync::{Arc, OnceLock};

use clap::error::ErrorKind;
use smolfreeze::error::Kind;
use smolfreeze::source::machine::guest;
use smolfreeze::stop::Stop;
use smolfreeze::text;
use tokio::signal::unix::{SignalKind, signal};

mod bars;
mod cli;

fn main() -> ExitCode {
    let words: Vec<_> = std::env::args_os().skip(1).collect();
    // In a guest it knows no signals, so that whoever ends its group ends it at once.
    if let Some(code) = guest::main(&words, &mut std::io::stderr()) {
        return code;
    }
    let arguments = match cli::Arguments::read() {
        Ok(arguments) => arguments,
        Err(error) => return refuse(&error),
    };
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().worker_threads(2).build() {
        Ok(runtime) => runtime,
        Err(error) => return complain(&format!("starting the runtime failed: {error}"), 1),
    };
    let stop = Stop::new();
    let code = runtime.block_on(async {
        let signal_code = watch_signals(&stop);
        match cli::run(arguments, stop).await {
            Ok(code) => code,
            Err(error) => {
                let by_signal = signal_code.get().filter(|_| error.kind() == Kind::Interrupted);
                complain(&error.to_string(), by_signal.copied().unwrap_or(error.kind().exit_code()))
            }
        }
    });
    // A thread may still wait for a pipe that nobody writes to; it must not keep the process.
    runtime.shutdown_background();
    code
}

/// Throws `stop` on the first Ctrl-C, SIGTERM or SIGHUP, and keeps the exit code that a shell expects of that signal.
fn watch_signals(stop: &Stop) -> Arc<OnceLock<u8>> {
    let code = Arc::new(OnceLock::new());
    for (kind, exit_code) in
        [(SignalKind::interrupt(), 130), (SignalKind::terminate(), 143), (SignalKind::hangup(), 129)]
    {
        let (stop, code) = (stop.clone(), Arc::clone(&code));
        if let Ok(mut signal) = signal(kind) {
            tokio::spawn(async move {
                signal.recv().await;
                let _ = code.set(exit_code);
                stop.interrupt();
            });
        }
    }
    code
}

/// Help where it was asked for, and else one line, as for every other error.
fn refuse(error: &clap::Error) -> ExitCode {
    if !error.use_stderr() || error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        error.exit();
    }
    let text = error.to_string();
    let paragraphs = text.trim_start_matches("error: ").split("\n\n");
    let telling = paragraphs.filter(|text| !text.starts_with("Usage:") && !text.starts_with("For more information"));
    let lines: Vec<_> = telling.map(|text| text.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
    complain(&format!("{}; see --help", lines.join("; ")), Kind::Usage.exit_code())
}

fn complain(text: &str, code: u8) -> ExitCode {
    let _ = writeln!(std::io::stderr(), "smolfreeze: {}", text::line(text));
    ExitCode::from(code)
}

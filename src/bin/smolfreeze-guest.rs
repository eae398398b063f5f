//! The `smolfreeze-guest` command: our own reader alone, small enough to be copied into a guest at every freeze. Not for people.

use std::ffi::OsString;
use std::io::Write as _;
use std::process::ExitCode;

use smolfreeze::source::machine::guest;

fn main() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
    if arguments == ["--version"] {
        return match writeln!(std::io::stdout(), "{}", guest::VERSION) {
            Ok(()) => ExitCode::SUCCESS,
            Err(_) => ExitCode::FAILURE,
        };
    }
    let mut words = std::io::stderr();
    guest::main(&arguments, &mut words).unwrap_or_else(|| {
        let _ =
            writeln!(words, "smolfreeze-guest: `smolfreeze freeze` copies it into machines; see its --guest-reader");
        ExitCode::from(2)
    })
}

//! Runs the binary within bounds, and holds what came of it.

use std::fs;
use std::process::Command;

use crate::host::{Host, finish};

/// The bounds of the issue.
const SECONDS: &str = "20";
const RESIDENT_KIB_MAX: u64 = 300 << 10;

/// Runs `words`; what is wrong with how it ended, if anything.
pub fn refuses(host: &Host, name: &str, words: &[&str], said: &str) -> Option<String> {
    let peak = host.path("peak");
    let mut command = Command::new("/usr/bin/time");
    command.args(["-f", "%M", "-q", "-o"]).arg(&peak).args(["timeout", "-s", "KILL", SECONDS]);
    command.arg(env!("CARGO_BIN_EXE_smolfreeze")).args(words).current_dir(host.path(""));
    let output = finish(host.surround(&mut command).spawn().expect("GNU time"));
    let told = [output.stdout.as_slice(), output.stderr.as_slice()].concat();
    let told = String::from_utf8_lossy(&told).into_owned();
    let resident: u64 = fs::read_to_string(&peak).unwrap().trim().parse().unwrap();
    let code = output.status.code();
    let is_refusal = matches!(code, Some(2..=6));
    if is_refusal && told.contains(said) && !told.contains("panicked") && resident <= RESIDENT_KIB_MAX {
        return None;
    }
    let told: String = told.chars().take(600).collect();
    Some(format!("{name}: {words:?}: code {code:?}, {} MiB, not '{said}': {told}", resident >> 10))
}

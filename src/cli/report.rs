//! `--report`: what happened, as JSON, whether it went well or not.

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use serde::Serialize;
use smolfreeze::error::{Error, Result};

/// A file that can be written to, as was tried before there is anything to write.
pub struct ReportFile {
    path: PathBuf,
    file: File,
}

/// What there is to say of a freeze that failed.
#[derive(Serialize)]
pub struct Failed<'a> {
    version: &'a str,
    source: &'a str,
    /// None: which output has the image all the same, if one has, is said by the message.
    outputs: [(); 0],
    error: Said<'a>,
}

#[derive(Serialize)]
struct Said<'a> {
    kind: &'a str,
    message: String,
}

impl<'a> Failed<'a> {
    pub fn new(source: &'a str, error: &Error) -> Self {
        let error = Said { kind: error.kind().name(), message: error.to_string() };
        Self { version: env!("CARGO_PKG_VERSION"), source, outputs: [], error }
    }
}

impl ReportFile {
    /// Opens the file, or makes it. What is in it stays until there is something to write.
    pub fn open(path: &Path) -> Result<Self> {
        let file = open_for_later(path).map_err(|error| failed(path, error))?;
        Ok(Self { path: path.to_owned(), file })
    }

    /// Writes it in place of what is there.
    pub fn write(mut self, report: &impl Serialize) -> Result<()> {
        let mut write = || {
            let mut text = serde_json::to_vec_pretty(report)?;
            text.push(b'\n');
            clear(&self.file)?;
            self.file.write_all(&text)
        };
        write().map_err(|error| failed(&self.path, error))
    }
}

/// A file to write to once there is something to write: whether that is possible is known at once.
pub fn open_for_later(path: &Path) -> std::io::Result<File> {
    File::options().write(true).create(true).truncate(false).open(path)
}

/// Removes what a file held before. Pipes and devices hold nothing.
pub fn clear(file: &File) -> std::io::Result<()> {
    if file.metadata()?.is_file() { file.set_len(0) } else { Ok(()) }
}

fn failed(path: &Path, error: std::io::Error) -> Error {
    Error::sink("writing the report", format_args!("'{}'", path.display()), &error).because(error)
}

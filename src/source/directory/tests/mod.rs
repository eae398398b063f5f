//! The stream against reality: what GNU tar makes of it is compared with the folder it came from.

mod awkward;
mod faithful;
mod inventory;
mod live;
mod selected;

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use super::{Directory, Moment};
use crate::error::Result;
use crate::pipeline::memory::{BUFFER_BYTES, Memory};
use crate::progress::{Meters, NoticeKind, Notices, Silent};
use crate::source::{Outlet, Piece, Selection};
use crate::stop::Stop;

/// What a test does to the folder while it is streamed.
pub(super) type Seam = Box<dyn Fn(Moment, &[u8]) + Send + Sync>;

/// A whole stream, taken off its edge.
struct Streamed {
    tar: Vec<u8>,
    notices: Notices,
}

fn stream(path: &Path, selection: &Selection) -> Result<Streamed> {
    collect(Directory::open(path, selection)?, 2)
}

fn stream_while(path: &Path, seam: impl Fn(Moment, &[u8]) + Send + Sync + 'static) -> Result<Streamed> {
    let mut directory = Directory::open(path, &Selection::default())?;
    directory.seam = Some(Box::new(seam));
    collect(directory, 2)
}

/// With two buffers, the fewest there are, a reader that waited for one out of turn would wait for ever.
fn collect(directory: Directory, buffers: usize) -> Result<Streamed> {
    let stop = Stop::new();
    let (pieces, edge) = crossbeam_channel::bounded(1);
    let memory = Memory::new((buffers * BUFFER_BYTES) as u64, stop.clone());
    let outlet = Outlet::new(pieces, memory.clone(), Arc::new(Meters::default()), Arc::new(Silent));
    let taken = std::thread::spawn(move || {
        let mut tar = Vec::new();
        for piece in edge {
            match piece {
                Piece::Bytes(bytes) => tar.extend_from_slice(&bytes),
                Piece::End => return Some(tar),
            }
        }
        None
    });
    let notices = directory.stream(outlet, &stop);
    let tar = taken.join().unwrap();
    assert_eq!(notices.is_ok(), tar.is_some(), "the end is sent exactly if all went well");
    // The names of linked files are counted, too, and a file of attributes may have a buffer grow.
    assert!(memory.held_bytes_peak() <= ((buffers + 1) * BUFFER_BYTES) as u64);
    Ok(Streamed { notices: notices?, tar: tar.unwrap() })
}

impl Streamed {
    /// Runs GNU tar on the stream and returns what it prints.
    fn tar(&self, arguments: &[&str]) -> Vec<u8> {
        let mut tar = Command::new("tar")
            .args(arguments)
            .env("TZ", "UTC")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = tar.stdin.take().unwrap();
        let output = std::thread::scope(|scope| {
            scope.spawn(move || stdin.write_all(&self.tar).unwrap());
            tar.wait_with_output().unwrap()
        });
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && said.is_empty(), "tar {arguments:?}: {said}");
        output.stdout
    }

    fn names(&self) -> Vec<String> {
        let listed = self.tar(&["-t", "--quoting-style=escape"]);
        String::from_utf8(listed).unwrap().lines().map(str::to_owned).collect()
    }

    fn content(&self, name: &str) -> Vec<u8> {
        self.tar(&["-xO", name])
    }

    /// The line that `tar -tv` prints about one entry.
    fn line(&self, name: &str) -> String {
        let listed = self.tar(&["-tv", "--full-time", "--numeric-owner", name]);
        String::from_utf8(listed).unwrap()
    }

    fn noticed(&self) -> Vec<(NoticeKind, &str)> {
        self.notices.named().iter().map(|notice| (notice.kind, notice.path.as_str())).collect()
    }
}

fn shell(folder: &Path, script: &str) {
    let ran = Command::new("bash").args(["-euc", script]).current_dir(folder).output().unwrap();
    assert!(ran.status.success(), "{script}: {}", String::from_utf8_lossy(&ran.stderr));
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

//! Machines of the stand-in, started when the first shape needs them.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::shape::Reader;
use crate::standin::{Kind, Standin};

/// At most one of a kind; gone when dropped.
#[derive(Default)]
pub struct Machines {
    debian: Option<Standin>,
    busybox: Option<Standin>,
    stripped: Option<tempfile::TempDir>,
}

impl Machines {
    /// The machine that this reader is tried in.
    pub fn of(&mut self, reader: Reader) -> &Standin {
        let (place, kind) = match reader {
            Reader::Own | Reader::Gnu => (&mut self.debian, Kind::Debian),
            Reader::Busybox => (&mut self.busybox, Kind::Busybox),
        };
        place.get_or_insert_with(|| Standin::start(kind))
    }

    /// The command as it is released, without debugging symbols: small enough for a guest.
    pub fn binary(&mut self) -> PathBuf {
        let folder = self.stripped.get_or_insert_with(|| {
            let folder = tempfile::tempdir().unwrap();
            let binary = Path::new(env!("CARGO_BIN_EXE_smolfreeze"));
            let status = Command::new("strip").arg("-o").arg(folder.path().join("smolfreeze")).arg(binary).status();
            assert!(status.unwrap().success());
            folder
        });
        folder.path().join("smolfreeze")
    }

    /// After a freeze that went wrong, nobody knows what is left in them.
    pub fn stop(&mut self) {
        (self.debian, self.busybox) = (None, None);
    }
}

/// The words that name the machine, and leave out what is not the shape's.
pub fn words(machine: &Standin, reader: Reader) -> Vec<String> {
    let smolvm = machine.smolvm_path().display().to_string();
    let mut words: Vec<String> = [machine.name, "--smolvm", &smolvm].map(str::to_owned).to_vec();
    for folder in ["/usr", "/etc", "/var/lib", "/bin", "/sbin", "/lib", "/lib64"] {
        words.extend(["--exclude".to_owned(), folder.to_owned()]);
    }
    if reader != Reader::Own {
        words.extend(["--guest-reader", "tar"].map(str::to_owned));
    }
    words
}

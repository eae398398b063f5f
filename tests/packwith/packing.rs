//! A host with a smolvm that packs, and what is seen of it.

use std::net::{SocketAddr, TcpStream};
use std::process::Command;

use rustix::process::Pid;

use crate::desk::Desk;
use crate::host::names;
use crate::standin::Kind;

pub struct Packing {
    pub desk: Desk,
    /// `dir:` and a small folder.
    pub tree: String,
}

impl Packing {
    pub fn new(kind: Kind) -> Self {
        let desk = Desk::new(kind);
        let script = "mkdir -p etc empty; echo x >etc/x; ln etc/x etc/y; head -c 3000000 /dev/urandom >noise";
        let tree = format!("dir:{}", desk.host.tree("tree", script).display());
        desk.host.tree("out", "");
        Self { desk, tree }
    }

    /// `smolfreeze freeze` of the folder, with this smolvm.
    pub fn words<'a>(&'a self, words: &[&'a str]) -> Vec<&'a str> {
        [&[&*self.tree, "--smolvm", self.desk.machine.smolvm_path().to_str().unwrap()], words].concat()
    }

    pub fn command(&self, words: &[&str]) -> Command {
        self.desk.host.command(&[&["freeze"], &*self.words(words)].concat())
    }

    /// Where the tests pack to.
    pub fn out(&self) -> String {
        self.desk.host.text("out/packed")
    }

    /// The registries that smolvm was told to pull from.
    pub fn registries(&self) -> Vec<SocketAddr> {
        let calls = std::fs::read_to_string(self.desk.machine.state.path().join("calls")).unwrap_or_default();
        let images = calls.lines().filter_map(|line| line.strip_prefix("pack create --image "));
        images.map(|image| image.split('/').next().unwrap().parse().unwrap()).collect()
    }

    /// Nothing but these files is where was packed to; nobody listens any more; no record either.
    pub fn assert_nothing_but(&self, left: &[&str]) {
        assert_eq!(names(&self.desk.host.path("out")), left);
        self.assert_nobody_listens();
        assert_eq!(names(&self.desk.host.path("home/.local/state/smolfreeze/records")), Vec::<String>::new());
        assert!(names(&self.desk.host.path("scratch")).is_empty());
    }

    pub fn assert_nobody_listens(&self) {
        for registry in self.registries() {
            assert!(registry.ip().is_loopback());
            assert!(TcpStream::connect(registry).is_err(), "{registry}");
        }
    }
}

/// Processes with exactly these words.
pub fn processes(words: &[&str]) -> Vec<Pid> {
    let line = words.iter().fold(Vec::new(), |line, word| [&line, word.as_bytes(), b"\0"].concat());
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    let same = entries.filter(|entry| std::fs::read(entry.path().join("cmdline")).is_ok_and(|it| it == line));
    same.filter_map(|entry| Pid::from_raw(entry.file_name().to_str()?.parse().ok()?)).collect()
}

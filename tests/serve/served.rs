//! A folder that the command serves.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output};

use rustix::process::{Pid, Signal, kill_process};

use crate::host::{Host, finish, names};
use crate::wire::{Answer, ask};

/// A running `smolfreeze serve`; it is killed when dropped.
pub struct Served {
    process: Option<Child>,
    pub address: SocketAddr,
    pub folder: PathBuf,
}

impl Served {
    pub fn start(host: &Host, folder: &str) -> Self {
        Self::with(host, folder, &[])
    }

    pub fn with(host: &Host, folder: &str, words: &[&str]) -> Self {
        let folder = host.path(folder);
        let mut command = host.command(&["serve", folder.to_str().unwrap()]);
        if !words.contains(&"--listen") {
            command.args(["--listen", "127.0.0.1:0"]);
        }
        let mut process = command.args(words).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(process.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        let address = line.trim_end().strip_prefix("listening on http://").and_then(|address| address.parse().ok());
        let Some(address) = address else { panic!("it said {line:?}, {:?}", finish(process)) };
        Self { process: Some(process), address, folder }
    }

    pub fn ask(&self, method: &str, target: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
        ask(self.address, method, target, headers, body)
    }

    /// [`Self::ask`], which has to be answered so.
    pub fn expect(&self, status: u16, method: &str, target: &str, body: &[u8]) -> Answer {
        let answer = self.ask(method, target, &[], body);
        assert_eq!(answer.status, status, "{method} {target}: {}", answer.text());
        answer
    }

    /// Sends it a signal and sees it end.
    pub fn end(mut self, signal: Signal) -> Output {
        self.kill(signal);
        finish(self.process.take().unwrap())
    }

    pub fn kill(&self, signal: Signal) {
        kill_process(Pid::from_child(self.process.as_ref().unwrap()), signal).unwrap();
    }

    /// Most bytes of memory that were resident.
    pub fn memory_bytes_peak(&self) -> u64 {
        let id = self.process.as_ref().unwrap().id();
        let status = std::fs::read_to_string(format!("/proc/{id}/status")).unwrap();
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        peak.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
    }

    pub fn blobs(&self) -> Vec<String> {
        names(&self.folder.join("blobs/sha256"))
    }

    /// No upload left a file, anywhere.
    pub fn assert_nothing_left(&self) {
        let everything = [names(&self.folder), self.blobs()].concat();
        let left: Vec<_> = everything.iter().filter(|name| name.starts_with('.')).collect();
        assert!(left.is_empty(), "{left:?}");
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        if let Some(process) = &mut self.process {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

/// Runs a client's command in a folder, which has to work; what it printed.
pub fn client(folder: &Path, words: &str) -> String {
    let output = Command::new("bash").args(["-euc", words]).current_dir(folder).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{words}: {said}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

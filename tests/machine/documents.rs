//! Every command that README and docs show is run: for real, in a host of the test's own, or it is listed here with the
//! reason why not.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};

use crate::desk::Desk;
use crate::host::finish;
use crate::standin::{Kind, Standin};
use crate::support::docker_registry::DockerRegistry;

/// What begins so is not run here.
const NOT_RUN: &[(&str, &str)] = &[
    ("cargo run ", ".ci/run runs it"),
    ("cargo rustc ", ".ci/run runs it"),
    ("cargo bench", ".ci/run runs it"),
    ("tests/run", "it is what runs this"),
    ("tests/nights/run", "tests/nights runs as a test, and takes minutes with 60"),
    ("tests/shapes/run", "tests/shapes runs as a test, and takes hours with 1000"),
    ("tests/faults/run", "tests/faults runs as a test, and takes hours with 300"),
    ("tests/rig/freeze.sh", ".ci/run runs it"),
    (".ci/", "it builds for minutes"),
    ("benches/side-by-side", "it measures for an hour"),
    ("benches/nights", "it measures for minutes"),
    ("benches/reading", "it measures for minutes"),
    ("perf ", "perf needs a kernel that lets it"),
    ("RUSTFLAGS=", "it builds for minutes"),
    ("CARGO_PROFILE_RELEASE_STRIP=none ", "it builds for minutes"),
    ("docker login ", "it takes an account"),
    ("podman login ", "it takes an account"),
    ("skopeo login ", "it takes an account"),
];

/// A command as a page shows it.
struct Shown {
    page: String,
    /// The number of its block: each has a working directory.
    block: usize,
    line: String,
}

fn pages() -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let docs = std::fs::read_dir(root.join("docs")).unwrap().map(|entry| entry.unwrap().path());
    let pages = docs.chain(["README.md", "CONTRIBUTING.md"].map(|name| root.join(name)));
    let pages = pages.filter(|path| path.extension().is_some_and(|extension| extension == "md"));
    pages.map(|path| (path.display().to_string(), std::fs::read_to_string(&path).unwrap())).collect()
}

/// The lines of all fenced blocks of shell.
fn shown() -> Vec<Shown> {
    let (mut found, mut block) = (Vec::new(), 0);
    for (page, text) in pages() {
        let mut language = None;
        for line in text.lines() {
            match (line.trim().strip_prefix("```"), language) {
                (Some(begins), None) => {
                    assert!(!["bash", "shell", "console", "zsh"].contains(&begins), "{page}: shell is 'sh' here");
                    (language, block) = (Some(begins), block + 1);
                }
                (Some(_), Some(_)) => language = None,
                (None, Some("sh")) if !line.trim().is_empty() && !line.starts_with('#') => {
                    assert!(!line.ends_with('\\'), "{page}: a command is one line: {line}");
                    found.push(Shown { page: page.clone(), block, line: line.to_owned() });
                }
                _ => {}
            }
        }
    }
    found
}

/// A host with all that the pages speak of.
struct World {
    desk: Desk,
    _machines: [Standin; 2],
    registry: DockerRegistry,
    rootfs: PathBuf,
    serving: Option<(Child, String)>,
}

impl World {
    fn new() -> Self {
        let desk = Desk::new(Kind::Busybox);
        let machines = [desk.machine.beside("dev", Kind::Debian), desk.machine.beside("my-vm", Kind::Busybox)];
        let rootfs = desk.host.tree("rootfs", "mkdir -p etc usr var; echo a >etc/file");
        desk.host.tree("agent", "mkdir -p sbin; echo agent >sbin/init");
        desk.host.tree("backup", "");
        Self { desk, _machines: machines, registry: DockerRegistry::start(), rootfs, serving: None }
    }

    /// The same command about things that are there.
    fn here(&self, line: &str) -> String {
        let served = self.serving.as_ref().map_or("127.0.0.1:5000", |(_, address)| address);
        let rootfs = self.rootfs.display().to_string();
        [
            ("127.0.0.1:5000", served),
            ("registry.example", &*self.registry.address.to_string()),
            ("/srv/rootfs", &rootfs),
            ("/srv/smolfreeze", &self.desk.host.text("backup")),
            ("dir:/ ", &format!("dir:{rootfs} ")),
            ("/backup", &self.desk.host.text("backup")),
            (" SOURCE ", &format!(" dir:{rootfs} ")),
            (" OUTPUT ", " oci:./output "),
        ]
        .into_iter()
        .fold(line.to_owned(), |line, (shown, here)| line.replace(shown, here))
    }

    fn command(&self, folder: &Path, words: &str) -> Command {
        let binary = self.desk.host.binary.parent().unwrap().to_owned();
        let path = std::env::var_os("PATH").unwrap();
        let path = std::env::join_paths([binary].into_iter().chain(std::env::split_paths(&path))).unwrap();
        let mut command = Command::new("bash");
        self.desk.host.surround(&mut command).args(["-euo", "pipefail", "-c", words]).current_dir(folder);
        command.env("PATH", path).env("SMOLFREEZE_SMOLVM", self.desk.machine.smolvm_path());
        command.env("SMOLVM_AGENT_ROOTFS", self.desk.host.path("agent"));
        command.env("SMOLFREEZE_FLEET_FILE", folder.join("fleet.toml"));
        command
    }

    fn run(&mut self, folder: &Path, shown: &Shown) {
        let line = self.here(&shown.line);
        if line.starts_with("smolfreeze serve ") {
            let line = line.split(" #").next().unwrap().to_owned();
            let mut child = self.command(folder, &format!("exec {line} --listen 127.0.0.1:0")).spawn().unwrap();
            let mut said = String::new();
            BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut said).unwrap();
            let address = said.trim().strip_prefix("listening on http://").expect("an address").to_owned();
            self.serving = Some((child, address));
            return;
        }
        let output = finish(self.command(folder, &line).spawn().unwrap());
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{}: {}\n{line}\n{said}", shown.page, shown.line);
        if line.starts_with("smolfreeze fleet init") {
            let file = folder.join("fleet.toml");
            std::fs::write(&file, self.here(&std::fs::read_to_string(&file).unwrap())).unwrap();
        }
    }

    fn end_serving(&mut self) {
        if let Some((mut child, _)) = self.serving.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.end_serving();
    }
}

#[test]
fn every_command_that_is_shown_runs() {
    let (mut world, shown) = (World::new(), shown());
    let mut block = 0;
    let mut run = 0;
    for shown in &shown {
        if NOT_RUN.iter().any(|(beginning, _)| shown.line.starts_with(beginning)) {
            let program = Path::new(env!("CARGO_MANIFEST_DIR")).join(shown.line.split(' ').next().unwrap());
            let is_ours = ["tests/", ".ci/", "benches/"].iter().any(|folder| shown.line.starts_with(folder));
            assert!(!is_ours || program.is_file(), "{}: {}", shown.page, shown.line);
            continue;
        }
        let folder = world.desk.host.path(&format!("block-{}", shown.block));
        if block != shown.block {
            world.end_serving();
            block = shown.block;
            let script = format!("tar -C {} -czf rootfs.tar.gz .", world.rootfs.display());
            world.desk.host.tree(&format!("block-{block}"), &script);
            let filled = format!("smolfreeze freeze dir:{} --to oci:./images:old --quiet", world.rootfs.display());
            assert!(finish(world.command(&folder, &filled).spawn().unwrap()).status.success());
        }
        world.run(&folder, shown);
        run += 1;
    }
    assert!(run > 25, "only {run} commands were found");
}

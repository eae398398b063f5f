//! What a freeze with faults works on: a host, a folder or a machine, registries behind a proxy, disks.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use tokio::runtime::Runtime;

use crate::case::{Case, EXCLUDED, Output, Source};
use crate::desk::files_without;
use crate::fault::Fault;
use crate::host::{Host, Tmpfs, shell};
use crate::standin::{Kind, Standin};
use crate::support::docker_registry::{DockerRegistry, Setup};
use crate::support::layers::random_bytes;
use crate::support::proxy::{Habits, Proxy};
use crate::support::sidecar;
use crate::trees::{Keeps, inventory};

/// What fills the guest's disk.
const FILLER: &str = "var/tmp/filler";

pub const REPOSITORY: &str = "space/name";

/// The registry behind the proxy.
pub enum Upstream {
    Docker(DockerRegistry),
    Served(Served),
}

/// A folder that the command serves.
pub struct Served {
    process: Child,
    address: SocketAddr,
    folder: PathBuf,
}

/// All of it; it is gone when dropped.
pub struct World {
    pub host: Host,
    pub machine: Option<Standin>,
    pub upstream: Option<Mutex<Upstream>>,
    pub proxy: Option<Proxy>,
    pub keeps: Keeps,
    /// A spool stayed in the guest: the folder that it lay in has another time when it is gone.
    pub had_crash: bool,
    /// How many events were there before the freeze.
    pub events_before: usize,
    tree: Option<PathBuf>,
    _runtime: Runtime,
    _disks: Vec<Tmpfs>,
}

impl World {
    pub fn made(case: &Case) -> Self {
        let mut host = Host::new();
        stripped().clone_into(&mut host.binary);
        sidecar::agent(&host.path("."));
        for folder in ["out", "registry", "shm", "older"] {
            fs::create_dir(host.path(folder)).unwrap();
        }
        fs::write(host.path("older/file"), "older").unwrap();
        let disks = disks(&host, case);
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let upstream = Upstream::started(&host, &case.outputs);
        let proxy = upstream.as_ref().map(|upstream| runtime.block_on(proxied(upstream.address(), case)));
        let (machine, tree, keeps) = source(&host, case);
        Self {
            host,
            machine,
            upstream: upstream.map(Mutex::new),
            proxy,
            keeps,
            had_crash: false,
            events_before: 0,
            tree,
            _runtime: runtime,
            _disks: disks,
        }
    }

    /// All that the image has to hold.
    pub fn wanted(&self) -> BTreeMap<PathBuf, String> {
        match (&self.machine, &self.tree) {
            (Some(machine), _) => {
                let is_debian = machine.root().join("usr/bin/dpkg").exists();
                files_without(machine, self.keeps, if is_debian { &EXCLUDED } else { &[] })
            }
            (None, Some(tree)) => inventory(tree, self.keeps),
            (None, None) => BTreeMap::new(),
        }
    }

    /// `freeze`, its source and its outputs; the first part is what the source is called in errors.
    pub fn words(&self, case: &Case) -> (String, Vec<String>) {
        let (named, mut words) = match (&self.machine, &self.tree) {
            (Some(machine), _) => {
                let smolvm = machine.smolvm_path().display().to_string();
                ("'m1'".to_owned(), vec![machine.name.to_owned(), "--smolvm".to_owned(), smolvm])
            }
            (None, tree) => {
                let tree = tree.as_ref().map_or(String::new(), |tree| tree.display().to_string());
                (tree.clone(), vec![format!("dir:{tree}")])
            }
        };
        words.extend(case.words.iter().map(|word| (*word).to_owned()));
        words.extend(self.outputs(case));
        (named, words)
    }

    pub fn outputs(&self, case: &Case) -> Vec<String> {
        let mut words = Vec::new();
        for output in &case.outputs {
            match output {
                Output::Artifact => {
                    let agent = self.host.text("agent");
                    words.extend(["--pack".to_owned(), self.artifact().display().to_string()]);
                    words.extend(["--agent-rootfs".to_owned(), agent]);
                }
                other => words.extend(["--to".to_owned(), self.name(*other)]),
            }
        }
        words
    }

    /// An image as the command names it; a registry's through the proxy.
    pub fn name(&self, output: Output) -> String {
        match output {
            Output::Layout => format!("oci:{}:tag", self.layout().display()),
            Output::Artifact => self.artifact().display().to_string(),
            Output::Registry | Output::Serve => {
                let proxy = self.proxy.as_ref().map(|proxy| proxy.address.to_string()).unwrap_or_default();
                format!("{proxy}/{REPOSITORY}:tag")
            }
        }
    }

    /// The same, a registry's without the proxy.
    pub fn plain_name(&self, output: Output) -> String {
        match self.upstream() {
            Some(upstream) if output.is_registry() => format!("{}/{REPOSITORY}:tag", upstream.address()),
            _ => self.name(output),
        }
    }

    pub fn artifact(&self) -> PathBuf {
        self.host.path("out/m1.smolmachine")
    }

    pub fn layout(&self) -> PathBuf {
        self.host.path("out/layout")
    }

    pub fn upstream(&self) -> Option<MutexGuard<'_, Upstream>> {
        Some(self.upstream.as_ref()?.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Calls of smolvm and requests to the registry since the freeze began.
    pub fn events(&self) -> usize {
        let calls = self.machine.as_ref().map_or(0, Standin::calls);
        let requests = self.proxy.as_ref().map_or(0, |proxy| proxy.seen().len());
        calls + requests - self.events_before
    }

    /// Fills the guest's disk, or gives the room back.
    pub fn fill_guest(&self, is_full: bool) {
        let Some(machine) = &self.machine else { return };
        let filler = fs::File::options().write(true).truncate(true).open(machine.root().join(FILLER));
        let Ok(mut file) = filler else { return };
        if is_full {
            let _ = std::io::copy(&mut std::io::repeat(1), &mut file);
        }
    }

    /// Everything is as it should be from now on: registry and machine run, disks have room, nothing strikes.
    pub fn lift(&self) {
        for folder in ["out", "registry", "scratch"] {
            let path = self.host.path(folder);
            let _ = Command::new("mount").args(["-o", "remount,size=1g"]).arg(&path).stderr(Stdio::null()).status();
        }
        if let (Some(mut upstream), Some(proxy)) = (self.upstream(), &self.proxy) {
            upstream.restart_if_gone(&self.host);
            proxy.redirect(upstream.address());
            proxy.lift();
        }
        if let Some(machine) = &self.machine {
            machine.faults("");
            machine.smolvm(&["machine", "start", "--name", machine.name]);
            self.fill_guest(false);
        }
    }

    /// Leaves everything on the disk.
    pub fn keep(self) -> PathBuf {
        let folder = self.host.path(".");
        if let Some(machine) = &self.machine {
            std::mem::forget(machine.state.clone());
        }
        let Self { host, .. } = self;
        std::mem::forget(host);
        folder
    }
}

/// The command as it is released, without debugging symbols: it fits into a guest. A copy, so that what runs is what was
/// built when the test began.
fn stripped() -> &'static Path {
    static STRIPPED: OnceLock<PathBuf> = OnceLock::new();
    STRIPPED.get_or_init(|| {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("faults-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let stripped = folder.join("smolfreeze");
        let status = Command::new("strip").arg("-o").arg(&stripped).arg(env!("CARGO_BIN_EXE_smolfreeze")).status();
        assert!(status.unwrap().success());
        fs::set_permissions(&stripped, fs::Permissions::from_mode(0o755)).unwrap();
        stripped
    })
}

/// The small disks that the faults want.
fn disks(host: &Host, case: &Case) -> Vec<Tmpfs> {
    let sizes = case.faults.iter().filter_map(|fault| match fault {
        Fault::FullOutput(kib) => Some(("out", *kib)),
        Fault::FullRegistry(kib) => Some(("registry", *kib)),
        // Room for a name, and for no byte.
        Fault::FullScratch => Some(("scratch", 4)),
        _ => None,
    });
    sizes.map(|(folder, kib)| Tmpfs::mount(&host.path(folder), &format!("{kib}k"))).collect()
}

async fn proxied(registry: SocketAddr, case: &Case) -> Proxy {
    let (mut habits, mut rules) = (Habits::default(), Vec::new());
    for fault in &case.faults {
        match fault {
            Fault::Wire(rule) => rules.push(rule.clone()),
            Fault::Token(requests) => habits.first_token_requests = Some(*requests),
            Fault::SlowLine(millis) => habits.slowness = Some(Duration::from_millis(*millis)),
            _ => {}
        }
    }
    Proxy::start(registry, habits, rules).await
}

/// A machine or a folder with something in it.
fn source(host: &Host, case: &Case) -> (Option<Standin>, Option<PathBuf>, Keeps) {
    let Source::Machine(kind, _) = case.source else {
        let tree = host.path("tree");
        grow(&tree, case, Keeps::Everything);
        return (None, Some(tree), Keeps::Everything);
    };
    let is_small = case.has(|fault| matches!(fault, Fault::FullGuest(..)));
    let more = if is_small { serde_json::json!({"var_tmp_bytes": 64 << 20}) } else { serde_json::json!({}) };
    let machine = Standin::with(kind, &more);
    let keeps = if kind == Kind::Busybox { Keeps::Seconds } else { Keeps::Everything };
    grow(&machine.root().join("srv/tree"), case, keeps);
    let workspace = if kind == Kind::Bare { "storage/workspace/project" } else { "workspace/project" };
    fs::create_dir_all(machine.root().join(workspace)).unwrap();
    shell(
        &machine.root().join(workspace),
        "seq 1 3000 >numbers; ln numbers hard; mkdir -p a/b; ln -s ../numbers a/link",
    );
    if is_small {
        // It is there before, so that filling it changes no folder.
        fs::write(machine.root().join(FILLER), "").unwrap();
    }
    if kind == Kind::Bare {
        // The spool lies there, and busybox can't give it parts of a second back.
        machine.sh("touch -d @1700000000 /var/tmp");
    }
    (Some(machine), None, keeps)
}

/// Files of sizes around the borders of what carries them, links, and what else a filesystem has.
fn grow(root: &Path, case: &Case, keeps: Keeps) {
    let random = &mut fastrand::Rng::with_seed(case.seed ^ 0x7ee);
    let (mut left, mut at) = (case.tree_bytes, 0);
    while left > 0 {
        let folder = root.join(format!("{}/{}", random.u8(..4), random.u8(..6)));
        fs::create_dir_all(&folder).unwrap();
        let size = match random.u8(..12) {
            0..=4 => random.choice([0, 1, 511, 512, 513, 4096, 65_536, 131_073]).unwrap(),
            5..=9 => random.usize(1..600_000),
            10 => (1 << 20) + random.usize(0..3) - 1,
            _ => random.usize(1 << 20..6 << 20),
        };
        let size = if case.tree_bytes > 50 << 20 && at == 3 { 42 << 20 } else { size.min(left) };
        let file = folder.join(format!("file-{at}"));
        fs::write(&file, random_bytes(case.seed + at, size)).unwrap();
        if random.u8(..8) == 0 {
            fs::hard_link(&file, root.join(format!("0-link-{at}"))).unwrap();
        }
        left = left.saturating_sub(size.max(4096));
        at += 1;
    }
    let script = "mkdir empty closed; chmod 0700 closed; echo y >closed/secret; chmod 0 closed/secret; ln -s nowhere link; mkfifo fifo
        mknod null c 1 3; chown 1000:1001 closed/secret; echo x >'new
line'; truncate -s 3M hole; touch -d @1500000000 empty";
    shell(root, script);
    if keeps == Keeps::Everything {
        shell(
            root,
            "setfattr -n user.text -v value closed/secret; touch -d @1600000000.123456789 hole; chown 4000000000 null",
        );
    }
}

impl Upstream {
    fn started(host: &Host, outputs: &[Output]) -> Option<Self> {
        let storage = host.path("registry");
        let wanted = outputs.iter().find(|output| output.is_registry())?;
        Some(if *wanted == Output::Serve {
            Self::Served(Served::start(host, &storage))
        } else {
            Self::Docker(DockerRegistry::start_with(&Setup { storage: Some(storage), ..Setup::default() }))
        })
    }

    pub fn address(&self) -> SocketAddr {
        match self {
            Self::Docker(registry) => registry.address,
            Self::Served(served) => served.address,
        }
    }

    pub fn kill(&mut self) {
        match self {
            Self::Docker(registry) => registry.kill(),
            Self::Served(served) => served.kill(),
        }
    }

    pub fn restart_if_gone(&mut self, host: &Host) {
        match self {
            Self::Docker(registry) => {
                if registry.is_gone() {
                    registry.restart();
                }
            }
            Self::Served(served) => {
                if !matches!(served.process.try_wait(), Ok(None)) {
                    let folder = served.folder.clone();
                    *served = Served::start(host, &folder);
                }
            }
        }
    }
}

impl Served {
    fn start(host: &Host, folder: &Path) -> Self {
        let mut command = host.command(&["serve", "--listen", "127.0.0.1:0"]);
        let mut process = command.arg(folder).stderr(Stdio::null()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(process.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        let address = line.trim_end().strip_prefix("listening on http://").and_then(|address| address.parse().ok());
        Self { process, address: address.expect("an address"), folder: folder.to_owned() }
    }

    fn kill(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.kill();
    }
}

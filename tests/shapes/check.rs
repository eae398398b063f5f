//! One shape from the seed to the verdict.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use fastrand::Rng;
use serde_json::Value;

use crate::freezing::{self, Ended};
use crate::live::{self, Live};
use crate::machines::{self, Machines};
use crate::shape::{Output, Reader, Shape, Source, State, Writer};
use crate::support::docker_registry::DockerRegistry;
use crate::support::sidecar;
use crate::tars;
use crate::tree::compare::{below, differences, parted};
use crate::tree::dress::{self, Dress};
use crate::tree::inventory::{self, Inventory};
use crate::tree::themes;
use crate::unpack::Layout;
use crate::work::Work;

/// What can't be in an image (a mark of a deletion, for one) is refused with this code.
const REFUSED: i32 = 3;

/// What a refusal begins with that is told, and is no fault.
pub const LIMIT: &str = "a limit";

/// Differences of one kind that are told.
const TOLD: usize = 5;

/// Grows, freezes, unpacks and compares: what is wrong.
pub fn check(shape: &Shape, work: &Work, machines: &mut Machines) -> Vec<String> {
    let mut random = Rng::with_seed(shape.seed);
    let (tree, prefix) = place(shape, work, machines);
    let words = themes::grow(&tree, shape.theme, shape.scale, &mut random);
    std::fs::write(work.path("shape"), format!("{shape}\n{words}\n")).unwrap();
    let mark = (shape.state == State::IsRefused).then(|| {
        let root = crate::tree::folder::Folder::open(&tree);
        themes::names::mark_of_deletion(&root, &mut random)
    });
    if shape.is_live() {
        live::prepare(&tree, &mut random);
    }
    let is_old = matches!(shape.source, Source::Tar { writer: Writer::V7 | Writer::Ustar | Writer::OldGnu, .. });
    dress::dress(&tree, if is_old { Dress::Modest } else { Dress::Odd }, &mut random);
    if shape.is_live() {
        // Its own rules tell what is right there.
        work.shell(&format!("chmod -R u+rwX {0}; chown -R 0:0 {0}", tree.join(live::FOLDER).display()));
        live::prepare(&tree, &mut random);
    }

    let (mut source, input, wanted) = source(shape, work, machines, &tree);
    let outputs = Outputs::prepare(shape, work, &mut source);
    let binary = if matches!(shape.source, Source::Machine(_)) {
        machines.binary()
    } else {
        env!("CARGO_BIN_EXE_smolfreeze").into()
    };
    let changing = shape.is_live().then(|| Live::start(&tree, shape.seed));
    let ended = freezing::freeze(work, &binary, &source, input.as_deref());
    if let Some(changing) = changing {
        changing.stop();
    }
    let mut faults = match mark {
        Some(_) if ended.code == Some(REFUSED) && ended.said.contains(".wh.") => Vec::new(),
        Some(_) => vec![format!("not refused: exit {:?}: {}", ended.code, ended.said)],
        None => judge(shape, &ended),
    };
    if mark.is_none() && ended.code == Some(0) {
        let wanted = Wanted { shape, prefix, named: &Named::of(&ended.report, prefix), tree: wanted };
        faults.extend(outputs.compare(&wanted, work));
    }
    if let Source::Machine(_) = shape.source {
        std::fs::remove_dir_all(&tree).unwrap();
    }
    if faults.iter().any(|fault| !fault.starts_with(LIMIT)) {
        faults.insert(1, format!("the tree: {words}"));
    }
    faults
}

/// Where the tree grows, and its path in the image.
fn place(shape: &Shape, work: &Work, machines: &mut Machines) -> (PathBuf, &'static str) {
    let Source::Machine(reader) = shape.source else { return (work.path("tree"), "") };
    let prefix = if shape.seed.is_multiple_of(3) { "workspace/shape" } else { "srv/shape" };
    let tree = machines.of(reader).root().join(prefix);
    let _ = std::fs::remove_dir_all(&tree);
    std::fs::create_dir_all(&tree).unwrap();
    (tree, prefix)
}

/// The words that name the source, what is piped into it, and what should come back.
fn source(
    shape: &Shape,
    work: &Work,
    machines: &mut Machines,
    tree: &Path,
) -> (Vec<String>, Option<PathBuf>, Inventory) {
    let left = |path: &[u8]| shape.is_live() && live::is_within(path);
    match shape.source {
        Source::Folder => (vec![format!("dir:{}", tree.display())], None, inventory::of_folder_without(tree, &left)),
        Source::Tar { writer, packing, piped } => {
            let tar = tars::write(shape, writer, packing, work);
            let wanted = tars::held(shape, work);
            if piped {
                (vec!["tar:-".into()], Some(tar), wanted)
            } else {
                (vec![format!("tar:{}", tar.display())], None, wanted)
            }
        }
        Source::Machine(reader) => {
            let words = machines::words(machines.of(reader), reader);
            let wanted = tars::kept_by(reader, tree, work);
            (words, None, wanted.into_iter().filter(|(path, _)| !left(path)).collect())
        }
    }
}

fn judge(shape: &Shape, ended: &Ended) -> Vec<String> {
    let mut faults = Vec::new();
    match ended.code {
        None => return vec!["hung: it did not end before the deadline".into()],
        Some(0) => {}
        Some(REFUSED) if is_a_limit(shape, &ended.said) => return vec![format!("{LIMIT}: {}", ended.said)],
        Some(code) => return vec![format!("failed: exit {code}: {}", ended.said)],
    }
    let most = ended.report["memory_bytes_max"].as_u64().unwrap();
    if ended.resident_bytes > most {
        faults.push(format!("memory: {} KiB resident, the plan said {}", ended.resident_bytes >> 10, most >> 10));
    }
    let counts = &ended.report["notices"]["counts"];
    for kind in ["changed", "shrank", "grew", "vanished"] {
        let count = counts[kind].as_u64().unwrap_or(0);
        if count > 0 && !shape.is_live() {
            faults.push(format!("unsettled: {count} {kind} in a tree that rests"));
        }
    }
    faults
}

/// Whether this is a limit of the tar that wrote the source, which is refused by the entry's name.
fn is_a_limit(shape: &Shape, said: &str) -> bool {
    match shape.source {
        // It writes attributes twice, as they are and in base64.
        Source::Tar { writer: Writer::Bsdtar, .. } => {
            said.contains("the entry of the extension header '") && said.contains("bytes of headers")
        }
        // It knows a link's first name before it opens the file, which may be gone by then.
        Source::Machine(Reader::Busybox) => {
            shape.is_live() && said.contains("/live/") && said.contains("a layer must not link into another")
        }
        _ => false,
    }
}

/// The entries that the report names, by their paths in the tree.
pub struct Named(Vec<String>);

impl Named {
    fn of(report: &Value, prefix: &str) -> Self {
        let named = report["notices"]["named"].as_array().cloned().unwrap_or_default();
        let paths = named.iter().filter_map(|notice| notice["path"].as_str());
        let relative = paths.map(|path| {
            let path = path.trim_start_matches("./");
            path.strip_prefix(prefix).unwrap_or(path).trim_start_matches('/').to_owned()
        });
        Self(relative.collect())
    }

    /// Whether an entry of this path is among them.
    pub fn names(&self, path: &str) -> bool {
        self.0.iter().any(|named| named == path)
    }

    fn names_bytes(&self, path: &[u8]) -> bool {
        let escaped = path.escape_ascii().to_string();
        let plain = String::from_utf8_lossy(path);
        [plain.as_ref(), &escaped, &plain.escape_default().to_string()].iter().any(|path| self.names(path))
    }
}

/// What should come back.
struct Wanted<'a> {
    shape: &'a Shape,
    prefix: &'static str,
    named: &'a Named,
    tree: Inventory,
}

impl Wanted<'_> {
    /// What is wrong with an image that was unpacked in this way.
    fn faults(&self, way: &str, root: &Path) -> Vec<String> {
        let left = |path: &[u8]| self.shape.is_live() && live::is_within(path);
        let tree = if self.prefix.is_empty() { root.to_owned() } else { root.join(self.prefix) };
        let mut faults = self.differences(way, &inventory::of_folder_without(&tree, &left));
        if self.shape.is_live() {
            let is_read_by_busybox = self.shape.source == Source::Machine(Reader::Busybox);
            let live = live::faults(&tree, is_read_by_busybox, self.named);
            faults.extend(live.into_iter().map(|fault| format!("{fault} ({way})")));
        }
        faults
    }

    /// As far as Go's reader of tars goes: it takes an empty value for none, and GNU's escapes in a key as they are.
    fn by_umoci(&self) -> Self {
        let mut tree = self.tree.clone();
        let is_kept = |key: &[u8], value: &[u8]| !value.is_empty() && !key.iter().any(|byte| b"%=".contains(byte));
        for entry in tree.values_mut() {
            entry.attributes.retain(|key, value| is_kept(key, value));
        }
        Self { tree, ..*self }
    }

    fn differences(&self, way: &str, found: &Inventory) -> Vec<String> {
        let mut found = found.clone();
        if way == "by umoci" {
            for entry in found.values_mut() {
                entry.attributes.retain(|key, _| !key.contains(&b'%'));
            }
        }
        let mut differing = differences(&self.tree, &found);
        differing.retain(|difference| !self.named.names_bytes(&difference.path));
        let more = differing.len().saturating_sub(TOLD);
        let mut faults: Vec<_> =
            differing.iter().take(TOLD).map(|difference| format!("different {way}: {difference}")).collect();
        if more > 0 {
            faults.push(format!("different {way}: {more} more"));
        }
        faults
    }
}

/// Where the image goes.
struct Outputs {
    layout: Option<PathBuf>,
    registry: Option<(DockerRegistry, String)>,
    served: Option<Served>,
    artifact: Option<PathBuf>,
}

impl Outputs {
    /// Starts what is needed, and adds the words for it.
    fn prepare(shape: &Shape, work: &Work, words: &mut Vec<String>) -> Self {
        let mut outputs = Self { layout: None, registry: None, served: None, artifact: None };
        let mut add = |option: &str, value: String| words.extend([option.to_owned(), value]);
        for output in &shape.outputs {
            match output {
                Output::Layout => {
                    let path = work.path("layout");
                    add("--to", format!("oci:{}:it", path.display()));
                    outputs.layout = Some(path);
                }
                Output::Registry => {
                    let registry = DockerRegistry::start();
                    let name = format!("{}/a/shape:it", registry.address);
                    add("--to", name.clone());
                    outputs.registry = Some((registry, name));
                }
                Output::Served => {
                    let served = Served::start(work);
                    add("--to", served.name.clone());
                    outputs.served = Some(served);
                }
                Output::Artifact => {
                    add("--pack", work.path("artifact").display().to_string());
                    add("--agent-rootfs", sidecar::agent(&work.path(".")).display().to_string());
                    outputs.artifact = Some(work.path("artifact.smolmachine"));
                }
            }
        }
        add("--compression", shape.compression.to_owned());
        shape.memory.into_iter().for_each(|memory| add("--memory", memory.to_owned()));
        shape.layer_size.into_iter().for_each(|bytes| add("--layer-size", bytes.to_owned()));
        outputs
    }

    fn compare(self, wanted: &Wanted, work: &Work) -> Vec<String> {
        let is_parted = self.artifact.is_some() && wanted.prefix.is_empty();
        let tree = if is_parted { parted(&wanted.tree, b"workspace") } else { wanted.tree.clone() };
        let wanted = &Wanted { tree, ..*wanted };
        let mut faults = Vec::new();
        let images = [
            self.layout.map(Layout::read),
            self.registry.as_ref().map(|(_, name)| Layout::pulled(work, name)),
            self.served.as_ref().map(|served| Layout::pulled(work, &served.name)),
        ];
        // One is enough: they have the same digest.
        if let Some(image) = images.into_iter().flatten().next() {
            if wanted.shape.is_unpackable() {
                if wanted.shape.is_for_umoci() {
                    faults.extend(wanted.by_umoci().faults("by umoci", &image.by_umoci(work)));
                }
                faults.extend(wanted.faults("under overlayfs", image.under_overlayfs(work).path()));
            } else {
                let found = below(&image.by_reading(), wanted.prefix.as_bytes());
                faults.extend(wanted.differences("by reading", &found));
            }
            if wanted.shape.layer_size.is_none() && image.layers() > 120 {
                faults.push(format!("layers: {}", image.layers()));
            }
        }
        if let Some(artifact) = self.artifact {
            faults.extend(wanted.faults("out of the artifact", &sidecar::unpacked(&artifact, &work.path("extracted"))));
        }
        faults
    }
}

/// `smolfreeze serve` over a layout; it ends when this is dropped.
struct Served {
    process: Child,
    name: String,
}

impl Served {
    fn start(work: &Work) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_smolfreeze"));
        freezing::surround(work, &mut command);
        command.arg("serve").arg(work.path("served")).args(["--listen", "127.0.0.1:0"]).stdout(Stdio::piped());
        let mut process = command.stderr(Stdio::null()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let address = line.trim().rsplit("http://").next().unwrap().to_owned();
        Self { process, name: format!("{address}/a/shape:it") }
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

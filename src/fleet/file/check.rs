//! Whether a file that can be read also makes sense.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt::Display;
use std::time::Duration;

use super::mistake::{Mistake, Places, nearest};
use super::{CompressionKey, Destination, Drill, File, FreezeKeys, PackWithKey, Policy, Retention};
use crate::exclude::{Exclude, Word};
use crate::fleet::place::{Placeholder, Template, Values};
use crate::oci::Compression;
use crate::plan::{BANDWIDTH_BYTES_MIN, OutputSpec, is_machine_name};
use crate::stage::compress::Method;
use crate::thaw::Wishes;

/// A running freeze has at least so much memory.
const MEMORY_BYTES_MIN: u64 = 128 << 20;
/// So many blobs are sent at a time at most.
const UPLOADS_MAX: u16 = 64;
/// So many machines are frozen at a time at most.
const CONCURRENCY_MAX: usize = 64;

/// A machine gives a freeze up that it does not hear of for longer.
const LINK_PATIENCE_MAX: Duration = Duration::from_secs(240);

/// What is said of a file, in the order it is found.
struct Found<'a> {
    file: &'a str,
    places: Option<Places<'a>>,
    mistakes: Vec<Mistake>,
}

/// A path of keys, and of places in arrays.
type Path = Vec<Cow<'static, str>>;

macro_rules! path {
    ($($step:expr),+) => { vec![$(Cow::from($step.to_string())),+] };
}

impl Found<'_> {
    fn say(&mut self, path: &Path, text: impl Display) {
        let span = self.places.as_ref().map_or(0..0, |places| places.span(path));
        self.mistakes.push(Mistake::at(self.file, &span, text.to_string()));
    }

    fn say_err<T>(&mut self, path: &Path, result: Result<T, impl Display>) -> Option<T> {
        result.map_err(|error| self.say(path, error)).ok()
    }

    fn patterns(&mut self, path: &Path, patterns: &[String]) {
        for (at, pattern) in patterns.iter().enumerate() {
            self.say_err(
                &below(path, at),
                Word::new(pattern).map_err(|why| format!("'{pattern}' is no pattern: {why}")),
            );
        }
    }
}

fn below(path: &Path, step: impl Display) -> Path {
    let mut path = path.clone();
    path.push(step.to_string().into());
    path
}

/// All mistakes in what `text` says, in the order of the file.
pub(super) fn check(file: &File, text: &str) -> Vec<Mistake> {
    let mut found = Found { file: text, places: Places::of(text), mistakes: Vec::new() };
    whole(file, &mut found);
    destinations(&file.destinations, &mut found);
    policies(file, &mut found);
    let mut mistakes = found.mistakes;
    mistakes.sort_by_key(|mistake| (mistake.line, mistake.column));
    mistakes
}

fn whole(file: &File, found: &mut Found) {
    if !is_machine_name(&file.name) || file.name.starts_with('.') {
        found.say(
            &path!["name"],
            "a fleet's name has letters, digits, '-', '_' and '.', and begins with none of the last",
        );
    }
    if file.concurrency.get() > CONCURRENCY_MAX {
        found.say(&path!["concurrency"], format_args!("it is at most {CONCURRENCY_MAX}"));
    }
    let least = MEMORY_BYTES_MIN * file.concurrency.get() as u64;
    if file.memory.is_some_and(|memory| memory.0 < least) {
        let reason = format!("{} freezes at a time need at least {}MiB", file.concurrency, least >> 20);
        found.say(&path!["memory"], reason);
    }
    found.patterns(&path!["ignore"], &file.ignore);
    for (key, url) in [("ping", &file.notify.ping), ("webhook", &file.notify.webhook)] {
        if let Some(reason) = url.as_ref().and_then(|url| why_no_url(url)) {
            found.say(&path!["notify", key], reason);
        }
    }
    if file.smolvm.state_dir.as_ref().is_some_and(|folder| !folder.is_absolute()) {
        let reason = "it is relative, and who runs this has another folder each time";
        found.say(&path!["smolvm", "state_dir"], reason);
    }
}

fn why_no_url(text: &str) -> Option<String> {
    match url::Url::parse(text) {
        Ok(url) if ["http", "https"].contains(&url.scheme()) => None,
        Ok(url) => Some(format!("'{}:' is no URL of http or https", url.scheme())),
        Err(error) => Some(format!("'{text}' is no URL: {error}")),
    }
}

fn destinations(destinations: &BTreeMap<String, Destination>, found: &mut Found) {
    let mut names = BTreeMap::new();
    for (name, destination) in destinations {
        let path = path!["destinations", name];
        if destination.to.is_some() == destination.pack.is_some() {
            found.say(&path, "a destination has either 'to' or 'pack'");
            continue;
        }
        let of_name = below(&path, if destination.to.is_some() { "to" } else { "pack" });
        if let Some(other) = names.insert(destination.written(), name) {
            found.say(&of_name, format_args!("destination '{other}' has the same name: they would replace each other"));
        }
        let Some(template) = found.say_err(&of_name, destination.written().parse::<Template>()) else { continue };
        if !template.has(Placeholder::Machine) {
            found.say(&of_name, "without {machine} in its name, each machine would replace the others");
        }
        let output = destination.output(&sample(), PackWithKey::Auto);
        let output = output.and_then(|output| output.check_name().map(|()| output));
        let Some(output) = found.say_err(&of_name, output) else { continue };
        limits(&path, destination, &output, found);
    }
}

/// Values that are fit for all names.
fn sample() -> Values<'static> {
    let began = jiff::civil::date(2026, 11, 29).at(2, 30, 0, 0);
    Values { machine: "machine", policy: "policy", host: "host", night: "2026-11-29", began }
}

fn limits(path: &Path, destination: &Destination, output: &OutputSpec, found: &mut Found) {
    let Destination { to: _, pack: _, uploads, bandwidth, ca_cert, plain_http, patience } = destination;
    let of_registries = [
        ("bandwidth", bandwidth.is_some()),
        ("uploads", uploads.is_some()),
        ("ca_cert", ca_cert.is_some()),
        ("plain_http", *plain_http),
        ("patience", patience.is_some()),
    ];
    if !matches!(output, OutputSpec::Registry(_)) {
        for (key, _) in of_registries.iter().filter(|(_, is_given)| *is_given) {
            found.say(&below(path, key), format_args!("'{key}' is for registries, and this is none"));
        }
        return;
    }
    if uploads.is_some_and(|uploads| uploads == 0 || uploads > UPLOADS_MAX) {
        found.say(&below(path, "uploads"), format_args!("it is 1 to {UPLOADS_MAX}"));
    }
    if bandwidth.is_some_and(|bandwidth| bandwidth.0 < BANDWIDTH_BYTES_MIN) {
        found.say(&below(path, "bandwidth"), "below 64KiB a second, registries take an upload for a dead one");
    }
    if *plain_http && ca_cert.is_some() {
        found.say(&below(path, "ca_cert"), "it is for TLS, and 'plain_http' asks for none");
    }
}

fn policies(file: &File, found: &mut Found) {
    if file.policies.is_empty() {
        found.say(&path!["policies"], "there is no policy: no machine would be frozen");
    }
    let defaults = path!["defaults"];
    destinations_of(&below(&defaults, "to"), file, &file.defaults.to, found);
    freeze(&below(&defaults, "freeze"), &file.defaults.freeze, found);
    retention(&below(&defaults, "retention"), file.defaults.retention.as_ref(), found);
    let mut names = BTreeMap::new();
    for (at, policy) in file.policies.iter().enumerate() {
        let path = path!["policies", at];
        let name = policy.name(at);
        if !is_machine_name(&name) {
            found.say(
                &below(&path, "name"),
                "a policy's name has letters, digits, '-', '_' and '.', and begins with no dash",
            );
        }
        if names.insert(name, at).is_some() {
            found.say(&below(&path, "name"), "another policy has this name");
        }
        if is_for_all(policy) && at + 1 < file.policies.len() {
            found.say(&path, "it fits every machine, so those behind it are never reached: put it last");
        }
        of_policy(&path, policy, at, file, found);
    }
}

fn is_for_all(policy: &Policy) -> bool {
    let fits_all = policy.machines.is_empty() || policy.machines.iter().any(|pattern| pattern == "*");
    fits_all && policy.except.is_empty() && policy.labels.is_empty() && policy.states.is_empty()
}

fn of_policy(path: &Path, policy: &Policy, at: usize, file: &File, found: &mut Found) {
    found.patterns(&below(path, "machines"), &policy.machines);
    found.patterns(&below(path, "except"), &policy.except);
    for (label, pattern) in &policy.labels {
        let read = Word::new(pattern).map_err(|why| format!("'{pattern}' is no pattern: {why}"));
        found.say_err(&below(&below(path, "labels"), label), read);
    }
    let terms = policy.terms(at, file);
    if terms.to.is_empty() {
        found.say(path, "it has no destination: say 'to' here, or in 'defaults'");
    }
    destinations_of(&below(path, "to"), file, policy.to.as_deref().unwrap_or_default(), found);
    policy.freeze.iter().for_each(|keys| freeze(&below(path, "freeze"), keys, found));
    retention(&below(path, "retention"), policy.retention.as_ref(), found);
    if let Some(Drill { from, memory, .. }) = &terms.drill {
        let place = if policy.drill.is_some() { below(path, "drill") } else { path!["defaults", "drill"] };
        if let Some(from) = from.as_ref().filter(|from| !terms.to.contains(from)) {
            found.say(&below(&place, "from"), format_args!("policy '{}' has no destination '{from}'", terms.policy));
        }
        if memory.is_some_and(|size| Wishes::mebibytes(size.0).is_none()) {
            found.say(&below(&place, "memory"), "it has to be whole MiB, at least one");
        }
    }
    if terms.freeze.pack_with == PackWithKey::Smolvm {
        let is_sidecar = |name: &&String| {
            file.destinations
                .get(*name)
                .and_then(|there| there.pack.as_ref())
                .is_some_and(|pack| pack.ends_with(".smolmachine"))
        };
        if let Some(name) = terms.to.iter().find(is_sidecar) {
            found
                .say(&path!["destinations", name, "pack"], "smolvm names the sidecar itself: leave out '.smolmachine'");
        }
    }
}

fn destinations_of(path: &Path, file: &File, to: &[String], found: &mut Found) {
    for (at, name) in to.iter().enumerate() {
        if !file.destinations.contains_key(name) {
            let meant = nearest(name, file.destinations.keys().map(String::as_str));
            let meant = meant.map_or_else(String::new, |meant| format!("; did you mean '{meant}'?"));
            found.say(&below(path, at), format_args!("there is no destination '{name}'{meant}"));
        }
        if to[..at].contains(name) {
            found.say(&below(path, at), format_args!("'{name}' stands there twice"));
        }
    }
}

fn freeze(path: &Path, keys: &FreezeKeys, found: &mut Found) {
    for (at, pattern) in keys.exclude.iter().enumerate() {
        found.say_err(&below(&below(path, "exclude"), at), Exclude::new(std::slice::from_ref(pattern)));
    }
    if keys.uploads == 0 || keys.uploads > UPLOADS_MAX {
        found.say(&below(path, "uploads"), format_args!("it is 1 to {UPLOADS_MAX}"));
    }
    if !(1..=1024).contains(&keys.window) {
        found.say(&below(path, "window"), "it is 1 to 1024");
    }
    if keys.link_patience.0 > LINK_PATIENCE_MAX {
        found.say(&below(path, "link_patience"), "it is at most 4m: a machine that hears nothing for 5m tidies up");
    }
    let method = Method::new(keys.compression.map_or(Compression::Zstd, CompressionKey::into), keys.level);
    found.say_err(&below(path, "level"), method);
    if keys.squash && !(keys.known && keys.record) {
        found.say(&below(path, "squash"), "without 'known' and 'record' no layer is ever kept");
    }
}

fn retention(path: &Path, retention: Option<&Retention>, found: &mut Found) {
    if retention.is_some_and(|retention| retention.policy().is_empty()) {
        found.say(path, "it keeps nothing: give at least one 'keep_…', or leave it out to keep all");
    }
}

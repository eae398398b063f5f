//! What a monitor reads: a file in Prometheus' text format, for the textfile collector of node_exporter.
//!
//! All are gauges, of the newest night and of what is known of the snapshots; docs/fleet.md says what each is for.

use std::fmt::Error as Unwritable;
use std::fs::{self, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use jiff::Timestamp;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _, prometheus_text};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;

use super::file::File;
use super::night::{History, Night, Snapshot, Standing};
use super::status::{Pair, Status};
use crate::error::{Error, Result};

/// What all names begin with.
const PREFIX: &str = "smolfreeze";
/// How an outcome can stand, and its word.
const STANDINGS: [(Standing, &str); 4] = [
    (Standing::Done, "done"),
    (Standing::Failed, "failed"),
    (Standing::Skipped, "skipped"),
    (Standing::Pending, "pending"),
];

/// Labels besides the fleet's name, and a value.
type Sample = (Vec<(&'static str, String)>, f64);

/// A metric with all its values.
#[derive(Debug)]
struct Family {
    name: &'static str,
    help: &'static str,
    samples: Vec<Sample>,
}

/// All of them, as the client library asks for them.
#[derive(Debug)]
struct Families(Vec<Family>);

impl Collector for Families {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), Unwritable> {
        // One without values would be a name that means nothing.
        for family in self.0.iter().filter(|family| !family.samples.is_empty()) {
            let mut metric = encoder.encode_descriptor(family.name, family.help, None, MetricType::Gauge)?;
            for (labels, value) in &family.samples {
                ConstGauge::new(*value).encode(metric.encode_family(labels)?)?;
            }
        }
        Ok(())
    }
}

/// Writes them where the file says, if it does. A reader sees the old ones or the new ones, whole.
///
/// # Errors
/// When the file can't be written.
pub fn write(file: &File, status: &Status, history: &History) -> Result<()> {
    let Some(path) = &file.metrics.file else { return Ok(()) };
    put(path, &text(status, history)).map_err(|error| {
        Error::sink("writing the metrics", format_args!("'{}'", path.display()), &error).because(error)
    })
}

fn put(path: &Path, text: &str) -> io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    // The collector reads what is called '.prom', and as another user.
    let mut temporary = tempfile::Builder::new().prefix(".smolfreeze-").suffix(".part").tempfile_in(folder)?;
    temporary.write_all(text.as_bytes())?;
    fs::set_permissions(temporary.path(), Permissions::from_mode(0o644))?;
    temporary.as_file().sync_all()?;
    temporary.persist(path)?;
    Ok(())
}

/// The metrics of a fleet that stands so.
#[must_use]
pub fn text(status: &Status, history: &History) -> String {
    let labels = [("fleet".into(), status.fleet.clone().into())];
    let mut registry = Registry::with_prefix_and_labels(PREFIX, labels.into_iter());
    let mut families = of_runs(status, history);
    families.extend(of_snapshots(status, history));
    families.extend(of_outcomes(status, history));
    families.extend(of_checks(status, history));
    registry.register_collector(Box::new(Families(families)));
    let mut text = String::new();
    // Writing into a text can't fail.
    let _ = prometheus_text::encode(&mut text, &registry);
    text
}

fn family(name: &'static str, help: &'static str, samples: impl IntoIterator<Item = Sample>) -> Family {
    Family { name, help, samples: samples.into_iter().collect() }
}

fn single(name: &'static str, help: &'static str, value: Option<f64>) -> Family {
    family(name, help, value.map(|value| (Vec::new(), value)))
}

/// One of each pair for which there is a value.
fn of_pairs(status: &Status, name: &'static str, help: &'static str, value: impl Fn(&Pair) -> Option<f64>) -> Family {
    family(name, help, status.pairs.iter().filter_map(|pair| Some((labels(pair), value(pair)?))))
}

fn labels(pair: &Pair) -> Vec<(&'static str, String)> {
    vec![("machine", pair.machine.clone()), ("destination", pair.destination.clone())]
}

#[expect(clippy::cast_precision_loss, reason = "a monitor's numbers are floats")]
fn float(number: u64) -> f64 {
    number as f64
}

fn count(number: usize) -> f64 {
    float(number as u64)
}

fn flag(is_so: bool) -> f64 {
    if is_so { 1.0 } else { 0.0 }
}

fn seconds(time: Timestamp) -> f64 {
    time.as_duration().as_secs_f64()
}

fn of_runs(status: &Status, history: &History) -> Vec<Family> {
    let runs = || history.nights.iter().flat_map(|night| &night.runs);
    let begun = runs().max_by_key(|run| run.began);
    let ended = runs().filter_map(|run| Some((run, run.ended?))).max_by_key(|(_, ended)| *ended);
    let took = ended.map(|(run, ended)| ended.duration_since(run.began).as_secs_f64());
    let last = history.nights.last();
    let outcomes = |night: &Night, standing| night.outcomes.iter().filter(|outcome| outcome.state == standing).count();
    let by_state = last.into_iter().flat_map(|night| {
        STANDINGS.map(|(standing, word)| (vec![("state", word.to_owned())], count(outcomes(night, standing))))
    });
    let troubles = last.map(|night| {
        count(night.after.troubles.len() + night.runs.iter().map(|run| run.troubles.len()).sum::<usize>())
    });
    vec![
        single("run_begin_timestamp_seconds", "When the newest run began", begun.map(|run| seconds(run.began))),
        single("run_end_timestamp_seconds", "When the newest run that ended did", ended.map(|(_, at)| seconds(at))),
        single("run_duration_seconds", "What the newest run that ended took", took),
        single(
            "run_exit_code",
            "Exit code of the newest run that ended; 0 is success",
            ended.and_then(|(run, _)| run.exit).map(f64::from),
        ),
        family("night_outcomes", "Machines at destinations in the newest night, by state", by_state),
        single("night_troubles", "Troubles of the newest night that concern no machine", troubles),
        single(
            "unselected_machines",
            "Machines that no policy selects and that the file does not ignore",
            Some(count(status.unselected.len())),
        ),
    ]
}

fn of_snapshots(status: &Status, history: &History) -> Vec<Family> {
    let made = |pair: &Pair| history.last_made(&pair.machine, &pair.destination).map(|(_, made)| made);
    let known = history.snapshots();
    let of = |pair: &Pair| known.iter().filter(|one| one.is_of(&pair.machine, &pair.destination)).count();
    vec![
        of_pairs(
            status,
            "last_success_timestamp_seconds",
            "When the freeze of the newest good snapshot began; 0 where there is none",
            |pair| Some(pair.last_good.as_ref().map_or(0.0, |good| seconds(good.taken))),
        ),
        of_pairs(status, "max_age_seconds", "So old may the newest good snapshot be", |pair| {
            pair.max_age_seconds.map(float)
        }),
        of_pairs(status, "snapshots", "Snapshots that are there, good or not", |pair| Some(count(of(pair)))),
        of_pairs(status, "image_size_bytes", "Bytes of tar in the newest image", |pair| {
            made(pair).map(|made| float(made.tar_bytes))
        }),
        of_pairs(status, "image_entries", "Entries in the newest image", |pair| {
            made(pair).map(|made| float(made.entries))
        }),
        of_pairs(status, "image_stored_bytes", "Bytes of the newest image as it is stored", |pair| {
            made(pair).map(|made| float(made.stored_bytes))
        }),
        of_pairs(status, "image_read_bytes", "Bytes of tar that were read for the newest image", |pair| {
            made(pair).map(|made| float(made.read_bytes))
        }),
        of_pairs(status, "image_sent_bytes", "Bytes that the destination was sent for the newest image", |pair| {
            made(pair).map(|made| float(made.sent_bytes))
        }),
    ]
}

fn of_outcomes(status: &Status, history: &History) -> Vec<Family> {
    let last =
        |pair: &Pair| history.nights.iter().rev().find_map(|night| night.outcome(&pair.machine, &pair.destination));
    let by_state = status.pairs.iter().flat_map(|pair| {
        let state = last(pair).map(|outcome| outcome.state);
        STANDINGS.map(|(standing, word)| {
            let mut labels = labels(pair);
            labels.push(("state", word.to_owned()));
            (labels, flag(state == Some(standing)))
        })
    });
    vec![
        family("outcome", "1 for the state in the newest night that has the machine, 0 for the others", by_state),
        of_pairs(status, "attempts", "How often it was tried in that night", |pair| {
            last(pair).map(|outcome| f64::from(outcome.attempts))
        }),
        of_pairs(status, "duration_seconds", "What the last try took", |pair| {
            last(pair).filter(|outcome| outcome.began.is_some()).map(|outcome| outcome.seconds)
        }),
    ]
}

fn of_checks(status: &Status, history: &History) -> Vec<Family> {
    let known = history.snapshots();
    let is_damaged = |pair: &Pair, one: &Snapshot| one.is_of(&pair.machine, &pair.destination) && one.fault().is_some();
    let drill = |pair: &Pair| history.last_drill(&pair.machine, &pair.destination);
    vec![
        of_pairs(status, "verification_timestamp_seconds", "When a snapshot was last read back", |pair| {
            history.last_verification(&pair.machine, &pair.destination).map(seconds)
        }),
        of_pairs(status, "damaged_snapshots", "Snapshots that are there and were found damaged", |pair| {
            Some(count(known.iter().filter(|one| is_damaged(pair, one)).count()))
        }),
        of_pairs(status, "drill_timestamp_seconds", "When a snapshot was last made a machine", |pair| {
            drill(pair).map(|drill| seconds(drill.at))
        }),
        of_pairs(status, "drill_success", "1 if that machine did what it had to, else 0", |pair| {
            drill(pair).map(|drill| flag(drill.trouble.is_none()))
        }),
    ]
}

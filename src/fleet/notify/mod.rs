//! Who is told of a run: a URL that is asked, as healthchecks has it, a webhook, a command. Each has its limit, and what
//! fails here is a trouble of the night, never an error of the run.

mod summary;
mod web;

use std::ffi::OsString;
use std::time::Duration;

use serde::Serialize;
use toml::de::{DeTable, DeValue};
use url::Url;

use super::command;
use super::file::{File, Notify, NotifyWhen};
use super::night::{Night, Outcome, Standing, Trouble};

pub use summary::summary;

/// Bytes of a log that go along with a ping; healthchecks keeps no more than 100 kB, others less.
const TAIL_BYTES_MAX: usize = 10_000;

/// How a run ended.
#[derive(Debug, Clone, Copy)]
pub struct End<'a> {
    /// Its exit code; 0 is a success.
    pub exit: u8,
    /// What it said.
    pub log: &'a str,
}

/// What a webhook is sent.
#[derive(Debug, Serialize)]
struct Told<'a> {
    fleet: &'a str,
    night: &'a str,
    host: &'a str,
    exit_code: u8,
    is_success: bool,
    /// For a person; chats show what is called so.
    text: String,
    outcomes: &'a [Outcome],
    unselected: &'a [String],
    troubles: Vec<&'a Trouble>,
}

/// A run begins.
pub async fn begun(file: &File) -> Vec<Trouble> {
    let Some(ping) = &file.notify.ping else { return Vec::new() };
    troubles([web::ping(ping, Some("start"), String::new(), file.notify.limit.0).await])
}

/// A run ended: all that the file names are told, each within its limit, whatever the others say.
pub async fn ended(file: &File, night: &Night, end: &End<'_>) -> Vec<Trouble> {
    let Notify { ping, webhook, command, when, limit } = &file.notify;
    let (is_success, limit) = (end.exit == 0, limit.0);
    let text = summary(night, end.exit);
    let is_told = *when == NotifyWhen::Always || !is_success;
    let pinged = async {
        let suffix = (!is_success).then_some("fail");
        let body = format!("{text}\n{}", tail(end.log));
        match ping {
            Some(ping) => web::ping(ping, suffix, body, limit).await,
            None => Ok(()),
        }
    };
    let posted = async {
        match webhook.as_ref().filter(|_| is_told) {
            Some(url) => web::post(url, &Told::of(night, end.exit, text.clone()), limit).await,
            None => Ok(()),
        }
    };
    let run = async {
        match command.as_ref().filter(|_| is_told) {
            Some(command) => {
                let ran = command::run(command, &text, &environment(night, end.exit), (limit, None)).await;
                ran.map_err(|why| format!("the command that is told of a run failed: {why}"))
            }
            None => Ok(()),
        }
    };
    let (pinged, posted, run) = tokio::join!(pinged, posted, run);
    troubles([pinged, posted, run])
}

/// What the command finds in its environment.
fn environment(night: &Night, exit: u8) -> [(&'static str, OsString); 3] {
    [
        ("SMOLFREEZE_FLEET", night.fleet.clone().into()),
        ("SMOLFREEZE_NIGHT", night.night.clone().into()),
        ("SMOLFREEZE_EXIT", exit.to_string().into()),
    ]
}

/// No run begins, because the file `text` is wrong: whom it says to ping is told, as far as that can be read.
pub async fn refused(text: &str, reason: &str) -> Vec<Trouble> {
    let Some((ping, limit)) = ping_of(text) else { return Vec::new() };
    troubles([web::ping(&ping, Some("fail"), format!("smolfreeze fleet: {reason}\n"), limit).await])
}

/// The metrics' and the notifications' view of a file that is wrong: the URL that is pinged, and its limit.
fn ping_of(text: &str) -> Option<(String, Duration)> {
    let (table, _) = DeTable::parse_recoverable(text);
    let DeValue::Table(notify) = table.get_ref().get("notify")?.get_ref() else { return None };
    let word = |key: &str| match notify.get(key)?.get_ref() {
        DeValue::String(word) => Some(word.clone().into_owned()),
        _ => None,
    };
    let limit = word("limit").and_then(|limit| humantime::parse_duration(&limit).ok());
    Some((word("ping")?, limit.unwrap_or(Notify::default().limit.0)))
}

fn troubles<const N: usize>(results: [Result<(), String>; N]) -> Vec<Trouble> {
    results.into_iter().filter_map(Result::err).map(|text| Trouble::new("notify", text)).collect()
}

/// The end of a log: whole lines, as many as fit.
fn tail(log: &str) -> &str {
    let Some(begin) = log.len().checked_sub(TAIL_BYTES_MAX) else { return log };
    let line_begins =
        log.as_bytes()[begin..].iter().position(|byte| *byte == b'\n').map_or(log.len(), |at| begin + at + 1);
    &log[line_begins..]
}

/// Where `suffix` is asked: behind the URL's path, before its query.
fn ping_url(text: &str, suffix: Option<&str>) -> Result<Url, String> {
    let mut url = Url::parse(text).map_err(|error| format!("'{text}' is no URL: {error}"))?;
    if let (Some(suffix), Ok(mut path)) = (suffix, url.path_segments_mut()) {
        path.pop_if_empty().push(suffix);
    }
    Ok(url)
}

impl<'a> Told<'a> {
    fn of(night: &'a Night, exit_code: u8, text: String) -> Self {
        let troubles = night.runs.last().into_iter().flat_map(|run| &run.troubles).chain(&night.after.troubles);
        Self {
            fleet: &night.fleet,
            night: &night.night,
            host: &night.host,
            exit_code,
            is_success: exit_code == 0,
            text,
            outcomes: &night.outcomes,
            unselected: &night.unselected,
            troubles: troubles.collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ping_goes_below_the_url() {
        for (url, suffix, asked) in [
            ("https://ping.example/uuid", None, "https://ping.example/uuid"),
            ("https://ping.example/uuid", Some("start"), "https://ping.example/uuid/start"),
            ("https://ping.example/uuid/", Some("fail"), "https://ping.example/uuid/fail"),
            ("https://ping.example/key/slug?create=1", Some("fail"), "https://ping.example/key/slug/fail?create=1"),
        ] {
            assert_eq!(ping_url(url, suffix).unwrap().as_str(), asked);
        }
        assert!(ping_url("nothing", None).is_err());
    }

    #[test]
    fn a_broken_file_still_says_whom_to_ping() {
        let notify = "[notify]\nping = \"https://ping.example/a\"\nlimit = \"5s\"\n";
        let expected = Some(("https://ping.example/a".to_owned(), Duration::from_secs(5)));
        for broken in [
            format!("concurency = 3\n{notify}"),
            format!("{notify}[[policies]]\nmachines = 7\n"),
            format!("{notify}[[policies]\nmachines = ["),
            format!("name = = \"x\"\n[destinations.a\n{notify}"),
            format!("name = \"no end\n{notify}"),
        ] {
            assert!(File::parse(&broken).is_err());
            assert_eq!(ping_of(&broken), expected, "{broken}");
        }
        assert_eq!(ping_of("[notify]\nwebhook = \"https://ping.example/a\"\n"), None);
        assert_eq!(ping_of("notify = 3"), None);
        assert_eq!(ping_of(""), None);
    }

    #[test]
    fn the_tail_of_a_log_is_whole_lines() {
        assert_eq!(tail("a\nb\n"), "a\nb\n");
        let log = "ä line of a log\n".repeat(2000);
        let tail = tail(&log);
        assert!(tail.len() <= TAIL_BYTES_MAX && tail.len() > TAIL_BYTES_MAX - 20 && tail.starts_with("ä line"));
        assert_eq!(super::tail(&"x".repeat(TAIL_BYTES_MAX + 1)), "", "a line that does not fit has no whole tail");
    }
}

//! `fleet report`, looked at by a browser.

use std::fs;
use std::path::Path;
use std::process::Command;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use smolfreeze::fleet::file::File;
use smolfreeze::fleet::night::{History, Night, Trouble};
use smolfreeze::fleet::page::{self, Shown};
use smolfreeze::fleet::select::Listed;
use smolfreeze::fleet::status::Status;

use crate::made_up;
use crate::status::{Home, machines, text};

fn html(nights: Vec<Night>, machines: &[&str]) -> String {
    let history = History { nights, unreadable: Vec::new() };
    let file = File::parse(made_up::FILE).unwrap();
    let machines = machines.iter().map(|name| Listed { name: (*name).to_owned(), ..Listed::default() }).collect();
    let now: Timestamp = "2026-11-29T08:00:00Z".parse().unwrap();
    let status = Status::of(&file, &history, Ok(machines), now).unwrap();
    page::html(&status, &history, &Shown { nights: 30, zone: TimeZone::UTC }).unwrap()
}

fn nights() -> Vec<Night> {
    made_up::nights(jiff::civil::date(2026, 11, 29))
}

/// What Chromium says, and the page as it stands after it was drawn: `dump` is `--dump-dom` or a screenshot.
fn chromium(page: &Path, dump: &[String]) -> (String, String) {
    let profile = tempfile::tempdir().unwrap();
    let mut command = Command::new("timeout");
    command.args(["120", "chromium", "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]);
    command.args(["--enable-logging=stderr", "--v=0", "--host-resolver-rules=MAP * ~NOTFOUND", "--no-first-run"]);
    command.arg(format!("--user-data-dir={}", profile.path().display())).args(dump);
    let output = command.arg(format!("file://{}", page.display())).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "chromium is in Debian's package of that name: tests/run installs it; {said}");
    (String::from_utf8_lossy(&output.stdout).into_owned(), said)
}

#[test]
fn a_browser_draws_it_without_a_complaint_and_with_every_machine() {
    let home = Home::new(&machines());
    let page = home.path().join("fleet.html");
    let output = home.fleet(&["report", "--html", page.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let (drawn, said) = chromium(&page, &["--dump-dom".to_owned()]);
    let complaints: Vec<_> = said.lines().filter(|line| line.contains(":CONSOLE")).collect();
    assert!(complaints.is_empty(), "{complaints:?}");
    for machine in machines() {
        assert_eq!(drawn.matches(&format!(r#"<span class="name">{machine}</span>"#)).count(), 1, "{machine}");
    }
    assert_eq!(drawn.matches("<figure>").count(), 4);
    assert_eq!(drawn.matches(r#"<rect class="none""#).count(), machines().len(), "one night was missed");
    // Left for who wants to look: at the width of a phone and of a desk.
    if let Some(folder) = std::env::var_os("SMOLFREEZE_SCREENSHOTS") {
        screenshots(&page, Path::new(&folder));
    }
}

fn screenshots(page: &Path, folder: &Path) {
    fs::create_dir_all(folder).unwrap();
    fs::copy(page, folder.join("fleet.html")).unwrap();
    for width in [390, 1280] {
        let path = folder.join(format!("{width}.png"));
        let height = if width == 390 { 9000 } else { 3200 };
        let shot = [format!("--screenshot={}", path.display()), format!("--window-size={width},{height}")];
        chromium(page, &shot);
        assert!(fs::metadata(path).unwrap().len() > 10_000);
    }
}

#[test]
fn a_browser_that_is_made_to_complain_is_heard() {
    let folder = tempfile::tempdir().unwrap();
    let page = folder.path().join("page.html");
    fs::write(&page, "<script>console.error('heard')</script>").unwrap();
    let (_, said) = chromium(&page, &["--dump-dom".to_owned()]);
    assert!(said.contains(":CONSOLE") && said.contains("heard"), "{said}");
}

#[test]
fn it_needs_nothing_from_elsewhere() {
    let html = html(nights(), &machines());
    for foreign in ["http:", "https:", "url(", "<script", "<link", "<img", "<iframe", "@import", " src=", " onload"] {
        assert!(!html.contains(foreign), "{foreign}");
    }
}

#[test]
fn names_and_words_of_others_are_only_ever_text() {
    let (name, words) = ("a\"><img src=x onerror=alert(1)>", "</p><script>alert('x')</script>&amp;");
    let mut nights = nights();
    let night = nights.last_mut().unwrap();
    night.host = name.to_owned();
    night.after.troubles.push(Trouble::new("hook", words));
    for outcome in night.outcomes.iter_mut().filter(|outcome| outcome.machine == "wiki") {
        (outcome.machine, outcome.policy) = (name.to_owned(), words.to_owned());
        outcome.trouble = Some(Trouble::new(words, words));
    }
    let html = html(nights, &[name]);
    assert!(!html.contains("<img") && !html.contains("<script"), "{html}");
    assert!(html.contains("a&#34;&#62;&#60;img src=x"), "the name is there all the same");
}

#[test]
fn it_says_what_failed_since_when_and_who_grows() {
    let html = html(nights(), &[machines(), vec!["brand-new"]].concat());
    let plain = html.replace('\u{a0}', " ");
    for part in [
        "<h1 class=\"bad\">6 of 30 snapshots are too old, or were never made</h1>",
        "3 tries · 3 nights in a row",
        "the disk of the machine is full",
        "401 Unauthorized",
        "rsync: connection unexpectedly closed",
        "the drill of registry.example/machines/git:2026-11-29 failed",
        "exit code 10",
        "<span class=\"late\">never</span>",
    ] {
        assert!(plain.contains(part), "{part} in\n{plain}");
    }
    let growing = plain.split("id=\"growing\"").nth(1).unwrap();
    let names = ["db-primary", "db-replica", "metrics", "git"].map(|name| growing.find(&format!(">{name}<")).unwrap());
    assert!(names.is_sorted(), "the most bytes first: {names:?}");
    assert!(!growing.contains(">staging<") && !growing.contains(">web-1<"));
}

#[test]
fn a_young_fleets_nights_are_drawn_as_small_as_an_old_ones() {
    let (old, mut young) = (nights(), nights());
    young.drain(..young.len() - 2);
    let strips = |nights| {
        let page = html(nights, &machines());
        let boxes = page.lines().filter(|line| line.contains(r#"class="strip""#));
        let boxes = boxes.map(|line| line.split('"').nth(3).unwrap().to_owned());
        boxes.collect::<std::collections::BTreeSet<_>>()
    };
    let old = strips(old);
    assert!(old.len() == 1 && strips(young) == old, "{old:?}");
}

#[test]
fn a_fleet_without_nights_or_machines_has_a_page() {
    assert!(html(Vec::new(), &[]).contains("No machine is selected"));
    assert!(html(Vec::new(), &["a"]).contains("There was no run yet"));
    let one = html(nights().split_off(28), &machines());
    assert!(one.contains("1\u{a0}night"));
    let named: Vec<_> =
        nights().into_iter().enumerate().map(|(at, night)| Night { night: format!("n{at}"), ..night }).collect();
    assert!(html(named, &machines()).contains(">n28<"));
}

#[test]
fn pages_are_replaced_whole() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("fleet.html");
    fs::write(&path, "old").unwrap();
    page::write(&path, "new").unwrap();
    assert_eq!(fs::read_to_string(&path).unwrap(), "new");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    assert!(page::write(&folder.path().join("absent/x.html"), "new").is_err());
}

//! What may go wrong, drawn by a seed: in words, with the patience that it may cost, and how a freeze may end of it.

use std::fmt;
use std::time::Duration;

use rustix::process::Signal;

use crate::case::{Output, Reader, Source};
use crate::support::proxy::{Fault as Cut, Rule};

/// A request that failed is tried again at most so much later, where nothing else failed before it.
const RETRY: Duration = Duration::from_secs(10);
/// Eight tries of a request, with all delays between them.
const GIVING_UP: Duration = Duration::from_secs(110);
/// A request, or a call of smolvm, of which nothing is heard.
const SILENCE: Duration = Duration::from_secs(80);
/// A machine that refuses every call, or whose producer is gone.
const GUEST_PATIENCE: Duration = Duration::from_secs(150);
/// What a signal may take.
const LEAVING: Duration = Duration::from_secs(6);

/// After so many calls of smolvm and requests to the registry, and so many milliseconds.
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    pub events: usize,
    pub millis: u64,
}

impl fmt::Display for Moment {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} ms after event {}", self.millis, self.events)
    }
}

/// One fault.
#[derive(Clone, Debug)]
pub enum Fault {
    /// At the proxy before the registry.
    Wire(Rule),
    /// Tokens are wanted, and the first one is good for so many requests.
    Token(usize),
    /// A wait of so many milliseconds for each 64 KiB that go to the registry.
    SlowLine(u64),
    /// The registry's process is killed, and started again so much later, if at all.
    KillRegistry(Moment, Option<Duration>),
    /// The registry's disk has so many KiB.
    FullRegistry(u64),
    /// The disk of layout and artifact has so many KiB.
    FullOutput(u64),
    /// The disk for temporary files is full.
    FullScratch,
    /// The guest's disk for the spool gets full, and has room again so much later, if at all.
    FullGuest(Moment, Option<Duration>),
    /// An order for the stand-in for smolvm.
    Smolvm(Moment, &'static str, String),
    /// Every call of smolvm is refused for so long.
    Refused(Moment, Duration),
    /// A call of smolvm is killed on the host: `exec` or `cp`.
    KillCall(Moment, &'static str),
    /// A process of ours in the guest is killed: one whose command line holds this.
    KillInGuest(Moment, &'static str),
    /// The machine stops.
    StopMachine(Moment),
    /// The freeze is killed.
    KillHost(Moment),
    /// The freeze gets a signal.
    Signal(Moment, Signal),
}

impl Fault {
    /// A fault that can strike a freeze from `source` to `outputs`; none where what was drawn does not fit.
    pub fn drawn(random: &mut fastrand::Rng, source: Source, outputs: &[Output]) -> Option<Self> {
        let is_machine = matches!(source, Source::Machine(..));
        let is_sent = outputs.iter().any(|output| output.is_registry());
        let has_file = outputs.iter().any(|output| !output.is_registry());
        let moment = moment(random, is_machine || is_sent);
        let back = random.u8(..3) > 0;
        let fault = match random.u8(..36) {
            0..=7 if is_sent => Self::Wire(rule(random)),
            8 if is_sent => Self::Token(random.usize(2..12)),
            9 if is_sent => Self::SlowLine(random.u64(1..20)),
            10..=11 if is_sent => {
                Self::KillRegistry(moment.later(3), back.then(|| Duration::from_millis(random.u64(..3000))))
            }
            12 if is_sent => Self::FullRegistry(random.u64(512..4096)),
            13..=14 if has_file => Self::FullOutput(random.u64(512..8192)),
            15 => Self::FullScratch,
            16..=17 if is_machine => {
                Self::FullGuest(moment, back.then(|| Duration::from_millis(random.u64(500..8000))))
            }
            18..=24 if is_machine => ordered(random, moment),
            25..=26 if is_machine => Self::KillCall(moment, random.choice(["exec", "cp"]).expect("one")),
            27..=29 if is_machine => {
                let Source::Machine(_, reader) = source else { return None };
                Self::KillInGuest(moment.later(8), random.choice(in_guest(reader)).expect("one"))
            }
            30 if is_machine => Self::StopMachine(moment),
            31..=32 => Self::KillHost(moment),
            33..=35 => Self::Signal(moment, random.choice([Signal::INT, Signal::TERM, Signal::HUP]).expect("one")),
            _ => return None,
        };
        // What takes long takes all others' time as well.
        (fault.patience() < Duration::from_secs(45) || random.u8(..3) == 0).then_some(fault)
    }

    /// How much longer a freeze may take because of it.
    pub fn patience(&self) -> Duration {
        let times = |times: usize| u32::try_from(times).unwrap_or(u32::MAX);
        match self {
            Self::Wire(Rule { fault: Cut::Stall, times: count, .. }) => SILENCE * times(*count),
            Self::Wire(Rule { times: usize::MAX, .. }) | Self::KillRegistry(_, None) | Self::FullRegistry(_) => {
                GIVING_UP
            }
            Self::Wire(Rule { times: count, .. }) => RETRY * times(*count),
            Self::SlowLine(millis) => Duration::from_millis(millis * 1000),
            Self::KillRegistry(_, Some(_)) => RETRY * 2,
            Self::Smolvm(_, "cp-hang" | "exec-hang", _) => SILENCE,
            Self::FullGuest(_, None) | Self::KillInGuest(..) => GUEST_PATIENCE,
            Self::Refused(_, time) | Self::FullGuest(_, Some(time)) => *time + RETRY,
            Self::Signal(..) => LEAVING,
            Self::StopMachine(_) | Self::Smolvm(..) | Self::KillCall(..) | Self::Token(_) => RETRY,
            Self::FullOutput(_) | Self::FullScratch | Self::KillHost(_) => Duration::ZERO,
        }
    }

    /// The exit codes that a freeze may end with because of it, beside 0.
    pub fn codes(&self) -> &'static [i32] {
        match self {
            Self::Wire(Rule { fault: Cut::Answer(401 | 403, ..), .. }) => &[4, 5],
            Self::Wire(_) | Self::KillRegistry(..) | Self::FullRegistry(_) | Self::FullOutput(_) => &[4],
            Self::Token(_) | Self::SlowLine(_) | Self::FullScratch | Self::KillHost(_) => &[],
            Self::FullGuest(..)
            | Self::Smolvm(..)
            | Self::Refused(..)
            | Self::KillCall(..)
            | Self::KillInGuest(..)
            | Self::StopMachine(_) => &[3],
            Self::Signal(_, Signal::INT) => &[130],
            Self::Signal(_, Signal::TERM) => &[143],
            Self::Signal(..) => &[129],
        }
    }

    /// A freeze goes on after it: an error is one too many.
    pub fn is_overcome(&self) -> bool {
        match self {
            Self::Wire(rule) => rule.times < usize::MAX,
            Self::KillRegistry(_, back) => back.is_some(),
            Self::Token(_)
            | Self::SlowLine(_)
            | Self::FullScratch
            | Self::Smolvm(..)
            | Self::Refused(..)
            | Self::KillCall(..) => true,
            _ => false,
        }
    }

    /// What it is counted as.
    pub fn kind(&self) -> String {
        match self {
            Self::Wire(rule) if rule.times == usize::MAX => format!("{} for good", cut_kind(&rule.fault)),
            Self::Wire(rule) => cut_kind(&rule.fault).to_owned(),
            Self::Token(_) => "token that expires".to_owned(),
            Self::SlowLine(_) => "slow line".to_owned(),
            Self::KillRegistry(_, Some(_)) => "registry killed, and back".to_owned(),
            Self::KillRegistry(_, None) => "registry killed for good".to_owned(),
            Self::FullRegistry(_) => "registry's disk full".to_owned(),
            Self::FullOutput(_) => "output's disk full".to_owned(),
            Self::FullScratch => "TMPDIR full".to_owned(),
            Self::FullGuest(_, Some(_)) => "guest's disk full for a while".to_owned(),
            Self::FullGuest(_, None) => "guest's disk full for good".to_owned(),
            Self::Smolvm(_, order, _) => (*order).to_owned(),
            Self::Refused(..) => "all calls refused for a while".to_owned(),
            Self::KillCall(_, call) => format!("{call} killed on the host"),
            Self::KillInGuest(_, what) => format!("kill -9 in the guest: {what}"),
            Self::StopMachine(_) => "machine stopped".to_owned(),
            Self::KillHost(_) => "kill -9 of the freeze".to_owned(),
            Self::Signal(_, signal) => format!("signal {}", signal.as_raw()),
        }
    }

    /// When it strikes, where that is at a moment of the freeze.
    pub fn moment(&self) -> Option<Moment> {
        match self {
            Self::KillRegistry(moment, _)
            | Self::FullGuest(moment, _)
            | Self::Smolvm(moment, ..)
            | Self::Refused(moment, _)
            | Self::KillCall(moment, _)
            | Self::KillInGuest(moment, _)
            | Self::StopMachine(moment)
            | Self::KillHost(moment)
            | Self::Signal(moment, _) => Some(*moment),
            _ => None,
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}", self.kind())?;
        match self {
            Self::Wire(Rule { method, skip, times, fault }) => {
                write!(formatter, " ({fault:?} at {method} {}, {times} times)", skip + 1)?;
            }
            Self::Token(requests) => write!(formatter, " (after {requests} requests)")?,
            Self::SlowLine(millis) => write!(formatter, " ({millis} ms for 64 KiB)")?,
            Self::FullRegistry(kib) | Self::FullOutput(kib) => write!(formatter, " ({kib} KiB)")?,
            Self::KillRegistry(_, time) | Self::FullGuest(_, time) => write!(formatter, " ({time:?})")?,
            Self::Smolvm(_, _, order) => write!(formatter, " ({order})")?,
            Self::Refused(_, time) => write!(formatter, " ({time:?})")?,
            _ => {}
        }
        self.moment().map_or(Ok(()), |moment| write!(formatter, " {moment}"))
    }
}

impl Moment {
    fn later(self, events: usize) -> Self {
        Self { events: self.events + events, ..self }
    }
}

/// Where nothing can be counted, time alone says when.
fn moment(random: &mut fastrand::Rng, has_events: bool) -> Moment {
    if has_events {
        Moment { events: random.usize(..30), millis: random.u64(..120) }
    } else {
        Moment { events: 0, millis: random.u64(..1500) }
    }
}

fn rule(random: &mut fastrand::Rng) -> Rule {
    let method = random.choice(["PUT", "PUT", "PUT", "PUT", "POST", "HEAD", "GET"]).expect("one");
    let (skip, times) = (random.usize(..6), random.usize(1..4));
    // What is asked of a session may take minutes to be answered: a registry checks what it has got.
    let quick = random.choice(["POST", "HEAD", "GET"]).expect("one");
    let (fault, times) = match random.u8(..16) {
        0..=2 => (Cut::CutInBody, times),
        3..=4 => (Cut::CutBefore, times),
        5..=6 => (Cut::CutAnswer, times),
        7..=9 => (Cut::Answer(random.choice([500, 502, 503, 504]).expect("one"), "", "<html>"), times),
        10..=11 => {
            let wish = random.choice(["Retry-After: 1\r\n", "Retry-After: 2\r\n", "Retry-After: 3\r\n"]);
            (Cut::Answer(429, wish.expect("one"), ""), times)
        }
        12 => (Cut::Forget, 1),
        13 => (Cut::Stall, 1),
        14 => (Cut::Answer(random.choice([400, 401, 403]).expect("one"), "", ""), usize::MAX),
        _ => (Cut::Answer(random.choice([500, 503]).expect("one"), "", ""), usize::MAX),
    };
    let method = match fault {
        Cut::Forget => "PUT",
        Cut::Stall => quick,
        _ => method,
    };
    Rule { method, skip, times, fault }
}

fn cut_kind(fault: &Cut) -> &'static str {
    match fault {
        Cut::CutInBody | Cut::CutUnseen(_) => "cut in mid-body",
        Cut::CutBefore => "cut before the registry",
        Cut::CutAnswer | Cut::CutInAnswer(_) => "answer lost",
        Cut::Answer(429, ..) => "429 with Retry-After",
        Cut::Answer(400..=499, ..) => "4xx",
        Cut::Answer(..) => "5xx",
        Cut::Forget => "session forgotten",
        Cut::Stall => "stall",
    }
}

/// An order for the stand-in: see tests/standin/faults.rs.
fn ordered(random: &mut fastrand::Rng, moment: Moment) -> Fault {
    let times = random.u64(1..4);
    let (order, more) = match random.u8(..16) {
        0..=2 => ("cp-fail", String::new()),
        3..=4 => ("cp-short", String::new()),
        5..=6 => ("cp-flip", String::new()),
        7 => return Fault::Smolvm(moment, "cp-hang", "cp-hang 1".to_owned()),
        8 => return Fault::Smolvm(moment, "exec-hang", "exec-hang 1".to_owned()),
        9..=10 => ("exec-refuse", String::new()),
        11..=12 => ("exec-kill", format!(" {}", random.u64(..60))),
        13 => ("cp-in-lost", String::new()),
        14 => return Fault::Smolvm(moment, "cp-slow", format!("cp-slow 30 {}", random.u64(20..200))),
        _ => return Fault::Refused(moment, Duration::from_millis(random.u64(500..8000))),
    };
    Fault::Smolvm(moment, order, format!("{order} {times}{more}"))
}

/// What of ours runs in the guest, by its command line.
fn in_guest(reader: Reader) -> &'static [&'static str] {
    match reader {
        Reader::Ours => &["guest.sh produce", "guest-reader"],
        Reader::Tools => &["guest.sh produce", "tar ", "dd ", "find ", "sort "],
    }
}

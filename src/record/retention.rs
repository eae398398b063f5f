//! Which freezes to keep, in the words of restic's `forget` and with its rules. Pure: no clock, no files.
//!
//! The order is that of the instants. The calendar only says which hour, day or month an instant belongs to: where the clock
//! is set back, a later one may have an earlier time of day.

use std::fmt;
use std::str::FromStr;

use jiff::civil::DateTime;
use jiff::{Span, ZonedDateTime};

/// How many to keep of each kind; 0 keeps none by that rule.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Policy {
    /// The newest.
    pub last: Count,
    /// The newest of each of the newest hours that have one.
    pub hourly: Count,
    /// The newest of each of the newest days that have one.
    pub daily: Count,
    /// The newest of each of the newest weeks, Monday to Sunday, that have one.
    pub weekly: Count,
    /// The newest of each of the newest months that have one.
    pub monthly: Count,
    /// The newest of each of the newest years that have one.
    pub yearly: Count,
    /// All that are younger than this, seen from the newest.
    pub within: Option<Within>,
}

impl Policy {
    /// Whether it keeps nothing at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// A number, or `unlimited`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Count(pub u32);

impl FromStr for Count {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "unlimited" => Ok(Self(u32::MAX)),
            _ => text.parse().map(Self).map_err(|_| "it has to be a number or 'unlimited'".to_owned()),
        }
    }
}

/// A duration of the calendar: `1y5m7d2h` is a year, five months, seven days and two hours.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Within {
    years: u16,
    months: u16,
    days: u16,
    hours: u16,
}

impl Within {
    fn before(self, time: &ZonedDateTime) -> ZonedDateTime {
        let span = Span::new().years(self.years.min(9999)).months(self.months).days(self.days).hours(self.hours);
        time.saturating_sub(span)
    }
}

impl FromStr for Within {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("'{text}' is no duration such as 1y5m7d2h (years, months, days, hours)");
        let mut within = Self::default();
        let mut rest = text;
        while let Some(at) = rest.find(|char: char| !char.is_ascii_digit()) {
            let number: u16 = rest[..at].parse().map_err(|_| wrong())?;
            let field = match rest.as_bytes()[at] {
                b'y' => &mut within.years,
                b'm' => &mut within.months,
                b'd' => &mut within.days,
                b'h' => &mut within.hours,
                _ => return Err(wrong()),
            };
            *field = number;
            rest = &rest[at + 1..];
        }
        if rest.is_empty() && within != Self::default() { Ok(within) } else { Err(wrong()) }
    }
}

/// Why one is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Reason {
    /// Young enough.
    Within,
    /// One of the newest.
    Last,
    /// The newest of its hour.
    Hourly,
    /// The newest of its day.
    Daily,
    /// The newest of its week.
    Weekly,
    /// The newest of its month.
    Monthly,
    /// The newest of its year.
    Yearly,
    /// The oldest of all, while a rule has room left: so history reaches as far back as it can.
    Oldest,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Within => "within",
            Self::Last => "last",
            Self::Hourly => "hourly",
            Self::Daily => "daily",
            Self::Weekly => "weekly",
            Self::Monthly => "monthly",
            Self::Yearly => "yearly",
            Self::Oldest => "oldest",
        })
    }
}

/// One that is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    /// Its place in what was given.
    pub index: usize,
    /// Why, at least once.
    pub reasons: Vec<Reason>,
}

/// One rule: a period, and how many more of it there may be.
struct Rule {
    reason: Reason,
    left: u32,
    period: fn(DateTime) -> i64,
    latest: Option<i64>,
}

impl Rule {
    /// `is_oldest`: nothing comes after it.
    fn judge(&mut self, time: &ZonedDateTime, is_oldest: bool) -> Option<Reason> {
        if self.left == 0 {
            return None;
        }
        let period = (self.period)(time.datetime());
        // Every one is a period of its own where the newest are counted.
        let is_new = self.reason == Reason::Last || self.latest != Some(period);
        if !is_new {
            return is_oldest.then_some(Reason::Oldest);
        }
        self.latest = Some(period);
        self.left -= u32::from(self.left != u32::MAX);
        Some(self.reason)
    }
}

/// Those of `times` that `policy` keeps, newest first, each once. `times` may come in any order.
#[must_use]
pub fn keep(times: &[ZonedDateTime], policy: &Policy) -> Vec<Kept> {
    let mut newest_first: Vec<_> = (0..times.len()).collect();
    newest_first.sort_by_key(|index| std::cmp::Reverse((times[*index].timestamp(), *index)));
    let mut rules = rules(policy);
    let since = policy.within.zip(newest_first.first()).map(|(within, newest)| within.before(&times[*newest]));
    let mut kept = Vec::new();
    for (place, index) in newest_first.iter().copied().enumerate() {
        let (time, is_oldest) = (&times[index], place + 1 == times.len());
        let mut reasons: Vec<_> =
            since.as_ref().filter(|since| time > *since).map(|_| Reason::Within).into_iter().collect();
        reasons.extend(rules.iter_mut().filter_map(|rule| rule.judge(time, is_oldest)));
        reasons.dedup();
        if !reasons.is_empty() {
            kept.push(Kept { index, reasons });
        }
    }
    kept
}

fn day(time: DateTime) -> i64 {
    i64::from(time.year()) * 10_000 + i64::from(time.month()) * 100 + i64::from(time.day())
}

fn rules(policy: &Policy) -> [Rule; 6] {
    let rule = |reason, count: Count, period| Rule { reason, left: count.0, period, latest: None };
    [
        rule(Reason::Last, policy.last, |_| 0),
        rule(Reason::Hourly, policy.hourly, |time| day(time) * 100 + i64::from(time.hour())),
        rule(Reason::Daily, policy.daily, day),
        rule(Reason::Weekly, policy.weekly, |time| {
            let week = time.date().iso_week_date();
            i64::from(week.year()) * 100 + i64::from(week.week())
        }),
        rule(Reason::Monthly, policy.monthly, |time| i64::from(time.year()) * 100 + i64::from(time.month())),
        rule(Reason::Yearly, policy.yearly, |time| i64::from(time.year())),
    ]
}

#[cfg(test)]
mod tests {
    use jiff::tz::TimeZone;

    use super::*;

    /// What `restic forget --dry-run --json` of restic 0.14.0 said: a policy, and what it keeps, newest first. The row
    /// `last 100` keeps all.
    const RESTIC: &str = include_str!("../../tests/record/restic.tsv");

    fn policy(text: &str) -> Policy {
        let mut policy = Policy::default();
        for rule in text.split(';') {
            let (word, value) = rule.split_once(' ').unwrap();
            let count = || value.parse().unwrap();
            match word {
                "last" => policy.last = count(),
                "hourly" => policy.hourly = count(),
                "daily" => policy.daily = count(),
                "weekly" => policy.weekly = count(),
                "monthly" => policy.monthly = count(),
                "yearly" => policy.yearly = count(),
                "within" => policy.within = Some(value.parse().unwrap()),
                other => panic!("{other}"),
            }
        }
        policy
    }

    /// A policy, and what it keeps: when, and why.
    type Row = (&'static str, Vec<(DateTime, Vec<String>)>);

    fn rows() -> Vec<Row> {
        let kept = |cell: &'static str| {
            let (time, reasons) = cell.split_once(' ').unwrap();
            let word = |reason: &str| reason.split(' ').next().unwrap().to_owned();
            (time.parse().unwrap(), reasons.split(',').map(word).collect())
        };
        let row = |line: &'static str| {
            let (policy, cells) = line.split_once('\t').unwrap();
            (policy, cells.split('\t').map(kept).collect())
        };
        RESTIC.lines().map(row).collect()
    }

    /// With a clock that is never set.
    fn kept_of(times: &[DateTime], policy: &Policy) -> Vec<Kept> {
        let zoned: Vec<_> = times.iter().map(|time| time.to_zoned_datetime(TimeZone::UTC).unwrap()).collect();
        keep(&zoned, policy)
    }

    #[test]
    fn in_the_hour_that_comes_twice_the_later_one_is_the_newer_one() {
        let berlin = TimeZone::posix("CET-1CEST,M3.5.0,M10.5.0/3").unwrap();
        // 02:50 of summer time, 02:10 and 02:40 after the clock was set back, 03:05.
        let times: Vec<_> = ["00:50", "01:10", "01:40", "02:05"]
            .map(|time| format!("2026-10-25T{time}:00Z").parse::<jiff::Timestamp>().unwrap())
            .map(|time| time.to_zoned_datetime(berlin.clone()))
            .into();
        let kept = |text, times: &[ZonedDateTime]| -> Vec<_> {
            keep(times, &policy(text)).into_iter().map(|kept| (kept.index, kept.reasons)).collect()
        };
        assert_eq!(kept("last 1", &times[..2]), [(1, vec![Reason::Last])]);
        assert_eq!(kept("last 2", &times[..3]), [(2, vec![Reason::Last]), (1, vec![Reason::Last])]);
        assert_eq!(kept("hourly 2", &times), [(3, vec![Reason::Hourly]), (2, vec![Reason::Hourly])]);
        assert_eq!(
            kept("within 1h", &times[..3]),
            [(2, vec![Reason::Within]), (1, vec![Reason::Within]), (0, vec![Reason::Within])]
        );
        assert_eq!(
            kept("within 1h", &times),
            [(3, vec![Reason::Within]), (2, vec![Reason::Within]), (1, vec![Reason::Within])]
        );
    }

    fn all_times() -> Vec<DateTime> {
        let rows = rows();
        rows.iter().find(|(policy, _)| *policy == "last 100").unwrap().1.iter().map(|(time, _)| *time).collect()
    }

    #[test]
    fn it_keeps_what_restic_keeps() {
        let mut times = all_times();
        assert_eq!((times.len(), rows().len()), (30, 23));
        fastrand::Rng::with_seed(1).shuffle(&mut times);
        for (text, expected) in rows() {
            let found: Vec<_> = kept_of(&times, &policy(text))
                .into_iter()
                .map(|mut kept| {
                    // A rule of later releases of restic, see the next test.
                    kept.reasons.retain(|reason| *reason != Reason::Oldest);
                    (times[kept.index], kept.reasons.iter().map(ToString::to_string).collect::<Vec<_>>())
                })
                .filter(|(_, reasons)| !reasons.is_empty())
                .collect();
            assert_eq!(found, expected, "{text}");
        }
    }

    #[test]
    fn the_oldest_stays_while_there_is_room() {
        let times: Vec<DateTime> =
            ["2026-01-02T08:00", "2026-01-02T09:00", "2026-01-03T09:00"].map(|time| time.parse().unwrap()).into();
        let of = |text| {
            kept_of(&times, &policy(text)).into_iter().map(|kept| (kept.index, kept.reasons)).collect::<Vec<_>>()
        };
        assert_eq!(of("daily 3"), [(2, vec![Reason::Daily]), (1, vec![Reason::Daily]), (0, vec![Reason::Oldest])]);
        assert_eq!(of("daily 2"), [(2, vec![Reason::Daily]), (1, vec![Reason::Daily])]);
    }

    #[test]
    fn the_newest_is_kept_and_nothing_twice() {
        let mut random = fastrand::Rng::with_seed(7);
        let all = all_times();
        for _ in 0..2000 {
            let times: Vec<_> = (0..random.usize(1..40)).map(|_| all[random.usize(..all.len())]).collect();
            let mut count = || Count(random.u32(..5));
            let policy = Policy {
                last: Count(count().0 + 1),
                hourly: count(),
                daily: count(),
                weekly: count(),
                monthly: count(),
                yearly: count(),
                within: None,
            };
            let kept = kept_of(&times, &policy);
            assert_eq!(times[kept[0].index], *times.iter().max().unwrap());
            let mut indices: Vec<_> = kept.iter().map(|kept| kept.index).collect();
            assert!(indices.is_sorted_by_key(|index| std::cmp::Reverse(times[*index])));
            indices.sort_unstable();
            indices.dedup();
            assert_eq!(indices.len(), kept.len());
            let most = [policy.last, policy.hourly, policy.daily, policy.weekly, policy.monthly, policy.yearly];
            let most = most.iter().map(|count| count.0 as usize).sum::<usize>() + 1;
            assert!(kept.len() <= most && kept.len() >= (policy.last.0 as usize).min(times.len()));
            // Once more, on what is left: nothing else goes.
            let left: Vec<_> = kept.iter().map(|kept| times[kept.index]).collect();
            assert_eq!(kept_of(&left, &policy).len(), left.len());
        }
    }

    #[test]
    fn durations_parse() {
        for good in ["1y5m7d2h", "36h", "2d", "9999y"] {
            assert!(good.parse::<Within>().is_ok(), "{good}");
        }
        for bad in ["", "1", "d", "1w", "1y2", "0d", "1h1ä", "99999999d", "-1d"] {
            assert!(bad.parse::<Within>().is_err(), "{bad}");
        }
        assert!(kept_of(&all_times(), &policy("within 65535y")).len() == 30);
        assert_eq!("unlimited".parse(), Ok(Count(u32::MAX)));
        assert!("-1".parse::<Count>().is_err());
    }
}

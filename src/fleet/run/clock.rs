//! The time, from outside: a year of nights is then a test of seconds.

use std::pin::Pin;
use std::time::Duration;

use jiff::tz::TimeZone;
use jiff::{Timestamp, ZonedDateTime};

/// Tells the time, and waits.
pub trait Clock: Send + Sync {
    /// Now.
    fn now(&self) -> Timestamp;
    /// This host's time zone.
    fn zone(&self) -> TimeZone;
    /// Returns after so long.
    fn sleep(&self, time: Duration) -> Pin<Box<dyn Future<Output = ()> + Send>>;

    /// Now, on this host's clock.
    fn local(&self) -> ZonedDateTime {
        self.now().to_zoned_datetime(self.zone())
    }
}

/// This host's own.
#[derive(Debug, Clone, Copy)]
pub struct HostClock;

impl Clock for HostClock {
    fn now(&self) -> Timestamp {
        Timestamp::now()
    }

    fn zone(&self) -> TimeZone {
        TimeZone::system()
    }

    fn sleep(&self, time: Duration) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        Box::pin(tokio::time::sleep(time))
    }
}

/// What the night is called by default: the date of the day in which it is, where days begin at `begins`.
#[must_use]
pub fn night_of(now: &ZonedDateTime, begins: jiff::civil::Time) -> String {
    let today = now.date();
    // What the clock says, not how long ago midnight was: a day may have 23 hours.
    let date = if now.time() < begins { today.yesterday().unwrap_or(today) } else { today };
    date.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_night_is_the_date_on_which_it_began() {
        let zone = TimeZone::posix("CET-1CEST,M3.5.0,M10.5.0/3").unwrap();
        let at = |text: &str| text.parse::<jiff::civil::DateTime>().unwrap().to_zoned_datetime(zone.clone()).unwrap();
        let midnight = jiff::civil::Time::midnight();
        for (now, begins, night) in [
            ("2026-11-29T00:00:00", midnight, "2026-11-29"),
            ("2026-11-29T23:59:59", midnight, "2026-11-29"),
            ("2026-11-29T02:29:59", jiff::civil::time(2, 30, 0, 0), "2026-11-28"),
            ("2026-11-29T02:30:00", jiff::civil::time(2, 30, 0, 0), "2026-11-29"),
            ("2026-01-01T01:00:00", jiff::civil::time(12, 0, 0, 0), "2025-12-31"),
            // The clock was set forward at 02:00, so 02:30 was never.
            ("2026-03-29T03:00:00", jiff::civil::time(2, 30, 0, 0), "2026-03-29"),
            ("2026-03-29T01:59:59", jiff::civil::time(2, 30, 0, 0), "2026-03-28"),
        ] {
            assert_eq!(night_of(&at(now), begins), night, "{now} {begins}");
        }
        // 02:30 comes twice: both belong to the same night.
        let twice = at("2026-10-25T02:30:00");
        let again = &twice + jiff::Span::new().hours(1);
        assert_eq!(again.time(), twice.time());
        let begins = jiff::civil::time(2, 15, 0, 0);
        assert_eq!((night_of(&twice, begins), night_of(&again, begins)), ("2026-10-25".into(), "2026-10-25".into()));
    }
}

//! Nights side by side: the places that they have on every chart, and the charts.

use std::collections::BTreeMap;

use jiff::Span;
use jiff::civil::Date;

use super::chart::{Bars, Chart, Place, Series, Unit, bars, line};
use super::figure::{duration, few, float, size};
use crate::fleet::history::Sums;
use crate::fleet::night::{History, Night};
use crate::fleet::status::Status;

/// A place for a night; where nights are dates, a date without one has a place, too.
pub(super) struct Slot<'a> {
    pub(super) name: String,
    label: String,
    pub(super) night: Option<&'a Night>,
}

/// The places of so many of the newest nights.
pub(super) fn slots(history: &History, count: usize) -> Vec<Slot<'_>> {
    let all = &history.nights;
    let newest = &all[all.len().saturating_sub(count)..];
    by_date(newest, count).unwrap_or_else(|| {
        newest.iter().map(|one| Slot { name: one.night.clone(), label: one.night.clone(), night: Some(one) }).collect()
    })
}

/// Where all nights are called by dates.
fn by_date(nights: &[Night], count: usize) -> Option<Vec<Slot<'_>>> {
    let dated = nights.iter().map(|night| Some((night.night.parse::<Date>().ok()?, night)));
    let dated = dated.collect::<Option<BTreeMap<Date, &Night>>>()?;
    let (first, last) = (*dated.first_key_value()?.0, *dated.last_key_value()?.0);
    let mut slots = Vec::new();
    let mut date = last;
    while date >= first && slots.len() < count {
        let label = date.strftime("%-d %b").to_string();
        slots.push(Slot { name: date.to_string(), label, night: dated.get(&date).copied() });
        date = date.checked_sub(Span::new().days(1)).ok()?;
    }
    slots.reverse();
    Some(slots)
}

/// Size, change, duration and outcomes.
pub(super) fn charts(status: &Status, slots: &[Slot]) -> Vec<Chart> {
    let places: Vec<_> =
        slots.iter().map(|slot| Place { label: slot.label.clone(), name: slot.name.clone() }).collect();
    let sums: Vec<Option<Sums>> = slots.iter().map(|slot| slot.night.map(Night::sums)).collect();
    let of =
        |value: fn(&Sums) -> Option<f64>| sums.iter().map(|sums| sums.as_ref().and_then(value)).collect::<Vec<_>>();
    let (read, sent) = (of(|sums| Some(float(sums.read_bytes))), of(|sums| Some(float(sums.sent_bytes))));
    let took = of(|sums| sums.ended.map(|_| sums.seconds));
    let sizes = sizes(status, slots);
    let change = [
        Series { class: "pale", word: "read", values: read.clone() },
        Series { class: "done", word: "sent", values: sent },
    ];
    let time = [Series { class: "done", word: "", values: took.clone() }];
    let outcomes = [
        Series { class: "done flat", word: "made", values: of(|sums| Some(few(sums.done))) },
        Series { class: "pale", word: "skipped", values: of(|sums| Some(few(sums.skipped))) },
        Series {
            class: "fail flat",
            word: "failed, or not reached",
            values: of(|sums| Some(few(sums.failed + sums.pending))),
        },
    ];
    let mut charts = [
        line("Size", Unit::Bytes, &places, &sizes),
        bars("Change", Unit::Bytes, Bars::Overlaid, &places, &change),
        bars("Duration", Unit::Seconds, Bars::Stacked, &places, &time),
        bars("Outcomes", Unit::Count, Bars::Stacked, &places, &outcomes),
    ];
    let notes = [size_note(&sizes), median_note("read in a night", &read, size), median_note("", &took, duration)];
    for (chart, note) in charts.iter_mut().zip(notes) {
        chart.note = note;
    }
    charts[2].legend.clear();
    "machines at destinations".clone_into(&mut charts[3].note);
    charts.into()
}

/// What all images hold together: of a machine that failed in a night, those of the night before count on.
fn sizes(status: &Status, slots: &[Slot]) -> Vec<Option<f64>> {
    let mut newest: BTreeMap<&str, u64> = BTreeMap::new();
    let is_selected = |machine: &str| status.pairs.iter().any(|pair| pair.machine == machine);
    let mut size = |slot: &Slot| {
        for (outcome, made) in slot.night?.made().filter(|(outcome, _)| is_selected(&outcome.machine)) {
            // Its machine's name outlives the slot.
            let machine = status.pairs.iter().find(|pair| pair.machine == outcome.machine)?;
            newest.insert(&machine.machine, made.tar_bytes);
        }
        (!newest.is_empty()).then(|| float(newest.values().sum()))
    };
    slots.iter().map(&mut size).collect()
}

fn size_note(sizes: &[Option<f64>]) -> String {
    let mut there = sizes.iter().flatten();
    let Some(first) = there.next() else { return "nothing was made".to_owned() };
    let Some(last) = there.last() else { return format!("all images hold {}", size(*first)) };
    let grown = last - first;
    let words = if grown < 0.0 { "less" } else { "more" };
    format!("all images hold {}, {} {words} than at first", size(*last), size(grown.abs()))
}

fn median_note(what: &str, values: &[Option<f64>], shown: fn(f64) -> String) -> String {
    let mut there: Vec<f64> = values.iter().flatten().copied().collect();
    there.sort_by(f64::total_cmp);
    let Some(median) = there.get(there.len() / 2) else { return "nothing was made".to_owned() };
    format!("{} {what}, as a rule", shown(*median)).replace(" ,", ",")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn history(names: &[&str]) -> History {
        History { nights: names.iter().map(|name| Night::new("fleet", name, "host")).collect(), ..History::default() }
    }

    #[test]
    fn a_missed_date_has_a_place() {
        let history = history(&["2026-11-25", "2026-11-26", "2026-11-29"]);
        let there = |count| -> Vec<bool> { slots(&history, count).iter().map(|slot| slot.night.is_some()).collect() };
        assert_eq!(there(30), [true, true, false, false, true]);
        assert_eq!(there(2), [false, true], "as many places as were asked for");
        assert_eq!(slots(&history, 30)[2].label, "27 Nov");
    }

    #[test]
    fn nights_with_other_names_stand_in_their_order() {
        let history = history(&["2026-11-25", "before-upgrade", "2026-11-29"]);
        let names: Vec<_> = slots(&history, 30).into_iter().map(|slot| slot.name).collect();
        assert_eq!(names, ["2026-11-25", "before-upgrade", "2026-11-29"]);
        assert!(slots(&History::default(), 30).is_empty());
    }
}

//! Charts: where bars, lines, ticks and labels lie. Pure geometry, in the pixels of an SVG that is as wide as a phone.

use super::figure::{duration, few, size, size_unit};

/// The drawing, and the plot in it.
pub(super) const WIDTH: f64 = 400.0;
pub(super) const HEIGHT: f64 = 190.0;
const LEFT: f64 = 46.0;
const RIGHT: f64 = 394.0;
const TOP: f64 = 18.0;
const BOTTOM: f64 = 164.0;
/// A bar that is so much higher than nine of ten is cut off, and says how high it is: else nothing could be read of them.
const OUTLIER: f64 = 2.5;

/// What an axis measures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unit {
    Bytes,
    Seconds,
    Count,
}

/// A night's place on the horizontal axis.
pub(super) struct Place {
    pub(super) label: String,
    pub(super) name: String,
}

/// A chart, ready to be drawn.
pub(super) struct Chart {
    pub(super) title: &'static str,
    pub(super) note: String,
    pub(super) legend: Vec<(&'static str, &'static str)>,
    pub(super) ticks: Vec<Tick>,
    pub(super) days: Vec<Day>,
    pub(super) bars: Vec<Bar>,
    pub(super) cuts: Vec<Cut>,
    /// A line and the area below it; empty where there are bars.
    pub(super) line: String,
    pub(super) area: String,
}

pub(super) struct Tick {
    pub(super) y: f64,
    pub(super) label: String,
}

pub(super) struct Day {
    pub(super) x: f64,
    pub(super) label: String,
    pub(super) anchor: &'static str,
}

pub(super) struct Bar {
    pub(super) x: f64,
    pub(super) y: f64,
    pub(super) width: f64,
    pub(super) height: f64,
    pub(super) class: &'static str,
    pub(super) title: String,
}

/// Where a bar is cut off.
pub(super) struct Cut {
    pub(super) x: f64,
    pub(super) y: f64,
    pub(super) width: f64,
    pub(super) label: String,
    pub(super) label_x: f64,
    pub(super) anchor: &'static str,
}

/// Values of one kind, a night each.
pub(super) struct Series {
    pub(super) class: &'static str,
    pub(super) word: &'static str,
    pub(super) values: Vec<Option<f64>>,
}

/// Whether bars of a night stand on each other, or before each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Bars {
    Stacked,
    Overlaid,
}

struct Axis {
    unit: Unit,
    top: f64,
    nights: usize,
}

impl Axis {
    fn y(&self, value: f64) -> f64 {
        pixel(BOTTOM - (value / self.top).min(1.0) * (BOTTOM - TOP))
    }

    fn step(&self) -> f64 {
        (RIGHT - LEFT) / few(self.nights.max(1))
    }

    fn x(&self, night: usize) -> f64 {
        LEFT + self.step() * few(night)
    }

    fn ticks(&self) -> Vec<Tick> {
        let step = nice_step(self.unit, self.top / 4.0);
        let mut ticks = Vec::new();
        let mut at = 0.0;
        while at <= self.top * 1.001 {
            ticks.push(Tick { y: self.y(at), label: shown(self.unit, at, self.top) });
            at += step;
        }
        ticks
    }

    fn days(&self, places: &[Place]) -> Vec<Day> {
        let last = places.len().saturating_sub(1);
        let mut marked = vec![(0, "start"), (last / 2, "middle"), (last, "end")];
        marked.dedup_by_key(|(at, _)| *at);
        let day = |(at, anchor): (usize, &'static str)| {
            let part = match anchor {
                "start" => 0.0,
                "middle" => 0.5,
                _ => 1.0,
            };
            let x = pixel(self.x(at) + self.step() * part);
            places.get(at).map(|place| Day { x, label: place.label.clone(), anchor })
        };
        marked.into_iter().filter_map(day).collect()
    }
}

/// Bars, a night each.
pub(super) fn bars(title: &'static str, unit: Unit, how: Bars, places: &[Place], series: &[Series]) -> Chart {
    let height = |night: usize| {
        let values = series.iter().filter_map(|one| one.values[night]);
        if how == Bars::Stacked { values.sum() } else { values.fold(0.0, f64::max) }
    };
    let heights: Vec<f64> = (0..places.len()).map(height).collect();
    let axis = Axis { unit, top: top(unit, &heights), nights: places.len() };
    let (width, mut bars, mut cuts) = (pixel(axis.step() * 0.74), Vec::new(), Vec::new());
    for (night, place) in places.iter().enumerate() {
        let (x, mut below) = (pixel(axis.x(night) + axis.step() * 0.13), 0.0);
        for one in series {
            let Some(value) = one.values[night].filter(|value| *value > 0.0) else { continue };
            let (from, to) = (axis.y(below), axis.y(below + value));
            // What is there can be seen.
            let height = pixel((from - to).max(1.5));
            let title = format!("{}: {} {}", place.name, full(unit, value), one.word);
            bars.push(Bar { x, y: pixel(from - height), width, height, class: one.class, title });
            if how == Bars::Stacked {
                below += value;
            }
        }
        if heights[night] > axis.top {
            let (anchor, label_x) = if night * 2 < places.len() { ("start", x) } else { ("end", pixel(x + width)) };
            cuts.push(Cut { x, y: TOP + 4.0, width, label: full(unit, heights[night]), label_x, anchor });
        }
    }
    let legend = series.iter().map(|one| (one.class, one.word)).collect();
    let (ticks, days) = (axis.ticks(), axis.days(places));
    Chart { title, note: String::new(), legend, ticks, days, bars, cuts, line: String::new(), area: String::new() }
}

/// A line over nights; where there is no value, it goes on from the one before.
pub(super) fn line(title: &'static str, unit: Unit, places: &[Place], values: &[Option<f64>]) -> Chart {
    let all: Vec<f64> = values.iter().flatten().copied().collect();
    let top = nice_top(unit, all.iter().copied().fold(0.0, f64::max));
    let axis = Axis { unit, top, nights: places.len() };
    let middle = |night: usize| pixel(axis.x(night) + axis.step() / 2.0);
    let points = values.iter().enumerate().filter_map(|(night, value)| Some((middle(night), axis.y((*value)?))));
    let points: Vec<_> = points.collect();
    let path = points.iter().map(|(x, y)| format!("{x},{y}")).collect::<Vec<_>>().join(" ");
    let area = match (points.first(), points.last()) {
        (Some((first, _)), Some((last, _))) => format!("{first},{BOTTOM} {path} {last},{BOTTOM}"),
        _ => String::new(),
    };
    let dots = values.iter().zip(places).enumerate().filter_map(|(night, (value, place))| {
        let (x, y) = (pixel(axis.x(night)), axis.y((*value)?));
        let title = format!("{}: {}", place.name, full(unit, (*value)?));
        Some(Bar { x, y, width: pixel(axis.step()), height: pixel(BOTTOM - y), class: "touch", title })
    });
    let (bars, ticks, days) = (dots.collect(), axis.ticks(), axis.days(places));
    Chart { title, note: String::new(), legend: Vec::new(), ticks, days, bars, cuts: Vec::new(), line: path, area }
}

/// A line without axes, 100 wide and 24 high.
pub(super) fn spark(values: &[f64]) -> String {
    let (low, high) =
        values.iter().fold((f64::MAX, f64::MIN), |(low, high), value| (low.min(*value), high.max(*value)));
    let (range, steps) = ((high - low).max(f64::MIN_POSITIVE), few(values.len().saturating_sub(1).max(1)));
    let point = |(at, value): (usize, &f64)| {
        format!("{},{}", pixel(2.0 + 96.0 * few(at) / steps), pixel(21.0 - 18.0 * (value - low) / range))
    };
    values.iter().enumerate().map(point).collect::<Vec<_>>().join(" ")
}

/// The end of an axis, and whether the highest bars go beyond it.
fn top(unit: Unit, heights: &[f64]) -> f64 {
    let mut sorted: Vec<f64> = heights.iter().copied().filter(|height| *height > 0.0).collect();
    sorted.sort_by(f64::total_cmp);
    let (Some(highest), Some(usual)) = (sorted.last(), sorted.get(sorted.len() * 9 / 10)) else {
        return nice_top(unit, 0.0);
    };
    let below = sorted.get((sorted.len() * 9 / 10).saturating_sub(1)).copied().unwrap_or(*usual);
    let usual = if *usual > OUTLIER * below { below } else { *usual };
    if unit != Unit::Count && *highest > OUTLIER * usual {
        nice_top(unit, usual * 1.3)
    } else {
        nice_top(unit, *highest)
    }
}

fn nice_top(unit: Unit, highest: f64) -> f64 {
    let highest = if highest > 0.0 { highest } else { 1.0 };
    let step = nice_step(unit, highest / 4.0);
    (highest / step).ceil() * step
}

/// A step that people count by, at least so long.
fn nice_step(unit: Unit, least: f64) -> f64 {
    let by_ten = |least: f64| {
        let power = 10_f64.powf(least.log10().floor());
        [1.0, 2.0, 5.0, 10.0].map(|step| step * power).into_iter().find(|step| *step >= least * 0.999).unwrap_or(least)
    };
    match unit {
        Unit::Count => by_ten(least).max(1.0),
        Unit::Bytes => {
            let (_, of_unit) = size_unit(least);
            let step = by_ten(least / of_unit);
            // Beyond 500 of a unit comes 1 of the next, which has 1024.
            if step >= 1000.0 { 1024.0 * of_unit } else { step * of_unit }
        }
        Unit::Seconds => {
            let steps =
                [1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0, 600.0, 900.0, 1800.0, 3600.0, 7200.0, 14_400.0];
            steps
                .into_iter()
                .find(|step| *step >= least * 0.999)
                .unwrap_or_else(|| (least / 21_600.0).ceil() * 21_600.0)
        }
    }
}

/// On an axis that ends at `top`: all in the unit of its end.
fn shown(unit: Unit, value: f64, top: f64) -> String {
    match unit {
        Unit::Count => format!("{value:.0}"),
        _ if value == 0.0 => "0".to_owned(),
        Unit::Bytes => {
            let (name, of_unit) = size_unit(top);
            super::figure::with_unit(value / of_unit, name)
        }
        Unit::Seconds => duration(value),
    }
}

fn full(unit: Unit, value: f64) -> String {
    match unit {
        Unit::Count => format!("{value:.0}"),
        Unit::Bytes => size(value),
        Unit::Seconds => duration(value),
    }
}

fn pixel(number: f64) -> f64 {
    (number * 10.0).round() / 10.0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places(count: usize) -> Vec<Place> {
        (0..count).map(|at| Place { label: format!("day {at}"), name: at.to_string() }).collect()
    }

    #[test]
    fn axes_end_at_round_numbers() {
        let gib = 30_f64.exp2();
        let labels = |unit, highest: f64| {
            let axis = Axis { unit, top: nice_top(unit, highest), nights: 1 };
            axis.ticks().into_iter().map(|tick| tick.label.replace('\u{a0}', " ")).collect::<Vec<_>>()
        };
        assert_eq!(labels(Unit::Bytes, 37.0 * gib), ["0", "10 GiB", "20 GiB", "30 GiB", "40 GiB"]);
        assert_eq!(labels(Unit::Bytes, 0.9 * gib), ["0", "500 MiB", "1000 MiB"]);
        assert_eq!(labels(Unit::Seconds, 5000.0), ["0", "30 min", "60 min", "90 min"]);
        assert_eq!(labels(Unit::Count, 3.0), ["0", "1", "2", "3"]);
        assert_eq!(labels(Unit::Count, 0.0), ["0", "1"]);
    }

    #[test]
    fn everything_lies_within_the_drawing() {
        for count in [0, 1, 2, 30, 365] {
            let places = places(count);
            let values: Vec<_> = (0..count).map(|at| (at % 7 != 3).then_some(few(at) * 1e9 + 1.0)).collect();
            let series = [Series { class: "a", word: "read", values: values.clone() }];
            for chart in
                [bars("x", Unit::Bytes, Bars::Stacked, &places, &series), line("x", Unit::Bytes, &places, &values)]
            {
                for bar in &chart.bars {
                    assert!(bar.x >= LEFT - 0.1 && bar.x + bar.width <= RIGHT + 0.6, "{count}: {}", bar.x);
                    assert!(bar.y >= TOP - 0.1 && bar.y + bar.height <= BOTTOM + 0.1, "{count}: {}", bar.y);
                }
                assert!(chart.ticks.len() <= 12 && chart.days.len() <= 3);
            }
        }
    }

    #[test]
    fn one_bar_that_is_much_higher_leaves_the_others_legible() {
        let mut values = vec![Some(1.0e9); 30];
        values[0] = Some(4.0e10);
        let series = [Series { class: "a", word: "read", values }];
        let chart = bars("x", Unit::Bytes, Bars::Overlaid, &places(30), &series);
        assert_eq!(chart.cuts.len(), 1);
        assert_eq!(chart.cuts[0].label.replace('\u{a0}', " "), "37 GiB");
        assert!(chart.bars[1].height > 40.0, "{}", chart.bars[1].height);
    }
}

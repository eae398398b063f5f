//! Tables for people: columns as wide as what stands in them.

use smolfreeze::text;

/// The rows, one a line; the last column is as long as it is.
pub fn table<const N: usize>(rows: &[[String; N]]) -> String {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<_> = (0..N.saturating_sub(1)).map(width).collect();
    let line = |row: &[String; N]| {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}  "));
        let line = cells.collect::<String>() + row.last().map_or("", String::as_str);
        line.trim_end().to_owned()
    };
    text::lines(rows.iter().map(line))
}

/// So many seconds, in the largest unit of which there are two.
pub fn age(seconds: i64) -> String {
    let units = [(86_400 * 7, "w"), (86_400, "d"), (3_600, "h"), (60, "m")];
    let unit = units.into_iter().find(|(length, _)| seconds >= 2 * length);
    unit.map_or_else(|| format!("{}s", seconds.max(0)), |(length, name)| format!("{}{name}", seconds / length))
}

/// A number of bytes.
pub fn size(bytes: u64) -> String {
    humansize::format_size(bytes, humansize::BINARY)
}

//! What the walk in a guest is told of a night: what differs from its own list, which it has kept.
//!
//! A byte says whether everything is read (0); else (1) there are records, in the order of the walk, of paths at which not
//! all is as it was: of an entry, whether its bytes are in a layer that stays, and whether it goes into a fresh one; of what
//! is gone, what layers that stay have there. Which layers go is worked in, so no more is to be known of them.

use std::fs::File;
use std::io::{self, BufReader, Read, Write};
use std::sync::Arc;

use super::list::List;
use super::picker::{Choice, Picker};
use super::record::{Body, Fate, Home, Reader, Record, Stat, Writer, walk_order};
use super::records::Records;

const ALL: u8 = 0;
/// That everything is read.
pub const EVERYTHING: [u8; 1] = [ALL];
const PICKED: u8 = 1;

/// Writes what of a listing the guest has to know.
pub(super) fn write(mut list: Reader<File>, choice: &Choice, mut out: impl Write) -> io::Result<()> {
    out.write_all(&[if choice.all { ALL } else { PICKED }])?;
    if choice.all {
        return out.flush();
    }
    let mut writer = Writer::new(out)?;
    while let Some(first) = list.take()? {
        let mut bodies = vec![first.body];
        while list.peek().is_some_and(|(path, _)| path == first.path) {
            bodies.extend(list.take()?.map(|record| record.body));
        }
        for body in told(&bodies, choice) {
            writer.write(&first.path, &body)?;
        }
    }
    writer.finish()?.flush()
}

/// What is told of a path; nothing, where it is as it was.
fn told(bodies: &[Body], choice: &Choice) -> Vec<Body> {
    let kept = |home: &Home| choice.keeps(home.layer);
    let mut told = Vec::new();
    let (mut is_plain, mut shows) = (false, false);
    for body in bodies {
        match body {
            Body::Live { stat, home, fate } => {
                let is_fresh = choice.is_fresh(stat, home.as_ref(), *fate);
                let home = home.filter(kept).map(|home| Home { layer: home.layer, ..Home::default() });
                (is_plain, shows) = (!is_fresh, home.is_some());
                let fate = if is_fresh { Fate::Changed } else { Fate::Kept };
                told.push(Body::Live { stat: Stat::default(), home, fate });
            }
            Body::Dead { layer, hidden, mark, folder } if choice.keeps(*layer) => {
                let hidden = *hidden && choice.stays_hidden();
                // Where the entry itself has to be deleted if it goes, what is below it goes with it.
                if *mark || !(hidden || shows) {
                    told.push(Body::Dead { layer: *layer, hidden, mark: *mark, folder: *folder });
                }
            }
            Body::Dead { .. } => {}
        }
    }
    if is_plain && told.len() == 1 { Vec::new() } else { told }
}

/// What follows the walk in a guest whose list is `list`, told by `picks`.
///
/// # Errors
/// When either can't be read.
pub fn picker(list: &List, mut picks: impl Read + Send + 'static) -> io::Result<Picker> {
    let mut kind = [0];
    picks.read_exact(&mut kind)?;
    match kind[0] {
        ALL => {
            let choice = Choice { all: true, ..Choice::default() };
            return Ok(Picker::new(Box::new(list.records()?), Arc::new(choice)));
        }
        PICKED => {}
        _ => return Err(super::framed::damaged()),
    }
    let merged = Merged { list: list.records()?, picks: Reader::new(BufReader::new(picks))? };
    Ok(Picker::new(Box::new(merged), Arc::new(Choice::default())))
}

/// A list, and what differs from it.
struct Merged<P: Read> {
    list: Reader<BufReader<File>>,
    picks: Reader<P>,
}

/// Who has the record at hand.
enum At {
    List,
    Picks,
    /// The picks, of an entry of the list.
    Both,
}

impl<P: Read + Send> Merged<P> {
    fn at(&self) -> At {
        match (self.list.peek(), self.picks.peek()) {
            (Some((listed, _)), Some((picked, body))) => match walk_order(listed, picked) {
                std::cmp::Ordering::Less => At::List,
                std::cmp::Ordering::Equal if matches!(body, Body::Live { .. }) => At::Both,
                std::cmp::Ordering::Equal | std::cmp::Ordering::Greater => At::Picks,
            },
            (Some(_), None) => At::List,
            (None, _) => At::Picks,
        }
    }
}

impl<P: Read + Send> Records for Merged<P> {
    /// Of what both have, as the list has it: to be looked at for its path.
    fn peek(&self) -> Option<(&[u8], &Body)> {
        match self.at() {
            At::List | At::Both => self.list.peek(),
            At::Picks => self.picks.peek(),
        }
    }

    fn take(&mut self) -> io::Result<Option<Record>> {
        match self.at() {
            At::List => self.list.take(),
            At::Picks => self.picks.take(),
            At::Both => Ok(match (self.list.take()?, self.picks.take()?) {
                (Some(Record { body: Body::Live { stat, .. }, .. }), Some(picked)) => {
                    let body = match picked.body {
                        Body::Live { home, fate, .. } => Body::Live { stat, home, fate },
                        dead @ Body::Dead { .. } => dead,
                    };
                    Some(Record { body, ..picked })
                }
                (_, picked) => picked,
            }),
        }
    }
}

//! The relay: chunks out of the guest, checked, in order, each tried again until it is right.
//!
//! One loop holds all of it: at most one `next` under way, two chunks on the host, complete or under way, and
//! everything that fails tried again with growing, jittered pauses until the options' patience ends. Nothing here blocks:
//! while the other end of the edge is slow, the loop keeps telling the guest that its host lives.

use std::collections::{BTreeSet, VecDeque};
use std::fs::File;
use std::io::Seek as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use futures_util::future::{FutureExt as _, LocalBoxFuture};
use futures_util::stream::FuturesUnordered;
use tokio::sync::mpsc::{Sender, channel};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use super::answer::{self, Item, Next, PIECE_BYTES, State, Sum};
use super::deliver::{Announced, Arrived, Chunk, Unproven, Word};
use super::folder::Folder;
use super::link::{As, Link};
use super::trying::Trying;
use super::{Options, checksum, verdict};
use crate::error::{Error, Result};
use crate::oci::Compression;
use crate::progress::NoticeKind;
use crate::smolvm::Trouble;

/// Chunks on the host at once, under way or waiting for their turn. `Options::host_bytes_max` tells users.
pub(super) const HOST_CHUNKS_MAX: usize = 2;
/// Archives of one transfer, and one more: single entries, linked ones, linked ones of `/workspace`. The edge has room for so many seams, so
/// a guest that announced more could have relay and delivery wait for each other.
pub(super) const SEAMS_MAX: usize = 4;
/// Seconds that a `next` may wait in the guest.
const NEXT_WAIT_SECONDS: u64 = 20;
/// How long the producer's beat may stand still while the guest answers.
const BEAT_PATIENCE: Duration = Duration::from_secs(30);
/// How long nothing may come from a producer that lives, has room and tells of no work: what a whole walk may take, which some
/// make first.
const SILENCE_MAX: Duration = super::probe::SURVEY_LIMIT;

/// One transfer.
pub(super) struct Relay<'a, L> {
    pub(super) link: &'a L,
    pub(super) spool: &'a str,
    pub(super) folder: &'a Folder,
    pub(super) options: &'a Options,
    pub(super) trying: Trying<'a, L>,
    pub(super) signs: AtomicU64,
    /// The guest waits for the host: it has nothing to give.
    pub(super) keeps_waiting: &'a AtomicBool,
    /// Bytes that crossed the link.
    pub(super) carried_bytes: &'a AtomicU64,
}

/// What the loop waits for.
enum Event {
    /// What a `next` told, and up to where it acknowledged.
    Told(Next, u64),
    Fetched(u64, Chunk),
    /// A chunk that had been wrong was taken again, and is right.
    FetchedAgain(u64, File, oneshot::Sender<File>),
}

/// An item of the spool on its way through the host.
enum Place {
    InGuest(u64, Sum),
    UnderWay,
    Here(Arrived),
}

/// Where the transfer stands. Indexes count the spool's items.
struct Standing {
    /// From the first item that was not handed on.
    places: VecDeque<Place>,
    /// Index of `places`' first.
    handed_on: u64,
    /// Items up to here are on the host and right, or were.
    had: u64,
    /// Chunks on the host that are still to be checked.
    unproven: BTreeSet<u64>,
    /// Items up to here were acknowledged, and the guest said so.
    acknowledged: u64,
    /// Archives that ended.
    seams: usize,
    asking: bool,
    asked_at: Instant,
    began: Instant,
    beat: (u64, Instant),
    work: u64,
    /// When the guest last told of something, went on with its work, or had no room for it.
    moved_at: Instant,
    end: Option<Next>,
}

impl<L: Link> Relay<'_, L> {
    /// Carries everything over; gives the notices of the guest's verdict.
    ///
    /// # Errors
    /// When patience ends, the machine stops, the guest's verdict is bad, or the other end of the edge is gone.
    pub(super) async fn run(&self, arrived: &Sender<Arrived>) -> Result<Vec<(NoticeKind, Vec<u8>)>> {
        let slots = Arc::new(Semaphore::new(HOST_CHUNKS_MAX));
        // Of each chunk on the host, one.
        let (words_end, mut words) = channel(HOST_CHUNKS_MAX);
        let mut standing = Standing::new();
        let mut notices = Vec::new();
        let mut events: FuturesUnordered<LocalBoxFuture<'_, Result<Event>>> = FuturesUnordered::new();
        loop {
            while let Some(next) = standing.hand_on() {
                arrived.send(next).await.map_err(|_| Error::hung_up("the cut"))?;
            }
            if let Some(end) = standing.complete() {
                let own = end.codes.iter().any(|(program, _)| program == verdict::READER);
                if let Some(meters) = self.trying.watchers.meters() {
                    meters.own_reader.store(own, Ordering::Relaxed);
                }
                arrived.send(Arrived::End).await.map_err(|_| Error::hung_up("the cut"))?;
                return Ok(notices);
            }
            if !standing.asking && standing.should_ask(self.options) {
                standing.asking = true;
                standing.asked_at = Instant::now();
                events.push(
                    self.ask(standing.acknowledged, standing.had, standing.known(), standing.wait(self.options))
                        .boxed_local(),
                );
            }
            let wanted = standing.wanted();
            tokio::select! {
                slot = Arc::clone(&slots).acquire_owned(), if wanted.is_some() => {
                    if let (Some(index), Ok(slot)) = (wanted, slot) && let Some(announced) = standing.start(index) {
                        events.push(self.fetch(announced, slot, &words_end).boxed_local());
                    }
                }
                Some(event) = events.next(), if !events.is_empty() => match event? {
                    Event::Told(next, acknowledged) => {
                        // A producer that failed may have lost count; its own words come first.
                        if matches!(next.state, State::End(_)) {
                            notices = verdict::judge(&next.codes, &next.words)
                                .map_err(|words| verdict::error(self.trying.subject(), self.spool, &words))?;
                        }
                        if self.keeps_waiting.load(Ordering::Relaxed) {
                            standing.moved_at = Instant::now();
                        }
                        standing.told(next, acknowledged, self.options).map_err(|reason| self.lost(&reason))?;
                    }
                    Event::Fetched(index, chunk) => standing.arrived(index, chunk),
                    Event::FetchedAgain(index, file, reply) => {
                        standing.proven(index);
                        // Nobody waits for it if the other end is gone, which is noticed elsewhere.
                        let _ = reply.send(file);
                    }
                },
                Some(word) = words.recv() => match word {
                    Word::Proven(index) => standing.proven(index),
                    Word::Again(announced, reply) => {
                        self.trying.wrong(&format!("taking chunk {}", announced.index), checksum::WRONG);
                        events.push(self.fetch_again(announced, reply).boxed_local());
                    }
                },
                () = tokio::time::sleep(self.options.lease / 4), if !standing.asking => {}
                () = arrived.closed() => return Err(Error::hung_up("the cut")),
            }
        }
    }

    /// Does `work` while the producer waits for a first `next` that waits, and tells the guest that its host lives.
    pub(super) async fn meanwhile(&self, work: impl Future<Output = Result<()>>) -> Result<()> {
        let signs = async {
            loop {
                tokio::time::sleep(self.options.lease / 4).await;
                if let Err(error) = self.ask(0, 0, 0, 0).await {
                    return error;
                }
            }
        };
        tokio::select! {
            done = work => done,
            error = signs => Err(error),
        }
    }

    /// One `next`: acknowledges, waits in the guest for something new, tells where things stand.
    async fn ask(&self, acknowledged: u64, had: u64, from: u64, wait: u64) -> Result<Event> {
        let numbers = [acknowledged, had, from, wait].map(|number| number.to_string());
        let next = self
            .trying
            .until_it_works("asking for chunks", async || {
                let sign = self.signs.fetch_add(1, Ordering::Relaxed).to_string();
                let script = format!("{}/guest.sh", self.spool);
                let [acknowledged, had, from, wait_text] = &numbers;
                let command = ["sh", &script, "next", self.spool, acknowledged, had, from, wait_text, &sign];
                let limit = self.options.call_limit + Duration::from_secs(wait);
                let answer = self.link.run(As::Root, &command, limit).await?;
                if answer.code == Some(2) && answer.stdout.is_empty() || answer.code == Some(127) {
                    // The script itself is gone, and the spool with it.
                    let gone = State::Gone(String::new());
                    return Ok(Next { items: vec![], state: gone, beat: 0, work: 0, codes: vec![], words: vec![] });
                }
                let lines = answer::lines(&answer.stdout, &sign);
                match lines.and_then(|lines| Next::read(&lines, from.parse().unwrap_or(0), self.options.chunk_bytes()))
                {
                    Ok(next) => Ok(next),
                    Err(_) if answer.code != Some(0) => Err(answer.trouble()),
                    Err(reason) => Err(Trouble::Damaged(reason)),
                }
            })
            .await?;
        Ok(Event::Told(next, had))
    }

    /// One chunk. Where nothing stands between it and the buffers that it goes into, its pieces are checked there, which
    /// saves reading it twice.
    async fn fetch(&self, announced: Announced, slot: OwnedSemaphorePermit, words: &Sender<Word>) -> Result<Event> {
        let is_plain = self.options.guest_compression == Compression::None;
        // Whole pieces fill whole buffers, whose memory is counted whole; of odd ones only a part would be used.
        let chunk_bytes = self.options.chunk_bytes();
        let is_even = chunk_bytes.is_multiple_of(PIECE_BYTES) || PIECE_BYTES.is_multiple_of(chunk_bytes);
        let later = is_plain && is_even && matches!(announced.sum, Sum::Pieces(_));
        let file = self.take(&announced, !later).await?;
        let index = announced.index;
        let unproven = later.then(|| Unproven { announced, words: words.clone() });
        Ok(Event::Fetched(index, Chunk { file, unproven, _slot: slot }))
    }

    /// A chunk that was wrong, until it is right.
    async fn fetch_again(&self, announced: Announced, reply: oneshot::Sender<File>) -> Result<Event> {
        Ok(Event::FetchedAgain(announced.index, self.take(&announced, true).await?, reply))
    }

    /// A chunk's file, until it has the right size and, if `checked`, the right checksum.
    async fn take(&self, announced: &Announced, checked: bool) -> Result<File> {
        let Announced { index, size, sum } = announced;
        let (index, size) = (*index, *size);
        let from = format!("{}/c.{}", self.spool, index % self.options.window_chunks);
        // A slow link still gets 256 KiB a second.
        let limit = self.options.call_limit + Duration::from_secs(size >> 18);
        self.trying
            .until_it_works(&format!("taking chunk {index}"), async || {
                let tried = self.signs.fetch_add(1, Ordering::Relaxed);
                // A new name each time: a call that was killed may still hold the old one.
                let to = self.folder.path(&format!("{index}.{tried}"));
                let taken = self.link.take(&from, &to, size + 1, limit).await;
                let file = File::open(&to);
                // Without a name: nothing stays behind, whatever happens.
                let _ = std::fs::remove_file(&to);
                taken?;
                let local = |error: std::io::Error| Trouble::Damaged(format!("{}: {error}", to.display()));
                let mut file = file.map_err(local)?;
                let complaint = if checked {
                    checksum::complaint(&file, size, sum)
                } else {
                    file.metadata().map(|metadata| checksum::size_complaint(metadata.len(), size))
                };
                if let Some(complaint) = complaint.map_err(local)? {
                    return Err(Trouble::Damaged(complaint));
                }
                self.carried_bytes.fetch_add(size, Ordering::Relaxed);
                file.rewind().map_err(local)?;
                Ok(file)
            })
            .await
    }

    fn lost(&self, reason: &str) -> Error {
        Error::source("asking for chunks", self.trying.subject(), reason)
    }
}

impl Standing {
    fn new() -> Self {
        let now = Instant::now();
        Self {
            places: VecDeque::new(),
            handed_on: 0,
            had: 0,
            unproven: BTreeSet::new(),
            acknowledged: 0,
            seams: 0,
            asking: false,
            asked_at: now,
            began: now,
            beat: (0, now),
            work: 0,
            moved_at: now,
            end: None,
        }
    }

    /// The first index that nothing is known of.
    fn known(&self) -> u64 {
        self.handed_on + self.places.len() as u64
    }

    /// The next item in order, if it is here.
    fn hand_on(&mut self) -> Option<Arrived> {
        if !matches!(self.places.front(), Some(Place::Here(_))) {
            return None;
        }
        self.handed_on += 1;
        match self.places.pop_front() {
            Some(Place::Here(arrived)) => Some(arrived),
            _ => None,
        }
    }

    /// The end, once everything before it was handed on, and is right.
    fn complete(&mut self) -> Option<Next> {
        let State::End(count) = self.end.as_ref()?.state else { return None };
        if self.handed_on >= count && self.unproven.is_empty() { self.end.take() } else { None }
    }

    /// Something may be new, something is to be acknowledged, or the guest must hear that we live. Each call costs about
    /// what a fifth of a chunk does: while there is another chunk to go on with, two are acknowledged at once.
    fn should_ask(&self, options: &Options) -> bool {
        let due = self.asked_at.elapsed() >= options.lease / 4;
        let (freed, stock) = (self.had - self.acknowledged, self.known() - self.had);
        let worth_it = freed >= options.window_chunks.min(2) || stock <= 1;
        due || self.end.is_none() && worth_it && (freed > 0 || self.may_grow(options))
    }

    /// Whether the guest may make another chunk without an acknowledgement.
    fn may_grow(&self, options: &Options) -> bool {
        self.known() - self.had < options.window_chunks
    }

    /// Seconds to wait in the guest: only while the guest can go on by itself.
    fn wait(&self, options: &Options) -> u64 {
        let lease_part = (options.lease / 4).as_secs().max(1);
        if self.end.is_none() && self.may_grow(options) { NEXT_WAIT_SECONDS.min(lease_part) } else { 0 }
    }

    /// The first chunk that is still in the guest.
    fn wanted(&self) -> Option<u64> {
        let place = self.places.iter().position(|place| matches!(place, Place::InGuest(..)))?;
        Some(self.handed_on + place as u64)
    }

    fn start(&mut self, index: u64) -> Option<Announced> {
        let place = self.places.get_mut(usize::try_from(index - self.handed_on).ok()?)?;
        match std::mem::replace(place, Place::UnderWay) {
            Place::InGuest(size, sum) => Some(Announced { index, size, sum }),
            _ => None,
        }
    }

    fn proven(&mut self, index: u64) {
        self.unproven.remove(&index);
        self.count_had();
    }

    fn arrived(&mut self, index: u64, chunk: Chunk) {
        if chunk.unproven.is_some() {
            self.unproven.insert(index);
        }
        let place = usize::try_from(index - self.handed_on).ok().and_then(|at| self.places.get_mut(at));
        if let Some(place) = place {
            *place = Place::Here(Arrived::Chunk(chunk));
        }
        self.count_had();
    }

    fn count_had(&mut self) {
        let here = self.places.iter().take_while(|place| matches!(place, Place::Here(_))).count();
        let here = self.handed_on + here as u64;
        self.had = self.unproven.first().map_or(here, |first| here.min(*first));
    }

    /// Takes in what a `next` told; says what is wrong if this can't go on.
    fn told(&mut self, next: Next, acknowledged: u64, options: &Options) -> Result<(), String> {
        self.asking = false;
        self.acknowledged = acknowledged;
        if next.beat != self.beat.0 {
            self.beat = (next.beat, Instant::now());
        }
        match &next.state {
            State::Gone(owner) if owner.is_empty() => {
                return Err(
                    "the spool in the guest is gone; was the machine restarted, or its /var/tmp emptied or full?"
                        .to_owned(),
                );
            }
            State::Gone(owner) | State::Busy(owner) => {
                return Err(format!("another freeze ({owner}) is at work on this machine"));
            }
            State::Starting if self.began.elapsed() > BEAT_PATIENCE => {
                return Err("the producer in the guest did not start".to_owned());
            }
            State::Running if self.beat.1.elapsed() > BEAT_PATIENCE => {
                return Err("the producer in the guest died; was the machine restarted?".to_owned());
            }
            _ => {}
        }
        self.within_patience(&next, options, Instant::now())?;
        self.within_bounds(&next, options.window_chunks)?;
        for item in &next.items {
            self.places.push_back(match item {
                Item::Chunk { size, sum } => Place::InGuest(*size, sum.clone()),
                Item::Seam => Place::Here(Arrived::Seam),
            });
        }
        self.count_had();
        if let State::End(count) = next.state {
            if count != self.known() {
                return Err(format!("the guest has {count} chunks and told of {}", self.known()));
            }
            if self.seams == 0 {
                return Err("the guest ended, and no archive of it did".to_owned());
            }
            self.end = Some(next);
        }
        Ok(())
    }

    /// Refuses to wait on for a guest that has room for more, and gives nothing.
    fn within_patience(&mut self, next: &Next, options: &Options, now: Instant) -> Result<(), String> {
        if !next.items.is_empty() || next.work != self.work || !self.may_grow(options) {
            (self.moved_at, self.work) = (now, next.work);
        }
        if next.state == State::Running && now.duration_since(self.moved_at) > SILENCE_MAX {
            let minutes = SILENCE_MAX.as_secs() / 60;
            return Err(format!("the producer in the guest lives, and has given nothing for {minutes} minutes"));
        }
        Ok(())
    }

    /// Refuses what neither `guest.sh` nor our reader would announce: the guest is untrusted, and what it announces is
    /// held here.
    fn within_bounds(&mut self, next: &Next, window_chunks: u64) -> Result<(), String> {
        self.seams += next.items.iter().filter(|item| matches!(item, Item::Seam)).count();
        if self.seams > SEAMS_MAX {
            return Err(format!("the guest tells of {} archives, and there are {SEAMS_MAX} at most", self.seams));
        }
        let ahead = self.known() + next.items.len() as u64 - self.acknowledged;
        if ahead > window_chunks {
            return Err(format!("the guest is {ahead} chunks ahead, and the window has {window_chunks}"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;

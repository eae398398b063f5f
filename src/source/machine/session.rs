//! One transfer from beginning to end: the user's commands around it, the spool, the relay, and the clean-up on every way
//! out.

use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{mpsc::Sender, oneshot};

use super::answer;
use super::capture::Capture;
use super::deliver::Arrived;
use super::folder::Folder;
use super::link::{As, Link as _, Smolvm};
use super::offer::Offer;
use super::order::{ListOrder, Order};
use super::probe;
use super::relay::Relay;
use super::trying::{Trying, Watchers};
use super::{GUEST_SCRIPT, Machine, guest, sealed};
use crate::error::{Error, Result};
use crate::oci::Compression;
use crate::progress::{Meters, NoticeKind, processor};
use crate::smolvm::Trouble;
use crate::stop::Stop;

/// What clean-up may take once the freeze was stopped: a user who pressed Ctrl-C is waiting.
const CLEANUP_STOPPED: Duration = Duration::from_millis(3300);
/// What it may take otherwise.
const CLEANUP: Duration = Duration::from_secs(60);
/// What a step that is under way when the freeze is stopped may still take, before the clean-up.
const STEP_STOPPED: Duration = Duration::from_secs(1);
/// How often a machine that another freeze has is asked again.
const BUSY_PAUSE: Duration = Duration::from_secs(2);

/// The name in a spool of what may become our own reader there.
const READER_NAME: &str = "reader.new";
/// What trying one may take; the guest itself gives up before that.
const TRIAL_LIMIT: Duration = Duration::from_secs(30);

pub(super) type Found = Vec<(NoticeKind, Vec<u8>)>;

/// What one transfer needs.
pub(super) struct Session {
    pub(super) machine: Machine,
    pub(super) capture: Capture,
    list: Option<ListOrder>,
    folder: Folder,
    spool: String,
    /// Who hears of retries.
    pub(super) watchers: Watchers,
    /// See [`Relay::keeps_waiting`].
    pub(super) keeps_waiting: AtomicBool,
    /// Nothing is to be read any more.
    pub(super) is_released: AtomicBool,
    /// Bytes that crossed the link.
    carried_bytes: AtomicU64,
    /// Why others did not become our reader.
    passed_over: Mutex<Vec<String>>,
}

impl Session {
    pub(super) fn new(machine: Machine, capture: Capture, list: Option<ListOrder>) -> Result<Self> {
        let folder = Folder::new()?;
        let spools = machine.look.spool_folder.as_deref().unwrap_or("/var/tmp");
        let spool = format!("{spools}/.smolfreeze-{}", folder.id());
        Ok(Self {
            machine,
            capture,
            list,
            folder,
            spool,
            watchers: Watchers::default(),
            keeps_waiting: AtomicBool::new(false),
            is_released: AtomicBool::new(false),
            carried_bytes: AtomicU64::new(0),
            passed_over: Mutex::default(),
        })
    }

    /// It has ended: what there is to tell of it.
    pub(super) fn told_to(&self, meters: &Meters) {
        meters.link_bytes.store(self.carried_bytes.load(Ordering::Relaxed), Ordering::Relaxed);
        let mut passed_over = self.passed_over.lock().unwrap_or_else(PoisonError::into_inner);
        passed_over.drain(..).for_each(|why| meters.passed_over_reader(why));
    }

    /// Does all of the session's work, on its own thread.
    pub(super) fn on_thread<T>(&self, work: impl FnOnce() -> T) -> T {
        let began = processor::thread_time();
        let result = work();
        if let Some(meters) = self.watchers.meters() {
            meters.source.used_by_thread(processor::thread_time().saturating_sub(began));
        }
        result
    }

    fn trying(&self) -> Trying<'_, Smolvm> {
        let (link, machine, options) = (&self.machine.link, &self.machine.facts().name, &self.machine.options);
        Trying { watchers: self.watchers.clone(), ..Trying::quietly(link, machine, options) }
    }

    /// Puts what `write` makes into the spool, as `name`, for our reader there.
    pub(super) async fn put_sealed(&self, name: &str, write: impl FnOnce(&File) -> std::io::Result<()>) -> Result<()> {
        let local = self.folder.path(name);
        let written = File::options().create(true).truncate(true).read(true).write(true).open(&local);
        let written = written.and_then(|file| {
            write(&file)?;
            sealed::seal(&file)
        });
        written.map_err(|error| Error::source("writing what is wanted", local.display(), &error).because(error))?;
        let (there, limit) = (format!("{}/{name}", self.spool), self.machine.options.call_limit);
        let put =
            self.trying().until_it_works("asking the reader", async || self.put(&local, &there, limit).await).await;
        let _ = std::fs::remove_file(&local);
        put
    }

    async fn put(&self, from: &Path, to: &str, limit: Duration) -> Result<(), Trouble> {
        self.machine.link.put(from, to, limit).await?;
        let bytes = std::fs::metadata(from).map_or(0, |metadata| metadata.len());
        self.carried_bytes.fetch_add(bytes, Ordering::Relaxed);
        Ok(())
    }

    /// Everything that runs on the runtime. Dropping `sender` tells the delivering thread that there will be no more;
    /// `carried` hears when all is here, before the machine is left.
    pub(super) async fn run(
        &self,
        sender: Sender<Arrived>,
        carried: oneshot::Sender<Found>,
        stop: &Stop,
    ) -> Result<()> {
        let options = &self.machine.options;
        // The user's commands run around what has the machine: with another freeze in it, they would disturb that one.
        let taken = self.to_its_end(stop, self.prepare(stop)).await;
        let post_exec = options.post_exec.as_deref().filter(|_| taken.is_ok());
        let result = match taken {
            Ok(()) => self.with_the_machine(&sender, stop).await,
            Err(error) => Err(error),
        };
        drop(sender);
        // Whoever does not listen any more has been told of something worse.
        let result = result.map(|found| drop(carried.send(found)));
        // The command has its own limit, and may have to be begun again.
        let exec = options.exec_limit + CLEANUP + options.patience;
        let (cleaned, after) = tokio::join!(
            in_time(CLEANUP, stop, self.clean_up()),
            in_time(exec, stop, self.user_command("post-exec", post_exec)),
        );
        let late = |doing, limit| Err(Error::source(doing, self.machine.subject(), Trouble::TimedOut(limit)));
        let steps = [
            cleaned.unwrap_or_else(|limit| late("cleaning up", limit)),
            after.unwrap_or_else(|limit| late("post-exec", limit)),
        ];
        steps.into_iter().filter_map(Result::err).fold(result, |result, error| match result {
            // All of it was carried over before: the image is whole, and the user hears of what was not done after it.
            Ok(()) => {
                if let Some(meters) = self.watchers.meters() {
                    meters.left_undone(error.to_string());
                }
                Ok(())
            }
            Err(cause) => Err(cause.attach(error)),
        })
    }

    /// From a producer that starts to one that ends.
    async fn with_the_machine(&self, sender: &Sender<Arrived>, stop: &Stop) -> Result<Found> {
        let relay = Relay {
            link: &self.machine.link,
            spool: &self.spool,
            folder: &self.folder,
            options: &self.machine.options,
            trying: self.trying(),
            signs: AtomicU64::new(0),
            keeps_waiting: &self.keeps_waiting,
            carried_bytes: &self.carried_bytes,
        };
        let programs = async {
            let (script, reader) = tokio::join!(self.put_script(), self.put_reader());
            script.and(reader)
        };
        self.to_its_end(stop, programs).await?;
        self.to_its_end(stop, self.produce()).await?;
        let work = async {
            let pre_exec = self.user_command("pre-exec", self.machine.options.pre_exec.as_deref());
            relay.meanwhile(pre_exec).await?;
            relay.run(sender).await
        };
        tokio::select! {
            result = work => match result {
                Err(_) if self.is_released.load(Ordering::Relaxed) => Ok(Vec::new()),
                result => result,
            },
            () = stop.stopped() => Err(Error::hung_up("the freeze")),
        }
    }

    /// One step that makes something in the guest. A call that is cut off could still be at it there when we have
    /// already cleaned up; so once stopped, a step gets the time that it needs, within reason.
    async fn to_its_end<T>(&self, stop: &Stop, work: impl Future<Output = Result<T>>) -> Result<T> {
        stop.check()?;
        let mut running = std::pin::pin!(work);
        tokio::select! {
            done = &mut running => return done,
            () = stop.stopped() => {}
        }
        let _ = tokio::time::timeout(STEP_STOPPED, running).await;
        Err(Error::hung_up("the freeze"))
    }

    /// Takes the machine and makes the spool; waits, if asked to, while another freeze has it.
    async fn prepare(&self, stop: &Stop) -> Result<()> {
        let (options, began) = (&self.machine.options, Instant::now());
        let needed_kib = (options.guest_bytes_max() >> 10).to_string();
        let lease = options.lease.as_secs().to_string();
        let failed = |reason: String| Error::source("preparing", self.machine.subject(), reason);
        let mut dead = String::new();
        loop {
            let verb = ["prepare", &self.spool, &needed_kib, &lease, &dead];
            let attempt = async || {
                let answer = probe::run(&self.machine.link, options, As::Root, &verb).await?;
                let lines = answer::lines(&answer.stdout, "prepare").map_err(|_| answer.trouble())?;
                Ok(lines.first().map(|line| String::from_utf8_lossy(line).into_owned()).unwrap_or_default())
            };
            let said = self.trying().until_it_works("preparing", attempt).await?;
            match said.split_once(' ').unwrap_or((&said, "")) {
                ("ready", _) => return Ok(()),
                ("busy", owner) if owner != dead && self.folder.knows_dead(owner) => owner.clone_into(&mut dead),
                ("busy", owner) if began.elapsed() >= options.wait => {
                    let reason = format!("another freeze ({owner}) is at work on this machine");
                    return Err(failed(reason).hint("--wait waits for it"));
                }
                ("busy", _) => tokio::select! {
                    () = tokio::time::sleep(BUSY_PAUSE) => {}
                    () = stop.stopped() => return Err(Error::hung_up("the freeze")),
                },
                ("full", free) => {
                    let folder = self.spool.rsplit_once('/').map_or("", |(folder, _)| folder);
                    let reason =
                        format!("{needed_kib} KiB are needed in the guest's {folder}, and {free} KiB are free");
                    return Err(failed(reason).hint("free some space there, or lower --chunk-size or --window"));
                }
                _ => return Err(failed("the spool folder could not be made".to_owned())),
            }
        }
    }

    fn script(&self) -> String {
        format!("{}/guest.sh", self.spool)
    }

    /// Copies script and plan in.
    async fn put_script(&self) -> Result<()> {
        let local = self.folder.path("guest.sh");
        let plan: Vec<&str> = self.capture.plan.lines().collect();
        let order = Order { wanted: self.capture.wanted.clone(), list: self.list };
        let order = serde_json::to_string(&order).unwrap_or_default();
        let plan = format!("#: {}\n#= {order}\n", plan.join("\n#: "));
        let written = std::fs::File::create(&local)
            .and_then(|mut file| file.write_all(format!("{GUEST_SCRIPT}{plan}").as_bytes()));
        written.map_err(|error| Error::source("writing the guest's script", local.display(), &error).because(error))?;
        let (script, limit) = (self.script(), self.machine.options.call_limit);
        self.trying().until_it_works("copying the script", async || self.put(&local, &script, limit).await).await
    }

    /// Starts the producer, which lives on whatever happens to the call.
    async fn produce(&self) -> Result<()> {
        let (options, script) = (&self.machine.options, self.script());
        let squeeze = match options.guest_compression {
            Compression::None => "none",
            Compression::Gzip => "gzip",
            Compression::Zstd => "zstd",
        };
        let numbers = [options.window_chunks, options.chunk_bytes() >> 10, options.lease.as_secs()]
            .map(|number| number.to_string());
        let [window, chunk_kib, lease] = &numbers;
        let hold = if options.pre_exec.is_some() { "hold" } else { "" };
        let mut command = vec!["sh", &script, "produce", &self.spool, window, chunk_kib, squeeze, lease, hold];
        if self.machine.look.tools.contains("setsid") {
            command.insert(0, "setsid");
        }
        self.trying()
            .until_it_works("starting the producer", async || {
                let answer = self.machine.link.run(As::RootDetached, &command, options.call_limit).await?;
                if answer.code == Some(0) { Ok(()) } else { Err(answer.trouble()) }
            })
            .await
    }

    /// Copies our own reader in: the first of those on offer that turns out to run there. Where there is none, the guest's own
    /// tools read, which need no room for it.
    async fn put_reader(&self) -> Result<()> {
        let (options, there) = (&self.machine.options, format!("{}/{READER_NAME}", self.spool));
        let mut offer = Offer { is_only: self.machine.offer.is_only, ..Offer::default() };
        for reader in &self.machine.offer.programs {
            let put = async || self.put(reader, &there, options.call_limit).await;
            let copied = if offer.is_only {
                self.trying().until_it_works("copying the reader", put).await.map(Ok)?
            } else {
                put().await
            };
            let reason = match copied {
                Err(trouble) => Some(format!("it could not be copied into the guest: {trouble}")),
                Ok(()) => self.try_reader().await?,
            };
            match reason {
                None => break,
                Some(reason) => offer.pass_over(reader, &reason)?,
            }
        }
        let passed_over = self.machine.offer.passed_over.iter().cloned().chain(offer.passed_over);
        self.passed_over.lock().unwrap_or_else(PoisonError::into_inner).extend(passed_over);
        Ok(())
    }

    /// Why what was copied is no reader there; none where it is.
    async fn try_reader(&self) -> Result<Option<String>> {
        let verb = ["try", &self.spool, guest::VERSION];
        let tried = probe::asked(&self.trying(), "trying the reader", As::Root, &verb, TRIAL_LIMIT).await?;
        let told = tried.map_err(|trouble| trouble.to_string()).and_then(|answer| {
            let told = answer::lines(&answer.stdout, "try").map(|lines| answer::trial(&lines));
            told.map_err(|_| answer.trouble().to_string())
        });
        Ok(told.unwrap_or_else(|trouble| Some(format!("it could not be tried in the guest: {trouble}"))))
    }

    /// Ends the producer and removes the spool. Nothing to do is fine, too.
    async fn clean_up(&self) -> Result<()> {
        let options = &self.machine.options;
        self.trying()
            .until_it_works("cleaning up", async || {
                let answer = probe::run(&self.machine.link, options, As::Root, &["stop", &self.spool]).await?;
                let lines = answer::lines(&answer.stdout, "stop").map_err(|_| answer.trouble())?;
                match lines.iter().find(|line| line.starts_with(b"left ")) {
                    Some(_) => Err(Trouble::Damaged(format!("{} could not be removed", self.spool))),
                    None => Ok(()),
                }
            })
            .await
    }

    /// Runs a command of the user's, once: it is only tried again where it never began.
    async fn user_command(&self, which: &str, command: Option<&str>) -> Result<()> {
        let Some(command) = command else { return Ok(()) };
        let (doing, limit) = (format!("{which} '{command}'"), self.machine.options.exec_limit);
        let attempt = async || match self.machine.link.run(As::Root, &["sh", "-c", command], limit).await {
            Ok(answer) if answer.never_began() => Err(answer.trouble()),
            answer => Ok(answer),
        };
        let ended = self.trying().until_it_works(&doing, attempt).await?.and_then(|answer| answer.done());
        ended.map_err(|trouble| {
            let error = Error::source(doing, self.machine.subject(), &trouble);
            if matches!(trouble, Trouble::TimedOut(_)) { error.hint("--exec-timeout gives it longer") } else { error }
        })
    }
}

/// The result of `work`, or the limit that it did not keep: `limit`, or that of one who waits for us to stop.
async fn in_time<T>(limit: Duration, stop: &Stop, work: impl Future<Output = T>) -> std::result::Result<T, Duration> {
    let hurried = async {
        stop.stopped().await;
        tokio::time::sleep(CLEANUP_STOPPED).await;
    };
    tokio::select! {
        done = tokio::time::timeout(limit, work) => done.map_err(|_| limit),
        () = hurried => Err(CLEANUP_STOPPED),
    }
}

//! A scene: what a case gets while one of its variants is played, with or without the race.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use inflight::gate::{Phase, Record, Rule, wire::ParkedInfo};
use nix::errno::Errno;

use crate::engine::{Done, Engine, Engines, Flight, Io};
use crate::event::{Actor, Event};
use crate::fork;
use crate::memory::Buffer;
use crate::pagemap::{self, Held};
use crate::stage::Stage;
use crate::stamp::{self, Legal};
use crate::sys;
use crate::target::Target;
use crate::verdict::{Class, Fault, Stop};

/// Longest that anything may take that must happen. Its end is a HANG or BROKEN, never a pass.
pub const BOUND: Duration = Duration::from_secs(10);

/// Longest that a request may take to come to the gate.
pub const RENDEZVOUS: Duration = Duration::from_secs(5);

/// How long something may take that may also have to wait for what is parked.
pub const PATIENCE: Duration = Duration::from_secs(2);

/// Life of a rule, in ms: beyond every bound of a case, so that the watchdog acts only for the dead.
const RULE_LIFE_MS: u64 = 60_000;

/// A stamped file.
#[derive(Clone, Debug)]
pub struct Stamped {
    /// Where.
    pub path: PathBuf,
    /// Its number in the stamps.
    pub id: u64,
    /// Bytes.
    pub len: u64,
}

impl Stamped {
    /// That its content is this generation's.
    pub fn generation(&self, generation: u32) -> Legal {
        Legal::Generation(self.id, generation)
    }

    /// Its content from `offset` on in a generation.
    pub fn content(&self, generation: u32, offset: u64, len: usize) -> Vec<u8> {
        stamp::content(self.id, generation, offset, len)
    }
}

/// How a file is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Open {
    /// Through the page cache.
    Buffered,
    /// O_DIRECT.
    Direct,
}

/// A rule that a case made.
#[derive(Clone, Copy, Debug)]
pub struct Parked {
    rule: u64,
}

/// See the [module](self).
#[derive(Debug)]
pub struct Scene<'a> {
    stage: &'a mut Stage,
    engines: &'a mut Engines,
    race: bool,
    seed: u64,
    folder: PathBuf,
    files: u64,
    first_id: u64,
    /// Harm seen so far.
    pub faults: Vec<Fault>,
    /// Remarks that explain a verdict and never make one.
    pub notes: Vec<String>,
    /// What happened.
    pub events: Vec<Event>,
}

impl<'a> Scene<'a> {
    /// A scene in a fresh folder of the target.
    ///
    /// # Errors
    /// The folder cannot be made.
    pub fn new(
        stage: &'a mut Stage,
        engines: &'a mut Engines,
        number: u64,
        race: bool,
        seed: u64,
    ) -> anyhow::Result<Scene<'a>> {
        let folder = stage.top().join(Scene::folder_name(number));
        std::fs::create_dir(&folder).with_context(|| folder.display().to_string())?;
        let first_id = number * 1000;
        let (faults, notes, events) = Default::default();
        Ok(Scene { stage, engines, race, seed, folder, files: 0, first_id, faults, notes, events })
    }

    /// Name of a scene's folder on the target.
    pub fn folder_name(number: u64) -> String {
        format!("s{number}")
    }

    /// Whether the race is on; without it, this is the control.
    pub fn race(&self) -> bool {
        self.race
    }

    /// Seed of this scene: the run's, and the same whenever the variant is played alone with it.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// A fresh folder on the target.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The mounted target.
    pub fn stage(&mut self) -> &mut Stage {
        self.stage
    }

    /// The engines.
    pub fn engines(&mut self) -> &mut Engines {
        self.engines
    }

    /// Writes down that something happens now.
    pub fn event(&mut self, actor: Actor, text: impl Into<String>) {
        self.events.push(Event::now(actor, text));
    }

    /// Writes down an observation.
    pub fn note(&mut self, text: impl Into<String>) {
        self.notes.push(text.into());
    }

    /// Writes down harm.
    pub fn fault(&mut self, class: Class, text: impl Into<String>) {
        self.faults.push(Fault { class, text: text.into() });
    }

    /// Judges what a reader saw of a file from `offset` on.
    pub fn judge(&mut self, what: &str, data: &[u8], offset: u64, legal: &[Legal]) {
        self.faults.extend(stamp::judge(what, data, offset, legal));
    }

    /// Holds an I/O's result against the count that it must have; `true` when it has it.
    pub fn count(&mut self, what: &str, done: Done, wanted: usize) -> bool {
        match done {
            Ok(count) if count == wanted => return true,
            Ok(count) => {
                self.fault(Class::Short, format!("{what}: returned {count}, must be {wanted}"));
            }
            Err(errno) => {
                self.fault(Class::Errno, format!("{what}: {errno}, must return {wanted}"));
            }
        }
        false
    }

    // Files.

    /// Makes a file of `len` bytes, stamped with generation 1, written back and out of the page cache.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn file(&mut self, len: u64) -> anyhow::Result<Stamped> {
        let file = self.name();
        let file = Stamped { len, ..file };
        let handle =
            File::create_new(&file.path).with_context(|| file.path.display().to_string())?;
        handle.write_all_at(&file.content(1, 0, len as usize), 0).context("write stamps")?;
        handle.sync_all().context("fsync")?;
        self.forget(&file)?;
        Ok(file)
    }

    /// A name and a number for a file that the case makes itself.
    pub fn name(&mut self) -> Stamped {
        self.files += 1;
        let path = self.folder.join(format!("f{}", self.files));
        Stamped { path, id: self.first_id + self.files, len: 0 }
    }

    /// Opens a file for reading and writing.
    ///
    /// # Errors
    /// NOTRUN when O_DIRECT is refused.
    pub fn open(&self, file: &Stamped, how: Open) -> anyhow::Result<File> {
        let flags = if how == Open::Direct { libc::O_DIRECT } else { 0 };
        let opened = OpenOptions::new().read(true).write(true).custom_flags(flags).open(&file.path);
        match opened {
            Err(error) if how == Open::Direct && error.raw_os_error() == Some(libc::EINVAL) => {
                let target = self.stage.target().name();
                Err(crate::verdict::not_run(format!("{target} refuses O_DIRECT")))
            }
            other => other.with_context(|| file.path.display().to_string()),
        }
    }

    /// Drops what the page cache holds of a file, and makes the kernel ask for its attributes again.
    ///
    /// # Errors
    /// It does not exist.
    pub fn forget(&self, file: &Stamped) -> anyhow::Result<()> {
        let handle = self.open(file, Open::Buffered)?;
        let advice = nix::fcntl::PosixFadviseAdvice::POSIX_FADV_DONTNEED;
        nix::fcntl::posix_fadvise(&handle, 0, 0, advice).context("fadvise")?;
        sys::refresh(&file.path)?;
        Ok(())
    }

    /// Rewrites a file's content below the filesystem, in the image, as another generation: the kernel above
    /// does not hear of it. The stamps themselves say where the file lies.
    ///
    /// # Errors
    /// Not an Inflight mount, or the stamps are not found.
    pub fn rewrite_below(&mut self, file: &Stamped, old: u32, new: u32) -> anyhow::Result<()> {
        let image = self.stage.image()?;
        crate::image::rewrite(image, file.id, file.len, old, new)
    }

    // The gate.

    /// Makes requests of this kind on a byte range of a file stop at a phase. Behind a loop device the range
    /// is that of the file's blocks.
    ///
    /// # Errors
    /// No gate, or the file has no place.
    pub fn park(
        &mut self,
        op: &str,
        file: &Stamped,
        range: (u64, u64),
        phase: Phase,
    ) -> anyhow::Result<Parked> {
        self.rule(self.on(op, file, Some(range), phase)?)
    }

    /// As [`Scene::park`] with more conditions: `shape` edits the rule.
    ///
    /// # Errors
    /// As [`Scene::park`].
    pub fn park_with(
        &mut self,
        op: &str,
        file: &Stamped,
        phase: Phase,
        shape: impl FnOnce(Rule) -> Rule,
    ) -> anyhow::Result<Parked> {
        let rule = self.on(op, file, None, phase)?;
        self.rule(shape(rule))
    }

    fn rule(&mut self, rule: Rule) -> anyhow::Result<Parked> {
        Ok(Parked { rule: self.stage.gate()?.park(rule.ttl_ms(RULE_LIFE_MS))? })
    }

    fn on(
        &self,
        op: &str,
        file: &Stamped,
        range: Option<(u64, u64)>,
        phase: Phase,
    ) -> anyhow::Result<Rule> {
        let rule = Rule::at(phase).op(op);
        if *self.stage.target() == Target::Inflight {
            let path = file.path.strip_prefix(self.stage.base()?).context("a file of the mount")?;
            let rule = rule.path(format!("/{}", path.display()));
            return Ok(match range {
                Some((offset, len)) => rule.range(offset, len),
                None => rule,
            });
        }
        let (offset, len) = range.context("behind a loop device a rule needs a range")?;
        let place = sys::place(&File::open(&file.path)?, offset)?;
        Ok(rule.path("/loop").range(place, len))
    }

    /// Waits until `count` requests are parked by a rule.
    ///
    /// # Errors
    /// They did not come: BROKEN.
    pub fn meet(&mut self, parked: Parked, count: u64) -> anyhow::Result<Vec<ParkedInfo>> {
        let wait = self.stage.gate()?.wait_parked(Some(parked.rule), count, RENDEZVOUS)?;
        if !wait.reached {
            let found = wait.parked.len();
            let text = format!("{found} of {count} requests came to the gate in {RENDEZVOUS:?}");
            return Err(Stop::Broken(text).into());
        }
        self.event(Actor::Gate, format!("{count} parked"));
        Ok(wait.parked)
    }

    /// Lets go what a rule parked, and ends the rule.
    ///
    /// # Errors
    /// The rule is gone: its time was up.
    pub fn release(&mut self, parked: Parked) -> anyhow::Result<u64> {
        self.event(Actor::Gate, "release");
        Ok(self.stage.gate()?.unpark(parked.rule)?)
    }

    /// Waits until the request with this number is over.
    ///
    /// # Errors
    /// It did not end: HANG.
    pub fn wait_done(&mut self, seq: u64) -> anyhow::Result<()> {
        if self.stage.gate()?.wait_done(seq, BOUND)?.reached {
            return Ok(());
        }
        Err(Stop::Hang(format!("request {seq} was not answered in {BOUND:?}")).into())
    }

    /// Runs a truncate (or anything that sends one SETATTR or FALLOCATE on this file) aside, and returns when
    /// the server has done it, or, where requests cannot be seen, when it is over or blocked. What it waits
    /// for after that is a matter of the kernel's.
    ///
    /// # Errors
    /// The request did not come, or was not answered.
    pub fn change<T: Send + 'static>(
        &mut self,
        op: &str,
        file: &Stamped,
        what: &str,
        call: impl FnOnce() -> T + Send + 'static,
    ) -> anyhow::Result<Aside<T>> {
        if *self.stage.target() != Target::Inflight {
            let mut aside = self.aside(what, call)?;
            aside.settle()?;
            return Ok(aside);
        }
        let rule = self.park_with(op, file, Phase::Received, |rule| rule.count(1))?;
        let aside = self.aside(what, call)?;
        let seq = self.meet(rule, 1)?[0].id;
        self.release(rule)?;
        self.wait_done(seq)?;
        Ok(aside)
    }

    /// Numbers of the requests that are parked now.
    ///
    /// # Errors
    /// No gate.
    pub fn requests_open(&mut self) -> anyhow::Result<Vec<u64>> {
        Ok(self.stage.gate()?.list()?.parked.iter().map(|parked| parked.id).collect())
    }

    /// Waits until one more request is over, or for the bound.
    ///
    /// # Errors
    /// No gate.
    pub fn next_record(&mut self, bound: Duration) -> anyhow::Result<()> {
        let gate = self.stage.gate()?;
        let now = gate.log(u64::MAX, 0, Duration::ZERO)?.next;
        gate.log(now, 1, bound)?;
        Ok(())
    }

    /// Smallest direct I/O of the target, in bytes, in file and in memory alike.
    pub fn grain(&self) -> usize {
        // btrfs serves anything smaller than its sector from the page cache.
        if *self.stage.target() == Target::Btrfs { 4096 } else { 512 }
    }

    /// The gate's records of requests of a kind that arrived in this scene, in order of arrival.
    ///
    /// # Errors
    /// No gate.
    pub fn requests(&mut self, op: &str, ino: u64) -> anyhow::Result<Vec<Record>> {
        let (mut since, mut found) = (0, Vec::new());
        loop {
            let page = self.stage.gate()?.log(since, 4096, Duration::ZERO)?;
            let wanted = |record: &Record| record.op == op && record.ino == ino;
            found.extend(page.records.into_iter().filter(wanted));
            if page.next == since {
                found.extend(page.open.into_iter().filter(wanted));
                found.sort_by_key(|record| record.seq);
                return Ok(found);
            }
            since = page.next;
        }
    }

    // I/O.

    /// Starts an I/O.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start(&mut self, engine: Engine, io: Io) -> anyhow::Result<Flight> {
        self.event(Actor::Test, format!("{} {:?} {}+{}", engine.name(), io.way, io.offset, io.len));
        self.engines.start(engine, io)
    }

    /// Waits for the end of an I/O.
    ///
    /// # Errors
    /// HANG when it does not end.
    pub fn finish(&mut self, flight: Flight) -> anyhow::Result<Done> {
        let done = self.engines.finish(flight, BOUND)?;
        self.event(Actor::Test, format!("returned {done:?}"));
        Ok(done)
    }

    /// Starts an I/O and waits for its end, bounded.
    ///
    /// # Errors
    /// It cannot be started, or HANG.
    pub fn transfer(&mut self, engine: Engine, io: Io) -> anyhow::Result<Done> {
        let flight = self.start(engine, io)?;
        self.finish(flight)
    }

    /// Runs something that may block in a thread.
    ///
    /// # Errors
    /// No thread can be had.
    pub fn aside<T: Send + 'static>(
        &mut self,
        what: &str,
        call: impl FnOnce() -> T + Send + 'static,
    ) -> anyhow::Result<Aside<T>> {
        self.event(Actor::Racer, what);
        let (sender, receiver) = std::sync::mpsc::channel();
        let (say_thread, thread) = std::sync::mpsc::channel();
        let run = move || {
            say_thread.send(nix::unistd::gettid()).ok();
            sender.send(call()).ok();
        };
        std::thread::Builder::new().name("race-aside".to_owned()).spawn(run)?;
        let thread = thread.recv().context("a thread did not start")?.as_raw();
        Ok(Aside { what: what.to_owned(), thread, receiver, early: None })
    }

    /// Reads a range through an engine-less, bounded pread(2); the bytes that it returned.
    ///
    /// # Errors
    /// HANG.
    pub fn read(
        &mut self,
        file: &File,
        offset: u64,
        len: usize,
    ) -> anyhow::Result<Result<Vec<u8>, Errno>> {
        let buffer = Buffer::new(crate::memory::Memory::Anon, len)?;
        let flight = self.start(Engine::Pread, Io::read(file, &buffer, 0..len, offset))?;
        Ok(self.finish(flight)?.map(|count| buffer.bytes(0, count)))
    }

    // Children and probes.

    /// Forks a child.
    ///
    /// # Errors
    /// fork(2) failed.
    pub fn fork(&mut self, task: fork::Task) -> anyhow::Result<fork::Child> {
        self.event(Actor::Racer, "fork");
        fork::child(task)
    }

    /// Notes whether the page at `address` was pinned when the child was forked.
    ///
    /// # Errors
    /// The child is gone.
    pub fn probe(&mut self, child: &fork::Child, address: usize) -> anyhow::Result<Held> {
        let held = pagemap::compare(child.pid(), address)?;
        self.note(match held {
            Held::Pinned => "parent and child have different pages: it was pinned at fork",
            Held::Shared => "parent and child map the same page: it was not pinned at fork",
            Held::Unknown => "page frames are not readable here",
        });
        Ok(held)
    }
}

/// Something that runs in another thread.
#[derive(Debug)]
pub struct Aside<T> {
    what: String,
    thread: i32,
    receiver: std::sync::mpsc::Receiver<T>,
    early: Option<T>,
}

impl<T> Aside<T> {
    /// Whether it returns by itself, although something is parked: waits for it up to [`PATIENCE`]. `false`
    /// means that it has to wait for what is parked; that costs a verdict, never makes a pass.
    ///
    /// # Errors
    /// The thread panicked.
    pub fn returns(&mut self) -> anyhow::Result<bool> {
        use std::sync::mpsc::RecvTimeoutError;
        match self.receiver.recv_timeout(PATIENCE) {
            Ok(result) => {
                self.early = Some(result);
                Ok(true)
            }
            Err(RecvTimeoutError::Timeout) => Ok(false),
            Err(RecvTimeoutError::Disconnected) => anyhow::bail!("{} panicked", self.what),
        }
    }

    /// Waits until it is over, or sits in the kernel and waits for something; `true` when it is over.
    ///
    /// # Errors
    /// It does neither: BROKEN.
    pub fn settle(&mut self) -> anyhow::Result<bool> {
        let end = std::time::Instant::now() + RENDEZVOUS;
        let stat = format!("/proc/self/task/{}/stat", self.thread);
        loop {
            if self.early.is_none() {
                self.early = self.receiver.try_recv().ok();
            }
            if self.early.is_some() {
                return Ok(true);
            }
            let text = std::fs::read_to_string(&stat).unwrap_or_default();
            let state = text.rsplit(')').next().and_then(|rest| rest.trim_start().chars().next());
            if state == Some('D') || state == Some('S') && self.is_in_ring() {
                return Ok(false);
            }
            if std::time::Instant::now() >= end {
                return Err(Stop::Broken(format!("{} neither ends nor waits", self.what)).into());
            }
            std::thread::yield_now();
        }
    }

    /// Whether it stands in io_uring_register(2), which waits for requests as a signal may end it.
    fn is_in_ring(&self) -> bool {
        let call = std::fs::read_to_string(format!("/proc/self/task/{}/syscall", self.thread));
        let number = call.unwrap_or_default().split(' ').next().and_then(|word| word.parse().ok());
        number == Some(nix::libc::SYS_io_uring_register)
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// HANG when it does not end.
    pub fn join(self) -> anyhow::Result<T> {
        if let Some(result) = self.early {
            return Ok(result);
        }
        let hang = |_| Stop::Hang(format!("{} did not return in {BOUND:?}", self.what));
        Ok(self.receiver.recv_timeout(BOUND).map_err(hang)?)
    }
}

//! The runner: hands the plan to workers, judges by the table, prints, writes results.

pub mod console;
pub mod guest;
mod ktap;
mod order;
pub mod plan;
mod repro;
pub mod results;
pub mod table;
pub mod worker;

use std::collections::{BTreeSet, VecDeque};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use anyhow::Context;

pub use order::{Order, bound};

use console::Console;
use plan::Item;
use results::{Entry, Run};
use table::Table;
use worker::{Job, Line, Played, Stopped};

use crate::fixture::STRESS;
use crate::kit::bounds::scaled;
use crate::kit::interrupt;
use crate::kit::kernel::Kernel;
use crate::kit::pause::Pause;
use crate::kit::verdict::{Class, Fault, Verdict, exit_code};
use crate::target::session::{self, Session};

/// Exit code of an interrupted run.
pub const INTERRUPTED: i32 = 130;

/// That the user ended it: an error of whatever cannot go on without the results.
#[derive(Debug, thiserror::Error)]
#[error("interrupted")]
pub struct Interrupted;

/// Runs it, and gives the exit code of [`crate::kit::verdict`].
///
/// # Errors
/// As [`played`].
pub fn run(order: Order) -> anyhow::Result<i32> {
    played(order).map(|(_, code)| code)
}

/// Runs it without a word, its results in a folder of its own that goes; gives the results.
///
/// # Errors
/// As [`played`], and [`Interrupted`].
pub fn silently(order: Order) -> anyhow::Result<Run> {
    let results = tempfile::tempdir().context("a folder for results")?;
    match played(Order { results: results.path().to_owned(), silent: true, ..order })? {
        (_, INTERRUPTED) => Err(Interrupted.into()),
        (run, _) => Ok(run),
    }
}

/// Runs it; gives the results, and the exit code of [`crate::kit::verdict`].
///
/// # Errors
/// The run could not be started, or its results not be written.
pub fn played(order: Order) -> anyhow::Result<(Run, i32)> {
    let mut runner = Runner::new(order, Kernel::running()?)?;
    runner.print_head();
    let session = Session::new(&runner.order.scratch)?;
    // What was played is judged and written down, whatever became of the rest.
    match runner.play(&session) {
        Err(error) if runner.is_interrupted() => runner.spoil(&format!("{error:#}")),
        Err(error) => runner.forfeit(&format!("{error:#}"), None)?,
        Ok(()) => {}
    }
    if let Err(error) = session.end() {
        runner.spoil(&format!("{error:#}"));
    }
    runner.finish()
}

/// How long a worker that was killed may take to be gone, before what may hold it is cleaned up and after.
const END: Duration = Duration::from_secs(2);

/// Judges what was played, prints it and writes it down.
#[derive(Debug)]
pub(crate) struct Runner {
    pub(crate) order: Order,
    /// What was not played yet.
    pub(crate) queue: VecDeque<Item>,
    run: Run,
    console: Console,
    table: Table,
    kept: BTreeSet<PathBuf>,
    /// What went wrong with the run and with none of its variants.
    spoilt: Option<Verdict>,
}

impl Runner {
    /// Also catches SIGINT and SIGTERM from here on.
    pub(crate) fn new(order: Order, kernel: Kernel) -> anyhow::Result<Runner> {
        interrupt::catch()?;
        if !order.relay {
            results::point_latest(&order.results);
        }
        let run = Run::new(&order, kernel);
        let console = Console::new(&order)?;
        let queue = order.items.iter().cloned().collect();
        let table = Table::new(order.raw, &order.own);
        Ok(Runner { order, queue, run, console, table, kept: BTreeSet::new(), spoilt: None })
    }

    pub(crate) fn is_interrupted(&self) -> bool {
        interrupt::is_seen()
    }

    pub(crate) fn say(&self, text: &str) {
        self.console.remark(text);
    }

    pub(crate) fn print_head(&self) {
        self.console.head(&self.run);
    }

    /// Hands what is left to workers, one after the other, until nothing is left or it is interrupted.
    fn play(&mut self, session: &Session) -> anyhow::Result<()> {
        while !self.queue.is_empty() && !self.is_interrupted() {
            let mut worker = Worker::start(session, self)?;
            self.follow(&mut worker, session)?;
            worker.end(session)?;
        }
        Ok(())
    }

    /// Follows one worker until it is done, lost, or not wanted any more.
    fn follow(&mut self, worker: &mut Worker, session: &Session) -> anyhow::Result<()> {
        let mut end = Instant::now() + scaled(self.order.bound);
        loop {
            if self.is_interrupted() {
                return Ok(());
            }
            match worker.lines.recv_timeout(Duration::from_millis(100)) {
                Ok(line @ Line::Started { .. }) => {
                    end = Instant::now() + scaled(self.order.bound);
                    self.start(&line)?;
                }
                Ok(Line::Finished { played, spoilt, .. }) => {
                    let item = self.queue.pop_front().context("more results than variants")?;
                    self.settle(&item, *played)?;
                    if spoilt {
                        return session::clean(session.root());
                    }
                }
                Err(RecvTimeoutError::Timeout) if Instant::now() < end => {}
                Err(lost) => {
                    let silent = lost == RecvTimeoutError::Timeout;
                    if !silent && self.queue.is_empty() {
                        return session::clean(session.root());
                    }
                    let stacks = if silent { session::stacks(session.root()) } else { Vec::new() };
                    // Gates open and connections abort first: only then can the worker be ended.
                    session::clean(session.root())?;
                    return self.lose(worker, silent, stacks);
                }
            }
        }
    }

    /// The worker was lost while it played the first item of the queue.
    fn lose(
        &mut self,
        worker: &mut Worker,
        silent: bool,
        stacks: Vec<String>,
    ) -> anyhow::Result<()> {
        let Some(item) = self.queue.pop_front() else { return Ok(()) };
        let mut played = Played { notes: stacks, ..Played::default() };
        if silent {
            let text = format!("nothing was heard of it for {:?}", scaled(self.order.bound));
            played.faults.push(Fault { class: Class::Hang, text });
        } else {
            let status = worker.reap().map_or("?".to_owned(), |status| status.to_string());
            played.stop = Some(Stopped::Broken(format!("the worker ended: {status}")));
        }
        self.settle(&item, played)
    }

    /// The first item of the queue has begun.
    pub(crate) fn start(&mut self, line: &Line) -> anyhow::Result<()> {
        if let Some(item) = self.queue.front() {
            self.console.begin(item);
        }
        if self.order.relay { worker::say(line) } else { Ok(()) }
    }

    /// An item was played: judges it, prints it and writes it down.
    pub(crate) fn settle(&mut self, item: &Item, played: Played) -> anyhow::Result<()> {
        if self.order.relay {
            let (number, played) = (item.number, Box::new(played));
            return worker::say(&Line::Finished { number, played, spoilt: false });
        }
        let entry = self.judge(item, played)?;
        let path = self.keep(&entry)?;
        self.console.settled(&entry, &path);
        self.run.variants.push(entry);
        Ok(())
    }

    /// The run is BROKEN, and none of its variants: it ended badly.
    pub(crate) fn spoil(&mut self, reason: &str) {
        let broken = Verdict::Broken { reason: reason.to_owned() };
        match self.order.relay || self.order.silent {
            true => eprintln!("inflight-race: {reason}"),
            false => self.say(&format!("{:<7} at the end: {reason}", broken.word())),
        }
        self.spoilt = Some(broken);
    }

    /// Nothing more can be played: what is left is BROKEN for this reason, only the first of it is printed, and `harm` is that
    /// one's.
    pub(crate) fn forfeit(&mut self, reason: &str, harm: Option<Fault>) -> anyhow::Result<()> {
        let broken = || {
            let stop = Some(Stopped::Broken(reason.to_owned()));
            Played { stop, ..Played::default() }
        };
        let Some(first) = self.queue.pop_front() else {
            self.spoil(reason);
            if let Some(harm) = harm {
                self.spoilt = Some(Verdict::Fail { classes: vec![harm.class] });
            }
            return Ok(());
        };
        self.settle(&first, Played { faults: harm.into_iter().collect(), ..broken() })?;
        let others: Vec<Item> = self.queue.drain(..).collect();
        for item in &others {
            let entry = self.judge(item, broken())?;
            self.keep(&entry)?;
            self.run.variants.push(entry);
        }
        if !others.is_empty() {
            self.say(&format!("{} variants behind it were not played", others.len()));
        }
        Ok(())
    }

    fn judge(&self, item: &Item, mut played: Played) -> anyhow::Result<Entry> {
        let (case, variant) = item.find()?;
        let (target, kernel) = (&self.order.target, &self.run.kernel);
        let options = &self.order.options;
        let rows = self.table.rows(case, &variant, target, options, kernel);
        let verdict = table::verdict(case, target, &rows, &played);
        if case.is_in("matrix") && !verdict.is_unexpected() {
            // There are thousands of them: what is kept of a good one is what was parked.
            played.records.retain(|record| !record.holds.is_empty());
        }
        Ok(Entry {
            case: case.id.to_owned(),
            name: case.name.to_owned(),
            claim: case.claim.to_owned(),
            variant: variant.name(),
            verdict,
            repro: repro::line(&self.order, item),
            played,
        })
    }

    /// Writes a variant down; gives its file. Of several rounds the first that somebody has to look at is kept.
    fn keep(&mut self, entry: &Entry) -> anyhow::Result<PathBuf> {
        let path = self.order.results.join(results::path_of(entry));
        if !self.kept.contains(&path) {
            results::write_entry(&self.order.results, &self.run, entry)?;
            if entry.verdict.is_unexpected() {
                self.kept.insert(path.clone());
            }
        }
        Ok(path)
    }

    /// Writes the whole run down, prints the summary, and gives both the results and the exit code.
    pub(crate) fn finish(self) -> anyhow::Result<(Run, i32)> {
        let verdicts = self.run.variants.iter().map(|entry| &entry.verdict);
        let code = match self.is_interrupted() {
            true => INTERRUPTED,
            // A relay has no verdicts.
            false if self.order.relay && self.spoilt.is_none() => 0,
            false => exit_code(verdicts.chain(&self.spoilt)),
        };
        if !self.order.relay {
            results::write_run(&self.order.results, &self.run)?;
            self.console.end(&self.run, &self.order.results, self.queue.len(), code);
        }
        Ok((self.run, code))
    }
}

struct Worker {
    child: Child,
    lines: Receiver<Line>,
    /// Its job came through it; its end is the worker's sign to go.
    _job: ChildStdin,
}

impl Worker {
    fn start(session: &Session, runner: &Runner) -> anyhow::Result<Worker> {
        let program = std::env::current_exe().context("our own path")?;
        let server = runner.order.server.as_ref().map(|server| ("INFLIGHT", server));
        let mut child = Command::new(program)
            .arg("worker")
            .arg(session.root())
            .envs(server)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .process_group(0)
            .spawn()
            .context("start a worker")?;
        // Known to the guard before it does anything: without its job it only waits.
        std::fs::write(session.root().join(session::WORKER), child.id().to_string())?;
        let job = Job {
            target: runner.order.target.clone(),
            items: runner.queue.iter().cloned().collect(),
            options: runner.order.options.clone(),
            seed: runner.order.seed,
            time: runner.order.time,
            raw: runner.order.raw,
            own: runner.order.own.clone(),
        };
        let mut text = serde_json::to_vec(&job)?;
        text.push(b'\n');
        let mut stdin = child.stdin.take().context("no pipe")?;
        stdin.write_all(&text).context("hand out the job")?;
        let (sender, lines) = channel();
        let output = BufReader::new(child.stdout.take().context("no pipe")?);
        std::thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                let Ok(line) = serde_json::from_str(&line) else { continue };
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Ok(Worker { child, lines, _job: stdin })
    }

    /// Ends it, if it is still there. It may sit in the kernel until what it waits for is cleaned up.
    fn end(mut self, session: &Session) -> anyhow::Result<()> {
        let _ = self.child.kill();
        if self.reap().is_none() {
            session::clean(session.root())?;
            let pid = self.child.id();
            self.reap().with_context(|| format!("the worker {pid} does not end"))?;
        }
        Ok(())
    }

    /// Waits for its end, within a bound. Its first thread may have ended long before its last.
    fn reap(&mut self) -> Option<ExitStatus> {
        let end = Instant::now() + END;
        let mut pause = Pause::default();
        loop {
            match self.child.try_wait() {
                Ok(None) if Instant::now() < end => pause.rest(),
                other => return other.ok().flatten(),
            }
        }
    }
}

//! The runner: hands the plan to workers, judges by the table, prints, writes results.

use std::collections::{BTreeSet, VecDeque};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::Context;
use serde::{Deserialize, Serialize};

use crate::case::Case;
use crate::console::Console;
use crate::expect::{self, Expected};
use crate::kernel::Kernel;
use crate::plan::Item;
use crate::results::{self, Entry, Run};
use crate::session::{self, Session};
use crate::target::Target;
use crate::verdict::{Class, Fault, Verdict, exit_code};
use crate::worker::{self, Job, Line, Played, Stopped};

/// Exit code of an interrupted run.
pub const INTERRUPTED: i32 = 130;

/// What to run and where the results go.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Order {
    /// The plan.
    pub items: Vec<Item>,
    /// On what.
    pub target: Target,
    /// Mount options of every mount.
    pub options: String,
    /// Seed.
    pub seed: u64,
    /// Folder for results.
    pub results: PathBuf,
    /// Folder below which images and mounts are made.
    pub scratch: PathBuf,
    /// Longest that one variant may take, its control included.
    pub bound: Duration,
    /// How long a storm may last.
    pub time: Duration,
    /// Print only the summary and what is unexpected.
    pub quiet: bool,
    /// Explain each case before its first variant, and print what was noted: the guided tour.
    pub tour: bool,
    /// Print JSON, one object a line.
    pub json: bool,
    /// Print nothing but what the workers say, line by line, and write no results: somebody else judges.
    pub relay: bool,
    /// The kernel of the machine that it runs in, as `vm --kernel` takes it; none: this machine's.
    pub vm: Option<String>,
}

impl Order {
    /// An order of nothing on a target.
    pub fn empty(target: Target) -> Order {
        Order {
            items: Vec::new(),
            target,
            options: String::new(),
            seed: 0,
            results: PathBuf::new(),
            scratch: std::env::temp_dir(),
            bound: Duration::from_secs(60),
            time: crate::scene::STORM,
            quiet: false,
            tour: false,
            json: false,
            relay: false,
            vm: None,
        }
    }
}

/// Runs it, and gives the exit code of [`crate::verdict`].
///
/// # Errors
/// The run could not be started, or left something behind.
pub fn run(order: Order) -> anyhow::Result<i32> {
    let mut runner = Runner::new(order, Kernel::running()?)?;
    runner.print_head();
    let session = Session::new(&runner.order.scratch)?;
    while !runner.queue.is_empty() && !runner.is_interrupted() {
        let mut worker = Worker::start(&session, &runner)?;
        runner.follow(&mut worker, &session)?;
        worker.end();
    }
    session.end()?;
    runner.finish()
}

/// Judges what was played, prints it and writes it down.
#[derive(Debug)]
pub(crate) struct Runner {
    pub(crate) order: Order,
    /// What was not played yet.
    pub(crate) queue: VecDeque<Item>,
    run: Run,
    console: Console,
    interrupted: Arc<AtomicBool>,
    kept: BTreeSet<PathBuf>,
}

impl Runner {
    /// Also catches SIGINT and SIGTERM from here on.
    pub(crate) fn new(order: Order, kernel: Kernel) -> anyhow::Result<Runner> {
        let interrupted = Arc::new(AtomicBool::new(false));
        for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
            signal_hook::flag::register(signal, Arc::clone(&interrupted))?;
        }
        let run = Run {
            version: results::VERSION,
            kernel,
            vm: order.vm.clone(),
            target: order.target.clone(),
            options: order.options.clone(),
            seed: order.seed,
            started: SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .map_or(0, |since| since.as_secs()),
            variants: Vec::new(),
        };
        let console = Console::new(&order)?;
        let queue = order.items.iter().cloned().collect();
        Ok(Runner { order, queue, run, console, interrupted, kept: BTreeSet::new() })
    }

    pub(crate) fn is_interrupted(&self) -> bool {
        self.interrupted.load(Ordering::Relaxed)
    }

    pub(crate) fn say(&self, text: &str) {
        self.console.remark(text);
    }

    pub(crate) fn print_head(&self) {
        self.console.head(&self.run);
    }

    /// Follows one worker until it is done, lost, or not wanted any more.
    fn follow(&mut self, worker: &mut Worker, session: &Session) -> anyhow::Result<()> {
        let mut end = Instant::now() + self.order.bound;
        loop {
            if self.is_interrupted() {
                return Ok(());
            }
            match worker.lines.recv_timeout(Duration::from_millis(100)) {
                Ok(line @ Line::Started { .. }) => {
                    end = Instant::now() + self.order.bound;
                    self.start(&line)?;
                }
                Ok(Line::Finished { played, .. }) => {
                    let item = self.queue.pop_front().context("more results than variants")?;
                    self.settle(&item, *played)?;
                }
                Err(RecvTimeoutError::Timeout) if Instant::now() < end => {}
                Err(lost) => {
                    let silent = lost == RecvTimeoutError::Timeout;
                    if !silent && (self.queue.is_empty() || worker.is_spoilt()) {
                        session::clean(session.root())?;
                        return Ok(());
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
            let text = format!("nothing was heard of it for {:?}", self.order.bound);
            played.faults.push(Fault { class: Class::Hang, text });
        } else {
            let status = worker.child.wait().map_or("?".to_owned(), |status| status.to_string());
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
            return worker::say(&Line::Finished { number: item.number, played: Box::new(played) });
        }
        let entry = self.judge(item, played)?;
        let path = self.keep(&entry)?;
        self.console.settled(&entry, &path);
        self.run.variants.push(entry);
        Ok(())
    }

    /// Nothing more can be played: what is left is BROKEN for this reason. Only the first is printed.
    pub(crate) fn forfeit(&mut self, reason: &str) -> anyhow::Result<()> {
        let broken = || {
            let stop = Some(Stopped::Broken(reason.to_owned()));
            Played { stop, ..Played::default() }
        };
        let Some(first) = self.queue.pop_front() else { return Ok(()) };
        self.settle(&first, broken())?;
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
        let verdict = verdict(case, &item.variant, target, kernel, &played);
        if variant.cell.is_some() && !verdict.is_unexpected() {
            // There are thousands of them: what is kept of a good one is what was parked.
            played.records.retain(|record| !record.holds.is_empty());
        }
        Ok(Entry {
            case: case.id.to_owned(),
            name: case.name.to_owned(),
            claim: case.claim.to_owned(),
            variant: variant.name(),
            verdict,
            repro: self.repro(item),
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

    fn repro(&self, item: &Item) -> String {
        let (target, seed) = (self.order.target.name(), self.order.seed);
        let options = match &*self.order.options {
            "" => String::new(),
            options => format!(" -o {options}"),
        };
        let vm = self.order.vm.as_ref();
        let vm = vm.map_or(String::new(), |spec| format!("vm --kernel {spec} -- "));
        format!(
            "inflight-race {vm}run '{}:{}' --on {target}{options} --seed {seed}",
            item.case, item.variant
        )
    }

    /// Writes the whole run down, prints the summary, and gives the exit code.
    pub(crate) fn finish(self) -> anyhow::Result<i32> {
        if self.order.relay {
            return Ok(if self.is_interrupted() { INTERRUPTED } else { 0 });
        }
        results::write_run(&self.order.results, &self.run)?;
        let code = match self.is_interrupted() {
            true => INTERRUPTED,
            false => exit_code(self.run.variants.iter().map(|entry| &entry.verdict)),
        };
        self.console.end(&self.run, &self.order.results, self.queue.len(), code);
        Ok(code)
    }
}

struct Worker {
    child: Child,
    lines: Receiver<Line>,
}

impl Worker {
    fn start(session: &Session, runner: &Runner) -> anyhow::Result<Worker> {
        let program = std::env::current_exe().context("our own path")?;
        let mut child = Command::new(program)
            .arg("worker")
            .arg(session.root())
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
        };
        let mut text = serde_json::to_vec(&job)?;
        text.push(b'\n');
        child.stdin.take().context("no pipe")?.write_all(&text).context("hand out the job")?;
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
        Ok(Worker { child, lines })
    }

    fn is_spoilt(&mut self) -> bool {
        self.child.wait().is_ok_and(|status| status.code() == Some(crate::worker::SPOILT))
    }

    /// Ends it, if it is still there.
    fn end(mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
/// What a variant came to on a target under a kernel, by the table of expected failures.
pub(crate) fn verdict(
    case: &Case,
    variant: &str,
    target: &Target,
    kernel: &Kernel,
    played: &Played,
) -> Verdict {
    let target = target.subject();
    let row = |row: &&Expected| row.applies(&target, variant, kernel);
    match &played.stop {
        Some(Stopped::NotRun(reason)) => Verdict::Notrun { reason: reason.clone() },
        Some(Stopped::NoProof(reason)) => Verdict::Noproof { reason: reason.clone() },
        Some(Stopped::Broken(reason)) => Verdict::Broken { reason: reason.clone() },
        // A storm may miss what a parked request cannot: that it saw nothing is no XPASS.
        None if case.is_in("storm") && played.faults.is_empty() => Verdict::Pass,
        None => expect::settle(&played.faults, case.expected.iter().find(row)),
    }
}

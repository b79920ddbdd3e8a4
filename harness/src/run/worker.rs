//! The worker: a process that mounts targets and plays variants, each as a control and as a race. It reports
//! line by line, so that the runner can judge, and can go on without it when it is lost.

mod message;

use std::collections::BTreeMap;
use std::io::BufRead;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Context;
use inflight_gate::{Record, ReleasedBy};
use nix::errno::Errno;

pub use message::{Job, Line, Played, Stopped, say};

use super::table::Table;
use crate::cases::case::Case;
use crate::cases::variant::Variant;
use crate::fixture::Fixture;
use crate::fixture::Known;
use crate::kit::engine::Engines;
use crate::kit::event::Event;
use crate::kit::kernel::Kernel;
use crate::kit::kmsg::KernelLog;
use crate::kit::seen::Seen;
use crate::kit::stacks;
use crate::kit::strip::Strip;
use crate::kit::verdict::{Class, Fault, Stop};
use crate::target::Target;
use crate::target::mounted::Mounted;

/// Runs a job: read from standard input, reported on standard output.
///
/// # Errors
/// No job, or nobody listens.
pub fn work(root: &Path) -> anyhow::Result<()> {
    let mut text = String::new();
    std::io::stdin().lock().read_line(&mut text).context("read the job")?;
    let job: Job = serde_json::from_str(&text).context("read the job")?;
    let mut worker = Worker::new(root, &job);
    let last = job.items.last().map_or(0, |item| item.number);
    for item in &job.items {
        say(&Line::Started { number: item.number })?;
        let (case, variant) = item.find()?;
        let (mut played, spoilt) = worker.play(case, &variant, item.number);
        if !spoilt && item.number == last {
            // What the kernel says while the last mounts go belongs to somebody, too.
            worker.teardown();
            worker.hear(case, &mut played.faults, &mut played.notes);
        }
        say(&Line::Finished { number: item.number, played: Box::new(played), spoilt })?;
        if spoilt {
            // Threads may still sit in the kernel, and would keep an exit waiting: the runner cleans up first.
            std::io::copy(&mut std::io::stdin(), &mut std::io::sink())?;
            return Ok(());
        }
    }
    Ok(())
}

struct Worker {
    root: PathBuf,
    target: Target,
    options: String,
    seed: u64,
    time: Duration,
    targets: BTreeMap<String, Mounted>,
    targets_made: u64,
    engines: Engines,
    log: Option<KernelLog>,
    kernel: Option<Kernel>,
    table: Table,
}

/// What one act (control or race) came to.
struct Act {
    result: Result<(), Stop>,
    faults: Vec<Fault>,
    strips: Vec<Strip>,
    seen: Option<Seen>,
    notes: Vec<String>,
    events: Vec<Event>,
    records: Vec<Record>,
    gate_start_ns: u64,
    took: Duration,
    /// What the kernel held back until the I/O was over.
    held_back: Option<String>,
}

impl Played {
    /// Takes over what an act left; gives how it ended.
    fn tell(&mut self, act: Act) -> Result<(), Stop> {
        (self.faults, self.strips, self.notes) = (act.faults, act.strips, act.notes);
        (self.seen, self.events, self.records) = (act.seen, act.events, act.records);
        self.gate_start_ns = act.gate_start_ns;
        act.result
    }
}

impl Worker {
    fn new(root: &Path, job: &Job) -> Worker {
        Worker {
            root: root.to_owned(),
            target: job.target.clone(),
            options: job.options.clone(),
            seed: job.seed,
            time: job.time,
            table: Table::new(job.raw, &job.own),
            targets: BTreeMap::new(),
            targets_made: 0,
            engines: Engines::default(),
            log: KernelLog::open(),
            kernel: Kernel::running().ok(),
        }
    }

    fn teardown(&mut self) {
        for mut mounted in std::mem::take(&mut self.targets).into_values() {
            mounted.teardown();
        }
    }

    /// What the kernel has complained about since the last call is harm. A complaint that load alone explains is a note in a
    /// stress run, which meets whatever else the machine does, and everywhere when it names a process that is not ours.
    fn hear(&mut self, case: &Case, faults: &mut Vec<Fault>, notes: &mut Vec<String>) {
        for complaint in self.log.as_mut().map(KernelLog::complaints).unwrap_or_default() {
            let may_be_others = case.is_in("stress") || complaint.is_others(&self.root);
            if may_be_others && !complaint.broken && faults.is_empty() {
                notes.push(format!("kernel log: {}", complaint.text));
            } else {
                faults.push(Fault { class: Class::KernelLog, text: complaint.text });
            }
        }
    }

    /// Plays a variant; also says whether this process is spoilt by it.
    fn play(&mut self, case: &Case, variant: &Variant, number: u64) -> (Played, bool) {
        let mut played = Played::default();
        if let Some(reason) = case.refuses(&self.target) {
            played.stop = Some(Stopped::NotRun(reason));
            return (played, false);
        }
        if !variant.mount.is_empty() && self.target != Target::Inflight {
            let reason = format!("-o {} is an option of Inflight mounts", variant.mount);
            played.stop = Some(Stopped::NotRun(reason));
            return (played, false);
        }
        let control = self.act(case, variant, number * 2, false);
        played.control_seconds = control.took.as_secs_f64();
        played.stop = stop_of_control(&control);
        if played.stop.is_some() {
            let spoilt = matches!(control.result, Err(Stop::Hang(_)));
            let _ = played.tell(control);
            played.void();
            return (played, spoilt);
        }
        let act = self.act(case, variant, number * 2 + 1, true);
        played.seconds = act.took.as_secs_f64();
        let spoilt = matches!(act.result, Err(Stop::Hang(_)));
        let held_back = act.held_back.clone();
        let result = played.tell(act);
        match result {
            Ok(()) => played.stop = held_back.map(Stopped::Serialised),
            Err(Stop::Serialised(reason)) => played.stop = Some(Stopped::Serialised(reason)),
            Err(Stop::Hang(text)) => played.faults.push(Fault { class: Class::Hang, text }),
            Err(Stop::NotRun(reason)) => played.stop = Some(Stopped::NotRun(reason)),
            Err(Stop::NoProof(reason)) => played.stop = Some(Stopped::NoProof(reason)),
            Err(Stop::Broken(reason)) => played.stop = Some(Stopped::Broken(reason)),
        }
        if let Some(stop) = overtaken(&played.records) {
            // What was held against what is legal in the window was none.
            played.stop = Some(stop);
            played.void();
        } else if played.records.iter().any(Record::voided) {
            let reason = "the gate's watchdog released a request".to_owned();
            played.stop = Some(Stopped::Broken(reason));
            played.void();
        }
        (played, spoilt)
    }

    /// Mounts what the variant needs, plays one act on it, and reads both logs.
    fn act(&mut self, case: &Case, variant: &Variant, number: u64, race: bool) -> Act {
        let key = variant.options(&self.options);
        let mut act = Act {
            result: Ok(()),
            faults: Vec::new(),
            strips: Vec::new(),
            seen: None,
            notes: Vec::new(),
            events: Vec::new(),
            records: Vec::new(),
            gate_start_ns: 0,
            took: Duration::ZERO,
            held_back: None,
        };
        if let Err(error) = self.ready(&key) {
            act.result = Err(stop(error, &self.target));
            return act;
        }
        // Said while mounts came and went between two acts: nobody else would tell it.
        self.hear(case, &mut act.faults, &mut act.notes);
        let known = if race { self.known(case, variant) } else { Known::default() };
        let mounted = self.targets.get_mut(&key).expect("just made ready");
        let log_from =
            mounted.gate().and_then(|gate| Ok(gate.log(u64::MAX, 0, Duration::ZERO)?.next));
        act.gate_start_ns = mounted.gate().map_or(0, |gate| gate.start_ns());
        let started = Instant::now();
        match Fixture::new(mounted, &mut self.engines, number, race, self.seed) {
            Err(error) => act.result = Err(stop(error, &self.target)),
            Ok(mut fixture) => {
                (fixture.time, fixture.known) = (self.time, known);
                fixture.options.clone_from(&key);
                let run = AssertUnwindSafe(|| variant.play(&mut fixture, case.run));
                act.result = match catch_unwind(run) {
                    Ok(result) => result.map_err(|error| stop(error, &self.target)),
                    Err(panic) => Err(Stop::Broken(panic_text(&*panic))),
                };
                act.faults.extend(fixture.faults);
                act.notes.extend(fixture.notes);
                (act.strips, act.seen, act.events) = (fixture.strips, fixture.seen, fixture.events);
                act.held_back = fixture.held_back;
            }
        }
        act.took = started.elapsed();
        if let Ok(from) = log_from {
            act.records = records(mounted, from);
        }
        let poor = matches!(act.result, Err(Stop::Hang(_) | Stop::Broken(_)));
        if !poor {
            // A rule that found nothing to act on would act on the clean-up, or on the next fixture.
            if let Ok(gate) = mounted.gate() {
                let _ = gate.open();
            }
            let _ = std::fs::remove_dir_all(mounted.top().join(Fixture::folder_name(number)));
        }
        self.hear(case, &mut act.faults, &mut act.notes);
        if matches!(act.result, Err(Stop::Hang(_))) {
            act.notes.extend(stacks::of(std::process::id() as i32));
            // To unmount could hang as well: this process ends, and the runner cleans up.
            return act;
        }
        if (poor || variant.fresh)
            && let Some(mut mounted) = self.targets.remove(&key)
        {
            mounted.teardown();
            self.hear(case, &mut act.faults, &mut act.notes);
        }
        act
    }

    /// What is known to fail here.
    fn known(&self, case: &Case, variant: &Variant) -> Known {
        let Some(kernel) = &self.kernel else { return Known::default() };
        let rows = self.table.rows(case, variant, &self.target, &self.options, kernel);
        Known::new(move |fault| rows.iter().any(|(row, _)| row.knows(fault, &[])))
    }

    fn ready(&mut self, options: &str) -> anyhow::Result<()> {
        if !self.targets.contains_key(options) {
            self.targets_made += 1;
            let name = format!("mounted-{}-{}", std::process::id(), self.targets_made);
            let mounted = Mounted::new(&self.target, options, &self.root.join(name))?;
            self.targets.insert(options.to_owned(), mounted);
        }
        Ok(())
    }
}

/// What was in the kernel's queue was not what was meant: there was no window.
fn overtaken(records: &[Record]) -> Option<Stopped> {
    let mut holds = records.iter().flat_map(|record| &record.holds);
    let reason = || "another request was in front of the one that was to be queued".to_owned();
    holds.any(|hold| hold.by == Some(ReleasedBy::Overtaken)).then(|| Stopped::NoProof(reason()))
}

fn stop_of_control(control: &Act) -> Option<Stopped> {
    if let Some(stop) = overtaken(&control.records).filter(|_| control.result.is_ok()) {
        return Some(stop);
    }
    match &control.result {
        Err(Stop::NotRun(reason)) if control.faults.is_empty() => {
            return Some(Stopped::NotRun(reason.clone()));
        }
        Ok(()) | Err(Stop::NotRun(_)) => {}
        Err(other) => return Some(Stopped::Broken(format!("control: {other}"))),
    }
    if control.records.iter().any(Record::voided) {
        let reason = "control: the gate's watchdog released a request".to_owned();
        return Some(Stopped::Broken(reason));
    }
    let fault = control.faults.first()?;
    let text =
        format!("the control without the race fails: {}: {}", fault.class.name(), fault.text);
    Some(Stopped::Broken(text))
}

/// Why an act ended. A directory may be full; a mount of our own that is, is broken.
fn stop(error: anyhow::Error, target: &Target) -> Stop {
    match error.downcast::<Stop>() {
        Ok(stop) => stop,
        Err(error) if is_full(&error) && matches!(target, Target::Dir(_)) => {
            Stop::NotRun(format!("the target is full: {error:#}"))
        }
        Err(error) if is_lacking(&error) && matches!(target, Target::Server(_)) => {
            Stop::NotRun(format!("the server does not have it: {error:#}"))
        }
        Err(error) => Stop::Broken(format!("{error:#}")),
    }
}

/// Whether something failed for want of space.
fn is_full(error: &anyhow::Error) -> bool {
    errnos(error).any(|errno| matches!(errno, libc::ENOSPC | libc::EDQUOT))
}

/// Whether something failed because a server does not have the operation.
fn is_lacking(error: &anyhow::Error) -> bool {
    errnos(error).any(|errno| matches!(errno, libc::EOPNOTSUPP | libc::ENOSYS | libc::ENOTTY))
}

fn errnos(error: &anyhow::Error) -> impl Iterator<Item = i32> {
    error.chain().filter_map(|cause| {
        let raw = cause.downcast_ref::<std::io::Error>().and_then(std::io::Error::raw_os_error);
        raw.or(cause.downcast_ref::<Errno>().map(|errno| *errno as i32))
    })
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
    format!("the case panicked: {}", text.unwrap_or("?"))
}

/// What passed the gate since `from`, finished or not.
fn records(mounted: &mut Mounted, from: u64) -> Vec<Record> {
    let Ok(gate) = mounted.gate() else { return Vec::new() };
    let Ok(page) = gate.log(from, 4096, Duration::ZERO) else { return Vec::new() };
    page.records.into_iter().chain(page.open).collect()
}

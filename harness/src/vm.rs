//! Runs under another kernel: the same run inside a virtual machine, judged and written down on this side.
//!
//! The guest is one initramfs with this program as its first process. It plays the plan and says what its workers
//! say; the table of expected failures is asked here, with the guest's kernel.

pub mod archive;
pub mod exec;
pub mod init;
pub mod machine;
pub mod message;
pub mod modules;
pub mod parts;
pub mod source;
pub mod watch;

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::Context;

use crate::kit::interrupt;
use crate::kit::kmsg;
use crate::kit::verdict::{Class, Fault, not_run, reason_not_run};
use crate::mechanisms::Shown;
use crate::run::guest::Guest;
use crate::run::{INTERRUPTED, Order, Runner};
use crate::target::Target;
use crate::vm::machine::{Accel, Machine, Parts};
use crate::vm::message::{Job, SCRATCH, Up};
use crate::vm::source::Source;
use crate::vm::watch::{Birth, Lost};

/// Exit code when nothing could be run.
const NOTHING: i32 = 4;

/// Longest that a guest may take until it is up.
const BOOT: Duration = Duration::from_secs(120);
/// The same where KVM is only tried.
const TRIAL: Duration = Duration::from_secs(10);

/// Longest that a guest may take to show its mechanisms.
const SHOWN: Duration = Duration::from_secs(600);

/// How to make a machine.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// The kernel and what it gets.
    #[command(flatten)]
    pub guest: Guest,
    /// How the guest's code is executed.
    #[arg(long, value_enum, default_value = "auto")]
    pub accel: Accel,
}

/// Runs an order in a machine, and gives the exit code that a native run would have had; 4 when the machine cannot
/// be made.
///
/// # Errors
/// The results cannot be written.
pub fn run(options: &Options, order: Order) -> anyhow::Result<i32> {
    told(attempt(options, order))
}

/// That nothing could be run is an exit code.
fn told(code: anyhow::Result<i32>) -> anyhow::Result<i32> {
    match code {
        Err(error) if reason_not_run(&error).is_some() => {
            eprintln!("inflight-race: not run: {error}");
            Ok(NOTHING)
        }
        other => other,
    }
}

fn attempt(options: &Options, order: Order) -> anyhow::Result<i32> {
    if let Target::Server(_) = &order.target {
        return Err(not_run("--server: somebody's server is on this machine, not in a guest"));
    }
    if let Target::Dir(path) = &order.target {
        let path = path.display();
        return Err(not_run(format!("{path} is on this machine; a guest has targets of its own")));
    }
    interrupt::catch()?;
    let source = Source::find(&options.guest)?;
    let order = in_guest_order(options, order);
    let parts = {
        let job = Job::Run(Box::new(Order { relay: true, vm: None, ..order.clone() }));
        parts::of(&source, &options.guest, job, &order.results)?
    };
    let (machine, birth, remark) = start(&parts, options.accel)?;
    if interrupt::is_seen() {
        machine.end();
        return Ok(INTERRUPTED);
    }
    let up = match &birth {
        Birth::Up(up) => up.clone(),
        Birth::Unfit(reason) => {
            machine.end();
            return Err(not_run(reason.clone()));
        }
        Birth::Lost(_) => Up { kernel: source.kernel(), lacks: Vec::new(), slowness: 1 },
    };
    let mut runner = Runner::new(order, up.kernel)?;
    runner.print_head();
    remark.iter().for_each(|remark| runner.say(remark));
    up.lacks.iter().for_each(|lack| runner.say(&format!("lacks    {lack}")));
    let was_up = matches!(birth, Birth::Up(_));
    let lost = match birth {
        Birth::Lost(lost) => Some(lost),
        _ => watch::follow(&mut runner, &machine, up.slowness)?,
    };
    let complaint = machine.end();
    let console = clean(&parts.console)?;
    if let Some(lost) = lost {
        // A kernel that dies at boot was not raced.
        let words = kmsg::last_words(&console).filter(|_| was_up);
        let harm = words.map(|text| Fault { class: Class::KernelLog, text });
        runner.forfeit(&lost.reason(&console, complaint.as_deref()), harm)?;
        runner.say(&format!("the guest's console is in {}", parts.console.display()));
    }
    runner.finish().map(|(_, code)| code)
}

/// Shows mechanisms in a machine; see [`crate::mechanisms`].
///
/// # Errors
/// NOTRUN when the machine cannot be made; otherwise how the guest was lost.
pub fn mechanisms(options: &Options, ids: &[String]) -> anyhow::Result<Shown> {
    let source = Source::find(&options.guest)?;
    let folder = tempfile::tempdir().context("a folder for the console")?;
    let parts = parts::of(&source, &options.guest, Job::Mechanisms(ids.to_vec()), folder.path())?;
    let ended = watched(&parts, options.accel, |machine, _| watch::shown(machine, SHOWN))?;
    ended
        .result
        .map_err(|lost| anyhow::anyhow!(lost.reason(&ended.console, ended.complaint.as_deref())))
}

/// What came of a machine that had one thing to do.
struct Ended<T> {
    result: Result<T, Lost>,
    /// Whether it had come up.
    was_up: bool,
    console: String,
    complaint: Option<String>,
}

/// Starts a machine, has what it says followed once it is up, and ends it.
fn watched<T>(
    parts: &Parts,
    accel: Accel,
    follow: impl FnOnce(&Machine, &Up) -> Result<T, Lost>,
) -> anyhow::Result<Ended<T>> {
    let (machine, birth, remark) = start(parts, accel)?;
    remark.iter().for_each(|remark| eprintln!("inflight-race: {remark}"));
    let (was_up, result) = match birth {
        Birth::Up(up) => (true, follow(&machine, &up)),
        Birth::Unfit(reason) => {
            machine.end();
            return Err(not_run(reason));
        }
        Birth::Lost(lost) => (false, Err(lost)),
    };
    let complaint = machine.end();
    Ok(Ended { result, was_up, console: clean(&parts.console)?, complaint })
}

/// What an order is for the guest that it is played in.
fn in_guest_order(options: &Options, order: Order) -> Order {
    Order { vm: Some(options.guest.clone()), scratch: SCRATCH.into(), ..order }
}

/// Starts a machine in the first way that gets it up, and says why it was not an earlier one; the last way counts,
/// however it ends.
fn start(parts: &Parts, accel: Accel) -> anyhow::Result<(Machine, Birth, Option<String>)> {
    let (last, others) = accel.choices().split_last().context("no way to run a guest")?;
    let mut remark = None;
    for &other in others {
        let machine = Machine::start(parts, other)?;
        let birth = watch::trial(&machine, &parts.console, TRIAL);
        let Birth::Lost(lost) = birth else { return Ok((machine, birth, None)) };
        let complaint = machine.end();
        let reason = lost.reason(&clean(&parts.console)?, complaint.as_deref());
        let (name, other) = (last.name(), other.name());
        remark = Some(format!("accel    {name}: no guest came up under {other}: {reason}"));
        machine::give_up_kvm();
    }
    let machine = Machine::start(parts, *last)?;
    let birth = watch::birth(&machine, BOOT);
    Ok((machine, birth, remark))
}

/// The console's text, also in its file, without the carriage returns of a terminal. QEMU makes the file: it is
/// empty where QEMU did not get so far.
fn clean(console: &Path) -> anyhow::Result<String> {
    let what = || console.display().to_string();
    let bytes = match fs::read(console) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
        other => other.with_context(what)?,
    };
    let text = String::from_utf8_lossy(&bytes).replace('\r', "");
    fs::write(console, &text).with_context(what)?;
    Ok(text)
}

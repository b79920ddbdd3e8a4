//! Plays one combination of the matrix.

use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use inflight_gate::Phase;
use nix::errno::Errno;

use super::Cell;
use super::action::{self, Action, After};
use super::buffer::{Held, Kind, SPACE};
use super::cancel;
use super::io::{Call, Outcome, Parts, Started};
use super::oracle;
use crate::fixture::{Aside, Change, Fixture, Open, Order, Parked, Stamped};
use crate::kit::bounds::{bound, patience, rendezvous};
use crate::kit::engine::{Engine, Io, Way};
use crate::kit::event::Actor;
use crate::kit::memory::{Buffer, Memory, PAGE};
use crate::kit::stacks;
use crate::kit::stamp::CANARY;
use crate::kit::sys;
use crate::kit::verdict::{Class, Stop, no_proof, not_run};
use crate::target::Target;

/// What a combination needs before anything is parked.
pub(super) struct Set {
    pub(super) file: Stamped,
    handle: Option<Arc<File>>,
    /// Sees the file through the page cache.
    pub(super) reader: File,
    /// Sees what is behind the page cache, where O_DIRECT is not refused.
    pub(super) direct: Option<File>,
    pub(super) held: Option<Held>,
    /// Which of the I/O and the change of the file came first.
    pub(super) order: Order,
    pub(super) offset: usize,
    pub(super) len: usize,
    /// What is written, as far as memory does not hold it.
    source: Vec<u8>,
}

/// The write-back of what a cached write left.
type Sync = Aside<io::Result<()>>;

/// What is in flight, and what was done meanwhile. To drop any of it may have to wait for what is parked.
#[derive(Default)]
struct Live {
    started: Option<Started>,
    after: After,
    outcome: Option<Outcome>,
}

/// Plays it, with the race or without.
///
/// # Errors
/// As a case's function.
pub fn play(fixture: &mut Fixture<'_>, cell: &Cell) -> anyhow::Result<()> {
    if cell.op.way == Way::Write
        && cell.action.is_on_memory()
        && fixture.mounted().target().is_fuse()
        && cell.phase != Phase::Copying
    {
        return Err(not_run(
            "the payload of a FUSE write has left its memory when the gate sees it",
        ));
    }
    let mut set = Set::new(fixture, cell)?;
    try_flags(fixture, cell)?;
    let is_fixed = cell.op.call == Call::Engine(Engine::Fixed);
    if let Some(held) = set.held.as_ref().filter(|_| is_fixed) {
        let registered = fixture.engines().register(held.buffer.ptr(), set.len)?;
        registered.map_err(|errno| anyhow::anyhow!("register the memory: {errno}"))?;
    }
    let is_registered = is_fixed && !cell.action.ends_process();
    if is_fixed && !is_registered {
        // A child registers by itself, and cannot say why it was refused.
        fixture.engines().unregister()?;
    }
    let mut live = Live::default();
    if let Err(error) = set.race(fixture, cell, &mut live) {
        if matches!(error.downcast_ref(), Some(Stop::Hang(_))) {
            fixture.notes.extend(stacks::of(std::process::id().cast_signed()));
        }
        if let Ok(gate) = fixture.mounted().gate() {
            let _ = gate.open();
        }
        return Err(error);
    }
    if is_registered {
        fixture.engines().unregister()?;
    }
    if fixture.race() && cell.action == Action::Abort {
        return Ok(());
    }
    let Live { outcome, mut after, .. } = live;
    set.judge_io(fixture, cell, outcome.as_ref(), &mut after)?;
    set.judge_mapped(fixture, cell, outcome.as_ref(), &mut after)?;
    set.judge_file(fixture, cell, &after)
}

impl Set {
    fn new(fixture: &mut Fixture<'_>, cell: &Cell) -> anyhow::Result<Set> {
        if cell.action == Action::Pageout && !cell.kind.is_mapped_file() {
            let swaps = std::fs::read_to_string("/proc/swaps").unwrap_or_default();
            if swaps.lines().count() < 2 {
                return Err(not_run("this machine has no swap"));
            }
        }
        let is_append = cell.op.call == Call::Engine(Engine::Append);
        if is_append && fixture.mounted().target().is_looped() {
            return Err(not_run("where appended data goes on a loop device is not known before"));
        }
        let maps_itself = cell.kind == Kind::SelfMap && cell.op.is_direct();
        if maps_itself && *fixture.mounted().target() == Target::Btrfs {
            return Err(not_run(
                "btrfs goes through its page cache between a file and its own mapping",
            ));
        }
        let clones = matches!(fixture.mounted().target(), Target::Xfs | Target::Btrfs);
        if cell.op.call == Call::Copy && clones {
            return Err(not_run("the target clones blocks instead of copying them"));
        }
        let whole = if cell.kind == Kind::SelfMap { 2 * SPACE } else { SPACE };
        let file = fixture.quick_file(whole as u64)?;
        // Half of the last page is left to others, where so little can be left.
        let len = if fixture.grain() > PAGE / 2 { SPACE } else { SPACE - PAGE / 2 };
        let offset = if is_append { whole } else { 0 };
        let source = match cell.op.way {
            Way::Read => Vec::new(),
            Way::Write => file.content(2, offset as u64, len),
        };
        let filled = (cell.op.way == Way::Write).then_some(&*source);
        let held = Held::new(fixture, cell.kind, &file, filled)?;
        let handle = Some(Arc::new(fixture.open(&file, cell.op.open)?));
        let reader = fixture.open(&file, Open::Buffered)?;
        let direct = match fixture.open(&file, Open::Direct) {
            Err(error) if matches!(error.downcast_ref(), Some(Stop::NotRun(_))) => None,
            other => Some(other?),
        };
        let order = Order::Either;
        Ok(Set { file, handle, reader, direct, held, order, offset, len, source })
    }

    fn parts<'a>(&'a self, cell: &'a Cell) -> anyhow::Result<Parts<'a>> {
        let handle = self.handle.as_ref().context("the file is closed")?;
        let (offset, len, source) = (self.offset as u64, self.len, &*self.source);
        Ok(Parts { cell, file: &self.file, handle, held: self.held.as_ref(), offset, len, source })
    }

    /// It is enough to hold the first page: behind a loop device, and in a mapping, the I/O is cut up.
    fn park(&self, fixture: &mut Fixture<'_>, cell: &Cell) -> anyhow::Result<Parked> {
        let is_fuse = fixture.mounted().target().is_fuse();
        let op = match (cell.op.call, cell.op.way) {
            (Call::Copy, _) if is_fuse => "copy_file_range",
            (_, Way::Read) => "read",
            (_, Way::Write) => "write",
        };
        let held = if cell.phase == Phase::Copying { self.len } else { PAGE };
        let range = (self.offset as u64, held as u64);
        // The other write is not to be held with it.
        let most = (cell.action == Action::Overwrite).then_some(1);
        fixture.park_most(op, &self.file, range, cell.phase, most)
    }

    /// Parks, starts, races, and lets all of it end.
    fn race(
        &mut self,
        fixture: &mut Fixture<'_>,
        cell: &Cell,
        live: &mut Live,
    ) -> anyhow::Result<()> {
        let parked = self.park(fixture, cell)?;
        live.started = Some(self.parts(cell)?.start(fixture)?);
        let sync = reach(fixture, cell, parked, &mut live.started, self)?;
        if fixture.race() && cell.action == Action::Abort {
            return aborted(fixture, cell, parked, live, self);
        }
        let clean = self.clean(fixture, cell)?;
        if fixture.race() {
            let started = live.started.as_mut().context("nothing was started")?;
            live.after = self.act(fixture, cell, started)?;
        }
        live.after.clean = clean;
        let seq = fixture.meet(parked, 1)?[0].id;
        fixture.release(parked)?;
        let started = live.started.take().context("nothing was started")?;
        live.outcome = end(fixture, cell, started, seq)?;
        if let Some(sync) = sync {
            sync.join()?.context("fsync")?;
        }
        live.after.settle()?;
        if fixture.race() {
            self.order = self.order(fixture, cell)?;
        }
        Ok(())
    }

    /// Which of the I/O and the change of the file the server did first. A read through the page cache may ask twice.
    fn order(&self, fixture: &mut Fixture<'_>, cell: &Cell) -> anyhow::Result<Order> {
        let is_plain =
            cell.op.call != Call::Copy && (cell.op.is_direct() || cell.op.way == Way::Write);
        let change = match cell.action {
            Action::Cut | Action::CutGrow => Change::Cut,
            Action::Punch | Action::Zero => Change::Fallocate,
            _ => return Ok(Order::Either),
        };
        if !is_plain {
            return Ok(Order::Either);
        }
        let range = self.offset as u64..(self.offset + self.len) as u64;
        fixture.order(self.reader.metadata()?.ino(), cell.op.way, range, change)
    }

    /// Writes a mapped file that is read into back, while its pages are held: they are clean then, and a read that does
    /// not make them dirty at its end loses what it brought. (Not earlier: btrfs would copy into clean pages.)
    fn clean(
        &self,
        fixture: &mut Fixture<'_>,
        cell: &Cell,
    ) -> anyhow::Result<Option<Aside<nix::Result<()>>>> {
        let mapped = self.held.as_ref().and_then(|held| held.mapped.as_ref());
        let Some((_, handle, _)) = mapped.filter(|_| cell.op.way == Way::Read) else {
            return Ok(None);
        };
        let handle = handle.try_clone()?;
        let mut clean =
            fixture.aside("write-back of the memory", move || sys::write_back(&handle))?;
        clean.settle()?;
        Ok(Some(clean))
    }

    fn act(
        &mut self,
        fixture: &mut Fixture<'_>,
        cell: &Cell,
        started: &mut Started,
    ) -> anyhow::Result<After> {
        if cell.action.is_on_file() {
            let how = match cell.action {
                Action::Overwrite => Open::Direct,
                _ => Open::Buffered,
            };
            let other = fixture.open(&self.file, how)?;
            return action::on_file(fixture, cell, &self.file, other);
        }
        match (cell.action, started) {
            (Action::Close, _) => {
                // It is the last that refers to the file: before 6.18 a close waits for a FUSE file's synchronous write.
                let handle = self.handle.take();
                let mut close = fixture.aside("close", move || drop(handle))?;
                let is_over = close.settle()?;
                if !is_over {
                    fixture.serialised(&close);
                }
                return Ok(After { close: Some(close), ..After::default() });
            }
            (Action::Cancel, started) => {
                return cancel::cancel(fixture, started, self.held.as_ref());
            }
            (Action::Kill, Started::Child(child)) => {
                fixture.event(Actor::Racer, "SIGKILL");
                child.kill();
                child.settle(rendezvous())?;
            }
            (Action::Exit | Action::Exec, Started::Child(child)) => {
                fixture.event(Actor::Racer, cell.action.name());
                if !child.tell(patience())? {
                    return Err(not_run("the target makes the submission wait for the I/O"));
                }
            }
            _ => {
                let held = self.held.as_mut().context("an action on memory needs memory")?;
                let after = action::on_memory(fixture, cell, held, self.len)?;
                if cell.action == Action::Store && cell.op.way == Way::Write {
                    held.buffer.write(0, &self.file.content(3, self.offset as u64, self.len));
                }
                return Ok(after);
            }
        }
        Ok(After::default())
    }
}

/// Whether a flag is refused is found out on a file of its own.
fn try_flags(fixture: &mut Fixture<'_>, cell: &Cell) -> anyhow::Result<()> {
    let Some(engine) = cell.op.call.engine().filter(|_| cell.op.call.is_flagged()) else {
        return Ok(());
    };
    let file = fixture.quick_file(PAGE as u64)?;
    let handle = fixture.open(&file, cell.op.open)?;
    let buffer = Buffer::new(Memory::Anon, PAGE)?;
    let io = match cell.op.way {
        Way::Read => Io::read(&handle, &buffer, 0..PAGE, 0),
        Way::Write => Io::write(&handle, &buffer, 0..PAGE, 0),
    };
    match fixture.transfer(engine, io)? {
        Err(errno @ (Errno::EOPNOTSUPP | Errno::EINVAL | Errno::EAGAIN)) => {
            Err(not_run(format!("the target refuses {}: {errno}", engine.name())))
        }
        _ => Ok(()),
    }
}

/// Waits for the request. A cached write is over by then, and its write-back is what is in flight: that is an
/// fsync of its own.
fn reach(
    fixture: &mut Fixture<'_>,
    cell: &Cell,
    parked: Parked,
    started: &mut Option<Started>,
    set: &Set,
) -> anyhow::Result<Option<Sync>> {
    const MOMENT: Duration = Duration::from_micros(500);
    let end = Instant::now() + rendezvous();
    loop {
        if fixture.is_parked(parked, MOMENT)? {
            return Ok(None);
        }
        if started.as_mut().context("nothing was started")?.is_over(fixture)? {
            break;
        }
        if Instant::now() >= end {
            return Err(Stop::Broken("no request came to the gate".to_owned()).into());
        }
    }
    if cell.op.is_written_back() {
        let handle = set.reader.try_clone()?;
        let sync = fixture.aside("fsync", move || handle.sync_all())?;
        fixture.meet(parked, 1)?;
        return Ok(Some(sync));
    }
    let (done, _) = started.take().context("nothing was started")?.finish(fixture)?;
    if cell.op.call == Call::Engine(Engine::Nowait) && done == Err(Errno::EAGAIN) {
        return Err(not_run("the target would have to wait for something else than the I/O"));
    }
    let text = format!("the I/O ended before a request came to the gate: {done:?}");
    Err(Stop::Broken(text).into())
}

/// Waits for the end of the I/O, or of the process that has it: that has no outcome for us.
fn end(
    fixture: &mut Fixture<'_>,
    cell: &Cell,
    started: Started,
    seq: u64,
) -> anyhow::Result<Option<Outcome>> {
    let Started::Child(child) = started else { return started.finish(fixture).map(Some) };
    fixture.wait_done(seq)?;
    if fixture.race() && cell.action == Action::Kill {
        child.buried(bound())?;
    } else if child.finish(bound())? != 0 {
        return Err(Stop::Broken("the child could not execute /bin/true".to_owned()).into());
    }
    Ok(None)
}

/// Aborts the connection, uses the memory for something else, and only then lets the server answer.
fn aborted(
    fixture: &mut Fixture<'_>,
    cell: &Cell,
    parked: Parked,
    live: &mut Live,
    set: &Set,
) -> anyhow::Result<()> {
    let seq = fixture.meet(parked, 1)?[0].id;
    fixture.event(Actor::Racer, "abort");
    fixture.mounted().abort()?;
    let started = live.started.take().context("nothing was started")?;
    let (done, _) = started.finish(fixture)?;
    if oracle::is_due(cell, true, done) != Some(true) {
        fixture.fault(Class::Errno, format!("the I/O returned {done:?}, must fail by the abort"));
    }
    if let Some(held) = &set.held {
        held.buffer.fill(0, SPACE, CANARY);
    }
    match fixture.mounted().gate()?.release(seq) {
        Ok(1) => {}
        other => return Err(no_proof(format!("the answer was not held until now: {other:?}"))),
    }
    // The server may end at once, and with it the gate: then its answer has been sent too.
    match fixture.wait_done(seq) {
        Err(error) if error.is::<Stop>() => return Err(error),
        _ => {}
    }
    if let Some(held) = &set.held
        && held.buffer.bytes(0, SPACE).iter().any(|&byte| byte != CANARY)
    {
        fixture.fault(Class::Foreign, "the late answer was written to memory in other use");
    }
    Ok(())
}

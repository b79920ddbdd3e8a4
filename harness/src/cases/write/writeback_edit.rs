//! WB1: a page is stored to through a mapping while it is being written back.
//!
//! Whatever the server got, the store came later than the write-back began, so it must reach the file in the
//! end: the page has to be dirty again. Since 6.16 FUSE writes back the live page, before it a copy.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;

use anyhow::{Context, ensure};
use inflight_gate::Phase;

use crate::cases::case::{Case, Reach};
use crate::cases::variant::Variant;
use crate::fixture::raw_server::{RawServer, Settings, Which};
use crate::fixture::{Fixture, Open, Stamped};
use crate::kit::bounds::{bound, rendezvous};
use crate::kit::event::Actor;
use crate::kit::fork::{Child, Task};
use crate::kit::mapping::Mapping;
use crate::kit::memory::{Buffer, Memory, PAGE};
use crate::kit::stamp::CANARY;
use crate::kit::verdict::{Class, not_run};
use crate::target::Target;

pub const CASE: Case = Case {
    id: "WB1",
    name: "writeback-edit",
    claim: "a store to a page under write-back reaches the file",
    groups: &["quick", "writeback", "mmap"],
    reach: Reach::Gated,
    variants,
    run,
    expected: &[],
};

fn variants() -> Vec<Variant> {
    let mut all = Vec::new();
    for phase in [Phase::Received, Phase::Applied] {
        all.push(Variant::new("cached").phase(phase));
        all.push(Variant::new("cached").phase(phase).mount("writeback"));
    }
    all.extend(["", "late"].map(|how| Variant::new("spliced").how(how)));
    all
}

const LEN: usize = 8192;

fn run(fixture: &mut Fixture<'_>, variant: &Variant) -> anyhow::Result<()> {
    if variant.act == "spliced" {
        return run_spliced(fixture, variant);
    }
    let file = fixture.file(LEN as u64)?;
    let handle = fixture.open(&file, Open::Buffered)?;
    let mapping = Mapping::shared(&handle, LEN)?;
    mapping.store(0, &file.content(2, 0, LEN));
    handle.sync_all().context("fsync")?;
    // The rule before the page is dirty: to find the blocks behind a loop device writes back what is.
    let parked = fixture.park("write", &file, (0, 4096), variant.phase_or_received())?;
    let sync = write_back(fixture, &file, &handle, &mapping, 1)?;
    fixture.meet(parked, 1)?;
    let mut generation = 2;
    let mut store = None;
    if fixture.race() {
        let bytes = file.content(3, 0, LEN);
        // It may have to wait for the write-back.
        let mut aside = fixture.aside("store", move || mapping.store(0, &bytes))?;
        aside.settle()?;
        store = Some(aside);
        generation = 3;
    }
    fixture.release(parked)?;
    end(sync)?;
    if let Some(store) = store {
        store.join()?;
    }
    handle.sync_all().context("fsync")?;
    fixture.forget(&file)?;
    let direct = fixture.open(&file, Open::Direct)?;
    let mut bytes = vec![0; LEN];
    if let Ok(read) = fixture.read(&direct, 0, LEN)? {
        bytes = read;
    } else {
        handle.read_exact_at(&mut bytes, 0).context("read")?;
    }
    fixture.judge("the file", &bytes, 0, &[file.generation(generation)]);
    Ok(())
}

/// A child that makes pages of the file dirty and writes them back.
///
/// The kernel may begin to write a page back as soon as it is dirty, before the instruction that stores is done: then
/// that one waits for what is parked, and nobody else may. What is stored is the first byte of a stamp, which is the
/// same in all generations.
fn write_back(
    fixture: &mut Fixture<'_>,
    file: &Stamped,
    handle: &File,
    mapping: &Mapping,
    pages: usize,
) -> anyhow::Result<Child> {
    fixture.event(Actor::Test, "a store and fsync, by a child");
    let byte = file.content(2, 0, 1)[0];
    fixture.fork(Task::StoreSync { at: mapping.address(0), pages, byte, file: handle.as_raw_fd() })
}

fn end(sync: Child) -> anyhow::Result<()> {
    ensure!(sync.finish(bound())? == 0, "fsync failed in the child");
    Ok(())
}

/// The byte that is stored to.
const STORE_AT: usize = 100;
/// Memory that is taken when the pages are free: it would get theirs.
const NEIGHBOUR: usize = 8 << 20;

/// The server has the page that is written back in a pipe. While it is not answered the store may show there or
/// not; when it is answered and the file was changed and cut off, the pipe still holds what the file held, or zeroes.
fn run_spliced(fixture: &mut Fixture<'_>, variant: &Variant) -> anyhow::Result<()> {
    if *fixture.mounted().target() != Target::Inflight {
        return Err(not_run("the splicing server is played beside Inflight"));
    }
    let settings = Settings { id: 0, len: LEN, direct_io: false, writeback: true };
    let (mut server, file) = fixture.raw_server(settings)?;
    let handle = fixture.open(&file, Open::Buffered)?;
    let result = play_spliced(fixture, &mut server, &file, &handle, variant.how == "late");
    if result.is_err() {
        // Who closes a file waits for what is held of it; without its server nothing is.
        drop(server);
    }
    result
}

fn play_spliced(
    fixture: &mut Fixture<'_>,
    server: &mut RawServer,
    file: &Stamped,
    handle: &File,
    is_late: bool,
) -> anyhow::Result<()> {
    let mapping = Mapping::shared(handle, LEN)?;
    mapping.store(0, &file.content(2, 0, LEN));
    handle.sync_all().context("fsync")?;
    server.hold(Which::Write, is_late)?;
    let sync = write_back(fixture, file, handle, &mapping, LEN / PAGE)?;
    server.meet()?;
    let mut legal = vec![file.generation(2)];
    let mut sync = Some(sync);
    if is_late && let Some(sync) = sync.take() {
        end(sync)?;
    }
    let (mut neighbour, mut child) = (None, None);
    if fixture.race() {
        legal.push(file.generation(3));
        if is_late {
            mapping.store(0, &file.content(3, 0, LEN));
        } else {
            // Where the page itself is written back, a store waits for the answer, and with it all who map memory
            // in the same process.
            let byte = file.content(3, STORE_AT as u64, 1)[0];
            let storing = fixture.fork(Task::Store { at: mapping.address(STORE_AT), byte })?;
            storing.settle(rendezvous())?;
            child = Some(storing);
        }
        if is_late {
            fixture.event(Actor::Racer, "ftruncate");
            nix::unistd::ftruncate(handle, 0)?;
            legal.push(file.hole());
            let taken = Buffer::new(Memory::Anon, NEIGHBOUR)?;
            taken.fill(0, NEIGHBOUR, CANARY);
            neighbour = Some(taken);
        }
    }
    let bytes = server.drain()?;
    fixture.judge("the payload", &bytes, 0, &legal);
    let is_live = bytes != file.content(2, 0, bytes.len());
    fixture.note(format!("the pipe shows the later store: {is_live}"));
    if let Some(sync) = sync {
        let sent = server.answer(false)?;
        ensure!(sent.is_ok(), "the answer was refused: {sent:?}");
        end(sync)?;
    }
    if let Some(child) = child {
        child.finish(bound())?;
        // The page is dirty again, or was when it was written back: in the end the server has the store.
        handle.sync_all().context("fsync")?;
        let direct = fixture.open(file, Open::Direct)?;
        let bytes = fixture.read(&direct, 0, LEN)?.map_err(anyhow::Error::from)?;
        let wanted = file.content(3, STORE_AT as u64, 1)[0];
        if bytes.get(STORE_AT) != Some(&wanted) {
            let text =
                format!("byte {STORE_AT} of the server's file is not what was stored to the page");
            fixture.fault(Class::Lost, text);
        }
    }
    drop((mapping, neighbour));
    Ok(())
}

//! FT1: a direct read into eight pages of which one faults into a parked request.
//!
//! The kernel takes the buffer's pages one after the other. The sixth is a mapping of a file whose read is
//! parked, so the call stands still with the pages before it taken and no I/O begun. Fork and a store then
//! must not part the program from the pages that are already taken.

use inflight_gate::Phase;

use crate::cases::case::{Case, Reach};
use crate::cases::expect::{BLOCK_UNPINNED, Expected, FUSE_UNPINNED, Seen};
use crate::cases::variant::Variant;
use crate::fixture::{Fixture, Open};
use crate::kit::bounds::bound;
use crate::kit::engine::{Engine, Io};
use crate::kit::event::Actor;
use crate::kit::fork::{Task, child};
use crate::kit::kernel::Version;
use crate::kit::memory::{Buffer, Memory, PAGE};
use crate::kit::stamp::POISON;
use crate::kit::verdict::Class;

pub const CASE: Case = Case {
    id: "FT1",
    name: "fault-gate",
    claim: "a direct read whose buffer is half taken when the process forks and stores arrives in the parent",
    groups: &["fault", "fork"],
    reach: Reach::Gated,
    variants: || {
        let acts = ["fork-store", "store", "protect"];
        let with =
            |act: &'static str| [Engine::Pread, Engine::Uring].map(|e| Variant::new(act).engine(e));
        acts.into_iter().flat_map(with).collect()
    },
    run,
    expected: &[
        Expected { variant: "fork-store*", seen: &[NEVER_CAME], ..FUSE_UNPINNED },
        Expected {
            variant: "fork-store*",
            seen: &[NEVER_CAME],
            reference: "block: Use page pinning, 6.5; seen on 5.10.262 and 6.1.192",
            ..BLOCK_UNPINNED
        },
        Expected {
            on: "*",
            variant: "protect*",
            seen: &[NEVER_CAME],
            until: Some(Version(5, 19, 0)),
            reference: "mm: PageAnonExclusive, 6c287605fd56; seen on 5.10.262",
            ..Expected::ALWAYS
        },
    ],
};

/// Data went to a page that the program did not have any more.
const NEVER_CAME: Seen = Seen::Words(Class::Lost, "buffer: * are poison (never written); legal: *");

const PAGES: usize = 8;
const GATE: usize = 5;
const LEN: usize = PAGES * PAGE;
const STORE_AT: usize = 100;

fn run(fixture: &mut Fixture<'_>, variant: &Variant) -> anyhow::Result<()> {
    let file = fixture.file(LEN as u64)?;
    let handle = fixture.open(&file, Open::Direct)?;
    let trap = fixture.file(PAGE as u64)?;
    let trap_handle = fixture.open(&trap, Open::Buffered)?;
    let mut buffer = Buffer::new(Memory::Anon, LEN)?;
    buffer.put_file(GATE, &trap_handle)?;
    let parked = fixture.park("read", &trap, (0, PAGE as u64), Phase::Received)?;
    let io = Io::read(&handle, &buffer, 0..LEN, 0);
    let flight = fixture.start(variant.engine_or_pread(), io)?;
    fixture.meet(parked, 1)?;
    let (mut forked, mut blocked) = (None, false);
    if fixture.race() {
        // A fork waits for the address space, which the fault may hold: never on this thread.
        if variant.act == "fork-store" {
            let mut aside = fixture.aside("fork", || child(Task::Exit))?;
            blocked = !aside.settle()?;
            if blocked {
                fixture.serialised(&aside);
            }
            forked = Some(aside);
        }
        if variant.act == "protect" {
            use nix::sys::mman::ProtFlags;
            let (start, len) = (buffer.ptr() as usize, PAGE);
            let mut aside = fixture.aside("mprotect", move || {
                crate::kit::memory::protect(start, len, ProtFlags::PROT_READ)?;
                crate::kit::memory::protect(
                    start,
                    len,
                    ProtFlags::PROT_READ | ProtFlags::PROT_WRITE,
                )
            })?;
            blocked = !aside.settle()?;
            match blocked {
                true => fixture.serialised(&aside),
                false => aside.join()??,
            }
        }
        if !blocked {
            fixture.event(Actor::Racer, "store to the first page");
            buffer.store(STORE_AT, 1);
        }
    }
    fixture.release(parked)?;
    let done = fixture.finish(flight)?;
    fixture.count("the read", done, LEN);
    let mut bytes = buffer.bytes(0, LEN);
    // Whether the store comes before or after the data of its page is the filesystem's affair.
    if fixture.race() && bytes[STORE_AT] == 1 {
        let never_written = bytes[STORE_AT + 1] == POISON;
        let arrived = file.content(1, STORE_AT as u64, 1)[0];
        bytes[STORE_AT] = if never_written { POISON } else { arrived };
    }
    fixture.judge("buffer", &bytes, 0, &[file.generation(1)]);
    if let Some(forked) = forked {
        forked.join()??.finish(bound())?;
    }
    Ok(())
}

//! MV1: the kernel tries to move the page while a direct read into it is parked: compaction, collapse into a
//! huge page, another node.
//!
//! A page with an I/O on it must stay, or the data must follow it. (Migration was once blamed for lost
//! FUSE reads; a held page was never moved.)

use inflight::gate::Phase;
use nix::sys::mman::MmapAdvise;

use crate::case::{Case, Reach};
use crate::engine::{Engine, Io};
use crate::event::Actor;
use crate::memory::{Buffer, HUGE, Memory};
use crate::pagemap::Pagemap;
use crate::scene::{Open, Scene};
use crate::variant::Variant;
use crate::verdict::not_run;

pub const CASE: Case = Case {
    id: "MV1",
    name: "migrate",
    claim: "data of a direct read arrives although the kernel was told to move the page meanwhile",
    groups: &["memory"],
    reach: Reach::Gated,
    variants: || {
        let with = |act: &'static str| [Engine::Pread, Engine::Uring].map(|e| Variant::new(act).engine(e));
        ["compact", "collapse", "nodes"].into_iter().flat_map(with).collect()
    },
    run,
    expected: &[],
};

const LEN: usize = 4096;
/// Space for one aligned huge page.
const SPACE: usize = 2 * HUGE;

fn run(scene: &mut Scene<'_>, variant: &Variant) -> anyhow::Result<()> {
    let file = scene.file(LEN as u64)?;
    let handle = scene.open(&file, Open::Direct)?;
    let buffer = Buffer::new(Memory::Anon, SPACE)?;
    let at = (buffer.ptr() as usize).next_multiple_of(HUGE) - buffer.ptr() as usize;
    let before = Pagemap::of("self")?.frame(buffer.at(at) as usize)?;
    let parked = scene.park("read", &file, (0, LEN as u64), Phase::Received)?;
    let io = Io::read(&handle, &buffer, at..at + LEN, 0);
    let flight = scene.start(variant.engine_or_pread(), io)?;
    scene.meet(parked, 1)?;
    if scene.race() {
        scene.event(Actor::Racer, variant.act);
        disturb(scene, variant, &buffer, at)?;
    }
    let after = Pagemap::of("self")?.frame(buffer.at(at) as usize)?;
    scene.note(format!("the page moved: {}", before != after));
    scene.release(parked)?;
    let done = scene.finish(flight)?;
    scene.count("the read", done, LEN);
    scene.judge("buffer", &buffer.bytes(at, LEN), 0, &[file.generation(1)]);
    Ok(())
}

fn disturb(
    scene: &mut Scene<'_>,
    variant: &Variant,
    buffer: &Buffer,
    at: usize,
) -> anyhow::Result<()> {
    match variant.act {
        "compact" => {
            let told = std::fs::write("/proc/sys/vm/compact_memory", "1");
            told.map_err(|error| not_run(format!("compact_memory: {error}")))
        }
        "collapse" => {
            buffer.advise(MmapAdvise::MADV_HUGEPAGE)?;
            let result = crate::memory::collapse(buffer.at(at) as usize, HUGE);
            scene.note(format!("MADV_COLLAPSE: {result:?}"));
            match result {
                Err(nix::errno::Errno::EINVAL) => Err(not_run("this kernel has no MADV_COLLAPSE")),
                _ => Ok(()),
            }
        }
        _ => {
            let nodes = std::fs::read_to_string("/sys/devices/system/node/online")?;
            if nodes.trim() == "0" {
                return Err(not_run("this machine has one memory node"));
            }
            let result = crate::memory::move_to_node(buffer.at(at) as usize, 1);
            scene.note(format!("move_pages: {result:?}"));
            Ok(())
        }
    }
}

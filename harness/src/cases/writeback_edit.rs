//! WB1: a page is stored to through a mapping while it is being written back.
//!
//! Whatever the server got, the store came later than the write-back began, so it must reach the file in the
//! end: the page has to be dirty again. Since 6.16 FUSE writes back the live page, before it a copy.

use std::os::unix::fs::FileExt;

use anyhow::Context;
use inflight::gate::Phase;

use crate::case::{Case, Reach};
use crate::mapping::Mapping;
use crate::scene::{Open, Scene};
use crate::variant::Variant;

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
    all
}

const LEN: usize = 8192;

fn run(scene: &mut Scene<'_>, variant: &Variant) -> anyhow::Result<()> {
    let file = scene.file(LEN as u64)?;
    let handle = scene.open(&file, Open::Buffered)?;
    let mapping = Mapping::shared(&handle, LEN)?;
    mapping.store(0, &file.content(2, 0, LEN));
    handle.sync_all().context("fsync")?;
    // The rule before the page is dirty: to find the blocks behind a loop device writes back what is. And one store
    // makes it dirty, for the kernel may write it back at once, and a second one would have to wait for that.
    let parked = scene.park("write", &file, (0, 4096), variant.phase_or_received())?;
    mapping.store(0, &file.content(2, 0, 1));
    let other = scene.open(&file, Open::Buffered)?;
    let sync = scene.aside("fsync", move || other.sync_all())?;
    scene.meet(parked, 1)?;
    let mut generation = 2;
    let mut store = None;
    if scene.race() {
        let bytes = file.content(3, 0, LEN);
        // It may have to wait for the write-back.
        let mut aside = scene.aside("store", move || mapping.store(0, &bytes))?;
        aside.settle()?;
        store = Some(aside);
        generation = 3;
    }
    scene.release(parked)?;
    sync.join()?.context("fsync")?;
    if let Some(store) = store {
        store.join()?;
    }
    handle.sync_all().context("fsync")?;
    scene.forget(&file)?;
    let direct = scene.open(&file, Open::Direct)?;
    let mut bytes = vec![0; LEN];
    if let Ok(read) = scene.read(&direct, 0, LEN)? {
        bytes = read;
    } else {
        handle.read_exact_at(&mut bytes, 0).context("read")?;
    }
    scene.judge("the file", &bytes, 0, &[file.generation(generation)]);
    Ok(())
}

//! TR2: truncate to nothing while a direct write inside the file is in flight.
//!
//! The write was sent when it did not extend the file, so the kernel will not touch the size when it completes.
//! The truncate is answered first; then the server applies the write, which now extends the file. If the
//! kernel's size stays 0 while the server's is not, stat and read lie until the attributes time out.

use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;

use inflight_gate::Phase;

use crate::case::{Case, Reach};
use crate::engine::{Engine, Io};
use crate::expect::{EVER, Expected};
use crate::memory::{Buffer, Memory};
use crate::scene::{Open, Scene};
use crate::stamp::Legal;
use crate::variant::Variant;
use crate::verdict::Class;

pub const CASE: Case = Case {
    id: "TR2",
    name: "truncate-write",
    claim: "size and data agree with one order of a truncate and a direct write that was in flight",
    groups: &["quick", "truncate"],
    reach: Reach::Gated,
    variants,
    run,
    expected: &[Expected {
        on: "inflight|server",
        variant: "async/aio/received|async/uring/received",
        classes: &[Class::Short],
        since: EVER,
        until: None,
        fixed_in: &[],
        reference: "harness/findings/truncate-async-write.md",
    }],
};

fn variants() -> Vec<Variant> {
    let mut all = Vec::new();
    for phase in [Phase::Received, Phase::Applied] {
        for engine in [Engine::Aio, Engine::Uring] {
            all.push(Variant::new("async").engine(engine).phase(phase));
        }
        all.push(Variant::new("sync").engine(Engine::Pread).phase(phase));
    }
    all
}

const LEN: usize = 16384;
const AT: usize = 8192;
const PART: usize = 4096;

fn run(scene: &mut Scene<'_>, variant: &Variant) -> anyhow::Result<()> {
    let file = scene.file(LEN as u64)?;
    let direct = scene.open(&file, Open::Direct)?;
    let reader = scene.open(&file, Open::Buffered)?;
    let ino = reader.metadata()?.ino();
    let buffer = Buffer::new(Memory::Anon, PART)?;
    buffer.write(0, &file.content(2, AT as u64, PART));
    let is_async = variant.act == "async";
    let phase = variant.phase_or_received();
    let parked = scene.park("write", &file, (AT as u64, PART as u64), phase)?;
    let io = Io::write(&direct, &buffer, 0..PART, AT as u64);
    let flight = scene.start(variant.engine_or_pread(), io)?;
    scene.meet(parked, 1)?;

    let mut truncate = None;
    if scene.race() {
        let other = scene.open(&file, Open::Buffered)?;
        let call = move || nix::unistd::ftruncate(other.as_fd(), 0);
        let fuse = scene.stage().target().is_fuse();
        // A synchronous write holds the inode: there the truncate is not sent before it is over.
        let mut aside = if fuse && is_async {
            scene.change("setattr", &file, "ftruncate", call)?
        } else {
            scene.aside("ftruncate", call)?
        };
        aside.settle()?;
        truncate = Some(aside);
    }
    scene.release(parked)?;
    let done = scene.finish(flight)?;
    scene.count("the write", done, PART);
    if let Some(truncate) = truncate {
        truncate.join()??;
    }
    check(scene, &file, &reader, ino)
}

fn check(
    scene: &mut Scene<'_>,
    file: &crate::scene::Stamped,
    reader: &std::fs::File,
    ino: u64,
) -> anyhow::Result<()> {
    let size = reader.metadata()?.len() as usize;
    let bytes = scene.read(reader, 0, LEN)?.map_err(anyhow::Error::from)?;
    let wanted: &[usize] = if scene.race() { &order(scene, ino)? } else { &[LEN] };
    if !wanted.contains(&size) || bytes.len() != size {
        let text = format!("fstat says {size}, read returns {}, must be {wanted:?}", bytes.len());
        scene.fault(Class::Short, text);
        return Ok(());
    }
    let kept: &[Legal] = if scene.race() { &[Legal::Zero] } else { &[file.generation(1)] };
    let parts = [(0, AT, kept), (AT, AT + PART, &[file.generation(2)]), (AT + PART, LEN, kept)];
    for (from, to, legal) in parts {
        let to = to.min(size);
        if from < to {
            scene.judge("the file", &bytes[from..to], from as u64, legal);
        }
    }
    Ok(())
}

/// The sizes that the file may have: on FUSE the server's own order decides.
fn order(scene: &mut Scene<'_>, ino: u64) -> anyhow::Result<Vec<usize>> {
    Ok(match scene.was_cut_before_write(ino, AT as u64)? {
        None => vec![0, AT + PART],
        Some(true) => vec![AT + PART],
        Some(false) => vec![0],
    })
}

//! MD1: a direct read into a shared mapping of a FUSE file, while that file is extended, punched or invalidated.
//!
//! The file that is read has nothing to do with it: it is another one, also of another filesystem (ext4 and others, behind
//! the gate on a loop device in the same mount as the mapped file). The read holds the pages of the mapping; whoever takes them
//! out of the file meanwhile takes the data along that read(2) says it has brought.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::{FileExt, MetadataExt};

use anyhow::Context;
use inflight_gate::{Notice, Phase};
use nix::fcntl::{FallocateFlags, fallocate};

use crate::cases::case::{Case, Reach};
use crate::cases::expect::{Expected, Must, Seen};
use crate::cases::variant::Variant;
use crate::fixture::{Fixture, Open, Stamped};
use crate::kit::bounds::patience;
use crate::kit::engine::{Engine, Io, Way};
use crate::kit::mapping::Mapping;
use crate::kit::stamp::{Legal, POISON};
use crate::kit::verdict::Class;

pub const CASE: Case = Case {
    id: "MD1",
    name: "mapped-target",
    claim: "what a direct read brought into a mapping of a file is in the mapping and in the file, whatever was done to the file's end, holes or cache meanwhile",
    groups: &["quick", "mmap", "notify"],
    reach: Reach::Gated,
    variants,
    run,
    expected: &[Expected {
        on: "inflight|server|ext4|xfs|btrfs|vfat",
        variant: "grow/*|inval/*",
        seen: &[Seen::Words(
            Class::Lost,
            "the memory: * are poison (never written); legal: *|the file: * are poison (never written); legal: *",
        )],
        must: Must::Series(&[(6, 18)]),
        reference: "harness/findings/grow-under-direct-read.md",
        ..Expected::ALWAYS
    }],
};

fn variants() -> Vec<Variant> {
    let mut all = Vec::new();
    for act in ["grow", "punch", "inval"] {
        for engine in [Engine::Read, Engine::Uring] {
            all.push(Variant::new(act).engine(engine).phase(Phase::Applied));
        }
    }
    all.push(Variant::new("punch").engine(Engine::Uring).phase(Phase::Copying));
    all.push(Variant::new("grow").engine(Engine::Uring).phase(Phase::Copying));
    all
}

const LEN: usize = 65536;
const HALF: usize = LEN / 2;
const MORE: i64 = 8192;

fn run(fixture: &mut Fixture<'_>, variant: &Variant) -> anyhow::Result<()> {
    if variant.act == "inval" {
        fixture.needs_notices()?;
    }
    let source = fixture.quick_file(LEN as u64)?;
    let direct = fixture.open(&source, Open::Direct)?;
    let (target, handle) = target(fixture)?;
    let mapping = Mapping::shared(&handle, LEN)?;
    mapping.store(0, &[POISON; LEN]);
    let other = fixture.open(&target, Open::Buffered)?;
    let phase = variant.phase_or_received();
    let parked = fixture.park("read", &source, (0, LEN as u64), phase)?;
    let memory = mapping.address(0);
    let io = Io { fd: direct.as_raw_fd(), way: Way::Read, memory, len: LEN, offset: 0 };
    let flight = fixture.start(variant.engine_or_pread(), io)?;
    fixture.meet(parked, 1)?;
    let mut change = None;
    if fixture.race() {
        let act = variant.act;
        if act == "inval" {
            let ino = fixture.node(other.metadata()?.ino())?;
            let told = fixture.notify(Notice::Inval { ino, offset: 0, len: 0 })?;
            fixture.note(format!("FUSE_NOTIFY_INVAL_INODE: {told:?}"));
            if !told.is_over {
                fixture.held_back.get_or_insert("the notification waited for the read".to_owned());
            }
        } else {
            let mut aside = fixture.aside(act, move || apply(act, &other))?;
            if !aside.is_over(patience())? {
                fixture.serialised(&aside);
            }
            change = Some(aside);
        }
    }
    fixture.release(parked)?;
    let done = fixture.finish(flight)?;
    if let Some(change) = change {
        change.join()??;
    }
    if !fixture.count("the read", done, LEN) {
        return Ok(());
    }
    let brought = vec![source.generation(1)];
    let first = match variant.act {
        "punch" if fixture.race() => vec![source.generation(1), Legal::Zero],
        _ => brought.clone(),
    };
    let parts = [(0, HALF, first), (HALF, LEN, brought)];
    let seen = mapping.load(0, LEN);
    for (from, to, legal) in &parts {
        fixture.judge("the memory", &seen[*from..*to], *from as u64, legal);
    }
    drop(mapping);
    handle.sync_all().context("fsync of the mapped file")?;
    let behind = fixture.open(&target, Open::Direct)?;
    let bytes = fixture.read(&behind, 0, LEN)?.map_err(anyhow::Error::from)?;
    for (from, to, legal) in &parts {
        fixture.judge("the file", &bytes[*from..*to], *from as u64, legal);
    }
    drop((handle, behind));
    std::fs::remove_file(&target.path)?;
    Ok(())
}

/// A file of the FUSE mount, and its handle: of the target itself, or of what lies below its loop device.
fn target(fixture: &mut Fixture<'_>) -> anyhow::Result<(Stamped, File)> {
    let name = fixture.name();
    let path = match fixture.mounted().target().is_fuse() {
        true => name.path.clone(),
        false => fixture.mounted().base()?.join(format!("mapped-{}", name.id)),
    };
    let file = Stamped { path, len: LEN as u64, ..name };
    let handle = File::options().read(true).write(true).create_new(true).open(&file.path);
    let handle = handle.with_context(|| file.path.display().to_string())?;
    handle.write_all_at(&file.content(1, 0, LEN), 0)?;
    handle.sync_all()?;
    Ok((file, handle))
}

fn apply(act: &str, file: &File) -> nix::Result<()> {
    let keep = FallocateFlags::FALLOC_FL_KEEP_SIZE;
    match act {
        "grow" => nix::unistd::ftruncate(file.as_fd(), LEN as i64 + MORE),
        _ => fallocate(file.as_fd(), FallocateFlags::FALLOC_FL_PUNCH_HOLE | keep, 0, HALF as i64),
    }
}

//! FA1: by which method a file is spliced, where it has one.
//!
//! ITER_PIPE went in 6.5, and the default for files without a method in 5.10; some special files got one back. A hole of a
//! tmpfs file needs no page, and a direct splice that meets the end must be trimmed to what the file has.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;

use anyhow::Context;
use nix::sys::eventfd::EventFd;
use nix::sys::memfd::{MFdFlags, memfd_create};

use super::{Row, V6_1, V6_5, V6_7, by_itself, fact};
use crate::cases::case::{Case, Reach};
use crate::cases::expect::EVER;
use crate::cases::variant::Variant;
use crate::fixture::{Fixture, Open};
use crate::kit::memory::PAGE;
use crate::kit::pipe::Pipe;
use crate::kit::seen::Seen;
use crate::kit::verdict::not_run;

pub const CASE: Case = Case {
    id: "FA1",
    name: "splice-method",
    claim: "a file is spliced by the method that its kind has in this kernel, and refused where it has none",
    groups: &["facts", "splice"],
    reach: Reach::Any,
    variants,
    run: by_itself,
    expected: &[],
};

const WORKS: &[Row] = &[("*", EVER, "works")];

fn variants() -> Vec<Variant> {
    let kernfs = "/sys/kernel/mm/transparent_hugepage/enabled";
    let urandom = &[("*", EVER, "works|refused: EINVAL"), ("*", V6_1, "works")];
    let zero = &[("*", EVER, "refused: EINVAL"), ("*", V6_7, "works")];
    vec![
        fact("iter-pipe", |_| iter_pipe(), &[("*", EVER, "there"), ("*", V6_5, "gone")]),
        fact("procfs", |_| special("/proc/version"), WORKS),
        fact("kernfs", move |_| special(kernfs), WORKS),
        fact("urandom", |_| special("/dev/urandom"), urandom),
        fact("zero", |_| special("/dev/zero"), zero),
        fact("eventfd", |_| without_method(), &[("*", EVER, "refused: EINVAL")]),
        fact(
            "shmem-hole",
            |_| shmem_hole(),
            &[("*", EVER, "allocates *"), ("*", V6_1, "allocates nothing")],
        ),
        fact("end", end, &[("*", EVER, "trimmed")]),
    ]
}

/// Whether this kernel has ITER_PIPE: `gone` where `copy_splice_read` is, `there` where `generic_file_splice_read` is.
fn iter_pipe() -> anyhow::Result<Seen> {
    let symbols = std::fs::read_to_string("/proc/kallsyms").unwrap_or_default();
    let has = |name: &str| symbols.lines().any(|line| line.split(' ').nth(2) == Some(name));
    match (has("copy_splice_read"), has("generic_file_splice_read")) {
        (true, false) => Ok(Seen::new("gone", "copy_splice_read is in /proc/kallsyms")),
        (false, true) => Ok(Seen::new("there", "generic_file_splice_read is in /proc/kallsyms")),
        _ => Err(not_run("/proc/kallsyms shows neither way of splice")),
    }
}

/// What is no regular file: `works`, or the errno.
fn special(path: &str) -> anyhow::Result<Seen> {
    let file = File::open(path).map_err(|error| not_run(format!("{path}: {error}")))?;
    of(&file, path)
}

/// A kind of file that has a read method and no splice-read.
fn without_method() -> anyhow::Result<Seen> {
    let event = EventFd::from_value(1).context("eventfd")?;
    of(&File::from(OwnedFd::from(event)), "eventfd")
}

fn of(file: &File, name: &str) -> anyhow::Result<Seen> {
    Ok(match Pipe::new()?.fill(file, None, 64) {
        Ok(count) => Seen::new("works", format!("{name}: {count} bytes")),
        Err(errno) => Seen::new(format!("refused: {errno:?}"), name),
    })
}

/// A hole of a tmpfs file (a memfd): how many blocks the file has when it was spliced.
fn shmem_hole() -> anyhow::Result<Seen> {
    let file = File::from(memfd_create("hole", MFdFlags::MFD_CLOEXEC)?);
    file.set_len(16 * PAGE as u64)?;
    let mut pipe = Pipe::new()?;
    let count = pipe.fill_all(&file, 16 * PAGE).context("splice a hole")?;
    let zero = pipe.drain()?.iter().all(|&byte| byte == 0);
    let blocks = file.metadata()?.blocks();
    let evidence = format!("{count} bytes, {}", if zero { "all zero" } else { "not all zero" });
    let word = if blocks == 0 { "allocates nothing" } else { "allocates pages" };
    Ok(Seen::new(word, format!("{evidence}; st_blocks {blocks}")))
}

/// A direct splice over the end of a file: `trimmed` when the count and the pipe are what the file has.
fn end(fixture: &mut Fixture<'_>) -> anyhow::Result<Seen> {
    const LEN: usize = 3 * PAGE + 100;
    let file = fixture.file(LEN as u64)?;
    let handle = fixture.open(&file, Open::Direct)?;
    let mut pipe = Pipe::new()?;
    let count = pipe.fill_all(&handle, 16 * PAGE);
    let held = pipe.held().context("FIONREAD")?;
    let bytes = pipe.drain()?;
    fixture.judge("pipe", &bytes, 0, &[file.generation(1)]);
    let is_right = bytes.len() == LEN && count == Ok(LEN);
    let evidence = format!("splice says {count:?}, the pipe holds {held}, of {LEN}");
    Ok(Seen::new(if is_right { "trimmed" } else { "wrong" }, evidence))
}

//! SP6: pages of a file stay in a pipe while the file loses them: truncate, punch, unlink, and another file
//! that takes the freed blocks.
//!
//! The pipe may show what was there, or zeroes; it must never show the other file.

use std::os::fd::AsFd;

use anyhow::{Context, ensure};
use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, fallocate};

use crate::cases::case::{Case, Reach};
use crate::cases::variant::Variant;
use crate::fixture::{Fixture, Open};
use crate::kit::event::Actor;
use crate::kit::pipe::Pipe;
use crate::kit::verdict::not_run;

pub const CASE: Case = Case {
    id: "SP6",
    name: "splice-hold",
    claim: "a pipe that holds pages of a file shows its bytes or zeroes when they are freed, never another file's",
    groups: &["quick", "splice", "truncate"],
    reach: Reach::Any,
    variants: || {
        let mut all: Vec<_> = ["truncate", "punch", "unlink"].map(Variant::new).into();
        all.extend(["truncate", "unlink"].map(|act| Variant::new(act).how("direct")));
        all
    },
    run,
    expected: &[],
};

const LEN: usize = 65536;

fn run(fixture: &mut Fixture<'_>, variant: &Variant) -> anyhow::Result<()> {
    let (action, how) = (variant.act, variant.how);
    let file = fixture.file(LEN as u64)?;
    let open = if how == "direct" { Open::Direct } else { Open::Buffered };
    let handle = fixture.open(&file, open)?;
    let (mut pipe, mut copy) = (Pipe::new()?, Pipe::new()?);
    let held = pipe.fill_all(&handle, LEN).context("splice")?;
    ensure!(held == LEN, "splice brings {held} of {LEN}");
    let teed = pipe.tee(&copy, LEN).context("tee")?;
    let mut legal = vec![file.generation(1)];
    if fixture.race() {
        fixture.event(Actor::Racer, action);
        let other = fixture.open(&file, Open::Buffered)?;
        match action {
            "truncate" => nix::unistd::ftruncate(other.as_fd(), 0).context("ftruncate")?,
            "punch" => {
                let hole = FallocateFlags::FALLOC_FL_PUNCH_HOLE;
                let flags = hole | FallocateFlags::FALLOC_FL_KEEP_SIZE;
                match fallocate(other.as_fd(), flags, 0, LEN as i64) {
                    Err(Errno::EOPNOTSUPP) => return Err(not_run("the target cannot punch holes")),
                    other => other.context("punch")?,
                }
            }
            _ => {
                std::fs::remove_file(&file.path)?;
                drop(handle);
            }
        }
        drop(other);
        // Freed blocks come back after a commit at the earliest; then these files may get them.
        for _ in 0..4 {
            fixture.file(LEN as u64)?;
        }
        legal.push(file.hole());
    }
    let bytes = pipe.drain()?;
    fixture.count("the pipe", Ok(bytes.len()), LEN);
    fixture.judge("pipe", &bytes, 0, &legal);
    let bytes = copy.drain()?;
    fixture.count("its copy", Ok(bytes.len()), teed);
    fixture.judge("teed pipe", &bytes, 0, &legal);
    Ok(())
}

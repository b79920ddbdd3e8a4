//! SP8: pages of one file are spliced (or sent) into another under O_DIRECT, and the source changes while the
//! write is in flight.
//!
//! The write carries the pipe's pages themselves (a BVEC). It may store what the source held at any moment of
//! the write, or zeroes behind a new end; it must store nothing else.

use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;

use anyhow::Context;
use inflight_gate::Phase;

use crate::cases::case::{Case, Reach};
use crate::cases::variant::Variant;
use crate::fixture::{Fixture, Open, Stamped};
use crate::kit::event::Actor;
use crate::kit::pipe::Pipe;
use crate::kit::stamp::Legal;

pub const CASE: Case = Case {
    id: "SP8",
    name: "splice-into-direct",
    claim: "a splice into an O_DIRECT file stores the source's old or new bytes, whatever happens to the source meanwhile",
    groups: &["quick", "splice", "write"],
    reach: Reach::Gated,
    variants,
    run,
    expected: &[],
};

fn variants() -> Vec<Variant> {
    let mut all = Vec::new();
    for act in ["splice", "sendfile"] {
        for how in ["overwrite", "truncate"] {
            for phase in [Phase::Received, Phase::Applied] {
                all.push(Variant::new(act).how(how).phase(phase));
            }
        }
    }
    all
}

const LEN: usize = 16384;

fn run(fixture: &mut Fixture<'_>, variant: &Variant) -> anyhow::Result<()> {
    let (how, action) = (variant.act, variant.how);
    let source = fixture.file(LEN as u64)?;
    let target = fixture.file(LEN as u64)?;
    let input = fixture.open(&source, Open::Buffered)?;
    let output = fixture.open(&target, Open::Direct)?;
    let parked = fixture.park("write", &target, (0, 4096), variant.phase_or_received())?;
    let by_splice = how == "splice";
    let transfer = fixture.aside(how, move || -> anyhow::Result<usize> {
        if !by_splice {
            return nix::sys::sendfile::sendfile64(output.as_fd(), input.as_fd(), None, LEN)
                .context("sendfile");
        }
        let pipe = Pipe::new()?;
        let held = pipe.fill_all(&input, LEN).context("splice")?;
        anyhow::ensure!(held == LEN, "splice brings {held} of {LEN}");
        pipe.pour(&output, 0, LEN).context("splice into the file")
    })?;
    fixture.meet(parked, 1)?;
    let mut legal = vec![source.generation(1)];
    if fixture.race() {
        fixture.event(Actor::Racer, action);
        legal.push(change(fixture, &source, action)?);
    }
    fixture.release(parked)?;
    let done = transfer.join()??;
    if !fixture.race() || action == "overwrite" {
        fixture.count(how, Ok(done), LEN);
    }
    fixture.forget(&target)?;
    let reader = fixture.open(&target, Open::Buffered)?;
    let bytes = fixture.read(&reader, 0, LEN)?.map_err(anyhow::Error::from)?;
    if fixture.count("read", Ok(bytes.len()), LEN) {
        fixture.judge("the target", &bytes[..done], 0, &legal);
        fixture.judge("the rest", &bytes[done..], done as u64, &[target.generation(1)]);
    }
    Ok(())
}

fn change(fixture: &mut Fixture<'_>, source: &Stamped, action: &str) -> anyhow::Result<Legal> {
    let file = fixture.open(source, Open::Buffered)?;
    if action == "truncate" {
        let cut = fixture.aside("ftruncate", move || nix::unistd::ftruncate(file.as_fd(), 0))?;
        cut.join()??;
        return Ok(source.hole());
    }
    let bytes = source.content(2, 0, LEN);
    let write = fixture.aside("overwrite", move || file.write_all_at(&bytes, 0))?;
    write.join()?.context("overwrite")?;
    Ok(source.generation(2))
}

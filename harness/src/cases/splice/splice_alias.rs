//! SP2: what a pipe holds after splice: pages of the page cache, or copies.
//!
//! A file is spliced into a pipe, then overwritten, then the pipe is drained. Page-cache pages (the buffered
//! splice-read) show the new bytes, private pages (the O_DIRECT splice-read) the old ones. O_DIRECT can be set
//! and cleared on an open file: the flag decides at each call. This is splice without ITER_PIPE, made visible.

use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;

use anyhow::{Context, ensure};

use crate::cases::case::{Case, Reach};
use crate::cases::variant::Variant;
use crate::fixture::{Fixture, Open};
use crate::kit::event::Actor;
use crate::kit::pipe::Pipe;
use crate::kit::sys;
use crate::kit::verdict::{no_proof, not_run};

pub const CASE: Case = Case {
    id: "SP2",
    name: "splice-alias",
    claim: "a spliced pipe holds the old or the new bytes of an overwritten file: the page cache's pages when buffered, copies under O_DIRECT",
    groups: &["quick", "splice", "first"],
    reach: Reach::Any,
    variants,
    run,
    expected: &[],
};

const LEN: usize = 16384;

fn variants() -> Vec<Variant> {
    ["buffered", "direct", "direct-set", "direct-cleared"].map(Variant::new).into()
}

fn run(fixture: &mut Fixture<'_>, variant: &Variant) -> anyhow::Result<()> {
    let file = fixture.file(LEN as u64)?;
    let starts_direct = matches!(variant.act, "direct" | "direct-cleared");
    let is_direct = matches!(variant.act, "direct" | "direct-set");
    if !is_direct && fixture.has("direct_io") {
        return Err(not_run(
            "a splice of a FOPEN_DIRECT_IO file shows a page cache that nobody else has",
        ));
    }
    let handle = fixture.open(&file, if starts_direct { Open::Direct } else { Open::Buffered })?;
    if starts_direct != is_direct {
        sys::set_direct(handle.as_raw_fd(), is_direct)
            .map_err(|errno| not_run(format!("F_SETFL O_DIRECT: {errno}")))?;
    }
    let mut pipe = Pipe::new()?;
    fixture.event(Actor::Test, format!("splice {LEN}"));
    let held = pipe.fill_all(&handle, LEN).context("splice")?;
    ensure!(held == LEN, "splice brings {held} of {LEN}");
    if fixture.race() {
        fixture.event(Actor::Racer, "overwrite");
        let other = fixture.open(&file, Open::Buffered)?;
        other.write_all_at(&file.content(2, 0, LEN), 0).context("overwrite")?;
    }
    let bytes = pipe.drain()?;
    if !fixture.race() {
        fixture.judge("pipe", &bytes, 0, &[file.generation(1)]);
        return Ok(());
    }
    fixture.judge("pipe", &bytes, 0, &[file.generation(1), file.generation(2)]);
    let is_new = bytes == file.content(2, 0, LEN);
    let is_old = bytes == file.content(1, 0, LEN);
    fixture.note(if is_new { "the pipe aliased the page cache" } else { "the pipe held copies" });
    if fixture.faults.is_empty() && !(if is_direct { is_old } else { is_new }) {
        return Err(no_proof(if is_direct {
            "the pipe does not hold copies: this was not the O_DIRECT splice-read"
        } else {
            "the pipe does not alias the page cache: this was not the buffered splice-read"
        }));
    }
    Ok(())
}

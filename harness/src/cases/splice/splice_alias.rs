//! SP2: what a pipe holds after splice: pages of the page cache, or copies.
//!
//! A file is spliced into a pipe, then overwritten, then the pipe is drained. Page-cache pages (the buffered
//! splice-read) show the new bytes, private pages (the O_DIRECT splice-read) the old ones. O_DIRECT can be set
//! and cleared on an open file: the flag decides at each call. This is splice without ITER_PIPE, made visible.
//!
//! The file may also be a loop device, whose page cache is its own, or one that a FUSE server passes through to a file on
//! the target (6.9): then it is that file's page cache, and the server hears of nothing.

use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::Path;

use anyhow::{Context, ensure};

use crate::cases::case::{Case, Reach};
use crate::cases::variant::Variant;
use crate::fixture::{Fixture, Open, Stamped};
use crate::kit::event::Actor;
use crate::kit::loop_device::Attached;
use crate::kit::passthrough::Passed;
use crate::kit::pipe::Pipe;
use crate::kit::seen::Seen;
use crate::kit::sys;
use crate::kit::verdict::{no_proof, not_run, reason_not_run};

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
    let mut all: Vec<_> =
        ["buffered", "direct", "direct-set", "direct-cleared"].map(Variant::new).into();
    for act in ["buffered", "direct"] {
        all.extend(["device", "passed"].map(|how| Variant::new(act).how(how)));
    }
    all
}

/// What stands for the file, until this is dropped.
enum Stand {
    Device(Attached),
    Passed(Passed),
}

impl Stand {
    fn of(fixture: &mut Fixture<'_>, file: &Stamped, how: &str) -> anyhow::Result<Option<Stand>> {
        Ok(match how {
            "" => None,
            "device" => Some(Stand::Device(Attached::to(&fixture.open(file, Open::Buffered)?)?)),
            _ => {
                let at = fixture.mounted().folder_beside(&format!("passed-{}", file.id));
                Some(Stand::Passed(Passed::mount(fixture.open(file, Open::Buffered)?, &at)?))
            }
        })
    }

    fn path(&self) -> &Path {
        match self {
            Stand::Device(device) => device.path(),
            Stand::Passed(passed) => passed.path(),
        }
    }

    /// That the kernel handed over what was opened and read, as far as it was.
    fn check(&self) -> anyhow::Result<()> {
        let Stand::Passed(passed) = self else { return Ok(()) };
        if let Some(reason) = passed.refused() {
            return Err(not_run(reason));
        }
        match passed.reads() {
            0 => Ok(()),
            // It answers them with an error, which is all that there is to see behind it.
            reads => Err(no_proof(format!("{reads} READs reached the server"))),
        }
    }
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
    let stand = Stand::of(fixture, &file, variant.how)?;
    let path = stand.as_ref().map_or(file.path.clone(), |stand| stand.path().to_owned());
    let file = Stamped { path, ..file };
    let handle = fixture.open(&file, if starts_direct { Open::Direct } else { Open::Buffered });
    stand.as_ref().map_or(Ok(()), Stand::check)?;
    if starts_direct && handle.as_ref().is_err_and(|error| reason_not_run(error).is_some()) {
        fixture.see(Seen::new("refused: EINVAL", "open with O_DIRECT"));
    }
    let handle = handle?;
    if starts_direct != is_direct
        && let Err(errno) = sys::set_direct(handle.as_raw_fd(), is_direct)
    {
        fixture.see(Seen::new(format!("refused: {errno:?}"), "fcntl F_SETFL"));
        return Err(not_run(format!("F_SETFL O_DIRECT: {errno}")));
    }
    let mut pipe = Pipe::new()?;
    fixture.event(Actor::Test, format!("splice {LEN}"));
    let held = pipe.fill_all(&handle, LEN);
    stand.as_ref().map_or(Ok(()), Stand::check)?;
    let held = held.context("splice")?;
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
    fixture.see(match (is_new, is_old) {
        (true, _) => Seen::new("page cache", "a later write shows in the pipe"),
        (_, true) => Seen::new("copies", "a later write does not show in the pipe"),
        _ => Seen::new("other bytes", "the pipe holds neither the old nor the new bytes"),
    });
    if fixture.faults.is_empty() && !(if is_direct { is_old } else { is_new }) {
        return Err(no_proof(if is_direct {
            "the pipe does not hold copies: this was not the O_DIRECT splice-read"
        } else {
            "the pipe does not alias the page cache: this was not the buffered splice-read"
        }));
    }
    Ok(())
}

//! SP3: an edit of memory after it was vmspliced into a pipe, with and without a fork in between.
//!
//! vmsplice only refers to the page, so an edit shows in the pipe. After a fork the edit makes a copy, and the
//! pipe keeps the old page: a server that patches its reply's header after vmsplicing it (libfuse does)
//! sends the unpatched one. Our own server never edits vmspliced memory.

use anyhow::Context;

use crate::cases::case::{Case, Reach};
use crate::cases::expect::{Expected, Must, Seen};
use crate::cases::variant::Variant;
use crate::fixture::Fixture;
use crate::kit::bounds::bound;
use crate::kit::event::Actor;
use crate::kit::fork::Task;
use crate::kit::kernel::Version;
use crate::kit::memory::{Buffer, Memory};
use crate::kit::pipe::Pipe;
use crate::kit::stamp::{self, Legal};
use crate::kit::verdict::Class;

pub const CASE: Case = Case {
    id: "SP3",
    name: "vmsplice-edit",
    claim: "a pipe shows an edit of the memory that was vmspliced into it, forked or not",
    groups: &["quick", "splice", "fork"],
    reach: Reach::Any,
    variants: || ["edit", "fork-edit", "fork-exit-edit"].map(Variant::new).into(),
    run,
    expected: &[Expected {
        on: "*",
        variant: "fork*",
        seen: &[Seen::Words(Class::Stale, "pipe: * generation *")],
        since: Version(5, 9, 0),
        must: Must::Series(&[(5, 10), (6, 1), (6, 12), (6, 18), (7, 2)]),
        reference: "vmsplice takes references, not pins (iter_to_pipe); seen on 5.10, 6.1, 6.18",
        ..Expected::ALWAYS
    }],
};

const LEN: usize = 4096;

fn run(fixture: &mut Fixture<'_>, variant: &Variant) -> anyhow::Result<()> {
    let id = fixture.name().id;
    let buffer = Buffer::new(Memory::Anon, LEN)?;
    buffer.write(0, &stamp::content(id, 1, 0, LEN));
    let mut pipe = Pipe::new()?;
    let count = pipe.gift(buffer.ptr(), LEN).context("vmsplice")?;
    fixture.count("vmsplice", Ok(count), LEN);
    let mut child = None;
    let mut generation = 1;
    if fixture.race() {
        if variant.act != "edit" {
            let forked = fixture.fork(Task::Exit)?;
            match variant.act {
                "fork-exit-edit" => drop(forked.finish(bound())?),
                _ => child = Some(forked),
            }
        }
        fixture.event(Actor::Racer, "edit");
        buffer.write(0, &stamp::content(id, 2, 0, LEN));
        generation = 2;
    }
    let bytes = pipe.drain()?;
    fixture.judge("pipe", &bytes, 0, &[Legal::Generation(id, generation)]);
    child.map_or(Ok(()), |child| child.finish(bound()).map(drop))
}

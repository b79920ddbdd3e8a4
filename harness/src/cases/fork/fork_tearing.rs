//! FK6: fork while another thread writes to registered (pinned) pages.
//!
//! Pinned pages are copied at fork, one by one, while other threads go on. A child must see a state that the
//! parent once had: of two counters, counted up one after the other, they are equal or the first is ahead
//! by one. This is a lottery: it is bounded by count, ends with the first hit, and counts how often the
//! writer moved.

use std::time::{Duration, Instant};

use crate::cases::case::{Case, Reach};
use crate::cases::expect::{Expected, Must, Seen};
use crate::cases::variant::Variant;
use crate::fixture::Fixture;
use crate::kit::bounds::bound;
use crate::kit::event::Actor;
use crate::kit::fork::{Task, child};
use crate::kit::kernel::Version;
use crate::kit::memory::{Buffer, Memory, PAGE};
use crate::kit::verdict::{Class, no_proof};

pub const CASE: Case = Case {
    id: "FK6",
    name: "fork-tearing",
    claim: "a child sees registered pages as the parent had them at some instant, although a thread writes to them",
    groups: &["fork", "registered", "lottery"],
    reach: Reach::Any,
    variants: || ["registered", "plain"].map(Variant::new).into(),
    run,
    expected: &[Expected {
        on: "*",
        variant: "registered",
        seen: &[Seen::Words(Class::Stale, "the child of fork * saw a state that never was")],
        since: Version(5, 9, 0),
        // A lottery: beside load a thousand forks may miss it, and nobody is to look at that.
        must: Must::Series(&[]),
        reference: "fork tearing, lore 20250603-fork-tearing-v1-1-a7f64b7cfc96@google.com; seen on 6.18.44",
        ..Expected::ALWAYS
    }],
};

/// Both bound the race: what comes first ends it.
const FORKS: usize = 1000;
const TIME: Duration = Duration::from_secs(30);
/// Forks of the control, in which nobody writes.
const QUIET_FORKS: usize = 20;

/// The second counter lies on the first page: fork copies it first.
const FIRST: usize = PAGE;
const SECOND: usize = 0;

/// What came of the forks.
#[derive(Default)]
struct Forks {
    made: usize,
    /// In how many of them the writer moved.
    moved: usize,
    torn: bool,
}

fn run(fixture: &mut Fixture<'_>, variant: &Variant) -> anyhow::Result<()> {
    let buffer = Buffer::new(Memory::Anon, 2 * PAGE)?;
    buffer.fill(0, 2 * PAGE, 0);
    if variant.act == "registered" {
        fixture.engines().pin(buffer.ptr(), buffer.len())?;
    }
    let most = if fixture.race() { FORKS } else { QUIET_FORKS };
    fixture.event(Actor::Test, format!("up to {most} forks"));
    let forks = if fixture.race() {
        fixture.event(Actor::Racer, "count");
        crate::kit::memory::counting(&buffer, FIRST, SECOND, || fork_on(&buffer, most))?
    } else {
        fork_on(&buffer, most)
    };
    if variant.act == "registered" {
        fixture.engines().unregister()?;
    }
    let Forks { made, moved, torn } = forks?;
    fixture.note(format!("the writer moved in {moved} of {made} forks"));
    if torn {
        fixture.fault(Class::Stale, format!("the child of fork {made} saw a state that never was"));
    } else if fixture.race() && made < if variant.act == "registered" { FORKS } else { FORKS / 10 }
    {
        return Err(no_proof(format!("{made} forks in {TIME:?} are too few to tell")));
    } else if fixture.race() && moved < made / 10 {
        return Err(no_proof(format!("the writer moved in {moved} of {made} forks only")));
    }
    Ok(())
}

/// Forks until a child saw what it must not, or a bound is reached.
fn fork_on(buffer: &Buffer, most: usize) -> anyhow::Result<Forks> {
    let task = Task::Ordered { first: buffer.at(FIRST).cast(), second: buffer.at(SECOND).cast() };
    let (mut forks, end) = (Forks::default(), Instant::now() + TIME);
    while forks.made < most && !forks.torn && (forks.made < QUIET_FORKS || Instant::now() < end) {
        let before = buffer.bytes(FIRST, 8);
        forks.torn = child(task)?.finish(bound())? == 1;
        forks.moved += usize::from(buffer.bytes(FIRST, 8) != before);
        forks.made += 1;
    }
    Ok(forks)
}

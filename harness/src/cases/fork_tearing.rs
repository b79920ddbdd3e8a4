//! FK6: fork while another thread writes to registered (pinned) pages.
//!
//! Pinned pages are copied at fork, one by one, while other threads go on. A child must see a state that the
//! parent once had: of two counters, counted up one after the other, they are equal or the first is ahead
//! by one. This is a lottery: it is bounded by count, ends with the first hit, and counts how often the
//! writer moved.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::case::{Case, Reach};
use crate::event::Actor;
use crate::expect::Expected;
use crate::fork::{Task, child};
use crate::kernel::Version;
use crate::memory::{Buffer, Memory, PAGE};
use crate::scene::{BOUND, Scene};
use crate::variant::Variant;
use crate::verdict::{Class, no_proof};

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
        classes: &[Class::Stale],
        since: Version(5, 9, 0),
        until: None,
        fixed_in: &[],
        reference: "fork tearing, lore 20250603-fork-tearing-v1-1-a7f64b7cfc96@google.com; seen on 6.18.44",
    }],
};

/// Both bound the race: what comes first ends it.
const FORKS: usize = 1000;
const TIME: Duration = Duration::from_secs(30);
/// Forks of the control, in which nobody writes.
const QUIET_FORKS: usize = 20;

fn run(scene: &mut Scene<'_>, variant: &Variant) -> anyhow::Result<()> {
    let buffer = Buffer::new(Memory::Anon, 2 * PAGE)?;
    // The second counter lies on the first page: fork copies it first.
    let (first, second) = (buffer.at(PAGE) as usize, buffer.at(0) as usize);
    buffer.fill(0, 2 * PAGE, 0);
    if variant.act == "registered" {
        let registered = scene.engines().register(buffer.ptr(), buffer.len())?;
        registered.map_err(|errno| anyhow::anyhow!("register the buffer: {errno}"))?;
    }
    let stop = Arc::new(AtomicBool::new(!scene.race()));
    let theirs = Arc::clone(&stop);
    let writer = scene.aside("count", move || crate::memory::count(first, second, &theirs))?;
    let most = if scene.race() { FORKS } else { QUIET_FORKS };
    let (mut forks, mut moved, mut torn) = (0, 0, false);
    scene.event(Actor::Test, format!("up to {most} forks"));
    let end = Instant::now() + TIME;
    while forks < most && !torn && (forks < QUIET_FORKS || Instant::now() < end) {
        let before = buffer.bytes(PAGE, 8);
        let task = Task::Ordered { first: first as *const u64, second: second as *const u64 };
        torn = child(task)?.finish(BOUND)? == 1;
        moved += usize::from(buffer.bytes(PAGE, 8) != before);
        forks += 1;
    }
    stop.store(true, Ordering::Relaxed);
    writer.join()?;
    if variant.act == "registered" {
        scene.engines().unregister()?;
    }
    scene.note(format!("the writer moved in {moved} of {forks} forks"));
    if torn {
        scene.fault(Class::Stale, format!("the child of fork {forks} saw a state that never was"));
    } else if scene.race() && forks < if variant.act == "registered" { FORKS } else { FORKS / 10 } {
        return Err(no_proof(format!("{forks} forks in {TIME:?} are too few to tell")));
    } else if scene.race() && moved < forks / 10 {
        return Err(no_proof(format!("the writer moved in {moved} of {forks} forks only")));
    }
    Ok(())
}

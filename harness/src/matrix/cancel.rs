//! The action that is told to a ring: IORING_OP_ASYNC_CANCEL.

use std::time::{Duration, Instant};

use nix::errno::Errno;

use super::action::After;
use super::buffer::{Held, SPACE};
use super::io::Started;
use crate::fixture::Fixture;
use crate::kit::bounds::bound;
use crate::kit::event::Actor;
use crate::kit::pause::Pause;
use crate::kit::stamp::CANARY;
use crate::kit::verdict::not_run;

/// Takes back an I/O that a ring has in flight. When it is over by that, its memory is filled with the canary at once.
///
/// # Errors
/// NOTRUN where the kernel cannot cancel; or the ring is broken.
pub fn cancel(
    fixture: &mut Fixture<'_>,
    started: &mut Started,
    held: Option<&Held>,
) -> anyhow::Result<After> {
    /// How long a thread of the ring that was told may take to give up; it need not.
    const MOMENT: Duration = Duration::from_millis(20);
    let Started::Flight(flight) = started else { anyhow::bail!("nothing to cancel") };
    fixture.event(Actor::Racer, "IORING_OP_ASYNC_CANCEL");
    let said = fixture.engines().cancel(flight, bound())?;
    if said == Err(Errno::EINVAL) {
        return Err(not_run("this kernel's io_uring cannot cancel (5.5)"));
    }
    let (end, mut pause) = (Instant::now() + MOMENT, Pause::default());
    let mut is_over = started.is_over(fixture)?;
    while !is_over && said != Err(Errno::ENOENT) && Instant::now() < end {
        pause.rest();
        is_over = started.is_over(fixture)?;
    }
    fixture.note(format!("the cancel said {said:?}; the I/O was over then: {is_over}"));
    if let Some(held) = held.filter(|_| is_over) {
        held.buffer.fill(0, SPACE, CANARY);
    }
    Ok(After { canary: is_over && held.is_some(), ..After::default() })
}

//! What races in the fork cases: a read of half a page is in flight, the process forks, and somebody stores one byte to
//! the other half.
//!
//! If the I/O holds the page by a reference only (FOLL_GET), fork write-protects it, a store moves who stores to a copy,
//! and the data arrives in the page that is left. A pin (FOLL_PIN) makes fork copy the page for the child instead.

use crate::event::Actor;
use crate::fork::{Child, Task, spawn_and_wait};
use crate::memory::Buffer;
use crate::pagemap::Held;
use crate::scene::{BOUND, Scene, Stamped};
use crate::stamp::POISON;
use crate::verdict::{Class, no_proof};

/// Bytes read: the first half of a page. The store goes to the other half.
pub const HALF: usize = 2048;
/// The byte that is stored to.
pub const STORE_AT: usize = 4000;

/// What was done to a page, and what is left to look at.
#[derive(Debug, Default)]
pub struct Touch {
    child: Option<Child>,
    held: Option<Held>,
    stored: bool,
}

impl Touch {
    /// Does it, as `act` says:
    ///
    /// | act | |
    /// |---|---|
    /// | `spawn` | posix_spawn(3), without a store |
    /// | `no-store` | fork alone |
    /// | `child-store` | fork, and the child stores |
    /// | `child-exited` | fork, the child ends, the parent stores |
    /// | any other | fork, the parent stores |
    ///
    /// # Errors
    /// No child, or it did not end: HANG.
    pub fn race(scene: &mut Scene<'_>, act: &str, buffer: &Buffer) -> anyhow::Result<Touch> {
        if act == "spawn" {
            scene.event(Actor::Racer, "posix_spawn");
            spawn_and_wait(BOUND)?;
            return Ok(Touch::default());
        }
        let task = match act {
            "child-exited" | "dontfork" => Task::Exit,
            "child-store" => Task::Store { at: buffer.at(STORE_AT), byte: 1 },
            _ => Task::Differs { start: buffer.ptr(), len: HALF, byte: POISON },
        };
        let child = scene.fork(task)?;
        let mut touch = Touch::default();
        match act {
            // Its store is its last act before its end: both are over when it has ended.
            "child-exited" | "child-store" | "dontfork" => drop(child.finish(BOUND)?),
            _ => {
                touch.held = Some(scene.probe(&child, buffer.ptr() as usize)?);
                touch.child = Some(child);
            }
        }
        if !matches!(act, "no-store" | "child-store") {
            scene.event(Actor::Racer, format!("store to byte {STORE_AT}"));
            buffer.store(STORE_AT, 1);
            touch.stored = true;
        }
        Ok(touch)
    }

    /// Judges the parent's memory, of which `len` bytes were read from the beginning of the file, and the child's;
    /// says how the page was held at fork.
    ///
    /// # Errors
    /// The child did not end: HANG.
    pub fn judge(
        self,
        scene: &mut Scene<'_>,
        buffer: &Buffer,
        file: &Stamped,
        len: usize,
        is_shared: bool,
    ) -> anyhow::Result<Option<Held>> {
        let upto = len.min(STORE_AT);
        scene.judge("parent", &buffer.bytes(0, upto), 0, &[file.generation(1)]);
        let wanted = if self.stored { 1 } else { POISON };
        if len <= STORE_AT && buffer.load(STORE_AT) != wanted {
            let text = format!("byte {STORE_AT} of the parent is not what the parent stored");
            scene.fault(Class::Lost, text);
        }
        if let Some(child) = self.child
            && child.finish(BOUND)? == 1
            && !is_shared
        {
            scene.fault(Class::Leak, "child: data arrived in memory that was copied at fork");
        }
        Ok(self.held)
    }
}

/// With one page and no harm nobody held that page: the I/O did not go to private memory itself.
///
/// # Errors
/// NOPROOF if so.
pub fn prove(scene: &Scene<'_>, held: Option<Held>) -> anyhow::Result<()> {
    if held == Some(Held::Shared) && scene.faults.is_empty() {
        return Err(no_proof("the page was not held during the read: was it direct I/O?"));
    }
    Ok(())
}

//! Has ksmd merge equal pages, now.
//!
//! Source: Documentation/admin-guide/mm/ksm.rst.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs::{self, File, TryLockError};
use std::io::Write as _;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use nix::sys::mman::MmapAdvise;

use crate::kit::bounds::rendezvous;
use crate::kit::memory::{Buffer, Memory, PAGE};
use crate::kit::pagemap::Pagemap;
use crate::kit::pause::Pause;
use crate::kit::verdict::not_run;

const FOLDER: &str = "/sys/kernel/mm/ksm";
/// What is set while it works: it does not sleep, looks at much at once, and does not pass over pages that it could not merge before,
/// which smart_scan (6.7) knows by their address: a later pair of ours may have that of an earlier one.
const EAGER: [(&str, &str); 4] =
    [("smart_scan", "0"), ("sleep_millisecs", "0"), ("pages_to_scan", "10000"), ("run", "1")];
/// A page is merged when two passes found it unchanged; the first may have begun before it was there.
const PASSES: i64 = 3;

/// The settings of [`EAGER`] that this kernel has.
fn settings() -> impl DoubleEndedIterator<Item = (&'static str, &'static str)> {
    EAGER.into_iter().filter(|(name, _)| Path::new(FOLDER).join(name).exists())
}

/// What was set before is put back when this is dropped, or when this process ends, however it does: a shell waits for that. It
/// holds a lock, so that nobody takes what is set here for what was there.
struct Eager(Child);

impl Eager {
    fn new() -> anyhow::Result<Eager> {
        let refused = |error| not_run(format!("{FOLDER}: {error}"));
        let lock = locked()?;
        let mut restore = "read -r _".to_owned();
        for (name, _) in settings().rev() {
            let before = fs::read_to_string(Path::new(FOLDER).join(name)).map_err(refused)?;
            write!(restore, "; echo {} > {FOLDER}/{name}", before.trim())?;
        }
        let mut shell = Command::new("sh");
        // Not of our group: Ctrl-C is for us.
        shell.args(["-c", &restore]).stdin(Stdio::piped()).stdout(lock).process_group(0);
        let shell = shell.spawn().map_err(|error| not_run(format!("sh: {error}")))?;
        let eager = Eager(shell);
        for (name, value) in settings() {
            fs::write(Path::new(FOLDER).join(name), value).map_err(refused)?;
        }
        Ok(eager)
    }
}

impl Drop for Eager {
    fn drop(&mut self) {
        // By a line: a child that was forked meanwhile may have the other end of the pipe, too.
        let _ = self.0.stdin.take().map(|mut pipe| writeln!(pipe));
        let _ = self.0.wait();
    }
}

/// The lock of whoever changes KSM's settings; it lasts until its last descriptor is closed.
fn locked() -> anyhow::Result<File> {
    let file = Path::new(FOLDER).join("run");
    let file = File::open(file).map_err(|error| not_run(format!("{FOLDER}: {error}")))?;
    let (end, mut pause) = (Instant::now() + rendezvous(), Pause::default());
    while let Err(TryLockError::WouldBlock) = file.try_lock() {
        if Instant::now() >= end {
            return Err(not_run("another process changes the settings of KSM"));
        }
        pause.rest();
    }
    Ok(file)
}

fn number(name: &str) -> anyhow::Result<i64> {
    Ok(fs::read_to_string(Path::new(FOLDER).join(name))?.trim().parse()?)
}

/// Has it look at all memory that was advised with MADV_MERGEABLE, often enough to merge what is equal and can be: two pages
/// of its own show that it does. Gives how many pages of the buffer are one with an earlier one then.
///
/// # Errors
/// NOTRUN where the kernel has no KSM, this user may not start it or see it, or it merges nothing.
pub fn merge(buffer: &Buffer) -> anyhow::Result<usize> {
    let pair = Buffer::new(Memory::Anon, 2 * PAGE)?;
    // Like no other page.
    let text = format!("{:?} {:?}", Instant::now(), std::process::id());
    for page in 0..2 {
        pair.write(page * PAGE, text.as_bytes());
    }
    pair.advise(MmapAdvise::MADV_MERGEABLE).map_err(|error| not_run(format!("{error:#}")))?;
    if shared(&pair)?.is_none() {
        return Err(not_run("page frames are not readable here"));
    }
    let eager = Eager::new()?;
    let (from, end) = (number("full_scans")?, Instant::now() + rendezvous());
    let mut pause = Pause::default();
    while number("full_scans")? < from + PASSES || shared(&pair)? != Some(1) {
        if Instant::now() >= end {
            return Err(not_run(format!("ksmd merged nothing in {:?}", rendezvous())));
        }
        pause.rest();
    }
    drop(eager);
    Ok(shared(buffer)?.unwrap_or(0))
}

/// Pages that have the frame of an earlier one; `None` where frames may not be known.
fn shared(buffer: &Buffer) -> anyhow::Result<Option<usize>> {
    let map = Pagemap::of("self")?;
    let frames = (0..buffer.len()).step_by(PAGE).map(|at| map.frame(buffer.at(at) as usize));
    let frames: Option<Vec<u64>> = frames.collect::<anyhow::Result<_>>()?;
    Ok(frames.map(|frames| {
        let all = frames.len();
        all - frames.into_iter().collect::<BTreeSet<_>>().len()
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kit::stamp::POISON;
    use crate::kit::verdict::reason_not_run;

    fn values() -> Vec<i64> {
        settings().map(|(name, _)| number(name).unwrap()).collect()
    }

    /// The kernel closes the pipe of a process that is killed.
    #[test]
    fn what_was_set_is_put_back_when_the_process_is_gone() {
        // Nobody else changes them, or has changed them, while this is held.
        let before = match locked() {
            Ok(lock) => (values(), lock).0,
            Err(error) => return println!("skipped: {error:#}"),
        };
        let mut eager = match Eager::new() {
            Ok(eager) => eager,
            Err(error) => return println!("skipped: {error:#}"),
        };
        let eagerly: Vec<i64> = settings().map(|(_, value)| value.parse().unwrap()).collect();
        assert_eq!(values(), eagerly);
        drop(eager.0.stdin.take());
        assert!(eager.0.wait().unwrap().success());
        let lock = locked().unwrap();
        assert_eq!(values(), before);
        drop(lock);
    }

    #[test]
    fn equal_pages_are_merged_and_come_apart_when_one_is_stored_to() {
        let buffer = Buffer::new(Memory::Anon, 4 * PAGE).unwrap();
        buffer.advise(MmapAdvise::MADV_MERGEABLE).unwrap();
        match merge(&buffer) {
            Ok(merged) => assert_eq!(merged, 3, "4 pages are equal"),
            Err(error) if reason_not_run(&error).is_some() => {
                return println!("skipped: {error:#}");
            }
            Err(error) => panic!("{error:#}"),
        }
        buffer.store(PAGE, 1);
        assert_eq!((buffer.load(PAGE), buffer.load(0), buffer.load(2 * PAGE)), (1, POISON, POISON));
    }
}

//! TR6: the shape in which the ITER_PIPE truncate bug was found: files that are created, sized, opened with
//! O_DIRECT and sent to themselves, several at once.
//!
//! Nothing is ever written to them but their own holes, so every byte that is not zero is somebody else's
//! memory (syzbot a440341a59e3b7142895). No released kernel has the bug; our own pipe-backed path does.

use std::fs::OpenOptions;
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::time::{Duration, Instant};

use anyhow::Context;

use crate::cases::case::{Case, Reach};
use crate::cases::variant::Variant;
use crate::fixture::Fixture;
use crate::kit::stamp::Legal;

pub const CASE: Case = Case {
    id: "TR6",
    name: "sendfile-self",
    claim: "a file of holes that is sent to itself under O_DIRECT holds nothing but zeroes",
    groups: &["truncate", "splice"],
    reach: Reach::Any,
    // One alone is the control.
    variants: || vec![Variant::new("together")],
    run,
    expected: &[],
};

/// Of the original program.
const HOLES: i64 = 0x800;
const SENT: usize = 0x1dd00;
/// Times that each thread does it, unless that takes too long on a slow machine: every piece is a request.
const ROUNDS: usize = 20;
const TIME: Duration = Duration::from_secs(3);

fn run(fixture: &mut Fixture<'_>, _: &Variant) -> anyhow::Result<()> {
    let threads = if fixture.race() { 4 } else { 1 };
    let folder = fixture.folder().to_owned();
    let mut asides = Vec::new();
    for thread in 0..threads {
        let path = folder.join(format!("self{thread}"));
        asides.push(fixture.aside("sendfile to itself", move || play(&path))?);
    }
    for aside in asides {
        for bytes in aside.join()?? {
            fixture.judge("file of holes", &bytes, 0, &[Legal::Zero]);
        }
    }
    Ok(())
}

fn play(path: &std::path::Path) -> anyhow::Result<Vec<Vec<u8>>> {
    let mut seen = Vec::new();
    let end = Instant::now() + TIME;
    for _ in 0..ROUNDS {
        if !seen.is_empty() && Instant::now() > end {
            break;
        }
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).create(true).truncate(true).open(path)?;
        nix::unistd::ftruncate(file.as_fd(), HOLES)?;
        nix::unistd::lseek(file.as_fd(), HOLES, nix::unistd::Whence::SeekSet)?;
        let direct = OpenOptions::new().read(true).custom_flags(libc::O_DIRECT).open(path);
        let direct = direct.map_err(|e| crate::kit::verdict::not_run(format!("O_DIRECT: {e}")))?;
        let sent = nix::sys::sendfile::sendfile64(file.as_fd(), direct.as_fd(), None, SENT);
        sent.context("sendfile")?;
        seen.push(crate::kit::sys::contents(&file)?);
    }
    Ok(seen)
}

//! FUSE passthrough: what splice(2) makes of a file that the kernel hands to a file below (6.9).
//!
//! Source: Documentation/filesystems/fuse-passthrough.rst, fs/fuse/passthrough.c.

use std::fs::OpenOptions;
use std::path::Path;

use anyhow::Context;

use super::Seen;
use super::files;
use super::splice::{self, How};
use crate::kit::memory::PAGE;
use crate::kit::passthrough::Passed;
use crate::kit::verdict::not_run;

/// Splices from a file that is passed through to one in the folder; see [`splice::alias`].
///
/// # Errors
/// NOTRUN where the kernel has no passthrough, or does not let us.
pub fn alias(folder: &Path, how: How) -> anyhow::Result<Seen> {
    let below = files::file(folder, &[0x5A; 4 * PAGE])?;
    let at = tempfile::tempdir_in(folder).context("a mount point")?;
    let own = OpenOptions::new().read(true).write(true).open(below.path())?;
    let passed = Passed::mount(own, at.path())?;
    let seen = splice::alias(passed.path(), how);
    let (refused, reads) = (passed.refused(), passed.reads());
    let ended = passed.unmount();
    if let Some(reason) = refused {
        return Err(not_run(reason));
    }
    ended?;
    if reads > 0 {
        // It answers them with an error, which is all that there is to see behind it.
        return Ok(Seen::new("served by the server", format!("{reads} READs reached it")));
    }
    let mut seen = seen?;
    seen.evidence += "; no READ reached the server";
    Ok(seen)
}

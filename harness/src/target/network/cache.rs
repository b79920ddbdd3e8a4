//! A cache on a local filesystem for what network filesystems bring (cachefiles), set up without cachefilesd(8): what
//! the daemon would tell the kernel is written to /dev/cachefiles. The kernel has one such device for the machine.
//!
//! Source: Documentation/filesystems/caching/cachefiles.rst.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use anyhow::Context;

use crate::kit::verdict::not_run;

const DEVICE: &str = "/dev/cachefiles";
/// Its name, which a mount can ask for.
pub const TAG: &str = "inflight";

/// A cache in use. The kernel gives it up when this is dropped.
#[derive(Debug)]
pub struct Cache {
    _device: File,
}

impl Cache {
    /// Makes a folder of the filesystem under test the machine's cache.
    ///
    /// # Errors
    /// NOTRUN when this kernel has no cachefiles, somebody else's cache is in use, or the filesystem cannot be one
    /// (it needs extended attributes and O_TMPFILE).
    pub fn bind(folder: &Path) -> anyhow::Result<Cache> {
        let device = OpenOptions::new().read(true).write(true).open(DEVICE);
        let mut device = device.map_err(|error| not_run(format!("{DEVICE}: {error}")))?;
        let mut tell = |command: String| {
            device.write_all(command.as_bytes()).with_context(|| format!("'{command}' to {DEVICE}"))
        };
        tell(format!("dir {}", folder.display()))?;
        tell(format!("tag {TAG}"))?;
        tell("bind".to_owned())
            .map_err(|error| not_run(format!("the target cannot be a cache: {error:#}")))?;
        // Since 5.17 every new file of the cache begins without a name; the kernel finds out when it makes the first.
        let options = OpenOptions::new().write(true).custom_flags(libc::O_TMPFILE).open(folder);
        options.map_err(|error| {
            not_run(format!("the target cannot be a cache: O_TMPFILE: {error}"))
        })?;
        Ok(Cache { _device: device })
    }
}

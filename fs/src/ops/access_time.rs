//! Access times, which FUSE leaves to the server.

use crate::image::tables::{Attr, Time};
use crate::ops::{Fs, NOATIME};
use crate::options::Atime;
use crate::volume::inode::Inode;
use std::sync::Arc;

/// relatime renews a time that is older than this, in seconds (mount(8)).
const DAY: i64 = 24 * 60 * 60;

impl Fs {
    /// `inode` was read.
    pub(super) fn accessed(&self, inode: &Arc<Inode>) {
        let due = {
            let st = inode.read();
            let skip = self.options.read_only || st.attr.flags & NOATIME != 0;
            !skip && is_due(self.options.atime, &st.attr, Time::now())
        };
        if due {
            self.volume.set_times(inode, |attr| attr.atime = Time::now());
        }
    }
}

fn is_due(policy: Atime, attr: &Attr, now: Time) -> bool {
    match policy {
        Atime::Never => false,
        Atime::NoDirectories if attr.is_dir() => false,
        // A second is as fine as anybody looks; more would dirty the inode on every read.
        Atime::Strict => now.secs != attr.atime.secs,
        Atime::Relative | Atime::NoDirectories => {
            attr.atime <= attr.mtime
                || attr.atime <= attr.ctime
                || now.secs.saturating_sub(attr.atime.secs) >= DAY
        }
    }
}

//! write.

use crate::ops::{APPEND, Answer, Fs};
use crate::volume::inode::Inode;
use std::sync::Arc;

/// A write, without its payload.
#[derive(Clone, Copy, Debug)]
pub struct WriteArgs {
    /// File.
    pub ino: u64,
    /// First byte.
    pub offset: u64,
    /// The opener asked for O_DIRECT.
    pub direct: bool,
    /// The opener asked for O_APPEND; `offset` is where the kernel thinks the end is.
    pub append: bool,
    /// From the kernel's page cache: accepted there, possibly before the file was protected.
    pub cached: bool,
    /// The writer may not keep set-user-ID and set-group-ID bits (FUSE_WRITE_KILL_SUIDGID).
    pub kill_suidgid: bool,
}

/// What a write did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Written {
    /// Bytes written: all of them.
    pub bytes: usize,
    /// The file has more blocks than before, which a kernel that caches writes cannot know.
    pub allocated: bool,
    /// Set-user-ID or set-group-ID bits went, which the kernel does not know either.
    pub privileges: bool,
}

impl Fs {
    /// Writes all of `payload`.
    pub fn write(&self, args: &WriteArgs, payload: &[u8]) -> Answer<Written> {
        let inode = self.inode(args.ino)?;
        self.check_write(&inode, args)?;
        let appends = inode.read().attr.flags & APPEND != 0;
        if appends && args.cached {
            return self.append_cached(&inode, args, payload);
        }
        self.put(&inode, args, payload)
    }

    /// Writes what was found to be allowed.
    pub(super) fn put(
        &self,
        inode: &Arc<Inode>,
        args: &WriteArgs,
        payload: &[u8],
    ) -> Answer<Written> {
        let direct = self.writes_directly(args, payload.len());
        let write = self.volume.write(inode, args.offset, payload.len())?;
        for zeros in &write.zeros {
            self.io.zero(zeros.clone())?;
        }
        for part in &write.data {
            let bytes = &payload[part.payload.clone()];
            if direct {
                self.io.write_direct(part.offset, bytes)?;
            } else {
                self.io.write_cached(part.offset, bytes)?;
            }
        }
        let allocated = write.allocates();
        write.finish()?;
        let privileges = self.drop_privileges(inode, args.kill_suidgid)?;
        self.stats.wrote(direct && self.io.has_direct(), payload.len());
        Ok(Written { bytes: payload.len(), allocated, privileges })
    }
}

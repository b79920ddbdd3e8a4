//! A direct write into blocks that the file has, as one transfer that somebody else does: a queue's ring.

use crate::errno::Error;
use crate::mutant::{self, Mutant};
use crate::ops::write::{WriteArgs, Written};
use crate::ops::{APPEND, Answer, Caller, Fs};
use crate::volume::Write;
use crate::volume::inode::Inode;
use std::sync::Arc;

type Begun<'a> = Option<Write<'a>>;

self_cell::self_cell!(
    /// A write with what it refers to.
    struct Held {
        owner: (Arc<Fs>, Arc<Inode>),
        #[covariant]
        dependent: Begun,
    }
);

/// A write whose range is held while the device works on it.
pub struct Overwrite {
    held: Held,
    args: WriteArgs,
    len: usize,
    offset: u64,
}

impl Overwrite {
    /// Begins a write of `len` bytes that lie page-aligned. `None` where it is not one aligned transfer past the image's page
    /// cache into blocks with data, would have to wait, or is refused: [`Fs::write`] is for everything.
    pub fn begin(fs: &Arc<Fs>, args: &WriteArgs, len: usize) -> Option<Overwrite> {
        let step = fs.io.direct()?.alignment().offset;
        let is_aligned = args.offset.is_multiple_of(step as u64) && len.is_multiple_of(step);
        // Such a defect is in the steps of the other way.
        let is_plain = !mutant::is(Mutant::DropQueuedWrite);
        if !(fs.writes_directly(args, len) && is_aligned && is_plain) {
            return None;
        }
        let inode = fs.inode(args.ino).ok()?;
        fs.check_write(&inode, args).ok()?;
        if inode.read().attr.flags & APPEND != 0 {
            return None;
        }
        let held = Held::new((Arc::clone(fs), inode), |(fs, inode)| {
            fs.volume.overwrite(inode, args.offset, len).ok().flatten()
        });
        let offset = held.borrow_dependent().as_ref()?.data.first()?.offset;
        Some(Overwrite { held, args: *args, len, offset })
    }

    /// Where it goes, in bytes of the image.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Bytes.
    #[expect(clippy::len_without_is_empty, reason = "there is no transfer of nothing")]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Goes on when the device has taken `result` of the `payload`; what it did not take is written again, which waits.
    ///
    /// # Errors
    /// Those of [`Fs::write_by`].
    pub fn finish(
        mut self,
        who: Caller,
        payload: &[u8],
        result: &std::io::Result<usize>,
    ) -> Answer<Written> {
        let (fs, inode) = self.held.borrow_owner();
        let (fs, inode) = (Arc::clone(fs), Arc::clone(inode));
        if !self.is_satisfied(result) {
            fs.io.write_direct(self.offset, payload)?;
        }
        self.held.with_dependent_mut(|_, write| match write.take() {
            Some(write) => write.finish(),
            None => Err(Error::Corrupt("a write was finished twice".into())),
        })?;
        let mut privileges = fs.drop_privileges(&inode, self.args.kill_suidgid)?;
        privileges |= fs.drop_group(who, &self.args, &inode)?;
        fs.stats.wrote(true, self.len);
        Ok(Written { bytes: self.len, allocated: false, privileges })
    }

    /// Whether the device has taken everything.
    pub fn is_satisfied(&self, result: &std::io::Result<usize>) -> bool {
        matches!(result, Ok(written) if *written == self.len)
    }
}

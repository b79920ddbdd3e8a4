//! Immutable and append-only files (`chattr +i`, `chattr +a`), of which the kernel's FUSE knows nothing.
//!
//! What reaches the server is decided here as ext4 decides it. What does not is the kernel's page cache: a
//! descriptor or mapping from before may still put bytes there. They are refused when they are written back, fsync(2)
//! reports it, and the transport drops the pages ([`Fs::distrusts_pages`]), so that everybody sees the file as it is.
//! All of that needs the question "may it be opened?", so where the kernel does not ask, nothing is promised.

use crate::errno::Errno;
use crate::image::tables::Attr;
use crate::ops::{APPEND, Answer, Control, Fs, IMMUTABLE, SetAttr, SetTime, WriteArgs};
use crate::volume::inode::Inode;
use std::sync::Arc;

/// The bits that freeze an inode.
pub(super) const FROZEN: u32 = IMMUTABLE | APPEND;

/// EPERM for an immutable or append-only file.
pub(super) fn check_unfrozen(attr: &Attr) -> Answer<()> {
    if attr.flags & FROZEN != 0 { Err(Errno::EPERM) } else { Ok(()) }
}

/// What becomes of a SETATTR.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// It is made.
    Make,
    /// It is the kernel's own flush of times that the file does not take any more: answered, not made.
    Ignore,
}

impl Fs {
    /// True when the kernel asks before it opens a file. It is told not to when nothing on the image needs it and no
    /// option does.
    pub fn asks_opens(&self) -> bool {
        self.asks_opens
    }

    /// True when `control` is going to freeze a file of which the kernel may hold changed pages: they are to be written
    /// back before the request is served, or they would be refused afterwards.
    pub fn freezes(&self, control: &Control<'_>) -> bool {
        let Some(flags) = self.flags_wanted(control) else { return false };
        let attr = self.inode(control.ino).map(|inode| inode.attr());
        attr.is_ok_and(|attr| is_regular(&attr) && flags & !attr.flags & FROZEN != 0)
    }

    /// True when the kernel may hold pages of `ino` that were refused.
    pub fn distrusts_pages(&self, ino: u64) -> bool {
        self.inode(ino).is_ok_and(|inode| inode.read().attr.flags & FROZEN != 0)
    }

    /// EOPNOTSUPP for what this mount would not keep.
    pub(super) fn check_kept(&self, attr: &Attr, flags: u32) -> Answer<()> {
        // Every change of a directory reaches the server anyway.
        if self.asks_opens || !is_regular(attr) || flags & !attr.flags & FROZEN == 0 {
            return Ok(());
        }
        tracing::warn!(
            "chattr +i and +a of files need the mount option open_messages: without it the kernel does not ask before \
             it opens a file"
        );
        Err(Errno::EOPNOTSUPP)
    }

    /// Whether `set` may be applied: the rules of notify_change (fs/attr.c in the kernel).
    ///
    /// # Errors
    /// EPERM.
    pub(super) fn check_setattr(&self, attr: &Attr, set: &SetAttr) -> Answer<Change> {
        if attr.flags & FROZEN == 0 {
            return Ok(Change::Make);
        }
        let times = SetAttr { atime: set.atime, mtime: set.mtime, ..SetAttr::default() };
        if *set != (SetAttr { ctime: set.ctime, handle: set.handle, ..times }) {
            return Err(Errno::EPERM);
        }
        let immutable = attr.flags & IMMUTABLE != 0;
        if is_flush(attr, set) {
            return Ok(if immutable { Change::Ignore } else { Change::Make });
        }
        let now = |time: SetTime| match (time, set.ctime) {
            (SetTime::Now, _) => true,
            // A kernel that caches writes takes the time itself: one instant for both.
            (SetTime::At(time), Some(ctime)) => time == ctime,
            (SetTime::At(_), None) => false,
        };
        let touch = [set.atime, set.mtime].into_iter().flatten().all(now);
        if touch && !immutable { Ok(Change::Make) } else { Err(Errno::EPERM) }
    }

    /// Whether the bytes of a write may be changed. A page of an append-only file comes from the kernel's cache as a whole, so
    /// [`Fs::append_cached`] sorts it out.
    pub(super) fn check_write(&self, inode: &Inode, args: &WriteArgs) -> Answer<()> {
        let st = inode.read();
        match st.attr.mode & libc::S_IFMT {
            libc::S_IFREG => {}
            libc::S_IFDIR => return Err(Errno::EISDIR),
            _ => return Err(Errno::EINVAL),
        }
        let over = st.attr.flags & APPEND != 0 && !args.cached && args.offset < st.attr.size;
        if over || st.attr.flags & IMMUTABLE != 0 { Err(Errno::EPERM) } else { Ok(()) }
    }

    /// Writes pages of an append-only file: bytes that are new are written, those that were there stay as they are. Pages
    /// come in any order, so beyond the size that the file had when it became append-only a zero counts as not written yet.
    ///
    /// # Errors
    /// EPERM when `payload` differs from what is there, after the new bytes were written.
    pub(super) fn append_cached(
        &self,
        inode: &Arc<Inode>,
        args: &WriteArgs,
        payload: &[u8],
    ) -> Answer<super::Written> {
        let kept = self.volume.append_from(inode);
        let plan = self.volume.plan_read(inode, args.offset, payload.len())?;
        if plan.len == 0 {
            return self.put(inode, args, payload);
        }
        let mut old = self.io.pool().take(plan.len);
        self.io.read_cached(&plan.pieces, &mut old)?;
        let (mut merged, mut differs) = (payload.to_vec(), false);
        for (at, (new, old)) in (args.offset..).zip(merged.iter_mut().zip(old.as_slice())) {
            if *new != *old && (at < kept || *old != 0) {
                (*new, differs) = (*old, true);
            }
        }
        drop(old);
        let skip = (kept.saturating_sub(args.offset) as usize).min(merged.len());
        let mut written = super::Written { bytes: 0, allocated: false, privileges: false };
        if skip < merged.len() {
            let args = WriteArgs { offset: args.offset + skip as u64, ..*args };
            written = self.put(inode, &args, &merged[skip..])?;
        }
        written.bytes = payload.len();
        if differs { Err(Errno::EPERM) } else { Ok(written) }
    }
}

fn is_regular(attr: &Attr) -> bool {
    attr.mode & libc::S_IFMT == libc::S_IFREG
}

/// True for the SETATTR by which a kernel that caches writes tells the times it keeps (fuse_flush_times in fs/fuse/dir.c):
/// mtime and ctime, with the handle of a file that is open for writing if there is one. utimensat(2) carries no
/// handle, so without one it is a flush only when it leaves mtime as it is.
fn is_flush(attr: &Attr, set: &SetAttr) -> bool {
    match (set.atime, set.mtime, set.ctime) {
        (None, Some(SetTime::At(mtime)), Some(_)) => set.handle || mtime == attr.mtime,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::mkfs::root_attr;
    use crate::image::tables::Time;

    fn at(secs: i64) -> SetTime {
        SetTime::At(Time { secs, nanos: 0 })
    }

    #[test]
    fn the_kernels_flush_is_told_from_a_users_times() {
        let attr = Attr { mtime: Time { secs: 7, nanos: 0 }, ..root_attr() };
        let ctime = Some(Time { secs: 9, nanos: 0 });
        let flush = SetAttr { mtime: Some(at(8)), ctime, handle: true, ..SetAttr::default() };
        assert!(is_flush(&attr, &flush));
        assert!(!is_flush(&attr, &SetAttr { handle: false, ..flush }), "utimensat(2) looks so");
        let renamed = SetAttr { mtime: Some(at(7)), handle: false, ..flush };
        assert!(is_flush(&attr, &renamed), "only ctime differs: a link, a rename or an attribute");
        assert!(!is_flush(&attr, &SetAttr { atime: Some(at(1)), ..flush }));
        assert!(!is_flush(&attr, &SetAttr { ctime: None, ..flush }));
    }
}

//! The ioctls that reach a FUSE server.
//!
//! Numbers and structures are those of linux/fs.h. The transport decodes nothing: it hands over
//! the command, its input bytes and how many bytes may go back.

use crate::errno::Errno;
use crate::image::superblock::LABEL_MAX;
use crate::ops::{APPEND, Answer, Caller, Fs, IMMUTABLE};

/// FS_IOC_GETFLAGS and FS_IOC_SETFLAGS; the kernel passes an unsigned int whatever the type says.
const GETFLAGS: u32 = 0x8008_6601;
const SETFLAGS: u32 = 0x4008_6602;
const GETFLAGS32: u32 = 0x8004_6601;
const SETFLAGS32: u32 = 0x4004_6602;
const GETVERSION: u32 = 0x8008_7601;
const GETVERSION32: u32 = 0x8004_7601;
const FSGETXATTR: u32 = 0x801c_581f;
const FSSETXATTR: u32 = 0x401c_5820;
const GETFSLABEL: u32 = 0x8100_9431;
const SETFSLABEL: u32 = 0x4100_9432;
const FITRIM: u32 = 0xc018_5879;
/// EXT4_IOC_RESIZE_FS (fs/ext4/ext4.h): the new number of blocks.
pub const RESIZE_FS: u32 = 0x4008_6610;
const SHUTDOWN: u32 = 0x8004_587d;

/// Flags that may be set: immutable, append, nodump, noatime, dirsync, topdir, projinherit. Not sync: the kernel
/// gathers writes without asking, so it would not be kept; mount with `-o sync` instead.
const SETTABLE: u32 = 0x10 | 0x20 | 0x40 | 0x80 | 0x1_0000 | 0x2_0000 | 0x2000_0000;
/// FS_*_FL and its FS_XFLAG_* twin.
const TWINS: [(u32, u32); 6] = [
    (0x8, 0x20),          // sync
    (0x10, 0x8),          // immutable
    (0x20, 0x10),         // append
    (0x40, 0x80),         // nodump
    (0x80, 0x40),         // noatime
    (0x2000_0000, 0x200), // projinherit
];

/// FS_IOC_SHUTDOWN: write everything out first, or drop what is not yet committed.
const SHUTDOWN_DEFAULT: u32 = 0;
const SHUTDOWN_LOGFLUSH: u32 = 1;
const SHUTDOWN_NOLOGFLUSH: u32 = 2;

/// An ioctl.
#[derive(Clone, Copy, Debug)]
pub struct Control<'a> {
    /// Who asks.
    pub caller: Caller,
    /// On which inode.
    pub ino: u64,
    /// Command number.
    pub command: u32,
    /// What was passed in.
    pub input: &'a [u8],
}

/// What goes back to the caller's memory.
pub type IoctlReply = Vec<u8>;

impl Fs {
    /// Serves an ioctl.
    ///
    /// # Errors
    /// ENOTTY for every command that is not known.
    pub fn ioctl(&self, control: &Control<'_>) -> Answer<IoctlReply> {
        let Control { ino, input, .. } = *control;
        match control.command {
            GETFLAGS | GETFLAGS32 => {
                let flags = u64::from(self.inode(ino)?.attr().flags).to_le_bytes();
                let width = if control.command == GETFLAGS { 8 } else { 4 };
                Ok(flags[..width].to_vec())
            }
            SETFLAGS | SETFLAGS32 => self.set_flags(control, word(input, 0)?),
            // An int, whatever the number of the command says: callers such as lsattr(1) have no more room for it.
            GETVERSION | GETVERSION32 => {
                Ok(self.inode(ino)?.attr().generation.to_le_bytes().to_vec())
            }
            FSGETXATTR => self.get_fsxattr(ino),
            FSSETXATTR => self.set_fsxattr(control),
            GETFSLABEL => {
                let mut out = self.volume.store().meta().superblock().label.into_bytes();
                out.resize(256, 0);
                Ok(out)
            }
            SETFSLABEL => self.set_label(control),
            FITRIM => {
                self.check_root(control)?;
                let trimmed = self.trim(quad(input, 0)?, quad(input, 8)?, quad(input, 16)?)?;
                let mut out = input[..24].to_vec();
                out[8..16].copy_from_slice(&trimmed.to_le_bytes());
                Ok(out)
            }
            RESIZE_FS => {
                self.check_root(control)?;
                self.volume.grow(quad(input, 0)?)?;
                Ok(Vec::new())
            }
            SHUTDOWN => self.shutdown(control),
            _ => Err(Errno::ENOTTY),
        }
    }

    fn check_root(&self, control: &Control<'_>) -> Answer<()> {
        if control.caller.uid == 0 { Ok(()) } else { Err(Errno::EPERM) }
    }

    fn check_owner(&self, control: &Control<'_>) -> Answer<()> {
        let owner = self.inode(control.ino)?.attr().uid;
        let uid = control.caller.uid;
        if uid == 0 || uid == owner { Ok(()) } else { Err(Errno::EPERM) }
    }

    fn set_flags(&self, control: &Control<'_>, flags: u32) -> Answer<IoctlReply> {
        self.check_owner(control)?;
        let inode = self.inode(control.ino)?;
        let old = inode.attr().flags;
        if flags & !SETTABLE & !old != 0 {
            return Err(Errno::EOPNOTSUPP);
        }
        // Immutable and append-only are for CAP_LINUX_IMMUTABLE, which root has.
        if (flags ^ old) & (IMMUTABLE | APPEND) != 0 {
            self.check_root(control)?;
        }
        self.check_kept(&inode.attr(), flags)?;
        // What an older version let be set stays until it is taken away.
        self.volume.set_flags(&inode, flags & (SETTABLE | old), IMMUTABLE | APPEND)?;
        Ok(Vec::new())
    }

    fn get_fsxattr(&self, ino: u64) -> Answer<IoctlReply> {
        let inode = self.inode(ino)?;
        let attr = inode.attr();
        let twins = TWINS.iter().filter(|(fl, _)| attr.flags & fl != 0);
        let xflags = twins.fold(attr.xflags, |x, (_, xfl)| x | xfl);
        let extents = inode.read().extents.as_ref().map_or(0, |e| e.len() as u32);
        let mut out = vec![0; 28];
        out[..4].copy_from_slice(&xflags.to_le_bytes());
        out[8..12].copy_from_slice(&extents.to_le_bytes());
        out[12..16].copy_from_slice(&attr.project.to_le_bytes());
        Ok(out)
    }

    /// The FS_*_FL bits that `control` asks for; `None` when it sets none.
    pub(super) fn flags_wanted(&self, control: &Control<'_>) -> Option<u32> {
        let first = word(control.input, 0).ok()?;
        match control.command {
            SETFLAGS | SETFLAGS32 => Some(first),
            FSSETXATTR => {
                let old = self.inode(control.ino).ok()?.attr().flags;
                let twin = |flags, (fl, xfl): &(u32, u32)| match first & xfl {
                    0 => flags & !fl,
                    _ => flags | fl,
                };
                Some(TWINS.iter().fold(old, twin))
            }
            _ => None,
        }
    }

    fn set_fsxattr(&self, control: &Control<'_>) -> Answer<IoctlReply> {
        self.check_owner(control)?;
        let (xflags, project) = (word(control.input, 0)?, word(control.input, 12)?);
        let known = TWINS.iter().fold(0, |known, (_, xfl)| known | xfl);
        if xflags & !known != 0 || word(control.input, 4)? != 0 {
            return Err(Errno::EOPNOTSUPP);
        }
        let inode = self.inode(control.ino)?;
        let flags = self.flags_wanted(control).ok_or(Errno::EINVAL)?;
        self.set_flags(control, flags)?;
        self.volume.set_attr(&inode, |attr| attr.project = project)?;
        Ok(Vec::new())
    }

    fn set_label(&self, control: &Control<'_>) -> Answer<IoctlReply> {
        self.check_root(control)?;
        self.volume.store().check_writable()?;
        let end = control.input.iter().position(|b| *b == 0).unwrap_or(control.input.len());
        if end > LABEL_MAX {
            return Err(Errno::EINVAL);
        }
        let label = String::from_utf8(control.input[..end].to_vec()).map_err(|_| Errno::EINVAL)?;
        let meta = self.volume.store().meta();
        let failed = |e: std::io::Error| {
            // The kernel reports a failed write-back once, and this one may have been anybody's: see
            // Volume::sync_inode.
            self.volume.store().shut_down();
            Errno::from(crate::errno::Error::from(e))
        };
        meta.update(|sb| sb.label = label).map_err(failed)?;
        Ok(Vec::new())
    }

    fn shutdown(&self, control: &Control<'_>) -> Answer<IoctlReply> {
        self.check_root(control)?;
        // The number of the command says that it only returns something (_IOR), so over FUSE its argument does not come
        // along: then it is a power cut, which is what shutdown of xfs_io(8) asks for.
        let how =
            if control.input.is_empty() { SHUTDOWN_NOLOGFLUSH } else { word(control.input, 0)? };
        match how {
            SHUTDOWN_DEFAULT | SHUTDOWN_LOGFLUSH => self.syncfs()?,
            SHUTDOWN_NOLOGFLUSH => {}
            _ => return Err(Errno::EINVAL),
        }
        tracing::warn!("shut down on request of process {}", control.caller.pid);
        self.volume.store().shut_down();
        Ok(Vec::new())
    }
}

fn word(input: &[u8], at: usize) -> Answer<u32> {
    let bytes = input.get(at..at + 4).and_then(|b| b.try_into().ok()).ok_or(Errno::EINVAL)?;
    Ok(u32::from_le_bytes(bytes))
}

fn quad(input: &[u8], at: usize) -> Answer<u64> {
    let bytes = input.get(at..at + 8).and_then(|b| b.try_into().ok()).ok_or(Errno::EINVAL)?;
    Ok(u64::from_le_bytes(bytes))
}

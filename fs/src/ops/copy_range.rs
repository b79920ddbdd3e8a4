//! copy_file_range(2), within the server. Holes stay holes.

use crate::ops::write::{WriteArgs, Written};
use crate::ops::{Answer, Fs};
use crate::volume::Fallocate;
use crate::volume::inode::Inode;
use std::sync::Arc;

/// Bytes of data moved at a time.
const STEP: u64 = 1 << 20;

impl Fs {
    /// Copies up to `len` bytes between two files, or within one.
    pub fn copy_file_range(
        &self,
        (from, offset_in): (u64, u64),
        (to, offset_out): (u64, u64),
        len: u64,
    ) -> Answer<Written> {
        let (source, target) = (self.inode(from)?, self.inode(to)?);
        let (mut done, mut privileges) = (0, false);
        while done < len {
            let (at, to_at) = (offset_in + done, offset_out + done);
            let rest = (len - done).min(source.attr().size.saturating_sub(at));
            if rest == 0 {
                break;
            }
            let hole = self.volume.hole_after(&source, at)?;
            let step = if hole.start <= at {
                self.copy_hole(&target, to_at, rest.min(hole.end - at))
            } else {
                let len = rest.min(hole.start - at).min(STEP);
                self.copy_data((&source, at), (&target, to_at), len as usize)
            };
            match step {
                // The source was cut meanwhile.
                Ok(Written { bytes: 0, .. }) => break,
                Ok(written) => {
                    done += written.bytes as u64;
                    privileges |= written.privileges;
                }
                Err(_) if done > 0 => break,
                Err(e) => return Err(e),
            }
        }
        self.accessed(&source);
        Ok(Written { bytes: done as usize, allocated: done > 0, privileges })
    }

    fn copy_data(
        &self,
        (source, at): (&Arc<Inode>, u64),
        (target, to_at): (&Arc<Inode>, u64),
        len: usize,
    ) -> Answer<Written> {
        let plan = self.volume.plan_read(source, at, len)?;
        if plan.len == 0 {
            return Ok(Written { bytes: 0, allocated: false, privileges: false });
        }
        let mut buf = self.io.pool().take(plan.len);
        self.io.read_cached(&plan.pieces, &mut buf)?;
        self.write(&copied(target, to_at), buf.as_slice())
    }

    /// Makes `len` bytes of `target` read as zeros. Where the file grows, its last byte is written: growing by setting the size
    /// could cut off what somebody else appends meanwhile.
    fn copy_hole(&self, target: &Arc<Inode>, at: u64, len: u64) -> Answer<Written> {
        let (end, size) = (at + len, target.attr().size);
        self.check_write(target, &copied(target, at))?;
        if at < size {
            self.volume.fallocate(target, Fallocate::Punch, at, len.min(size - at))?;
        }
        let privileges = match end > size {
            true => self.write(&copied(target, end - 1), &[0])?.privileges,
            false => self.drop_privileges(target, true)?,
        };
        Ok(Written { bytes: len as usize, allocated: end > size, privileges })
    }
}

/// How a copy writes.
fn copied(target: &Inode, offset: u64) -> WriteArgs {
    let (direct, append, cached, kill_suidgid) = (false, false, false, true);
    WriteArgs { ino: target.ino, offset, direct, append, cached, kill_suidgid }
}

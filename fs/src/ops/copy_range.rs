//! copy_file_range(2), within the server.

use crate::ops::write::{WriteArgs, Written};
use crate::ops::{Answer, Fs};

/// Bytes moved at a time.
const STEP: usize = 1 << 20;

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
            let want = (len - done).min(STEP as u64) as usize;
            let plan = self.volume.plan_read(&source, offset_in + done, want)?;
            if plan.len == 0 {
                break;
            }
            let mut buf = self.io.pool().take(plan.len);
            self.io.read_cached(&plan.pieces, &mut buf)?;
            let args = WriteArgs {
                ino: target.ino,
                offset: offset_out + done,
                direct: false,
                append: false,
                cached: false,
                kill_suidgid: true,
            };
            match self.write(&args, buf.as_slice()) {
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
}

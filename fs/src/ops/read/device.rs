//! A read that the device makes for somebody else than this thread.

use super::ready::{Applied, Data};
use super::{Memory, Prepared};
use crate::data::ReadPiece;
use crate::errno::Error;
use crate::ops::ways::Way;
use crate::ops::{Answer, Fs};
use crate::volume::ReadPlan;
use crate::volume::inode::Inode;
use inflight_dio::Buffer;
use std::fs::File;
use std::sync::Arc;

impl Prepared {
    /// The device's part, for whoever has it done elsewhere; [`Pending::finish`] goes on.
    ///
    /// # Errors
    /// The read itself, when it is not one read of the image.
    #[allow(clippy::result_large_err, reason = "the read goes on, which is no error")]
    pub fn into_device_read(self, fs: &Fs) -> Result<DeviceRead, Prepared> {
        let Prepared { inode, plan, way, wanted, memory } = self;
        match (memory, &plan.pieces[..], fs.io.file(), fs.io.cached_file()) {
            (Memory::Whole { buffer, offset, len }, _, Some(file), _) => {
                let pending = Pending { inode, plan, way, offset, len };
                Ok(DeviceRead { pending, buffer, file: Arc::clone(file), offset, len })
            }
            (Memory::One(buffer), &[ReadPiece::Data { offset, len }], _, Some(file)) => {
                let pending = Pending { inode, plan, way, offset, len };
                Ok(DeviceRead { pending, buffer, file: Arc::clone(file), offset, len })
            }
            (memory, ..) => Err(Prepared { inode, plan, way, wanted, memory }),
        }
    }
}

/// A read that is one read of the image: aligned and past its page cache, or through it.
pub struct DeviceRead {
    /// What waits for it.
    pub pending: Pending,
    /// Where it goes: at least `len` bytes.
    pub buffer: Buffer,
    /// The image, opened for it.
    pub file: Arc<File>,
    /// Byte offset in the image.
    pub offset: u64,
    /// Bytes.
    pub len: usize,
}

/// A read while the device works on it. Blocks stay pinned.
pub struct Pending {
    inode: Arc<Inode>,
    plan: ReadPlan,
    way: Way,
    offset: u64,
    len: usize,
}

impl Pending {
    /// Whether the device has read all that is wanted. If not, [`Pending::finish`] reads again, and waits.
    pub fn is_satisfied(&self, result: &std::io::Result<usize>) -> bool {
        matches!(result, Ok(read) if *read >= self.plan.len)
    }

    /// Goes on when the device has read `result` bytes into `buffer`.
    ///
    /// # Errors
    /// EIO for what the device said, and where the image ends too early.
    pub fn finish(
        self,
        fs: &Fs,
        mut buffer: Buffer,
        result: std::io::Result<usize>,
    ) -> Answer<Applied> {
        let mut read = result;
        if !self.is_satisfied(&read) {
            // Interrupted, or short for a reason of its own: the engine has the rules for that.
            match self.way {
                Way::Copy => {
                    fs.io.read_cached(&self.plan.pieces, &mut buffer)?;
                    read = Ok(self.plan.len);
                }
                _ => (buffer, read) = fs.io.read_whole(buffer, self.offset, self.len),
            }
        }
        let read = read.map_err(Error::Image)?;
        if read < self.plan.len {
            return Err(short_image(read, self.len).into());
        }
        buffer.truncate(self.plan.len);
        fs.accessed(&self.inode);
        Ok(Applied { plan: self.plan, data: Data::Buffer(buffer), way: self.way })
    }
}

pub(super) fn short_image(read: usize, wanted: usize) -> Error {
    Error::Corrupt(format!("image ends inside a file: {read} of {wanted} bytes read"))
}

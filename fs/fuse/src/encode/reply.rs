//! Answers.

use crate::abi::{self, OpenFlags, OutHeader};
use crate::attr::{Attr, Entry, FileLock, Statfs, Statx};
use crate::payload::Payload;
use inflight_splice::Filled;
use nix::errno::Errno;
use std::fmt;
use std::io::IoSlice;
use std::time::Duration;
use zerocopy::{Immutable, IntoBytes};

/// A handle, in the answer to OPEN, OPENDIR, CREATE and TMPFILE.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Opened {
    /// Number by which requests will name the handle.
    pub fh: u64,
    /// How the kernel is to treat it.
    pub flags: OpenFlags,
    /// Number of a backing file, with [`OpenFlags::PASSTHROUGH`].
    pub backing_id: i32,
}

/// The data of an answer. Nothing here is copied on its way to a channel.
#[derive(Debug)]
#[non_exhaustive]
pub enum Data {
    /// On the heap, or in a pool's buffer.
    Payload(Payload),
    /// One after the other.
    Parts(Vec<Payload>),
    /// The same bytes for ever, such as a page of zeroes.
    Static(&'static [u8]),
    /// In a pipe; only for a channel whose [`Caps::splice`](crate::channel::Caps::splice) is set.
    Piped(Filled),
}

impl Data {
    /// Number of bytes.
    pub fn len(&self) -> usize {
        match self {
            Self::Payload(payload) => payload.len(),
            Self::Parts(parts) => parts.iter().map(Payload::len).sum(),
            Self::Static(bytes) => bytes.len(),
            Self::Piped(filled) => filled.len(),
        }
    }

    /// The bytes, copied, and out of the pipe where they are in one.
    ///
    /// # Errors
    /// read(2) of the pipe.
    pub fn to_vec(&self) -> std::io::Result<Vec<u8>> {
        Ok(match self {
            Self::Payload(payload) => payload.as_slice().to_vec(),
            Self::Parts(parts) => parts.iter().flat_map(|part| part.as_slice()).copied().collect(),
            Self::Static(bytes) => bytes.to_vec(),
            Self::Piped(filled) => crate::channel::drain(filled)?,
        })
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Keeps at most the first `len` bytes. What is there is cut; nothing is read again.
    pub fn truncate(&mut self, len: usize) {
        match self {
            Self::Payload(payload) => payload.truncate(len),
            Self::Parts(parts) => {
                let mut left = len;
                for part in parts {
                    part.truncate(left);
                    left -= part.len();
                }
            }
            Self::Static(bytes) => *bytes = &bytes[..len.min(bytes.len())],
            Self::Piped(filled) => filled.truncate(len),
        }
    }

    /// The bytes that are in memory, in order; none for data in a pipe.
    pub fn slices(&self) -> impl Iterator<Item = &[u8]> {
        let (parts, bytes): (&[Payload], &[u8]) = match self {
            Self::Payload(payload) => (std::slice::from_ref(payload), &[]),
            Self::Parts(parts) => (parts, &[]),
            Self::Static(bytes) => (&[], bytes),
            Self::Piped(_) => (&[], &[]),
        };
        parts.iter().map(Payload::as_slice).chain([bytes]).filter(|bytes| !bytes.is_empty())
    }
}

impl<T: Into<Payload>> From<T> for Data {
    fn from(payload: T) -> Data {
        Data::Payload(payload.into())
    }
}

/// What is answered to a request.
#[derive(Debug)]
#[non_exhaustive]
pub enum Reply {
    /// It failed. ENOSYS makes the kernel never ask some requests again: see
    /// [quirks](crate::quirks).
    Error(Errno),
    /// It is done.
    Empty,
    /// LOOKUP, MKNOD, MKDIR, SYMLINK, LINK.
    Entry(Entry),
    /// GETATTR, SETATTR.
    Attr {
        /// The attributes.
        attr: Attr,
        /// How long they may be believed.
        valid: Duration,
    },
    /// STATX.
    Statx {
        /// The attributes.
        statx: Statx,
        /// How long they may be believed.
        valid: Duration,
    },
    /// OPEN, OPENDIR.
    Opened(Opened),
    /// CREATE, TMPFILE.
    Created {
        /// The new inode.
        entry: Entry,
        /// The handle.
        opened: Opened,
    },
    /// READ, READLINK, READDIR, READDIRPLUS, GETXATTR, LISTXATTR.
    Data(Data),
    /// WRITE, COPY_FILE_RANGE: bytes.
    Written(u32),
    /// GETXATTR, LISTXATTR with a size of 0: bytes.
    XattrSize(u32),
    /// STATFS.
    Statfs(Statfs),
    /// GETLK.
    Lock(FileLock),
    /// BMAP: number of the block on the device, in the unit that was asked in.
    Block(u64),
    /// IOCTL.
    Ioctl {
        /// What ioctl(2) returns.
        result: i32,
        /// What the caller's memory gets.
        data: Data,
    },
    /// IOCTL, unrestricted (CUSE): the same again with these ranges of the caller's memory.
    IoctlRetry {
        /// To be handed in.
        input: Vec<abi::IoctlIovec>,
        /// To be filled.
        output: Vec<abi::IoctlIovec>,
    },
    /// POLL: `POLLIN` and so on.
    Poll {
        /// The events.
        events: u32,
    },
    /// LSEEK: bytes into the file.
    Offset(u64),
    /// COPY_FILE_RANGE_64: bytes.
    Copied(u64),
    /// INIT.
    Init(abi::InitOut),
    /// CUSE_INIT: the structure and "DEVNAME=..." with a zero byte.
    CuseInit {
        /// Device number and limits.
        out: abi::CuseInitOut,
        /// `DEVNAME=name\0`.
        info: Vec<u8>,
    },
}

impl From<Errno> for Reply {
    fn from(errno: Errno) -> Reply {
        Reply::Error(errno)
    }
}

/// Longest answer without data: header and STATX.
const HEAD_MAX: usize = 16 + 288;

/// An answer as it is sent: a head of at most 304 bytes (header and fixed part), and data.
pub struct Frame {
    head: [u8; HEAD_MAX],
    head_len: u16,
    data: Option<Data>,
}

impl Frame {
    fn new(unique: u64, error: i32) -> Frame {
        let mut frame = Frame { head: [0; HEAD_MAX], head_len: 0, data: None };
        frame.put(&OutHeader { len: 0, error, unique });
        frame
    }

    fn put(&mut self, part: &(impl IntoBytes + Immutable)) {
        let (start, bytes) = (usize::from(self.head_len), part.as_bytes());
        self.head[start..start + bytes.len()].copy_from_slice(bytes);
        self.head_len += bytes.len() as u16;
    }

    fn finish(mut self, data: Option<Data>) -> Frame {
        self.data = data.filter(|data| !data.is_empty());
        // More than 4 GiB cannot be said; such a length matches nothing and is refused.
        let len = u32::try_from(self.len()).unwrap_or(u32::MAX);
        self.head[..4].copy_from_slice(&len.to_ne_bytes());
        self
    }

    /// Number of bytes, data included.
    #[allow(clippy::len_without_is_empty, reason = "there is always a header")]
    pub fn len(&self) -> usize {
        usize::from(self.head_len) + self.data.as_ref().map_or(0, Data::len)
    }

    /// Header and fixed part.
    pub fn head(&self) -> &[u8] {
        &self.head[..usize::from(self.head_len)]
    }

    /// The header alone.
    pub fn header(&self) -> &[u8] {
        &self.head[..size_of::<OutHeader>()]
    }

    /// The fixed part alone.
    pub fn fixed(&self) -> &[u8] {
        &self.head()[size_of::<OutHeader>()..]
    }

    /// The data, if there are any.
    pub fn data(&self) -> Option<&Data> {
        self.data.as_ref()
    }

    /// Header and fixed part, and the data.
    pub fn into_parts(self) -> ([u8; HEAD_MAX], usize, Option<Data>) {
        (self.head, self.head_len.into(), self.data)
    }

    /// Everything that is in memory, for writev(2).
    pub fn io_slices(&self) -> Vec<IoSlice<'_>> {
        let data = self.data.iter().flat_map(Data::slices).map(IoSlice::new);
        std::iter::once(IoSlice::new(self.head())).chain(data).collect()
    }

    /// Everything that is in memory, copied.
    pub fn to_vec(&self) -> Vec<u8> {
        let data = self.data.iter().flat_map(Data::slices);
        std::iter::once(self.head()).chain(data).collect::<Vec<_>>().concat()
    }
}

impl fmt::Debug for Frame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "answer of {} bytes", self.len())
    }
}

impl Reply {
    /// As it is sent, as the answer to the request `unique`. The data are moved, not copied.
    pub fn into_frame(self, unique: u64) -> Frame {
        let error = match &self {
            Self::Error(errno) => -(*errno as i32),
            _ => 0,
        };
        let mut frame = Frame::new(unique, error);
        let data = self.put(&mut frame);
        frame.finish(data)
    }

    /// Puts the fixed part into `frame` and gives the data.
    fn put(self, frame: &mut Frame) -> Option<Data> {
        match self {
            Self::Error(_) | Self::Empty => {}
            Self::Entry(entry) => frame.put(&abi::EntryOut::from(entry)),
            Self::Attr { attr, valid } => frame.put(&abi::AttrOut {
                attr_valid: valid.as_secs(),
                attr_valid_nsec: valid.subsec_nanos(),
                dummy: 0,
                attr: attr.into(),
            }),
            Self::Statx { statx, valid } => frame.put(&abi::StatxOut {
                attr_valid: valid.as_secs(),
                attr_valid_nsec: valid.subsec_nanos(),
                flags: statx.attr.flags.bits(),
                spare: [0; 2],
                stat: statx.into(),
            }),
            Self::Opened(opened) => frame.put(&open_out(opened)),
            Self::Created { entry, opened } => {
                frame.put(&abi::EntryOut::from(entry));
                frame.put(&open_out(opened));
            }
            Self::Data(data) => return Some(data),
            Self::Written(size) => frame.put(&abi::WriteOut { size, padding: 0 }),
            Self::XattrSize(size) => frame.put(&abi::GetxattrOut { size, padding: 0 }),
            Self::Statfs(statfs) => frame.put(&abi::StatfsOut { st: statfs.into() }),
            Self::Lock(lock) => frame.put(&abi::LkOut { lk: lock.into() }),
            Self::Block(block) => frame.put(&abi::BmapOut { block }),
            Self::Ioctl { result, data } => {
                frame.put(&abi::IoctlOut { result, ..abi::IoctlOut::default() });
                return Some(data);
            }
            Self::IoctlRetry { input, output } => return Some(retry(frame, &input, &output)),
            Self::Poll { events } => frame.put(&abi::PollOut { revents: events, padding: 0 }),
            Self::Offset(offset) => frame.put(&abi::LseekOut { offset }),
            Self::Copied(bytes_copied) => frame.put(&abi::CopyFileRangeOut { bytes_copied }),
            Self::Init(out) => frame.put(&out),
            Self::CuseInit { out, info } => {
                frame.put(&out);
                return Some(info.into());
            }
        }
        None
    }
}

fn open_out(opened: Opened) -> abi::OpenOut {
    let Opened { fh, flags, backing_id } = opened;
    abi::OpenOut { fh, open_flags: flags.bits(), backing_id }
}

fn retry(frame: &mut Frame, input: &[abi::IoctlIovec], output: &[abi::IoctlIovec]) -> Data {
    frame.put(&abi::IoctlOut {
        result: 0,
        flags: abi::IoctlFlags::RETRY.bits(),
        in_iovs: input.len() as u32,
        out_iovs: output.len() as u32,
    });
    [input.as_bytes(), output.as_bytes()].concat().into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use zerocopy::FromBytes as _;

    #[test]
    fn the_header_counts_all_and_errors_are_negative() {
        let frame = Reply::Data(b"abc".to_vec().into()).into_frame(8);
        let bytes = frame.to_vec();
        assert_eq!(bytes.len(), 19);
        let header = OutHeader::read_from_prefix(&bytes).unwrap().0;
        assert_eq!(header, OutHeader { len: 19, error: 0, unique: 8 });
        let bytes = Reply::Error(Errno::ENOENT).into_frame(9).to_vec();
        let header = OutHeader::read_from_bytes(&bytes).unwrap();
        assert_eq!(header, OutHeader { len: 16, error: -libc::ENOENT, unique: 9 });
    }

    #[test]
    fn data_are_not_copied() {
        let bytes = vec![7; 4096];
        let address = bytes.as_ptr();
        let frame = Reply::Data(bytes.into()).into_frame(2);
        assert_eq!(frame.io_slices()[1].as_ptr(), address);
    }

    #[test]
    fn the_longest_fixed_part_fits() {
        let statx = Reply::Statx { statx: Statx::default(), valid: Duration::ZERO };
        assert_eq!(statx.into_frame(2).len(), HEAD_MAX);
        let created = Reply::Created { entry: Entry::default(), opened: Opened::default() };
        assert_eq!(created.into_frame(2).len(), 16 + 128 + 16);
    }

    #[test]
    fn data_are_cut_across_parts() {
        let mut data = Data::Parts([&b"abc"[..], b"def", b"g"].map(Payload::from).into());
        data.truncate(4);
        assert_eq!(data.slices().collect::<Vec<_>>().concat(), b"abcd");
        data.truncate(9);
        assert_eq!(data.len(), 4);
    }

    #[test]
    fn parts_follow_each_other() {
        let parts = [&b"ab"[..], b"", b"cd"].map(Payload::from);
        let frame = Reply::Data(Data::Parts(parts.into())).into_frame(2);
        assert_eq!(&frame.to_vec()[16..], b"abcd");
    }
}

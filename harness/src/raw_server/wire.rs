//! The requests and answers of the FUSE protocol that the splicing server knows (include/uapi/linux/fuse.h, 7.31 and
//! later), as they are in memory.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

pub const LOOKUP: u32 = 1;
pub const FORGET: u32 = 2;
pub const GETATTR: u32 = 3;
pub const SETATTR: u32 = 4;
pub const OPEN: u32 = 14;
pub const READ: u32 = 15;
pub const WRITE: u32 = 16;
pub const RELEASE: u32 = 18;
pub const FSYNC: u32 = 20;
pub const FLUSH: u32 = 25;
pub const INIT: u32 = 26;
pub const INTERRUPT: u32 = 36;
pub const DESTROY: u32 = 38;
pub const BATCH_FORGET: u32 = 42;

/// `FUSE_ASYNC_READ`, `FUSE_BIG_WRITES`, `FUSE_ASYNC_DIO`, `FUSE_ABORT_ERROR`, `FUSE_MAX_PAGES`.
pub const WANTED: u32 = 1 | 1 << 5 | 1 << 15 | 1 << 21 | 1 << 22;
/// `FUSE_WRITEBACK_CACHE`.
pub const WRITEBACK_CACHE: u32 = 1 << 16;
/// `FOPEN_DIRECT_IO`.
pub const OPEN_DIRECT_IO: u32 = 1;
/// `FOPEN_KEEP_CACHE`.
pub const OPEN_KEEP_CACHE: u32 = 2;
/// `FATTR_SIZE`.
pub const ATTR_SIZE: u32 = 1 << 3;

/// `struct fuse_in_header`.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct InHeader {
    pub len: u32,
    pub opcode: u32,
    pub unique: u64,
    pub nodeid: u64,
    pub uid: u32,
    pub gid: u32,
    pub pid: u32,
    pub extension_len: u16,
    pub padding: u16,
}

/// `struct fuse_out_header`; the error is negative.
#[derive(Clone, Copy, Debug, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct OutHeader {
    pub len: u32,
    pub error: i32,
    pub unique: u64,
}

/// The beginning of `struct fuse_init_in`.
#[derive(Clone, Copy, Debug, FromBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct InitIn {
    pub major: u32,
    pub minor: u32,
    pub max_readahead: u32,
    pub flags: u32,
}

/// `struct fuse_init_out`.
#[derive(Clone, Copy, Debug, Default, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct InitOut {
    pub major: u32,
    pub minor: u32,
    pub max_readahead: u32,
    pub flags: u32,
    pub max_background: u16,
    pub congestion_threshold: u16,
    pub max_write: u32,
    pub time_gran: u32,
    pub max_pages: u16,
    pub map_alignment: u16,
    pub flags2: u32,
    pub max_stack_depth: u32,
    pub request_timeout: u16,
    pub unused: [u16; 11],
}

/// `struct fuse_attr`.
#[derive(Clone, Copy, Debug, Default, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct Attr {
    pub ino: u64,
    pub size: u64,
    pub blocks: u64,
    pub times: [u64; 3],
    pub nanoseconds: [u32; 3],
    pub mode: u32,
    pub nlink: u32,
    pub uid: u32,
    pub gid: u32,
    pub rdev: u32,
    pub blksize: u32,
    pub flags: u32,
}

/// `struct fuse_entry_out`.
#[derive(Clone, Copy, Debug, Default, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct EntryOut {
    pub nodeid: u64,
    pub generation: u64,
    pub entry_valid: u64,
    pub attr_valid: u64,
    pub valid_nanoseconds: [u32; 2],
    pub attr: Attr,
}

/// `struct fuse_attr_out`.
#[derive(Clone, Copy, Debug, Default, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct AttrOut {
    pub attr_valid: u64,
    pub valid_nanoseconds: u32,
    pub padding: u32,
    pub attr: Attr,
}

/// The beginning of `struct fuse_setattr_in`.
#[derive(Clone, Copy, Debug, FromBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct SetattrIn {
    pub valid: u32,
    pub padding: u32,
    pub fh: u64,
    pub size: u64,
}

/// `struct fuse_open_out`.
#[derive(Clone, Copy, Debug, Default, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct OpenOut {
    pub fh: u64,
    pub open_flags: u32,
    pub backing_id: i32,
}

/// `struct fuse_read_in` and `struct fuse_write_in`, which are alike.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct TransferIn {
    pub fh: u64,
    pub offset: u64,
    pub size: u32,
    pub transfer_flags: u32,
    pub lock_owner: u64,
    pub flags: u32,
    pub padding: u32,
}

/// `struct fuse_write_out`.
#[derive(Clone, Copy, Debug, Default, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct WriteOut {
    pub size: u32,
    pub padding: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_those_of_the_header_file() {
        assert_eq!(size_of::<InHeader>(), 40);
        assert_eq!(size_of::<OutHeader>(), 16);
        assert_eq!(size_of::<InitOut>(), 64);
        assert_eq!(size_of::<Attr>(), 88);
        assert_eq!(size_of::<EntryOut>(), 128);
        assert_eq!(size_of::<AttrOut>(), 104);
        assert_eq!(size_of::<TransferIn>(), 40);
    }
}

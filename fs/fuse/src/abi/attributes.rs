//! Attributes of files and filesystems, and locks.

structures! {
    /// Seconds are signed, although the header declares them unsigned: the kernel assigns them to
    /// a signed field.
    Attr = "fuse_attr" {
        ino: u64,
        size: u64,
        blocks: u64,
        atime: u64,
        mtime: u64,
        ctime: u64,
        atimensec: u32,
        mtimensec: u32,
        ctimensec: u32,
        mode: u32,
        nlink: u32,
        uid: u32,
        gid: u32,
        rdev: u32,
        blksize: u32,
        flags: u32,
    }
    /// Sizes in units of `frsize` bytes, as statfs(2) reports them.
    Kstatfs = "fuse_kstatfs" {
        blocks: u64,
        bfree: u64,
        bavail: u64,
        files: u64,
        ffree: u64,
        bsize: u32,
        namelen: u32,
        frsize: u32,
        padding: u32,
        spare: [u32; 6],
    }
    /// `end` is inclusive; `OFFSET_MAX` (2^63 - 1) means to the end of the file.
    FileLock = "fuse_file_lock" {
        start: u64,
        end: u64,
        r#type: u32,
        pid: u32,
    }
    /// Answer to LOOKUP, MKNOD, MKDIR, SYMLINK and LINK, and the first half of CREATE's. A
    /// `nodeid` of zero is a name that does not exist, to be remembered for `entry_valid`.
    EntryOut = "fuse_entry_out" {
        nodeid: u64,
        generation: u64,
        entry_valid: u64,
        attr_valid: u64,
        entry_valid_nsec: u32,
        attr_valid_nsec: u32,
        attr: Attr,
    }
    /// Answer to GETATTR and SETATTR.
    AttrOut = "fuse_attr_out" {
        attr_valid: u64,
        attr_valid_nsec: u32,
        dummy: u32,
        attr: Attr,
    }
    /// A time of `statx`; signed seconds.
    SxTime = "fuse_sx_time" {
        tv_sec: i64,
        tv_nsec: u32,
        __reserved: i32,
    }
    /// Bit for bit what statx(2) fills in.
    Statx = "fuse_statx" {
        mask: u32,
        blksize: u32,
        attributes: u64,
        nlink: u32,
        uid: u32,
        gid: u32,
        mode: u16,
        __spare0: [u16; 1],
        ino: u64,
        size: u64,
        blocks: u64,
        attributes_mask: u64,
        atime: SxTime,
        btime: SxTime,
        ctime: SxTime,
        mtime: SxTime,
        rdev_major: u32,
        rdev_minor: u32,
        dev_major: u32,
        dev_minor: u32,
        __spare2: [u64; 14],
    }
    /// Argument of STATX (7.39).
    StatxIn = "fuse_statx_in" {
        getattr_flags: u32,
        reserved: u32,
        fh: u64,
        sx_flags: u32,
        sx_mask: u32,
    }
    /// Answer to STATX (7.39).
    StatxOut = "fuse_statx_out" {
        attr_valid: u64,
        attr_valid_nsec: u32,
        flags: u32,
        spare: [u64; 2],
        stat: Statx,
    }
}

//! Arguments of requests. What follows them (names, data) is said with each.

/// Bytes of [`SetxattrIn`] where SETXATTR_EXT was not agreed upon.
pub const COMPAT_SETXATTR_IN_SIZE: usize = 8;

structures! {
    /// FORGET.
    ForgetIn = "fuse_forget_in" {
        nlookup: u64,
    }
    /// One of BATCH_FORGET.
    ForgetOne = "fuse_forget_one" {
        nodeid: u64,
        nlookup: u64,
    }
    /// BATCH_FORGET; `count` of [`ForgetOne`] follow.
    BatchForgetIn = "fuse_batch_forget_in" {
        count: u32,
        dummy: u32,
    }
    /// GETATTR; `fh` is valid with [`GETATTR_FH`](super::GETATTR_FH).
    GetattrIn = "fuse_getattr_in" {
        getattr_flags: u32,
        dummy: u32,
        fh: u64,
    }
    /// MKNOD; a name follows.
    MknodIn = "fuse_mknod_in" {
        mode: u32,
        rdev: u32,
        umask: u32,
        padding: u32,
    }
    /// MKDIR; a name follows.
    MkdirIn = "fuse_mkdir_in" {
        mode: u32,
        umask: u32,
    }
    /// RENAME; the old and the new name follow.
    RenameIn = "fuse_rename_in" {
        newdir: u64,
    }
    /// RENAME2; the old and the new name follow.
    Rename2In = "fuse_rename2_in" {
        newdir: u64,
        flags: u32,
        padding: u32,
    }
    /// LINK; the new name follows.
    LinkIn = "fuse_link_in" {
        oldnodeid: u64,
    }
    /// SETATTR; `valid` says which fields count.
    SetattrIn = "fuse_setattr_in" {
        valid: u32,
        padding: u32,
        fh: u64,
        size: u64,
        lock_owner: u64,
        atime: u64,
        mtime: u64,
        ctime: u64,
        atimensec: u32,
        mtimensec: u32,
        ctimensec: u32,
        mode: u32,
        unused4: u32,
        uid: u32,
        gid: u32,
        unused5: u32,
    }
    /// OPEN and OPENDIR.
    OpenIn = "fuse_open_in" {
        flags: u32,
        open_flags: u32,
    }
    /// CREATE and TMPFILE; a name follows.
    CreateIn = "fuse_create_in" {
        flags: u32,
        mode: u32,
        umask: u32,
        open_flags: u32,
    }
    /// RELEASE and RELEASEDIR.
    ReleaseIn = "fuse_release_in" {
        fh: u64,
        flags: u32,
        release_flags: u32,
        lock_owner: u64,
    }
    /// FLUSH.
    FlushIn = "fuse_flush_in" {
        fh: u64,
        unused: u32,
        padding: u32,
        lock_owner: u64,
    }
    /// READ, READDIR and READDIRPLUS.
    ReadIn = "fuse_read_in" {
        fh: u64,
        offset: u64,
        size: u32,
        read_flags: u32,
        lock_owner: u64,
        flags: u32,
        padding: u32,
    }
    /// WRITE; `size` bytes follow.
    WriteIn = "fuse_write_in" {
        fh: u64,
        offset: u64,
        size: u32,
        write_flags: u32,
        lock_owner: u64,
        flags: u32,
        padding: u32,
    }
    /// FSYNC and FSYNCDIR.
    FsyncIn = "fuse_fsync_in" {
        fh: u64,
        fsync_flags: u32,
        padding: u32,
    }
    /// SETXATTR; a name and `size` bytes follow. Only the first
    /// [`COMPAT_SETXATTR_IN_SIZE`] bytes are sent unless SETXATTR_EXT was agreed upon.
    SetxattrIn = "fuse_setxattr_in" {
        size: u32,
        flags: u32,
        setxattr_flags: u32,
        padding: u32,
    }
    /// GETXATTR, a name follows; LISTXATTR.
    GetxattrIn = "fuse_getxattr_in" {
        size: u32,
        padding: u32,
    }
    /// GETLK, SETLK and SETLKW.
    LkIn = "fuse_lk_in" {
        fh: u64,
        owner: u64,
        lk: super::FileLock,
        lk_flags: u32,
        padding: u32,
    }
    /// ACCESS.
    AccessIn = "fuse_access_in" {
        mask: u32,
        padding: u32,
    }
    /// INTERRUPT.
    InterruptIn = "fuse_interrupt_in" {
        unique: u64,
    }
    /// BMAP.
    BmapIn = "fuse_bmap_in" {
        block: u64,
        blocksize: u32,
        padding: u32,
    }
    /// IOCTL; `in_size` bytes follow.
    IoctlIn = "fuse_ioctl_in" {
        fh: u64,
        flags: u32,
        cmd: u32,
        arg: u64,
        in_size: u32,
        out_size: u32,
    }
    /// A range of the caller's memory in the answer to an unrestricted ioctl.
    IoctlIovec = "fuse_ioctl_iovec" {
        base: u64,
        len: u64,
    }
    /// POLL.
    PollIn = "fuse_poll_in" {
        fh: u64,
        kh: u64,
        flags: u32,
        events: u32,
    }
    /// FALLOCATE.
    FallocateIn = "fuse_fallocate_in" {
        fh: u64,
        offset: u64,
        length: u64,
        mode: u32,
        padding: u32,
    }
    /// LSEEK.
    LseekIn = "fuse_lseek_in" {
        fh: u64,
        offset: u64,
        whence: u32,
        padding: u32,
    }
    /// COPY_FILE_RANGE and COPY_FILE_RANGE_64.
    CopyFileRangeIn = "fuse_copy_file_range_in" {
        fh_in: u64,
        off_in: u64,
        nodeid_out: u64,
        fh_out: u64,
        off_out: u64,
        len: u64,
        flags: u64,
    }
    /// SETUPMAPPING (DAX of virtiofs).
    SetupmappingIn = "fuse_setupmapping_in" {
        fh: u64,
        foffset: u64,
        len: u64,
        flags: u64,
        moffset: u64,
    }
    /// REMOVEMAPPING; `count` of [`RemovemappingOne`] follow, without padding between.
    RemovemappingIn = "fuse_removemapping_in" {
        count: u32,
    }
    /// One of REMOVEMAPPING.
    RemovemappingOne = "fuse_removemapping_one" {
        moffset: u64,
        len: u64,
    }
    /// SYNCFS.
    SyncfsIn = "fuse_syncfs_in" {
        padding: u64,
    }
}

//! Answers that are not attributes.

structures! {
    /// OPEN, OPENDIR and the second half of CREATE's answer. `backing_id` counts with
    /// FOPEN_PASSTHROUGH.
    OpenOut = "fuse_open_out" {
        fh: u64,
        open_flags: u32,
        backing_id: i32,
    }
    /// WRITE and COPY_FILE_RANGE.
    WriteOut = "fuse_write_out" {
        size: u32,
        padding: u32,
    }
    /// STATFS.
    StatfsOut = "fuse_statfs_out" {
        st: super::Kstatfs,
    }
    /// GETXATTR and LISTXATTR when the size is asked for.
    GetxattrOut = "fuse_getxattr_out" {
        size: u32,
        padding: u32,
    }
    /// GETLK.
    LkOut = "fuse_lk_out" {
        lk: super::FileLock,
    }
    /// BMAP.
    BmapOut = "fuse_bmap_out" {
        block: u64,
    }
    /// IOCTL; data follows, or with IOCTL_RETRY `in_iovs + out_iovs` of
    /// [`IoctlIovec`](super::IoctlIovec).
    IoctlOut = "fuse_ioctl_out" {
        result: i32,
        flags: u32,
        in_iovs: u32,
        out_iovs: u32,
    }
    /// POLL.
    PollOut = "fuse_poll_out" {
        revents: u32,
        padding: u32,
    }
    /// LSEEK.
    LseekOut = "fuse_lseek_out" {
        offset: u64,
    }
    /// COPY_FILE_RANGE_64.
    CopyFileRangeOut = "fuse_copy_file_range_out" {
        bytes_copied: u64,
    }
    /// An entry of READDIR; `namelen` bytes of name follow, then zeroes up to a multiple of 8.
    Dirent = "fuse_dirent" {
        ino: u64,
        off: u64,
        namelen: u32,
        r#type: u32,
    }
    /// An entry of READDIRPLUS; as [`Dirent`] goes on.
    Direntplus = "fuse_direntplus" {
        entry_out: super::EntryOut,
        dirent: Dirent,
    }
    /// Argument of the ioctl that registers a backing file for passthrough.
    BackingMap = "fuse_backing_map" {
        fd: i32,
        flags: u32,
        padding: u64,
    }
}

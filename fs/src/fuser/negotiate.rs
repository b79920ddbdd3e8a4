//! What is agreed with the kernel at INIT.

use crate::options::Options;
use fuser::{InitFlags, KernelConfig};

/// Largest READ and WRITE, in bytes. With 1 MiB pipes a spliced reply holds 255 pages, so requests
/// of 1 MiB could not be spliced and 255 pages would cut sequential reads unevenly; 512 KiB is as
/// fast (measured) and fits.
pub const REQUEST_MAX: u32 = 512 << 10;

/// Agrees with the kernel on what it offers and we want.
pub fn negotiate(config: &mut KernelConfig, options: &Options) {
    let mut wanted = InitFlags::FUSE_ASYNC_READ
        | InitFlags::FUSE_ASYNC_DIO
        | InitFlags::FUSE_BIG_WRITES
        | InitFlags::FUSE_MAX_PAGES
        | InitFlags::FUSE_PARALLEL_DIROPS
        | InitFlags::FUSE_DO_READDIRPLUS
        | InitFlags::FUSE_READDIRPLUS_AUTO
        | InitFlags::FUSE_EXPORT_SUPPORT
        | InitFlags::FUSE_POSIX_ACL
        | InitFlags::FUSE_DONT_MASK
        | InitFlags::FUSE_CACHE_SYMLINKS
        | InitFlags::FUSE_HAS_IOCTL_DIR
        | InitFlags::FUSE_ABORT_ERROR
        | InitFlags::FUSE_EXPLICIT_INVAL_DATA
        | InitFlags::FUSE_DIRECT_IO_ALLOW_MMAP
        | InitFlags::FUSE_NO_OPEN_SUPPORT
        | InitFlags::FUSE_HANDLE_KILLPRIV_V2
        | InitFlags::FUSE_NO_OPENDIR_SUPPORT;
    if options.writeback {
        wanted |= InitFlags::FUSE_WRITEBACK_CACHE;
    }
    if options.auto_inval {
        wanted |= InitFlags::FUSE_AUTO_INVAL_DATA;
    }
    for flag in wanted.iter() {
        if config.add_capabilities(flag).is_err() {
            tracing::info!("this kernel has no {flag:?}");
        }
    }
    // Both bound the pages of a request, and fuser derives max_pages from the larger one.
    let _ = config.set_max_write(REQUEST_MAX);
    let _ = config.set_max_readahead(REQUEST_MAX);
    let _ = config.set_max_background(64);
    let _ = config.set_congestion_threshold(48);
}

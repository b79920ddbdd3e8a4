//! The first message of a connection.

structures! {
    /// Request INIT. `flags2` holds bits 32 to 63 and is valid with INIT_EXT in `flags`.
    InitIn = "fuse_init_in" {
        major: u32,
        minor: u32,
        max_readahead: u32,
        flags: u32,
        flags2: u32,
        unused: [u32; 11],
    }
    /// Answer to INIT. `max_pages`, `time_gran` and the rest behind `max_write` count from 7.23.
    InitOut = "fuse_init_out" {
        major: u32,
        minor: u32,
        max_readahead: u32,
        flags: u32,
        max_background: u16,
        congestion_threshold: u16,
        max_write: u32,
        time_gran: u32,
        max_pages: u16,
        map_alignment: u16,
        flags2: u32,
        max_stack_depth: u32,
        request_timeout: u16,
        unused: [u16; 11],
    }
    /// Request CUSE_INIT.
    CuseInitIn = "cuse_init_in" {
        major: u32,
        minor: u32,
        unused: u32,
        flags: u32,
    }
    /// Answer to CUSE_INIT.
    CuseInitOut = "cuse_init_out" {
        major: u32,
        minor: u32,
        unused: u32,
        flags: u32,
        max_read: u32,
        max_write: u32,
        dev_major: u32,
        dev_minor: u32,
        spare: [u32; 10],
    }
}

/// Major version of the protocol.
pub const KERNEL_VERSION: u32 = 7;
/// Minor version that this crate speaks.
pub const KERNEL_MINOR_VERSION: u32 = 45;
/// Bytes of [`InitIn`] before 7.36.
pub const COMPAT_INIT_IN_SIZE: usize = 16;
/// Bytes of [`InitOut`] before 7.5.
pub const COMPAT_INIT_OUT_SIZE: usize = 8;
/// Bytes of [`InitOut`] from 7.5 to 7.22.
pub const COMPAT_22_INIT_OUT_SIZE: usize = 24;

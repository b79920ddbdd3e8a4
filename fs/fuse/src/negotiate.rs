//! INIT: what the kernel offers and what a server wants, to what holds.

use crate::abi::{self, InitFlags, InitOut};
use crate::decode::Dialect;
use crate::request::Init;
use inflight_dio::page_size;

/// Oldest minor version that is spoken: Linux 5.4.
pub const MINOR_MIN: u32 = 31;

/// What a server wants of the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Flags; those that the kernel does not offer are left out.
    pub flags: InitFlags,
    /// Largest WRITE in bytes, at least a page. More than 128 KiB needs MAX_PAGES (which is
    /// then asked for), and more than 1 MiB a raised `fs.fuse.max_pages_limit`.
    pub max_write: u32,
    /// Readahead in bytes, as far as the kernel offers it.
    pub max_readahead: u32,
    /// Requests in the background (readahead, writeback, queued direct I/O) at most.
    pub max_background: u16,
    /// Number of those from which on the mount counts as congested.
    pub congestion_threshold: u16,
    /// Unit of times in nanoseconds: a power of ten up to 1,000,000,000.
    pub time_gran: u32,
    /// Depth of filesystems that may lie below a backing file, with PASSTHROUGH.
    pub max_stack_depth: u32,
    /// Seconds after which the kernel gives a request and the connection up, with REQUEST_TIMEOUT;
    /// 0 for never.
    pub request_timeout: u16,
}

impl Default for Wanted {
    /// No flags but those that need nothing of the server; 1 MiB requests; nanoseconds.
    fn default() -> Wanted {
        Wanted {
            flags: InitFlags::ASYNC_READ
                | InitFlags::BIG_WRITES
                | InitFlags::PARALLEL_DIROPS
                | InitFlags::ABORT_ERROR
                | InitFlags::ASYNC_DIO
                | InitFlags::SETXATTR_EXT,
            max_write: 1 << 20,
            max_readahead: 1 << 20,
            max_background: 64,
            congestion_threshold: 48,
            time_gran: 1,
            max_stack_depth: 0,
            request_timeout: 0,
        }
    }
}

/// What holds for a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Negotiated {
    /// The answer to INIT.
    pub out: InitOut,
    /// Flags that both sides have.
    pub flags: InitFlags,
    /// Minor version that both sides speak.
    pub minor: u32,
    /// Largest WRITE and READ in bytes.
    pub max_write: u32,
}

impl Negotiated {
    /// How requests look from now on.
    pub fn dialect(&self) -> Dialect {
        Dialect::new(self.flags)
    }
}

/// Why kernel and server do not come together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NegotiateError {
    /// The kernel speaks a later major version; answer [`version_only`] and it asks again.
    #[error("the kernel speaks FUSE {0}, this server 7; it is told so")]
    Later(u32),
    /// The kernel speaks too old a version.
    #[error("the kernel speaks FUSE {major}.{minor}, at least 7.{MINOR_MIN} is needed (Linux 5.4)")]
    TooOld {
        /// Its major version.
        major: u32,
        /// Its minor version.
        minor: u32,
    },
}

/// The answer to a kernel of a later major version, which then asks again.
pub fn version_only() -> InitOut {
    InitOut { major: abi::KERNEL_VERSION, minor: abi::KERNEL_MINOR_VERSION, ..InitOut::default() }
}

/// What holds between a kernel's offer and a server's wish.
///
/// # Errors
/// [`NegotiateError`].
pub fn negotiate(offer: &Init, wanted: &Wanted) -> Result<Negotiated, NegotiateError> {
    if offer.major > abi::KERNEL_VERSION {
        return Err(NegotiateError::Later(offer.major));
    }
    if offer.major < abi::KERNEL_VERSION || offer.minor < MINOR_MIN {
        let Init { major, minor, .. } = *offer;
        return Err(NegotiateError::TooOld { major, minor });
    }
    let minor = offer.minor.min(abi::KERNEL_MINOR_VERSION);
    let mut flags = (wanted.flags | InitFlags::MAX_PAGES | InitFlags::INIT_EXT) & offer.flags;
    // They are void without what they build upon, and a kernel may refuse the mount for it.
    if wanted.request_timeout == 0 {
        flags.remove(InitFlags::REQUEST_TIMEOUT);
    }
    if wanted.max_stack_depth == 0 {
        flags.remove(InitFlags::PASSTHROUGH);
    }
    if flags.contains(InitFlags::NO_EXPORT_SUPPORT) {
        flags.remove(InitFlags::EXPORT_SUPPORT);
    }
    let page = page_size() as u32;
    // FUSE_DEFAULT_MAX_PAGES_PER_REQ (fs/fuse/fuse_i.h).
    let limit = if flags.contains(InitFlags::MAX_PAGES) { u32::MAX / 2 } else { 32 * page };
    let max_write = wanted.max_write.clamp(page, limit) / page * page;
    let max_pages = u16::try_from(max_write / page).unwrap_or(u16::MAX);
    let out = InitOut {
        major: abi::KERNEL_VERSION,
        minor,
        max_readahead: wanted.max_readahead.min(offer.max_readahead),
        flags: flags.bits() as u32,
        flags2: (flags.bits() >> 32) as u32,
        max_background: wanted.max_background,
        congestion_threshold: wanted.congestion_threshold,
        max_write,
        time_gran: wanted.time_gran,
        max_pages: if flags.contains(InitFlags::MAX_PAGES) { max_pages } else { 0 },
        max_stack_depth: wanted.max_stack_depth,
        request_timeout: wanted.request_timeout,
        ..InitOut::default()
    };
    Ok(Negotiated { out, flags, minor, max_write })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offer(minor: u32, flags: InitFlags) -> Init {
        Init { major: 7, minor, max_readahead: 128 << 10, flags }
    }

    #[test]
    fn only_what_both_have_holds_and_the_upper_half_goes_apart() {
        let wanted = Wanted {
            flags: InitFlags::OVER_IO_URING | InitFlags::POSIX_ACL | InitFlags::ASYNC_READ,
            ..Wanted::default()
        };
        let has = InitFlags::OVER_IO_URING
            | InitFlags::ASYNC_READ
            | InitFlags::INIT_EXT
            | InitFlags::MAX_PAGES;
        let got = negotiate(&offer(46, has), &wanted).unwrap();
        assert_eq!(got.flags, has);
        assert_eq!((got.minor, got.out.minor), (45, 45));
        assert_eq!(got.out.flags2, 1 << 9);
        assert_eq!(got.out.flags, (has.bits() & u64::from(u32::MAX)) as u32);
        assert_eq!(got.out.max_readahead, 128 << 10);
        assert_eq!(u32::from(got.out.max_pages) * page_size() as u32, 1 << 20);
    }

    #[test]
    fn without_max_pages_requests_have_32_pages() {
        let got = negotiate(&offer(31, InitFlags::empty()), &Wanted::default()).unwrap();
        assert_eq!(got.max_write as usize, 32 * page_size());
        assert_eq!(got.out.max_pages, 0);
    }

    #[test]
    fn versions_that_do_not_fit_are_told_apart() {
        let init = |major, minor| Init { major, minor, ..offer(0, InitFlags::empty()) };
        assert_eq!(negotiate(&init(8, 0), &Wanted::default()), Err(NegotiateError::Later(8)));
        let old = NegotiateError::TooOld { major: 7, minor: 30 };
        assert_eq!(negotiate(&init(7, 30), &Wanted::default()), Err(old));
        assert_eq!((version_only().major, version_only().flags), (7, 0));
    }
}

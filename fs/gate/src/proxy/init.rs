//! INIT between a kernel and a server that a socket lies between: what the proxy cannot carry is not offered,
//! and no message is larger than the socket takes.

use inflight_fuse::abi::{InHeader, InitFlags, InitIn, InitOut};
use zerocopy::IntoBytes as _;

/// Requests by io_uring bypass the device that the proxy reads, and files that are passed through are
/// opened by an ioctl(2) on the device that the server does not have.
const MASKED: InitFlags = InitFlags::OVER_IO_URING.union(InitFlags::PASSTHROUGH);

/// Pages of a request where MAX_PAGES is not agreed upon (`FUSE_DEFAULT_MAX_PAGES_PER_REQ`, fs/fuse/fuse_i.h).
const PAGES_DEFAULT: u32 = 32;

/// What INIT agreed upon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Agreed {
    /// Flags that the server answered.
    pub flags: InitFlags,
    /// Largest WRITE that the server wanted, in bytes.
    pub wanted: u32,
    /// Largest WRITE now, in bytes.
    pub max_write: u32,
}

/// Takes out of the kernel's INIT, header and all, what is not to be offered; gives what that was.
pub(super) fn mask_offer(message: &mut [u8]) -> InitFlags {
    let at = size_of::<InHeader>();
    let Some(body) = message.get_mut(at..) else { return InitFlags::empty() };
    let (mut init, len) = padded(body, InitIn::default());
    let flags = InitFlags::from_bits_retain(join(init.flags, init.flags2));
    (init.flags, init.flags2) = split(flags - MASKED);
    body[..len].copy_from_slice(&init.as_bytes()[..len]);
    flags & MASKED
}

/// Cuts what the server answers to what the proxy carries. `None` when it is an answer of a version only.
pub(super) fn bound_answer(body: &mut [u8], max_write: u32, page: u32) -> Option<Agreed> {
    let (mut out, len) = padded(body, InitOut::default());
    if len < std::mem::offset_of!(InitOut, time_gran) {
        return None;
    }
    let flags = InitFlags::from_bits_retain(join(out.flags, out.flags2)) - MASKED;
    (out.flags, out.flags2) = split(flags);
    let wanted = out.max_write;
    let pages = (max_write / page).max(1);
    if flags.contains(InitFlags::MAX_PAGES) {
        out.max_pages = u32::from(out.max_pages).min(pages) as u16;
    }
    out.max_write = wanted.min(max_write.max(PAGES_DEFAULT.min(pages) * page));
    body[..len].copy_from_slice(&out.as_bytes()[..len]);
    Some(Agreed { flags, wanted, max_write: out.max_write })
}

/// A structure of which older versions were shorter; the rest is zeroes.
fn padded<T: zerocopy::FromBytes + zerocopy::IntoBytes>(body: &[u8], mut value: T) -> (T, usize) {
    let len = body.len().min(size_of::<T>());
    value.as_mut_bytes()[..len].copy_from_slice(&body[..len]);
    (value, len)
}

fn join(low: u32, high: u32) -> u64 {
    u64::from(low) | u64::from(high) << 32
}

fn split(flags: InitFlags) -> (u32, u32) {
    (flags.bits() as u32, (flags.bits() >> 32) as u32)
}

#[cfg(test)]
mod tests {
    use super::*;
    use zerocopy::FromBytes as _;

    const PAGE: u32 = 4096;

    #[test]
    fn what_the_proxy_lacks_is_not_offered_and_the_rest_is() {
        let has = InitFlags::OVER_IO_URING | InitFlags::ASYNC_READ | InitFlags::HAS_RESEND;
        let (flags, flags2) = split(has);
        let init = InitIn { major: 7, minor: 45, flags, flags2, ..InitIn::default() };
        let mut bytes = [&[0; size_of::<InHeader>()], init.as_bytes()].concat();
        assert_eq!(mask_offer(&mut bytes), InitFlags::OVER_IO_URING);
        let (left, _) = InitIn::read_from_prefix(&bytes[size_of::<InHeader>()..]).unwrap();
        let left = InitFlags::from_bits_retain(join(left.flags, left.flags2));
        assert_eq!(left, InitFlags::ASYNC_READ | InitFlags::HAS_RESEND);
    }

    #[test]
    fn requests_are_cut_to_what_the_socket_takes() {
        let flags = (InitFlags::MAX_PAGES | InitFlags::PASSTHROUGH).bits();
        let out = InitOut {
            max_write: 1 << 20,
            max_pages: 256,
            flags: flags as u32,
            flags2: (flags >> 32) as u32,
            ..InitOut::default()
        };
        let mut bytes = out.as_bytes().to_vec();
        let agreed = bound_answer(&mut bytes, 256 << 10, PAGE).unwrap();
        assert_eq!((agreed.wanted, agreed.max_write), (1 << 20, 256 << 10));
        assert_eq!(agreed.flags, InitFlags::MAX_PAGES);
        let out = InitOut::read_from_bytes(&bytes).unwrap();
        assert_eq!((out.max_pages, out.max_write, out.flags2), (64, 256 << 10, 0));
    }

    #[test]
    fn an_old_server_is_answered_as_long_as_it_spoke() {
        let out = InitOut { max_write: 4096, ..InitOut::default() };
        let mut bytes = out.as_bytes()[..24].to_vec();
        let agreed = bound_answer(&mut bytes, 256 << 10, PAGE).unwrap();
        assert_eq!((agreed.max_write, bytes.len()), (4096, 24));
        assert_eq!(bound_answer(&mut bytes[..8], 256 << 10, PAGE), None);
    }
}

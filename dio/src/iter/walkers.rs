//! What a walk can feed: vectors for the kernel, scatter lists, checksums, sockets.
#![allow(unsafe_code)]

use std::convert::Infallible;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use crate::iter::{IoIter, ReadOnly};

/// A part of one page, as `struct bio_vec` has it, with an address for the page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BioVec {
    /// Address of the page.
    pub page: usize,
    /// First byte in it.
    pub offset: usize,
    /// Bytes.
    pub len: usize,
}

/// Addresses and lengths of the next `max` bytes, at most `vectors_max` of them, each as long as
/// the memory is contiguous (also across spans). Moves the iterator. The addresses are good for as
/// long as the iterator's borrow.
pub fn to_iovecs(iter: &mut IoIter<'_>, max: usize, vectors_max: usize) -> Vec<libc::iovec> {
    let mut list: Vec<libc::iovec> = Vec::new();
    let _ = iter.for_each_span(max, |range| {
        let full = list.len() == vectors_max;
        match list.last_mut() {
            Some(last) if last.iov_base as usize + last.iov_len == range.address() => {
                last.iov_len += range.len();
            }
            _ if full => return Ok::<_, Infallible>(0),
            _ => list.push(range.iovec()),
        }
        Ok(range.len())
    });
    list
}

/// The next `max` bytes page by page, at most `vectors_max` pages. Moves the iterator.
pub fn to_bvecs(iter: &mut IoIter<'_>, max: usize, vectors_max: usize) -> Vec<BioVec> {
    let mut list = Vec::new();
    let _ = iter.for_each_range(max, |range| {
        if list.len() == vectors_max {
            return Ok::<_, Infallible>(0);
        }
        let offset = range.offset_in_page();
        list.push(BioVec { page: range.address() - offset, offset, len: range.len() });
        Ok(range.len())
    });
    list
}

/// Continues the CRC-32C `seed` (0 to begin) over the next `max` bytes. Moves the iterator.
pub fn crc32c(iter: &mut IoIter<'_>, max: usize, seed: u32) -> u32 {
    let mut crc = seed;
    let _ = iter.for_each_span(max, |range| {
        crc = crc32c::crc32c_append(crc, range.as_slice());
        Ok::<_, Infallible>(range.len())
    });
    crc
}

/// Vectors for one writev(2) or readv(2).
const VECTORS: usize = 64;

/// Writes the next `max` bytes to a socket, pipe or file at its position, until all are written or
/// the descriptor would block. Moves the iterator by what was written, which it returns.
///
/// # Errors
/// writev(2). What was written before stays written and the iterator stands behind it.
pub fn send(iter: &mut IoIter<'_>, fd: BorrowedFd<'_>, max: usize) -> io::Result<usize> {
    stream(iter, max, |vectors| {
        // SAFETY: the vectors lie in the iterator's borrow and are only read.
        unsafe { libc::writev(fd.as_raw_fd(), vectors.as_ptr(), vectors.len() as libc::c_int) }
    })
}

/// Reads up to `max` bytes from a socket, pipe or file straight into the iterator's memory, until
/// that is full, the stream ends, or the descriptor would block. Returns the bytes read.
///
/// # Errors
/// readv(2), or `EINVAL` for an iterator that may only be read from.
pub fn receive(iter: &mut IoIter<'_>, fd: BorrowedFd<'_>, max: usize) -> io::Result<usize> {
    if !iter.is_writable() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, ReadOnly(iter.kind())));
    }
    stream(iter, max, |vectors| {
        // SAFETY: the vectors lie in the iterator's borrow, which is exclusive: checked above.
        unsafe { libc::readv(fd.as_raw_fd(), vectors.as_ptr(), vectors.len() as libc::c_int) }
    })
}

fn stream(
    iter: &mut IoIter<'_>,
    max: usize,
    mut call: impl FnMut(&[libc::iovec]) -> libc::ssize_t,
) -> io::Result<usize> {
    let end = max.min(iter.remaining());
    let mut done = 0;
    while done < end {
        let moved = {
            // The call is over before the extraction goes, so the kernel's own pins do.
            let segments = iter.extract(end - done, VECTORS, &super::KernelPins)?;
            call(segments.segments())
        };
        match usize::try_from(moved) {
            Ok(0) => break,
            Ok(moved) => {
                iter.advance(moved);
                done += moved;
            }
            Err(_) => match io::Error::last_os_error() {
                e if e.kind() == io::ErrorKind::Interrupted => {}
                e if e.kind() == io::ErrorKind::WouldBlock && done > 0 => break,
                e => return Err(e),
            },
        }
    }
    Ok(done)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mapping::page_size;
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    #[test]
    fn neighbours_become_one_vector_and_the_limit_is_kept() {
        let mut memory = [7u8; 100];
        let (a, b) = memory.split_at_mut(40);
        let mut iter = IoIter::kvec([a, b]);
        assert_eq!(to_iovecs(&mut iter, 90, 1).len(), 1);
        assert_eq!(iter.remaining(), 10);
        let (x, y) = ([0u8; 4], [0u8; 4]);
        let mut apart = IoIter::kvec([&x[..], &[], &y[..2]]);
        let first = to_iovecs(&mut apart, usize::MAX, 1);
        assert!(first[0].iov_len == 4 || first[0].iov_len == 6, "apart, or neighbours by chance");
    }

    #[test]
    fn a_bvec_list_names_each_page_once() {
        let pool = crate::Pool::new(crate::PoolConfig { slabs: 1, ..Default::default() }).unwrap();
        let mut buf = pool.take(4 * page_size());
        let mut iter = IoIter::ubuf(&mut buf.as_mut_slice()[1..2 * page_size() + 1]);
        let list = to_bvecs(&mut iter, usize::MAX, 2);
        assert_eq!(
            list.iter().map(|v| (v.offset, v.len)).collect::<Vec<_>>(),
            [(1, page_size() - 1), (0, page_size())]
        );
        assert_eq!((list[1].page - list[0].page, iter.remaining()), (page_size(), 1));
    }

    #[test]
    fn a_checksum_does_not_depend_on_how_the_memory_is_cut() {
        let data: Vec<u8> = (0..1000u32).map(|i| (i * 7) as u8).collect();
        let whole = crc32c::crc32c(&data);
        let mut iter = IoIter::kvec([&data[..1], &data[1..500], &data[500..]]);
        let head = super::crc32c(&mut iter, 300, 0);
        assert_eq!(super::crc32c(&mut iter, usize::MAX, head), whole);
    }

    #[test]
    fn a_socket_is_read_straight_into_the_memory() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let text: Vec<u8> = (0..30_000u32).map(|i| (i % 255) as u8).collect();
        assert_eq!(
            send(&mut IoIter::kvec(text.chunks(999)), ours.as_fd(), usize::MAX).unwrap(),
            30_000
        );
        drop(ours);
        let mut memory = vec![vec![0u8; 777]; 40];
        let mut iter = IoIter::iovec(memory.iter_mut().map(|m| &mut m[..]));
        assert_eq!(
            receive(&mut iter, theirs.as_fd(), usize::MAX).unwrap(),
            30_000,
            "end of stream"
        );
        assert_eq!(memory.concat()[..30_000], text);
        let shared = [0u8; 4];
        assert!(receive(&mut IoIter::ubuf(&shared[..]), theirs.as_fd(), 4).is_err());
    }
}

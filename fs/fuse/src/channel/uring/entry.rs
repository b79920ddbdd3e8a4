//! One place for a request, and what is in its header.
#![allow(unsafe_code)]

use crate::abi::uring::{CMD_COMMIT_AND_FETCH, CMD_REGISTER, CmdReq, EntInOut, ReqHeader};
use crate::abi::{InHeader, OutHeader};
use crate::encode::Frame;
use inflight_dio::Buffer;
use io_uring::squeue::Entry128;
use io_uring::{opcode, types};
use std::mem::offset_of;
use zerocopy::{FromBytes as _, IntoBytes as _};

/// Where a request's place is on its way.
pub(super) enum State {
    /// With the kernel, which may write to header and buffer at any time.
    Kernel(Buffer),
    /// With the server.
    Server { commit_id: u64 },
    /// Answered, but the request's data are still somebody's.
    Waiting { commit_id: u64, frame: Box<Frame> },
    /// Never to be answered.
    Abandoned,
    /// The kernel does not take it any more.
    Dead,
}

/// The place of an entry's header in the memory of all headers, which `Shared` keeps.
#[derive(Clone, Copy)]
pub(super) struct HeaderPlace(*mut ReqHeader);

// SAFETY: it is an address; who may use it, and when, is said with each use.
unsafe impl Send for HeaderPlace {}

impl HeaderPlace {
    /// The header of entry `index` in `headers`.
    ///
    /// # Panics
    /// When it is not inside.
    pub(super) fn new(headers: &Buffer, index: usize) -> HeaderPlace {
        let start = index * size_of::<ReqHeader>();
        assert!(start + size_of::<ReqHeader>() <= headers.capacity());
        HeaderPlace(headers.as_ptr().cast_mut().wrapping_add(start).cast())
    }

    /// What the kernel wrote: the request's header and arguments in one piece, and about the
    /// entry. Only to be called while the server has the entry.
    pub(super) fn read(self) -> (InHeader, ReqHeader) {
        // SAFETY: the place lies in memory that the queue keeps mapped; the kernel, which alone
        // writes to it, has completed the entry's command and starts no other before `write`.
        let header = unsafe { self.0.read() };
        let (request, _) = InHeader::read_from_prefix(&header.in_out.0).expect("room for it");
        (request, header)
    }

    /// What the kernel is to read at the next commit. Only while the server has the entry.
    pub(super) fn write(self, answer: &OutHeader, commit_id: u64, payload: usize) {
        let about = EntInOut { commit_id, payload_sz: payload as u32, ..EntInOut::default() };
        let bytes = answer.as_bytes();
        // SAFETY: as in `read`; both ranges lie inside the header, which is aligned to 8 bytes
        // because the memory is page-aligned and a header's size a multiple of 8.
        unsafe {
            self.0.cast::<u8>().copy_from_nonoverlapping(bytes.as_ptr(), bytes.len());
            let place = self.0.byte_add(offset_of!(ReqHeader, ring_ent_in_out));
            place.cast::<EntInOut>().write(about);
        }
    }

    fn address(self) -> *mut libc::c_void {
        self.0.cast()
    }
}

/// Number of the device among the ring's registered files.
const DEVICE: types::Fixed = types::Fixed(0);

fn area(queue: u16, commit_id: u64) -> [u8; 80] {
    let request = CmdReq { flags: 0, commit_id, qid: queue, padding: [0; 6] };
    let mut area = [0; 80];
    area[..size_of::<CmdReq>()].copy_from_slice(request.as_bytes());
    area
}

/// Answers and fetches.
pub(super) fn commit(queue: u16, commit_id: u64) -> Entry128 {
    opcode::UringCmd80::new(DEVICE, CMD_COMMIT_AND_FETCH).cmd(area(queue, commit_id)).build()
}

/// The two ranges of an entry, which the kernel reads when the command is submitted.
pub(super) type Ranges = [libc::iovec; 2];

pub(super) fn ranges(header: HeaderPlace, buffer: &Buffer) -> Ranges {
    let range = |iov_base, iov_len| libc::iovec { iov_base, iov_len };
    [
        range(header.address(), size_of::<ReqHeader>()),
        range(buffer.as_ptr().cast_mut().cast(), buffer.capacity()),
    ]
}

/// Registers and fetches. `ranges` must stay where they are until the entry was submitted.
pub(super) fn register(queue: u16, ranges: &Ranges) -> Entry128 {
    with_ranges(opcode::UringCmd80::new(DEVICE, CMD_REGISTER).cmd(area(queue, 0)), ranges)
}

/// The same over a descriptor that is not registered with the ring.
pub(super) fn register_by(device: types::Fd, queue: u16, ranges: &Ranges) -> Entry128 {
    with_ranges(opcode::UringCmd80::new(device, CMD_REGISTER).cmd(area(queue, 0)), ranges)
}

fn with_ranges(command: opcode::UringCmd80, ranges: &Ranges) -> Entry128 {
    let mut entry = command.addr(Some(ranges.as_ptr() as u64)).build();
    /// Bytes before `len` in `struct io_uring_sqe` (include/uapi/linux/io_uring.h); the crate has
    /// no name for it in this command.
    const LEN: usize = 24;
    const { assert!(size_of::<Entry128>() == 128) };
    // SAFETY: an Entry128 is `repr(C)` over a `struct io_uring_sqe` and 64 bytes more, so its
    // bytes 24 to 27 are the initialised field `len`, which any value is valid for.
    unsafe { (&raw mut entry).cast::<u8>().add(LEN).cast::<u32>().write(ranges.len() as u32) };
    entry
}

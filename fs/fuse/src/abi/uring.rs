//! fuse-over-io_uring (7.42; Documentation/filesystems/fuse/fuse-io-uring.rst).

/// Bytes for the header of a request or answer (`FUSE_URING_IN_OUT_HEADER_SZ`).
pub const IN_OUT_HEADER_SIZE: usize = 128;
/// Bytes for the arguments of a request (`FUSE_URING_OP_IN_OUT_SZ`).
pub const OP_IN_OUT_SIZE: usize = 128;
/// Registers an entry and fetches a request (`FUSE_IO_URING_CMD_REGISTER`).
pub const CMD_REGISTER: u32 = 1;
/// Answers a request and fetches another (`FUSE_IO_URING_CMD_COMMIT_AND_FETCH`).
pub const CMD_COMMIT_AND_FETCH: u32 = 2;

structures! {
    /// About one entry. `commit_id` must be handed back with the answer; `payload_sz` counts the
    /// bytes in the payload, in both directions.
    EntInOut = "fuse_uring_ent_in_out" {
        flags: u64,
        commit_id: u64,
        payload_sz: u32,
        padding: u32,
        reserved: u64,
    }
    /// The first of the two ranges of an entry; the payload is the other.
    ReqHeader = "fuse_uring_req_header" {
        in_out: InOutArea,
        op_in: OpInArea,
        ring_ent_in_out: EntInOut,
    }
    /// In the command area of an SQE of 128 bytes.
    CmdReq = "fuse_uring_cmd_req" {
        flags: u64,
        commit_id: u64,
        qid: u16,
        padding: [u8; 6],
    }
}

/// Room for an [`InHeader`](super::InHeader) or an [`OutHeader`](super::OutHeader).
pub type InOutArea = Area<IN_OUT_HEADER_SIZE>;
/// Room for the arguments of a request.
pub type OpInArea = Area<OP_IN_OUT_SIZE>;

/// `N` bytes.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    zerocopy::FromBytes,
    zerocopy::IntoBytes,
    zerocopy::KnownLayout,
    zerocopy::Immutable,
)]
#[repr(transparent)]
pub struct Area<const N: usize>(pub [u8; N]);

impl<const N: usize> Default for Area<N> {
    fn default() -> Self {
        Self([0; N])
    }
}

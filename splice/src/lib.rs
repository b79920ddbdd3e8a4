//! Splice-read without a pipe-backed iterator, and the reply into /dev/fuse.
//!
//! Linux once served splice(2) from a file through `ITER_PIPE`: an iterator that allocated pages
//! inside the pipe while the read was going on and took them back when it came out short. Under
//! O_DIRECT that could free a page that a device was still writing to; the kernel dropped it in
//! 6.5. This crate builds the two replacements in user space, for a FUSE server.
//!
//! # What it does
//!
//! * [`Pipe`] and [`PipePool`]: pipes whose granted size was looked at, and that are used again
//!   only after they were shown to be empty.
//! * [`Filling`]: the data of a reply in pipe A, from any mix of
//!   page cache pages ([`Filling::file`], the *buffered* splice-read, as the kernel's
//!   `filemap_splice_read`), pinned buffers ([`Filling::memory`], the second half of the *direct*
//!   splice-read) and the one zero page ([`Filling::zeros`]).
//! * [`direct::read`]: the first half of the direct splice-read, as the kernel's
//!   `copy_splice_read`: buffers are allocated up front, O_DIRECT reads into them, and what was
//!   not read is trimmed off. Nothing is ever reverted.
//! * [`ReplyChannel::send`]: header into pipe B, A into B, B into /dev/fuse in one splice.
//!
//! ```
//! use std::os::fd::AsFd;
//! use inflight_splice::{PipePool, ReplyChannel};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let image = std::fs::File::open(std::env::current_exe()?)?;
//! let sink = std::fs::File::options().write(true).open("/dev/null")?;
//! let channel = ReplyChannel::new(sink.into(), PipePool::new(1 << 20, 8)?);
//!
//! let mut fill = channel.begin(3 * 4096)?;
//! fill.file(image.as_fd(), 4096, 8192)?;
//! fill.zeros(4096)?;
//! let filled = fill.finish()?;
//! assert_eq!(filled.len(), 3 * 4096);
//! channel.send(&[0; 16], filled)?;
//! # Ok(())
//! # }
//! ```
//!
//! # Rules it keeps
//!
//! * A pipe holds slots, not bytes, and a piece takes one for each page it touches. What does not
//!   fit is refused before a byte moved, so a server never blocks on its own pipe; with the 1 MiB
//!   that an ordinary user gets, the largest reply is 255 pages.
//! * Memory in a pipe belongs to the reply: a [`dio` buffer](inflight_dio::Buffer) is moved in and
//!   returns to its pool after the last splice. [`Filling::hold`] keeps anything else as long, such
//!   as the pin on the extents whose page cache pages are in the pipe.
//! * Never `SPLICE_F_MOVE`, never `SPLICE_F_GIFT`: measured, the first is not quicker and empties
//!   the page cache, and the second gives memory away that we want back.
//! * After anything but a full transfer both pipes are closed. What /dev/fuse leaves in a pipe
//!   differs from error to error; a fresh pipe is cheap.
//!
//! # What it costs
//!
//! Beside the reader's copy, which /dev/fuse makes either way (`examples/overhead.rs`, Linux 6.18,
//! median us): 4 KiB copied 0.6, spliced from the page cache 1.7, from a buffer 1.8; 64 KiB 2.3,
//! 2.7, 2.4; 128 KiB 4.1, 3.7, 3.2; 1020 KiB 44.8, 18.0, 14.1. So replies below 64 to 128 KiB are
//! better copied.
//!
//! # What it does not do
//!
//! It knows no FUSE opcode and builds no header; it does not decide which path a request takes;
//! it does not splice *writes*, which measured slower than read(2) into a pinned buffer. A sink must
//! have consumed the pages when splice(2) returns, as /dev/fuse and files have and sockets have not.
//!
//! # Features
//!
//! `pipe-backed` (off): `pipe_backed`, a model of `ITER_PIPE` that is wrong on purpose, so that a
//! test suite can prove that it would notice.

pub mod direct;
mod filling;
pub mod mutant;
mod pipe;
#[cfg(feature = "pipe-backed")]
pub mod pipe_backed;
mod pool;
mod reply;
mod zero;

pub use filling::{FillError, Filled, Filling};
pub use pipe::Pipe;
pub use pool::{PipePool, PipeReport, PooledPipe};
pub use reply::{ReplyChannel, SendError};
pub use zero::zero_page;

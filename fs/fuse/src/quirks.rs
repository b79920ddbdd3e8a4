//! What the kernel does that its header does not say (fs/fuse of Linux 6.18).
//!
//! # ENOSYS is remembered
//!
//! Answered to one of these, it means "never again" for the whole mount, and the caller sees:
//!
//! | request | what happens from then on |
//! |---|---|
//! | OPEN, with NO_OPEN_SUPPORT; OPENDIR, with NO_OPENDIR_SUPPORT | success, with caches kept |
//! | FLUSH, FSYNC, FSYNCDIR, ACCESS, SYNCFS, INTERRUPT | success |
//! | CREATE | MKNOD and OPEN instead |
//! | GETXATTR, SETXATTR, LISTXATTR, REMOVEXATTR | EOPNOTSUPP |
//! | FALLOCATE | EOPNOTSUPP |
//! | TMPFILE | EOPNOTSUPP |
//! | BMAP | block 0 |
//! | POLL | always ready |
//! | RENAME2 | EINVAL for any flag |
//! | LSEEK | the whole file is data |
//! | STATX | GETATTR instead |
//! | COPY_FILE_RANGE_64 | COPY_FILE_RANGE instead |
//! | COPY_FILE_RANGE | the kernel copies by READ and WRITE |
//!
//! # Answers
//!
//! * `error` is 0 or from -511 to -1; anything else is EINVAL to the writer, and the request waits
//!   on.
//! * The length in the header must be that of the message, and the answer as long as the request
//!   has it, except where data of variable length are expected: those may be shorter. A short READ
//!   is the end of the file.
//! * ENOENT from sending means that the request is gone (interrupted before it was read, or the
//!   connection aborted): not an error of the server.
//! * FORGET, BATCH_FORGET and NOTIFY_REPLY have no answer. An answer to INTERRUPT has a meaning only
//!   as EAGAIN (send it again) and as ENOSYS (send none).
//!
//! # Interrupts
//!
//! * An INTERRUPT may be received before the request that it is about, when several threads
//!   receive, and after its answer.
//! * Requests in the background are never interrupted: readahead, writeback, and with ASYNC_DIO
//!   every direct read and write, those of read(2) and write(2) too. The caller of a direct one
//!   cannot even be killed until it is answered.
//!
//! # Receiving
//!
//! * A buffer smaller than `80 + max_write` bytes (8192 at least) is EINVAL.
//! * After unmount read(2) says ENODEV; after an abort ECONNABORTED with ABORT_ERROR, else ENODEV;
//!   an entry of io_uring ENOTCONN in both cases.
//! * DESTROY comes to fuseblk mounts alone.
//! * TMPFILE carries the name "/".
//! * Linux 5.17 to 6.2 send a security context without its length in the header.
//!
//! # io_uring
//!
//! * Once OVER_IO_URING is agreed upon, requests wait until every queue is registered or one was
//!   refused: have the rings before answering INIT.
//! * A queue is needed for each *possible* core, bound or not; a refusal is for the whole
//!   connection.
//! * The payload must be as large as `max_write` and `max_pages` say, whatever is smaller in
//!   practice.
//! * A NOTIFY_REPLY that comes by a queue keeps its entry until it is committed, although nobody
//!   waits for an answer.
//! * Notifications by a queue are refused; they go by the device.
//!
//! # Notifications
//!
//! Sending one may wait for a lock that is held by whoever waits for an answer: see
//! [`Notification`](crate::Notification).

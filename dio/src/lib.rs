//! Pinned buffers and direct I/O.

//! Connections, processes and descriptors end while I/O is in flight.

cases! {
    abort_read,
    exit_inflight,
    close_inflight,
}

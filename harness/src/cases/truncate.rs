//! Files get shorter, longer or go while I/O on them is in flight.

cases! {
    truncate_read,
    truncate_write,
    extend_short_read,
    punch_read,
    truncate_writeback,
    sendfile_self,
    loop_shrink,
    unlink_read,
}

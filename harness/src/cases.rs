//! The cases, one file each. A new one needs its file and its line here.

use crate::case::Case;

macro_rules! cases {
    ($($file:ident),* $(,)?) => {
        $(mod $file;)*
        /// Every case, in the order in which they are run.
        pub const ALL: &[Case] = &[$($file::CASE),*];
    };
}

cases! {
    fork_touch,
    fork_read_read,
    splice_alias,
    truncate_read,
    splice_short,
    splice_direct_io,
    write_cache,
    append_tail,
    tail_junk,
    truncate_write,
    extend_short_read,
    punch_read,
    truncate_writeback,
    sendfile_self,
    fixed_fork,
    fixed_unmap,
    register_matrix,
    protect_touch,
    fork_controls,
    abort_read,
    exit_inflight,
    close_inflight,
    vmsplice_edit,
    client_rewrite,
    splice_hold,
    reply_reuse,
    splice_into_direct,
    writeback_edit,
    zero_page_write,
    pin_return,
    fault_gate,
    self_mapping,
    migrate,
    pageout,
    fork_network,
    fork_tearing,
    loop_shrink,
    unlink_read,
    blocks_reuse,
    truncate_tail,
    change_done,
    reply_beside,
    server_pins,
    iterator_kinds,
    cached_share,
    storm,
    matrix,
    meta_fail,
    meta_hang,
    meta_skip,
    meta_control,
    meta_watchdog,
}

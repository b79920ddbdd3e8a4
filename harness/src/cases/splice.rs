//! Splices, and who owns what is in a pipe.

cases! {
    splice_alias,
    splice_direct_io,
    splice_short,
    splice_hold,
    splice_into_direct,
    vmsplice_edit,
    client_rewrite,
}

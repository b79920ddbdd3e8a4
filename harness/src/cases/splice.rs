//! Splices, and who owns what is in a pipe.

use super::case::Case;

mod client_rewrite;
mod splice_alias;
mod splice_direct_io;
mod splice_hold;
mod splice_into_direct;
mod splice_short;
mod vmsplice_edit;

/// Its cases, in the order in which they are run.
pub const CASES: &[Case] = &[
    splice_alias::CASE,
    splice_direct_io::CASE,
    splice_short::CASE,
    splice_hold::CASE,
    splice_into_direct::CASE,
    vmsplice_edit::CASE,
    client_rewrite::CASE,
];

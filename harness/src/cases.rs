//! The cases, one file each, in a folder for each subject. A new one needs its file and its two
//! lines in the list of its folder.
//!
//! What a case is ([`case`]), its [`variant`]s and where it is [expected](expect) to fail are here too. The registry that
//! adds the matrix and the stress run is [`crate::run::plan::cases`].

pub mod case;
pub mod expect;
pub mod variant;

pub mod abort;
pub mod facts;
pub mod fault;
pub mod fork;
pub mod invalidate;
pub mod iterator;
pub mod memory;
pub mod meta;
pub mod registered;
pub mod server;
pub mod splice;
pub mod truncate;
pub mod window;
pub mod write;

use case::Case;

/// Every subject's cases, in the order in which they are run.
pub const SUBJECTS: &[&[Case]] = &[
    fork::CASES,
    splice::CASES,
    truncate::CASES,
    invalidate::CASES,
    registered::CASES,
    abort::CASES,
    write::CASES,
    fault::CASES,
    memory::CASES,
    iterator::CASES,
    window::CASES,
    server::CASES,
    facts::CASES,
    meta::CASES,
];

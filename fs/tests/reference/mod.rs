//! A filesystem that is too simple to be wrong, operations as data, and what is needed to compare
//! the real one with it.
#![allow(dead_code, unused_imports)] // every test binary uses a part of it

pub mod frozen;
pub mod legal;
pub mod model;
pub mod op;
pub mod player;
pub mod view;

pub use frozen::Frozen;
pub use legal::content_is_legal;
pub use model::Model;
pub use op::{Alloc, Op, Path, Rename};
pub use player::{Data, Player};
pub use view::View;

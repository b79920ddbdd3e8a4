//! The fuser crate as a transport: decodes nothing itself, maps fuser's types to those of `ops`.

mod adapter;
mod aside;
mod convert;
mod negotiate;
mod reply;

pub use adapter::Adapter;
pub use reply::Past;

//! Replies, requests and notifications to bytes.

mod directory;
mod notification;
mod reply;
mod request;

pub use directory::{DirEntry, Directory};
pub use notification::Notification;
pub use reply::{Data, Frame, Opened, Reply};
pub use request::EncodeError;

//! A disk that is only looked at.

use crate::disk::{Disk, Over};
use std::sync::Arc;

/// A disk that refuses every write, whatever the one below it would do.
#[derive(Debug)]
pub struct Shielded(pub Arc<dyn Disk>);

impl Over for Shielded {
    fn below(&self) -> &dyn Disk {
        &*self.0
    }

    fn is_writable(&self) -> bool {
        false
    }
}

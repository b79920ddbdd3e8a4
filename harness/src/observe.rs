//! Observations: what this kernel and a filesystem do with pages, found out by trying. An observation is a
//! word, which tables compare, and the evidence for it. It explains; it is never a verdict.

pub mod alignment;
pub mod bugs;
pub mod files;
pub mod fork;
pub mod passthrough;
pub mod pins;
pub mod register;
pub mod scsi;
pub mod sockets;
pub mod splice;

use serde::{Deserialize, Serialize};

/// What was seen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen {
    /// In a word or two: `pinned`, `page cache`, `refused: EFAULT`.
    pub word: String,
    /// What it rests on.
    pub evidence: String,
}

impl Seen {
    /// A word and its evidence.
    pub fn new(word: impl Into<String>, evidence: impl Into<String>) -> Seen {
        Seen { word: word.into(), evidence: evidence.into() }
    }
}

impl std::fmt::Display for Seen {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &*self.evidence {
            "" => f.write_str(&self.word),
            evidence => write!(f, "{} ({evidence})", self.word),
        }
    }
}

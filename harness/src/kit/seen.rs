//! What a case has seen of the kernel or of a filesystem: a word, which tables compare, and the evidence for it.

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// See the [module](self).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen {
    /// In a word or two: `pinned`, `page cache`, `refused: EFAULT`.
    pub word: String,
    /// What it rests on.
    pub evidence: String,
    /// The words that were to be seen, as a pattern, where that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wanted: Option<String>,
    /// Numbers behind it, for programs.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub measured: Value,
}

impl Seen {
    /// A word and its evidence.
    pub fn new(word: impl Into<String>, evidence: impl Into<String>) -> Seen {
        let (word, evidence) = (word.into(), evidence.into());
        Seen { word, evidence, wanted: None, measured: Value::Null }
    }

    /// With numbers.
    pub fn measured(self, numbers: &impl Serialize) -> Seen {
        Seen { measured: serde_json::to_value(numbers).unwrap_or_default(), ..self }
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

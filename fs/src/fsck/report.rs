//! What a check found.

use serde::Serialize;
use std::path::PathBuf;

/// Findings kept in a report; the rest is only counted.
pub const FINDINGS_MAX: usize = 1000;

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// What a crash leaves and the next mount settles by itself.
    Note,
    /// A contradiction that no crash leaves.
    Error,
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// What it is about: a superblock, an inode, a name.
    pub object: String,
    /// What is wrong with it.
    pub problem: String,
    /// What repair does about it; empty when it can do nothing.
    pub remedy: String,
}

impl std::fmt::Display for Finding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.object, self.problem)
    }
}

/// A bounded list of findings.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Findings {
    /// The first [`FINDINGS_MAX`].
    pub list: Vec<Finding>,
    /// How many errors there are, those not listed included.
    pub errors: u64,
    /// How many notes there are, those not listed included.
    pub notes: u64,
}

impl Findings {
    /// Adds an error.
    pub fn error(
        &mut self,
        object: impl Into<String>,
        problem: impl Into<String>,
        remedy: impl Into<String>,
    ) {
        self.errors += 1;
        self.add(Severity::Error, object.into(), problem.into(), remedy.into());
    }

    /// Adds a note.
    pub fn note(
        &mut self,
        object: impl Into<String>,
        problem: impl Into<String>,
        remedy: impl Into<String>,
    ) {
        self.notes += 1;
        self.add(Severity::Note, object.into(), problem.into(), remedy.into());
    }

    fn add(&mut self, severity: Severity, object: String, problem: String, remedy: String) {
        if self.list.len() < FINDINGS_MAX {
            self.list.push(Finding { severity, object, problem, remedy });
        }
    }

    /// Without the notes.
    pub fn without_notes(mut self) -> Findings {
        self.list.retain(|finding| finding.severity == Severity::Error);
        self.notes = 0;
        self
    }

    /// Errors and notes.
    pub fn total(&self) -> u64 {
        self.errors + self.notes
    }

    /// Findings that are counted but not listed.
    pub fn unlisted(&self) -> u64 {
        self.total() - self.list.len() as u64
    }
}

/// How a check ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// No errors.
    Clean,
    /// There were errors; a second check found none.
    Corrected,
    /// There are errors.
    Uncorrected,
}

impl Outcome {
    /// The exit code of fsck(8).
    pub fn exit_code(self) -> u8 {
        match self {
            Outcome::Clean => 0,
            Outcome::Corrected => 1,
            Outcome::Uncorrected => 4,
        }
    }
}

/// The result of a check.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// The image.
    pub image: PathBuf,
    /// How it ended.
    pub outcome: Outcome,
    /// What was found.
    pub found: Findings,
    /// What a check after the repair still found; `None` when nothing was written.
    pub left: Option<Findings>,
    /// Inodes in use, at the end.
    pub inodes: u64,
    /// Blocks in use, at the end.
    pub blocks_used: u64,
    /// Blocks of the filesystem.
    pub blocks_total: u64,
    /// Where it is mounted: then it is the last commit that was checked, and what a crash would leave to a mount is no finding.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mounted_on: Option<String>,
}

impl Report {
    /// True when the repair wrote to the image.
    pub fn is_modified(&self) -> bool {
        self.left.is_some()
    }

    /// What is wrong with the image now.
    pub fn remaining(&self) -> &Findings {
        self.left.as_ref().unwrap_or(&self.found)
    }
}

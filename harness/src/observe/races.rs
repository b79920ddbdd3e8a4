//! Races that are run in a process of their own: its server is chosen by its environment, and its results are
//! read when it has ended.

use std::ffi::OsStr;
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};

use anyhow::Context;

use crate::run::results::{self, Run};

/// How they are run.
#[derive(Clone, Copy, Debug)]
pub struct Races<'a> {
    /// Folder for the results.
    pub results: &'a Path,
    /// The server program; none: the one that `run` finds.
    pub server: Option<&'a Path>,
    /// Whether all that is said on the way is printed. Otherwise only what a run without results said is kept.
    pub aloud: bool,
}

impl Races<'_> {
    /// Runs `run` with arguments; gives how it ended and its results.
    ///
    /// # Errors
    /// It left no results; with what it said.
    pub fn play<I>(&self, arguments: I) -> anyhow::Result<(ExitStatus, Run)>
    where
        I: IntoIterator<Item: AsRef<OsStr>>,
    {
        let mut command = Command::new(std::env::current_exe().context("our own path")?);
        command.args(["run", "--results"]).arg(self.results).args(arguments).stdin(Stdio::null());
        if let Some(server) = self.server {
            command.env("INFLIGHT", server);
        }
        if self.aloud {
            command.stdout(Stdio::inherit()).stderr(Stdio::inherit());
        } else {
            command.arg("--quiet");
        }
        let output = command.output().context("start the races")?;
        let run = results::read_run(self.results).with_context(|| {
            let text = String::from_utf8_lossy(&output.stderr).into_owned();
            format!("the races ended with {}: {}", output.status, text.trim())
        })?;
        Ok((output.status, run))
    }
}

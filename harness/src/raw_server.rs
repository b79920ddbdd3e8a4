//! A FUSE server that splices: it takes requests from /dev/fuse into a pipe, where the payload of a WRITE can be left, and
//! moves pages into its answers. Inflight's own transport does neither, and both have had bugs in the kernel.
//!
//! It serves one file, `f`, from memory, in a process of its own that ends with the one that started it.

mod serve;
mod wire;

use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Stdio};

use anyhow::{Context, bail};
use nix::errno::Errno;
use serde::{Deserialize, Serialize};

pub use serve::serve;

use crate::scene::PATIENCE;
use crate::session::{self, Mount};
use crate::verdict::{Stop, not_run};

/// What the server is told at its start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// Number of the file in its stamps.
    pub id: u64,
    /// Its bytes, stamped with generation 1.
    pub len: usize,
    /// Whether it is opened with FOPEN_DIRECT_IO.
    pub direct_io: bool,
    /// Whether the kernel gathers writes.
    pub writeback: bool,
}

/// A request that can be held.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Which {
    /// READ.
    Read,
    /// WRITE, with its payload in the pipe.
    Write,
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "lowercase")]
enum Command {
    Size { size: u64 },
    Hold { which: Which, answer_first: bool },
    Wait,
    Drain,
    Answer { by_move: bool },
    Source,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "lowercase")]
enum Answer {
    Done,
    Held { held: bool },
    Bytes { bytes: Vec<u8> },
    Sent { errno: i32 },
}

/// A splicing server, mounted.
#[derive(Debug)]
pub struct RawServer {
    folder: PathBuf,
    process: Child,
    orders: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
}

impl RawServer {
    /// Starts one in `folder`, a fresh folder of the session's.
    ///
    /// # Errors
    /// NOTRUN without root; otherwise it did not start.
    pub fn start(folder: &Path, settings: Settings) -> anyhow::Result<RawServer> {
        if !nix::unistd::geteuid().is_root() {
            return Err(not_run("the splicing server mounts by itself, which needs root"));
        }
        let at = folder.join("mnt");
        std::fs::create_dir_all(&at).with_context(|| at.display().to_string())?;
        let mut process = std::process::Command::new(std::env::current_exe()?)
            .arg("raw-server")
            .arg(&at)
            .arg(serde_json::to_string(&settings)?)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .process_group(0)
            .spawn()
            .context("start the splicing server")?;
        // For the guard, if this process is lost.
        std::fs::write(folder.join("server.pid"), process.id().to_string())?;
        let orders = process.stdin.take();
        let answers = BufReader::new(process.stdout.take().context("no pipe")?);
        let mut server = RawServer { folder: folder.to_owned(), process, orders, answers };
        match server.hear()? {
            Answer::Done => Ok(server),
            other => bail!("the splicing server says {other:?}"),
        }
    }

    /// Its file.
    pub fn path(&self) -> PathBuf {
        self.folder.join("mnt/f")
    }

    /// Makes attributes say this size from now on; the file stays what it is.
    ///
    /// # Errors
    /// The server is gone.
    pub fn say_size(&mut self, size: u64) -> anyhow::Result<()> {
        self.order(Command::Size { size }).map(drop)
    }

    /// Holds the next request of a kind: a WRITE unanswered or, with `answer_first`, answered and yet to be looked
    /// at.
    ///
    /// # Errors
    /// The server is gone.
    pub fn hold(&mut self, which: Which, answer_first: bool) -> anyhow::Result<()> {
        self.order(Command::Hold { which, answer_first }).map(drop)
    }

    /// Waits until it is held.
    ///
    /// # Errors
    /// It did not come: BROKEN.
    pub fn meet(&mut self) -> anyhow::Result<()> {
        match self.order(Command::Wait)? {
            Answer::Held { held: true } => Ok(()),
            _ => Err(Stop::Broken("no request came to the splicing server".to_owned()).into()),
        }
    }

    /// Takes the payload of the held WRITE out of the pipe, into the file; gives it.
    ///
    /// # Errors
    /// Nothing is held.
    pub fn drain(&mut self) -> anyhow::Result<Vec<u8>> {
        self.bytes(Command::Drain)
    }

    /// Answers the held request; by moving pages, if it is a READ and told so. Gives what /dev/fuse said.
    ///
    /// # Errors
    /// Nothing is held.
    pub fn answer(&mut self, by_move: bool) -> anyhow::Result<Result<(), Errno>> {
        match self.order(Command::Answer { by_move })? {
            Answer::Sent { errno: 0 } => Ok(Ok(())),
            Answer::Sent { errno } => Ok(Err(Errno::from_raw(errno))),
            other => bail!("the splicing server says {other:?}"),
        }
    }

    /// What the file holds by now whose pages are moved into answers.
    ///
    /// # Errors
    /// The server is gone.
    pub fn source(&mut self) -> anyhow::Result<Vec<u8>> {
        self.bytes(Command::Source)
    }

    /// Aborts its connection.
    ///
    /// # Errors
    /// Not mounted, or no right to.
    pub fn abort(&self) -> anyhow::Result<()> {
        if self.aborter()?() {
            return Ok(());
        }
        Err(not_run("cannot write the abort file of the connection"))
    }

    /// What aborts its connection, for another thread; it says whether it could.
    ///
    /// # Errors
    /// Not mounted.
    pub fn aborter(&self) -> anyhow::Result<impl FnOnce() -> bool + Send + use<>> {
        let mount = self.mount().context("the splicing server is not mounted")?;
        Ok(move || mount.abort())
    }

    fn mount(&self) -> Option<Mount> {
        session::mounts_below(&self.folder).pop()
    }

    fn bytes(&mut self, command: Command) -> anyhow::Result<Vec<u8>> {
        match self.order(command)? {
            Answer::Bytes { bytes } => Ok(bytes),
            other => bail!("the splicing server says {other:?}"),
        }
    }

    fn order(&mut self, command: Command) -> anyhow::Result<Answer> {
        let orders = self.orders.as_mut().context("the splicing server was ended")?;
        writeln!(orders, "{}", serde_json::to_string(&command)?).context("tell the server")?;
        self.hear()
    }

    fn hear(&mut self) -> anyhow::Result<Answer> {
        let mut line = String::new();
        self.answers.read_line(&mut line).context("hear the splicing server")?;
        serde_json::from_str(&line).context("the splicing server ended")
    }
}

impl Drop for RawServer {
    fn drop(&mut self) {
        // Without orders it ends, and the connection with it: nothing can hold the mount after that. A child of ours
        // that waits for it may have the other end of its orders, though.
        self.orders = None;
        if !session::wait_end(self.process.id() as i32, PATIENCE) {
            let _ = self.process.kill();
        }
        let _ = self.process.wait();
        if let Some(mount) = self.mount() {
            session::unmount(&mount);
        }
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

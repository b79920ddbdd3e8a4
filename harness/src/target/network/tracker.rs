//! The daemon that keeps records of NFS 4 clients, nfsdcld(8), for a server whose clients all are new.
//!
//! The kernel's server asks it at start for the clients of its last life, which may claim back what they had; of none it
//! lets new ones in at once, and without such a daemon only after a grace period of ten seconds.

use std::fs::{self, File};
use std::io::{ErrorKind, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;

use anyhow::Context;
use nix::fcntl::OFlag;
use nix::mount::{MsFlags, mount};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::pipe2;

use crate::kit::pause::Pause;
use crate::target::session;

/// `struct cld_msg` and its larger second version (include/uapi/linux/nfsd/cld.h): version, command, status in two
/// bytes, number, and what belongs to the command.
const MOST: usize = 4096;
const STATUS: std::ops::Range<usize> = 2..4;

/// A running daemon in a thread, for the network of the thread that starts it. Ends when it is dropped.
#[derive(Debug)]
pub struct Tracker {
    pipes: PathBuf,
    stop: Option<OwnedFd>,
    thread: Option<JoinHandle<()>>,
}

impl Tracker {
    /// Starts one; the pipes of the RPC layer are seen in `pipes`, which must not exist.
    ///
    /// # Errors
    /// They cannot be mounted.
    pub fn start(pipes: &Path) -> anyhow::Result<Tracker> {
        fs::create_dir(pipes)?;
        mount(Some("rpc_pipefs"), pipes, Some("rpc_pipefs"), MsFlags::empty(), None::<&str>)
            .context("mount rpc_pipefs")?;
        let (stopped, stop) = pipe2(OFlag::O_CLOEXEC).context("pipe for a thread")?;
        let path = pipes.join("nfsd/cld");
        let mut tracker = Tracker { pipes: pipes.to_owned(), stop: Some(stop), thread: None };
        let run = move || {
            // What it does not answer, the kernel gives up: then there is a grace period.
            let _ = wait_for(&path, &stopped).and_then(|pipe| agree(pipe, &stopped));
        };
        let thread = std::thread::Builder::new().name("race-tracker".to_owned());
        tracker.thread = Some(thread.spawn(run)?);
        Ok(tracker)
    }
}

impl Drop for Tracker {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        session::mounts_below(&self.pipes).iter().for_each(session::unmount);
    }
}

fn is_stopped(stopped: &OwnedFd) -> bool {
    let mut polled = [PollFd::new(stopped.as_fd(), PollFlags::empty())];
    poll(&mut polled, PollTimeout::ZERO) != Ok(0)
}

/// The kernel makes its pipe when the server starts, and waits for a second that somebody opens it.
fn wait_for(path: &Path, stopped: &OwnedFd) -> std::io::Result<File> {
    let mut pause = Pause::default();
    loop {
        let nonblock = OFlag::O_NONBLOCK.bits();
        match File::options().read(true).write(true).custom_flags(nonblock).open(path) {
            Err(error) if error.kind() == ErrorKind::NotFound && !is_stopped(stopped) => {
                pause.rest();
            }
            other => return other,
        }
    }
}

/// Says to everything that it is done: there are no records, and there will be none.
fn agree(mut pipe: File, stopped: &OwnedFd) -> std::io::Result<()> {
    let mut message = [0; MOST];
    loop {
        let mut polled = [
            PollFd::new(pipe.as_fd(), PollFlags::POLLIN),
            PollFd::new(stopped.as_fd(), PollFlags::empty()),
        ];
        poll(&mut polled, PollTimeout::NONE)?;
        if polled[1].any() == Some(true) {
            return Ok(());
        }
        let len = pipe.read(&mut message)?;
        if len >= STATUS.end {
            message[STATUS].fill(0);
            pipe.write_all(&message[..len])?;
        }
    }
}

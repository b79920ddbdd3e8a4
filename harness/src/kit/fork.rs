//! Children of a case. The process is multi-threaded, so a child does system calls, compares memory and
//! ends with `_exit`; it allocates nothing, takes no lock and runs no destructor.
#![allow(unsafe_code)]

mod task;

use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::path::PathBuf;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::pipe2;

pub use task::Task;

use crate::kit::bounds::scaled;
use crate::kit::memory::Buffer;
use crate::kit::pause::Pause;
use crate::kit::stacks::Watch;
use crate::kit::sys;
use crate::kit::verdict::{Stop, not_run};

/// Longest that a look at a process may take.
const LOOK: Duration = Duration::from_secs(5);

/// A forked child that waits to be told to go on. Killed when it is dropped.
#[derive(Debug)]
pub struct Child {
    pid: i32,
    pidfd: OwnedFd,
    go: OwnedFd,
    reaped: bool,
}

/// Makes a child that does `task`.
///
/// # Errors
/// fork(2) failed; NOTRUN when it found no memory.
pub fn child(task: Task) -> anyhow::Result<Child> {
    let (wait, go) = pipe2(nix::fcntl::OFlag::O_CLOEXEC).context("pipe for a child")?;
    // SAFETY: in the child only async-signal-safe calls follow, up to `_exit`.
    let pid = unsafe { libc::fork() };
    if pid == 0 {
        // SAFETY: the child owns its copies of both ends.
        unsafe { libc::close(go.as_raw_fd()) };
        task::run(task, wait.as_raw_fd());
    }
    let error = std::io::Error::last_os_error();
    // Fork copies a page that is pinned; for a huge page of the pool that takes a free one.
    if pid < 0 && error.raw_os_error() == Some(libc::ENOMEM) {
        return Err(not_run("fork: no memory, or no free huge page to copy a pinned one into"));
    }
    ensure!(pid > 0, "fork: {error}");
    Child::of(pid, go)
}

impl Child {
    /// A child that was just made, and goes on when `go` is written to or closed.
    fn of(pid: i32, go: OwnedFd) -> anyhow::Result<Child> {
        // SAFETY: pidfd_open has no memory operands; the result is a new descriptor or -1.
        let pidfd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) } as i32;
        ensure!(pidfd >= 0, "pidfd_open: {}", std::io::Error::last_os_error());
        // SAFETY: just made, and owned by nobody else.
        let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
        Ok(Child { pid, pidfd, go, reaped: false })
    }

    /// Its process id.
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// Lets it go on, waits for its end, and gives its exit status.
    ///
    /// # Errors
    /// [`Stop::Hang`] when it does not end within the bound; an error when a signal ended it.
    pub fn finish(mut self, bound: Duration) -> anyhow::Result<i32> {
        nix::unistd::write(&self.go, b"g").ok();
        self.wait_end(bound)?;
        self.reap()
    }

    /// Waits for the end of a child that needs no word to go on.
    ///
    /// # Errors
    /// As [`Child::finish`].
    pub fn wait_end(&self, bound: Duration) -> anyhow::Result<()> {
        let mut polled = [PollFd::new(self.pidfd.as_fd(), PollFlags::POLLIN)];
        let timeout = PollTimeout::try_from(bound).unwrap_or(PollTimeout::MAX);
        match poll(&mut polled, timeout).context("wait for a child")? {
            0 => Err(Stop::Hang(format!("child {} did not end in {bound:?}", self.pid)).into()),
            _ => Ok(()),
        }
    }

    /// Lets it go on, and returns when it has done so and ended, or waits for something in the kernel; `false` when it
    /// does not hear within the bound: it is still in the system call that started its I/O.
    ///
    /// # Errors
    /// [`Stop::Broken`] when it neither ends nor waits.
    pub fn tell(&self, bound: Duration) -> anyhow::Result<bool> {
        nix::unistd::write(&self.go, b"g").context("tell a child")?;
        // Closed by the child: the last thing that it does by itself.
        let mut polled = [PollFd::new(self.go.as_fd(), PollFlags::empty())];
        let timeout = PollTimeout::try_from(bound).unwrap_or(PollTimeout::MAX);
        if poll(&mut polled, timeout).context("wait for a child")? == 0 {
            return Ok(false);
        }
        self.settle(bound)?;
        Ok(true)
    }

    /// Returns when it has ended, or waits for something in the kernel.
    ///
    /// # Errors
    /// [`Stop::Broken`] when it runs on.
    pub fn settle(&self, bound: Duration) -> anyhow::Result<()> {
        match self.look(bound, |state| state != 'R') {
            Some(_) => Ok(()),
            None => Err(Stop::Broken(format!("child {} runs on", self.pid)).into()),
        }
    }

    /// Its state as in proc_pid_status(5), `Z` when it has ended; `None` where that cannot be had.
    pub fn state(&self) -> Option<char> {
        self.look(scaled(LOOK), |_| true)
    }

    /// Looks at its state until one is as wanted, and gives that; `None` when none is within the bound.
    ///
    /// Not on this thread: one that looks at a process just when it ends may be left with its memory, and must then wait
    /// for the I/O in it, as the process itself would have to (exit_aio). That is a `D`, too.
    fn look(&self, bound: Duration, is_wanted: fn(char) -> bool) -> Option<char> {
        /// Between two looks at who looks.
        const MOMENT: Duration = Duration::from_millis(1);
        let (folder, end) = (PathBuf::from(format!("/proc/{}", self.pid)), Instant::now() + bound);
        let (sender, receiver) = channel();
        let (say_thread, thread) = channel();
        std::thread::spawn(move || {
            say_thread.send(nix::unistd::gettid()).ok();
            let mut pause = Pause::default();
            while let Some(state) = sys::state(&folder) {
                if is_wanted(state) {
                    sender.send(state).ok();
                }
                if is_wanted(state) || Instant::now() >= end {
                    return;
                }
                pause.rest();
            }
        });
        let mut watch = Watch::new(thread.recv().ok()?.as_raw());
        loop {
            match receiver.recv_timeout(MOMENT) {
                Ok(state) => return Some(state),
                Err(RecvTimeoutError::Timeout) if watch.waits() => return Some('D'),
                Err(RecvTimeoutError::Timeout) if Instant::now() < end => {}
                Err(_) => return None,
            }
        }
    }

    /// Sends SIGKILL; the end may have to wait for an I/O.
    pub fn kill(&self) {
        // SAFETY: the pid is ours until it is reaped.
        unsafe { libc::kill(self.pid, libc::SIGKILL) };
    }

    /// Waits for the end of a child that was killed.
    ///
    /// # Errors
    /// As [`Child::finish`].
    pub fn buried(mut self, bound: Duration) -> anyhow::Result<()> {
        self.wait_end(bound)?;
        nix::sys::wait::waitpid(nix::unistd::Pid::from_raw(self.pid), None).context("waitpid")?;
        self.reaped = true;
        Ok(())
    }

    fn reap(&mut self) -> anyhow::Result<i32> {
        use nix::sys::wait::{WaitStatus, waitpid};
        let status = waitpid(nix::unistd::Pid::from_raw(self.pid), None).context("waitpid")?;
        self.reaped = true;
        match status {
            WaitStatus::Exited(_, status) => Ok(status),
            other => anyhow::bail!("the child ended by {other:?}"),
        }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if !self.reaped {
            // SAFETY: the pid is ours until it is reaped; neither call touches memory of ours.
            unsafe { libc::kill(self.pid, libc::SIGKILL) };
            let _ = self.wait_end(Duration::from_secs(1)).and_then(|()| self.reap().map(drop));
        }
    }
}

/// Makes a child that has no memory of its own but ours (CLONE_VM), with a stack in `stack`, and waits to be told. With
/// `vfork` it ends at once, and this thread sleeps until then.
///
/// # Errors
/// clone(2) failed.
pub fn sharer(stack: &Buffer, vfork: bool) -> anyhow::Result<Child> {
    /// The read end in the child's own table, or -1 to end at once; not a reference into the parent's stack.
    extern "C" fn wait(end: *mut libc::c_void) -> libc::c_int {
        let (end, mut byte) = (end as isize as i32, 0u8);
        if end >= 0 {
            // SAFETY: reads one byte into a local on the child's own stack.
            unsafe { libc::read(end, (&raw mut byte).cast(), 1) };
        }
        0
    }
    let (ours, go) = pipe2(nix::fcntl::OFlag::O_CLOEXEC).context("pipe for a child")?;
    let (kind, end) = if vfork { (libc::CLONE_VFORK, -1) } else { (0, ours.as_raw_fd()) };
    let flags = libc::CLONE_VM | kind | libc::SIGCHLD;
    // SAFETY: the stack is mapped and used by nobody else; the caller keeps it until the child has ended. The child
    // makes one system call and ends: it touches nothing else of the memory that it shares.
    let pid = unsafe {
        let top = stack.ptr().add(stack.len()).cast();
        libc::clone(wait, top, flags, end as isize as *mut libc::c_void)
    };
    ensure!(pid > 0, "clone: {}", std::io::Error::last_os_error());
    Child::of(pid, go)
}

/// Makes a child as posix_spawn(3) does and waits for its end: it shares our memory until then.
///
/// # Errors
/// No `/bin/true`, or it did not end.
pub fn spawn_and_wait(bound: Duration) -> anyhow::Result<()> {
    let path = c"/bin/true";
    let mut pid = 0;
    let arguments = [path.as_ptr().cast_mut(), std::ptr::null_mut()];
    let environment = [std::ptr::null_mut()];
    // SAFETY: all pointers are to terminated arrays that live through the call.
    let error = unsafe {
        libc::posix_spawn(
            &raw mut pid,
            path.as_ptr(),
            std::ptr::null(),
            std::ptr::null(),
            arguments.as_ptr(),
            environment.as_ptr(),
        )
    };
    ensure!(error == 0, "posix_spawn: {}", std::io::Error::from_raw_os_error(error));
    let (wait, go) = pipe2(nix::fcntl::OFlag::O_CLOEXEC)?;
    drop(wait);
    Child::of(pid, go)?.finish(bound).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kit::memory::Memory;
    use crate::kit::stamp::POISON;

    const BOUND: Duration = Duration::from_secs(10);

    #[test]
    fn a_child_sees_its_own_copy_of_private_memory() {
        let buffer = Buffer::new(Memory::Anon, 4096).unwrap();
        let look = Task::Differs { start: buffer.ptr(), len: 4096, byte: POISON };
        let early = child(look).unwrap();
        buffer.store(100, 1);
        assert_eq!(early.finish(BOUND).unwrap(), 0, "forked before the store");
        assert_eq!(child(look).unwrap().finish(BOUND).unwrap(), 1, "forked after it");
    }

    #[test]
    fn a_steady_child_notices_a_change_of_its_memory_only() {
        let steady = |memory: Memory| {
            let buffer = Buffer::new(memory, 4096).unwrap();
            let look = child(Task::Steady { start: buffer.ptr(), len: 4096 }).unwrap();
            crate::kit::memory::counting(&buffer, 0, 8, || look.finish(BOUND).unwrap()).unwrap()
        };
        assert_eq!(steady(Memory::Anon), 0);
        // By chance the child may look twice before the counter moves, but not every time.
        assert!((0..10_000).any(|_| steady(Memory::Shared) == 1));
    }

    #[test]
    fn a_child_shares_shared_memory_and_a_spawned_one_ends() {
        let buffer = Buffer::new(Memory::Shared, 4096).unwrap();
        let child = child(Task::Store { at: buffer.at(5), byte: 9 }).unwrap();
        assert_eq!(child.finish(BOUND).unwrap(), 0);
        assert_eq!(buffer.load(5), 9);
        spawn_and_wait(BOUND).unwrap();
    }

    #[test]
    fn a_child_settles_when_it_waits_and_when_it_has_ended() {
        let child = child(Task::Exit).unwrap();
        child.settle(BOUND).unwrap();
        child.wait_end(BOUND).unwrap();
        assert_eq!(child.state(), Some('Z'));
        assert_eq!(child.look(Duration::ZERO, |state| state == 'R'), None);
        let (pid, folder) = (child.pid(), PathBuf::from(format!("/proc/{}", child.pid())));
        assert_eq!(child.finish(BOUND).unwrap(), 0);
        assert_eq!(sys::state(&folder), None, "process {pid} is gone");
    }

    #[test]
    fn a_child_that_does_not_end_is_a_hang_and_is_killed() {
        let buffer = Buffer::new(Memory::Anon, 4096).unwrap();
        let look = Task::Differs { start: buffer.ptr(), len: 1, byte: 0 };
        let child = child(look).unwrap();
        let error = child.wait_end(Duration::from_millis(10)).unwrap_err();
        assert!(matches!(error.downcast_ref(), Some(Stop::Hang(_))));
    }
}

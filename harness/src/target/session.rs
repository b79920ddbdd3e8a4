//! A session: one folder under which everything lies that a run mounts, attaches or starts, so that all
//! of it can be found and removed by anyone who knows the folder, however the run ended.
//!
//! The guard is a process of its own that waits for the end of the runner (its standard input closes) and
//! then cleans up. It is in a process group of its own, so Ctrl-C and `kill -9` of the runner do not reach it.

use std::fs;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::Context;
use inflight_gate::Client;
use nix::mount::{MntFlags, umount2};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, getpgid};

use crate::kit::bounds::scaled;
use crate::kit::pause::Pause;
use crate::kit::{loop_device, sys};
use crate::target::borrow::{borrow, give_back};

/// Longest that a polite unmount may take before the connection is aborted.
fn polite() -> Duration {
    scaled(Duration::from_secs(5))
}

/// Name of the file in a session's folder that holds the process id of its worker.
pub const WORKER: &str = "worker.pid";

/// Name of the file in a mounted's folder that names a folder of ours outside the session.
pub const OUTSIDE: &str = "outside";

/// The folder of a run, and the guard beside it.
#[derive(Debug)]
pub struct Session {
    root: PathBuf,
    guard: Option<Child>,
}

impl Session {
    /// Makes the folder below `parent` and starts its guard.
    ///
    /// # Errors
    /// The folder cannot be made, or this program cannot be started again.
    pub fn new(parent: &Path) -> anyhow::Result<Session> {
        use std::os::unix::process::CommandExt;
        let folder = tempfile::Builder::new().prefix("inflight-race.").tempdir_in(parent);
        let root = folder.with_context(|| format!("folder in {}", parent.display()))?.keep();
        let program = std::env::current_exe().context("our own path")?;
        let guard = Command::new(program)
            .arg("guard")
            .arg(&root)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .process_group(0)
            .spawn()
            .context("start the guard")?;
        take_huge_pages(&root);
        Ok(Session { root, guard: Some(guard) })
    }

    /// The folder.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Ends the session: the guard cleans up, and this returns when it has.
    ///
    /// # Errors
    /// What was left behind.
    pub fn end(mut self) -> anyhow::Result<()> {
        self.finish()
    }

    fn finish(&mut self) -> anyhow::Result<()> {
        let Some(mut guard) = self.guard.take() else { return Ok(()) };
        drop(guard.stdin.take());
        let status = guard.wait().context("wait for the guard")?;
        anyhow::ensure!(status.success(), "the guard could not clean up {}", self.root.display());
        Ok(())
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let _ = self.finish();
    }
}

const HUGE_PAGES: &str = "/proc/sys/vm/nr_hugepages";
/// Huge pages that the cases need at one time.
const HUGE_PAGES_WANTED: u64 = 4;

/// Makes the kernel keep a few huge pages where it keeps fewer and lets us; the guard gives them back. Another run's are
/// borrowed too, so that they stay.
fn take_huge_pages(root: &Path) {
    let now = fs::read_to_string(HUGE_PAGES).ok().and_then(|text| text.trim().parse().ok());
    if now.is_some_and(|now: u64| now <= HUGE_PAGES_WANTED) {
        let _ = borrow(root, HUGE_PAGES, &HUGE_PAGES_WANTED.to_string());
    }
}

/// What the guard does: waits for the end of its input, then cleans up.
///
/// # Errors
/// What was left behind.
pub fn guard(root: &Path) -> anyhow::Result<()> {
    let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
    let cleaned = clean(root);
    give_back(root)?;
    cleaned?;
    fs::remove_dir_all(root).with_context(|| format!("remove {}", root.display()))
}

/// Opens all gates, unmounts, detaches and ends everything below `root`, by force where politeness takes
/// too long. The folder stays.
///
/// # Errors
/// Something is still mounted or attached.
pub fn clean(root: &Path) -> anyhow::Result<()> {
    end_worker(root);
    open_gates(root);
    // As long as their files have names. A device that is in use goes with its last user, and what lies below it can be
    // unmounted then.
    detach_loops(root);
    for mount in mounts_below(root).iter().rev() {
        unmount(mount);
    }
    end_servers(root);
    remove_outside(root);
    let left = mounts_below(root);
    anyhow::ensure!(left.is_empty(), "still mounted: {left:?}");
    Ok(())
}

/// Unmounts one mount: politely within a bound, then by abort and lazily.
///
/// A mount whose name is gone may still be on its way: ext4 writes back to a loop device whose file lies in a
/// mount of ours that answers no more. That ends when the mount below is aborted, so it is not waited for.
pub fn unmount(mount: &Mount) {
    let path = mount.path.clone();
    within(polite() + Duration::from_secs(1), move || {
        let end = Instant::now() + polite();
        // EBUSY passes when the last user is gone.
        let mut pause = Pause::default();
        while umount2(&path, MntFlags::empty()) == Err(nix::errno::Errno::EBUSY)
            && Instant::now() < end
        {
            pause.rest();
        }
    });
    if is_mounted(&mount.path) {
        if !nix::unistd::geteuid().is_root() {
            let _ = Command::new("fusermount3").arg("-uz").arg(&mount.path).status();
        }
        mount.abort();
        let _ = umount2(&mount.path, MntFlags::MNT_DETACH);
    }
}

/// Where the threads of the worker and of the servers stand in the kernel.
pub fn stacks(root: &Path) -> Vec<String> {
    let servers = fs::read_dir(root).into_iter().flatten().flatten();
    let servers = servers.filter_map(|entry| pid_in(&entry.path().join("server.pid")));
    pid_in(&root.join(WORKER)).into_iter().chain(servers).flat_map(crate::kit::stacks::of).collect()
}

fn open_gates(root: &Path) {
    for entry in fs::read_dir(root).into_iter().flatten().flatten() {
        if let Ok(mut client) = Client::connect(&entry.path().join("gate")) {
            let _ = client.open();
        }
    }
}

fn end_worker(root: &Path) {
    if let Some(pid) = pid_in(&root.join(WORKER)) {
        let _ = kill(Pid::from_raw(-pid), Signal::SIGKILL);
        let _ = fs::remove_file(root.join(WORKER));
        // It may not end before its gates are open; then it makes nothing new either.
        wait_end(pid, Duration::from_millis(200));
    }
}

fn end_servers(root: &Path) {
    for entry in fs::read_dir(root).into_iter().flatten().flatten() {
        let Some(pid) = pid_in(&entry.path().join("server.pid")) else { continue };
        if !wait_end(pid, polite()) {
            // One that leads a group has children that end with it.
            let server = Pid::from_raw(pid);
            let is_leader = getpgid(Some(server)) == Ok(server);
            let _ = kill(if is_leader { Pid::from_raw(-pid) } else { server }, Signal::SIGKILL);
            wait_end(pid, polite());
        }
    }
}

fn remove_outside(root: &Path) {
    for entry in fs::read_dir(root).into_iter().flatten().flatten() {
        if let Ok(path) = fs::read(entry.path().join(OUTSIDE)) {
            let path = PathBuf::from(std::ffi::OsString::from_vec(path));
            let _ = fs::remove_dir_all(path);
        }
    }
}

fn pid_in(file: &Path) -> Option<i32> {
    fs::read_to_string(file).ok()?.trim().parse().ok().filter(|&pid| pid > 1)
}

/// Waits until a process that need not be our child has ended.
pub fn wait_end(pid: i32, bound: Duration) -> bool {
    let end = Instant::now() + bound;
    let folder = PathBuf::from(format!("/proc/{pid}"));
    let is_zombie = || sys::state(&folder) == Some('Z');
    let mut pause = Pause::default();
    loop {
        if kill(Pid::from_raw(pid), None).is_err() || is_zombie() {
            return true;
        }
        if Instant::now() >= end {
            return false;
        }
        pause.rest();
    }
}

/// Does what may have to wait for something that only we can end; it goes on when the bound is over.
fn within(bound: Duration, call: impl FnOnce() + Send + 'static) {
    let (done, is_done) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        call();
        done.send(()).ok();
    });
    let _ = is_done.recv_timeout(bound);
}

/// A mounted filesystem.
#[derive(Clone, Debug)]
pub struct Mount {
    /// Where.
    pub path: PathBuf,
    /// Its FUSE connection, a folder of fusectl; none where it is no FUSE mount.
    connection: Option<PathBuf>,
}

impl Mount {
    /// One line of /proc/self/mountinfo, as proc_pid_mountinfo(5) has it.
    fn parse(line: &str) -> Option<Mount> {
        let (own, device) = line.split_once(" - ")?;
        let mut fields = own.split(' ');
        let minor = fields.nth(2)?.split(':').nth(1)?;
        let path = PathBuf::from(fields.nth(1)?.replace("\\040", " "));
        let is_fuse = device.starts_with("fuse.") || device.starts_with("fuse ");
        Some(Mount { path, connection: is_fuse.then(|| Path::new(CONNECTIONS).join(minor)) })
    }

    /// Aborts its FUSE connection; `false` when there is none, or no right to.
    pub fn abort(&self) -> bool {
        let Some(connection) = &self.connection else { return false };
        if !connection.exists() {
            let (source, kind) = (Some("fusectl"), Some("fusectl"));
            let flags = nix::mount::MsFlags::empty();
            let _ = nix::mount::mount(source, CONNECTIONS, kind, flags, None::<&str>);
        }
        fs::write(connection.join("abort"), "1").is_ok()
    }
}

/// Where fusectl is mounted. Its folders bear the minor numbers of the connections' devices.
const CONNECTIONS: &str = "/sys/fs/fuse/connections";

/// The mounts at and below a folder, in the order in which they were made.
pub fn mounts_below(root: &Path) -> Vec<Mount> {
    let text = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    text.lines().filter_map(Mount::parse).filter(|mount| mount.path.starts_with(root)).collect()
}

/// Whether something is mounted exactly here.
pub fn is_mounted(path: &Path) -> bool {
    mounts_below(path).iter().any(|mount| mount.path == path)
}

fn detach_loops(root: &Path) {
    for entry in fs::read_dir("/sys/block").into_iter().flatten().flatten() {
        let backing = fs::read_to_string(entry.path().join("loop/backing_file"));
        if backing.is_ok_and(|backing| Path::new(backing.trim()).starts_with(root)) {
            let device = Path::new("/dev").join(entry.file_name());
            within(polite(), move || drop(loop_device::detach(&device)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_fuse_mounts_have_a_connection() {
        let line =
            |device: &str| format!("36 35 0:47 / /mnt/a\\040b rw,noatime shared:1 - {device} x rw");
        let mount = Mount::parse(&line("fuse.inflight")).unwrap();
        assert_eq!(mount.path, Path::new("/mnt/a b"));
        assert_eq!(mount.connection, Some(Path::new(CONNECTIONS).join("47")));
        assert_eq!(Mount::parse(&line("fuse")).unwrap().connection, mount.connection);
        assert_eq!(Mount::parse(&line("fusectl")).unwrap().connection, None);
        assert_eq!(Mount::parse(&line("ext4")).unwrap().connection, None);
    }
}

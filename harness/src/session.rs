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
use inflight::gate::Client;
use nix::mount::{MntFlags, umount2};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::sys;

/// Longest that a polite unmount may take before the connection is aborted.
const POLITE: Duration = Duration::from_secs(5);

/// Name of the file in a session's folder that holds the process id of its worker.
pub const WORKER: &str = "worker.pid";

/// Name of the file in a stage's folder that names a folder of ours outside the session.
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

/// Beginning of the names of the notes that say what a setting was.
const BORROWED: &str = "borrowed";

const HUGE_PAGES: &str = "/proc/sys/vm/nr_hugepages";
/// Huge pages that the cases need at one time.
const HUGE_PAGES_WANTED: u64 = 4;

/// Makes the kernel keep a few huge pages where it keeps none and lets us; the guard gives them back.
fn take_huge_pages(root: &Path) {
    if fs::read_to_string(HUGE_PAGES).is_ok_and(|before| before.trim() == "0") {
        let _ = borrow(root, HUGE_PAGES, &HUGE_PAGES_WANTED.to_string());
    }
}

/// Changes a setting of the kernel, a file in /proc/sys or /sys, until the session ends: the guard puts back what
/// was there when it was first borrowed.
///
/// # Errors
/// We may not change it, or this kernel does not have it.
pub fn borrow(root: &Path, setting: &str, value: &str) -> anyhow::Result<()> {
    let before = fs::read_to_string(setting).with_context(|| setting.to_owned())?;
    let note = root.join(format!("{BORROWED}{}", setting.replace('/', "!")));
    if !note.exists() {
        fs::write(&note, before).with_context(|| note.display().to_string())?;
    }
    fs::write(setting, value).with_context(|| format!("write {value} to {setting}"))
}

/// Puts every borrowed setting back.
fn give_back(root: &Path) {
    for entry in fs::read_dir(root).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let Some(setting) = name.strip_prefix(BORROWED) else { continue };
        if let Ok(before) = fs::read(entry.path()) {
            let _ = fs::write(setting.replace('!', "/"), before);
        }
    }
}

/// What the guard does: waits for the end of its input, then cleans up.
///
/// # Errors
/// What was left behind.
pub fn guard(root: &Path) -> anyhow::Result<()> {
    let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
    clean(root)?;
    give_back(root);
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
    let mut mounts = mounts_below(root);
    mounts.reverse();
    for mount in &mounts {
        unmount(mount);
    }
    detach_loops(root);
    // A mount below a loop device could not go before the device did.
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
pub fn unmount(mount: &Mount) {
    let path = mount.path.clone();
    let (done, is_done) = std::sync::mpsc::channel();
    let polite = std::thread::spawn(move || {
        let end = Instant::now() + POLITE;
        // EBUSY passes when the last user is gone.
        while umount2(&path, MntFlags::empty()) == Err(nix::errno::Errno::EBUSY)
            && Instant::now() < end
        {
            std::thread::yield_now();
        }
        done.send(()).ok();
    });
    let _ = is_done.recv_timeout(POLITE + Duration::from_secs(1));
    if is_mounted(&mount.path) {
        if !nix::unistd::geteuid().is_root() {
            let _ = Command::new("fusermount3").arg("-uz").arg(&mount.path).status();
        }
        abort(mount.device_minor);
        let _ = umount2(&mount.path, MntFlags::MNT_DETACH);
    } else {
        let _ = polite.join();
    }
}

/// Aborts a FUSE connection by the minor number of its device; `false` when there is none, or no right.
pub fn abort(minor: u32) -> bool {
    let control = Path::new("/sys/fs/fuse/connections");
    if !control.join(minor.to_string()).exists() {
        let (source, kind) = (Some("fusectl"), Some("fusectl"));
        let flags = nix::mount::MsFlags::empty();
        let _ = nix::mount::mount(source, control, kind, flags, None::<&str>);
    }
    fs::write(control.join(minor.to_string()).join("abort"), "1").is_ok()
}

/// Where the threads of the worker and of the servers stand in the kernel.
pub fn stacks(root: &Path) -> Vec<String> {
    let servers = fs::read_dir(root).into_iter().flatten().flatten();
    let servers = servers.filter_map(|entry| pid_in(&entry.path().join("server.pid")));
    pid_in(&root.join(WORKER)).into_iter().chain(servers).flat_map(crate::stacks::of).collect()
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
        if !wait_end(pid, POLITE) {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
            wait_end(pid, POLITE);
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
    let is_zombie = || {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        stat.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('Z'))
    };
    loop {
        if kill(Pid::from_raw(pid), None).is_err() || is_zombie() {
            return true;
        }
        if Instant::now() >= end {
            return false;
        }
        std::thread::yield_now();
    }
}

/// A mounted filesystem.
#[derive(Clone, Debug)]
pub struct Mount {
    /// Where.
    pub path: PathBuf,
    /// Minor number of its device, which is also the name of its FUSE connection.
    pub device_minor: u32,
}

/// The mounts at and below a folder, in the order in which they were made.
pub fn mounts_below(root: &Path) -> Vec<Mount> {
    let text = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let parse = |line: &str| {
        let mut fields = line.split(' ');
        let minor = fields.nth(2)?.split(':').nth(1)?.parse().ok()?;
        let path = PathBuf::from(fields.nth(1)?.replace("\\040", " "));
        Some(Mount { path, device_minor: minor })
    };
    text.lines().filter_map(parse).filter(|mount| mount.path.starts_with(root)).collect()
}

/// Whether something is mounted exactly here.
pub fn is_mounted(path: &Path) -> bool {
    mounts_below(path).iter().any(|mount| mount.path == path)
}

fn detach_loops(root: &Path) {
    for entry in fs::read_dir("/sys/block").into_iter().flatten().flatten() {
        let backing = fs::read_to_string(entry.path().join("loop/backing_file"));
        if backing.is_ok_and(|backing| Path::new(backing.trim()).starts_with(root)) {
            let _ = sys::detach_loop(&Path::new("/dev").join(entry.file_name()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_borrowed_setting_is_given_back_as_it_was_first() {
        let (root, place) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let setting = place.path().join("setting");
        fs::write(&setting, "7\n").unwrap();
        for value in ["1", "2"] {
            borrow(root.path(), &setting.to_string_lossy(), value).unwrap();
            assert_eq!(fs::read_to_string(&setting).unwrap(), value);
        }
        give_back(root.path());
        assert_eq!(fs::read_to_string(&setting).unwrap(), "7\n");
        assert!(borrow(root.path(), "/proc/sys/no/such", "1").is_err());
    }
}

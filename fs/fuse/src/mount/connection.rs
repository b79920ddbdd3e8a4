//! A connection as the control filesystem shows it (/sys/fs/fuse/connections).

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::mount::MsFlags;
use nix::sys::stat::Mode;
use std::io;
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};

const CONTROL: &str = "/sys/fs/fuse/connections";

/// The connection behind a mount, by its device number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Connection {
    major: u32,
    minor: u32,
}

impl Connection {
    /// The connection that is mounted at `mountpoint`, on top. Asks the server nothing.
    ///
    /// # Errors
    /// ENOENT, or what open(2) with O_PATH says; ENODEV when the mount is not in mountinfo.
    pub fn of_mount(mountpoint: &Path) -> io::Result<Connection> {
        // stat(2) would ask the server, which may be the caller.
        let flags = OFlag::O_PATH | OFlag::O_CLOEXEC | OFlag::O_DIRECTORY;
        let at = open(mountpoint, flags, Mode::empty())?;
        let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", at.as_raw_fd()))?;
        let id = info.lines().find_map(|line| line.strip_prefix("mnt_id:")).map(str::trim);
        let table = std::fs::read_to_string("/proc/self/mountinfo")?;
        let found = table.lines().find_map(|line| {
            let mut fields = line.split(' ');
            (fields.next() == id).then(|| fields.nth(1))?
        });
        let numbers = found.and_then(|device| device.split_once(':'));
        let number = |text: &str| text.parse().ok();
        let (major, minor) = numbers.ok_or(Errno::ENODEV)?;
        match (number(major), number(minor)) {
            (Some(major), Some(minor)) => Ok(Connection { major, minor }),
            _ => Err(Errno::ENODEV.into()),
        }
    }

    /// "major:minor", as /sys/class/bdi names it.
    pub fn device(&self) -> String {
        format!("{}:{}", self.major, self.minor)
    }

    /// Its folder. The control filesystem is mounted if it is not, which needs root.
    fn folder(&self) -> io::Result<PathBuf> {
        // MKDEV of the kernel; anonymous devices have a major number of 0.
        let folder = Path::new(CONTROL).join(((self.major << 20) | self.minor).to_string());
        if !folder.exists() {
            // It is mounted twice at worst, by two at the same time; the last one is on top.
            let none = None::<&str>;
            if std::fs::read_dir(CONTROL)?.next().is_none() {
                nix::mount::mount(none, CONTROL, Some("fusectl"), MsFlags::empty(), none)?;
            }
        }
        Ok(folder)
    }

    /// Aborts it: every request fails with ECONNABORTED, every receiver ends.
    ///
    /// # Errors
    /// ENOENT when it is over; EACCES when it is somebody else's.
    pub fn abort(&self) -> io::Result<()> {
        std::fs::write(self.folder()?.join("abort"), "1")
    }

    /// Number of requests that wait for an answer or to be read.
    ///
    /// # Errors
    /// As [`Connection::abort`].
    pub fn waiting(&self) -> io::Result<u64> {
        let text = std::fs::read_to_string(self.folder()?.join("waiting"))?;
        text.trim().parse().map_err(io::Error::other)
    }

    /// Sets the readahead of the mount in KiB, through its backing device information.
    ///
    /// # Errors
    /// EACCES without root.
    pub fn set_readahead_kib(&self, kib: u32) -> io::Result<()> {
        let file = format!("/sys/class/bdi/{}/read_ahead_kb", self.device());
        std::fs::write(file, kib.to_string())
    }
}

//! Targets: what the races are run on, how they are mounted, and what takes them down again.

pub mod borrow;
pub mod mounted;
pub mod network;
pub mod programs;
pub mod server;
pub mod session;

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use serde::{Deserialize, Serialize};

/// A filesystem under test.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Target {
    /// An Inflight mount of our own, with a gate.
    Inflight,
    /// ext4 on a loop device whose backing file lies in a gated Inflight mount.
    Ext4,
    /// xfs, likewise.
    Xfs,
    /// btrfs, likewise.
    Btrfs,
    /// vfat, likewise: it still reads and writes directly through fs/direct-io.c.
    Vfat,
    /// A tmpfs of our own, without a gate.
    Tmpfs,
    /// overlayfs with its upper layer on a tmpfs of our own, without a gate.
    Overlay,
    /// Any directory, without a gate.
    Dir(PathBuf),
    /// Somebody's FUSE server, behind `inflight-gate`.
    Server(Served),
}

/// A FUSE server that knows nothing of the gate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Served {
    /// What starts it, for a shell; `{}` stands for its mount point, `{dir}` for a fresh folder of its own.
    pub command: String,
    /// Whether it mounts by itself, and is caught at that.
    pub intercept: bool,
}

impl Served {
    /// A command that names its mount point.
    ///
    /// # Errors
    /// It does not.
    pub fn new(command: &str, intercept: bool) -> anyhow::Result<Served> {
        if !command.contains("{}") {
            bail!("--server '{command}': write {{}} where it takes its mount point");
        }
        Ok(Served { command: command.to_owned(), intercept })
    }

    /// The program's name.
    fn name(&self) -> String {
        let program = self.command.split_whitespace().next().unwrap_or("server");
        Path::new(program).file_name().unwrap_or_default().to_string_lossy().into_owned()
    }
}

/// Names of the targets that are not directories.
pub const NAMES: [&str; 7] = ["inflight", "ext4", "xfs", "btrfs", "vfat", "tmpfs", "overlay"];

impl Target {
    /// Reads a name, or a path of a directory that exists.
    ///
    /// # Errors
    /// Neither; with the nearest name.
    pub fn parse(text: &str) -> anyhow::Result<Target> {
        Ok(match text {
            "inflight" => Target::Inflight,
            "ext4" => Target::Ext4,
            "xfs" => Target::Xfs,
            "btrfs" => Target::Btrfs,
            "vfat" => Target::Vfat,
            "tmpfs" => Target::Tmpfs,
            "overlay" => Target::Overlay,
            path if path.contains('/') || path == "." => match std::fs::canonicalize(path) {
                Ok(path) if path.is_dir() => Target::Dir(path),
                Ok(_) => bail!(
                    "target {path} is not a directory; give one, or one of {}",
                    NAMES.join(", ")
                ),
                Err(error) => {
                    bail!(
                        "target {path}: {error}; give a directory that exists, or one of {}",
                        NAMES.join(", ")
                    )
                }
            },
            other => {
                let near = crate::kit::nearest::nearest(other, NAMES);
                bail!("unknown target '{other}'; nearest: {near} (or a directory, as ./DIR)")
            }
        })
    }

    /// Its name in reports.
    pub fn name(&self) -> String {
        match self {
            Target::Inflight => "inflight".to_owned(),
            Target::Ext4 => "ext4".to_owned(),
            Target::Xfs => "xfs".to_owned(),
            Target::Btrfs => "btrfs".to_owned(),
            Target::Vfat => "vfat".to_owned(),
            Target::Tmpfs => "tmpfs".to_owned(),
            Target::Overlay => "overlay".to_owned(),
            Target::Dir(path) => path.display().to_string(),
            Target::Server(served) => served.name(),
        }
    }

    /// The words of a command line that choose it.
    pub fn choice(&self) -> Vec<String> {
        match self {
            Target::Server(served) => {
                let intercept = served.intercept.then(|| "--intercept".to_owned());
                let words = ["--server".to_owned(), served.command.clone()];
                words.into_iter().chain(intercept).collect()
            }
            _ => vec!["--on".to_owned(), self.name()],
        }
    }

    /// The name under which the tables of expected failures know it: of a directory, its filesystem's.
    pub fn subject(&self) -> String {
        match self {
            Target::Dir(path) => match filesystem(path).as_deref() {
                // What fails on Inflight because of the kernel fails on every FUSE mount.
                Ok(kind) if kind.starts_with("fuse") => Target::Inflight.name(),
                Ok(kind) => kind.to_owned(),
                Err(_) => self.name(),
            },
            // What our server or its mounts must fail says nothing of somebody's.
            Target::Server(_) => "server".to_owned(),
            _ => self.name(),
        }
    }

    /// Whether requests to it can be parked.
    pub fn is_gated(&self) -> bool {
        self.is_fuse() || self.is_looped()
    }

    /// Whether the gate is in front of the filesystem under test itself.
    pub fn is_fuse(&self) -> bool {
        matches!(self, Target::Inflight | Target::Server(_))
    }

    /// Whether it lies on a loop device on a gated Inflight mount.
    pub fn is_looped(&self) -> bool {
        matches!(self, Target::Ext4 | Target::Xfs | Target::Btrfs | Target::Vfat)
    }
}

/// Type of the filesystem that a folder is on, as in `/proc/self/mountinfo`.
///
/// # Errors
/// No such folder.
pub fn filesystem(folder: &Path) -> anyhow::Result<String> {
    let folder = folder.canonicalize().with_context(|| folder.display().to_string())?;
    let text = std::fs::read_to_string("/proc/self/mountinfo").context("/proc/self/mountinfo")?;
    let parse = |line: &str| {
        let path = line.split(' ').nth(4)?.replace("\\040", " ");
        let kind = line.split(" - ").nth(1)?.split(' ').next()?;
        folder.starts_with(&path).then(|| (path.len(), kind.to_owned()))
    };
    // The last of the longest: it is mounted over the others.
    let found = text.lines().filter_map(parse).max_by_key(|(len, _)| *len);
    Ok(found.map_or("?".to_owned(), |(_, kind)| kind))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_is_known_by_its_filesystem() {
        assert_eq!(filesystem(Path::new("/proc")).unwrap(), "proc");
        assert_eq!(Target::Dir("/proc".into()).subject(), "proc");
        assert_eq!(Target::Xfs.subject(), "xfs");
        let served = Served::new("/usr/bin/bindfs -f {dir} {}", true).unwrap();
        let server = Target::Server(served);
        assert_eq!((&*server.name(), &*server.subject()), ("bindfs", "server"));
        assert_eq!(server.choice(), ["--server", "/usr/bin/bindfs -f {dir} {}", "--intercept"]);
        assert!(Served::new("bindfs / /mnt", false).is_err());
        assert!(filesystem(Path::new("/nowhere")).is_err());
    }
}

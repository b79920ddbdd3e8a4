//! Mount options, as `-o` and fstab(5) write them.

use crate::mutant::Mutant;
use std::str::FromStr;
use std::time::Duration;

/// How reads are served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadMode {
    /// O_DIRECT files directly, and large reads of others that the image's page cache does not have; the
    /// rest through the page cache.
    Auto,
    /// Always the buffered splice-read.
    Buffered,
    /// Always the direct splice-read.
    Direct,
    /// Always copied, through the page cache.
    Copy,
    /// The broken path, in builds with the `mutants` feature.
    PipeBacked,
}

/// How payloads reach the image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriteMode {
    /// O_DIRECT files and large payloads with O_DIRECT, the rest through the page cache.
    Auto,
    /// Through the image's page cache.
    Buffered,
    /// With O_DIRECT.
    Direct,
}

/// When access times change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Atime {
    /// noatime
    Never,
    /// nodiratime: as relatime, directories never
    NoDirectories,
    /// relatime
    Relative,
    /// strictatime
    Strict,
}

/// How requests come from the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TransportMode {
    /// The best that there is.
    Auto,
    /// fuse-over-io_uring: a queue on every core.
    Uring,
    /// /dev/fuse.
    Dev,
    /// The crate fuser over /dev/fuse, for reference.
    Fuser,
}

/// Everything `-o` can say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// No writes, not even of access times.
    pub read_only: bool,
    /// Others than the mounting user may use it.
    pub allow_other: bool,
    /// The kernel checks permissions.
    pub default_permissions: bool,
    /// How reads are served.
    pub read: ReadMode,
    /// How payloads reach the image.
    pub write: WriteMode,
    /// How requests come from the kernel.
    pub transport: TransportMode,
    /// The kernel gathers writes before it sends them.
    pub writeback: bool,
    /// Every file is opened with FOPEN_DIRECT_IO. For the race cases; see the README.
    pub direct_io: bool,
    /// The kernel drops a file's pages when it is told of another time or size (FUSE_AUTO_INVAL_DATA). For the race cases.
    pub auto_inval: bool,
    /// The kernel asks for every open and close instead of remembering that it need not.
    pub open_messages: bool,
    /// Writes are kept back until they are flushed, so that `inflight fault S power-cut` can lose them.
    pub power_cut: bool,
    /// When the server dies, its mount goes too.
    pub auto_unmount: bool,
    /// Blocks that were freed and committed are given back to whatever holds the image.
    pub discard: bool,
    /// What mount tables show in place of the image.
    pub fsname: Option<String>,
    /// Server threads.
    pub threads: usize,
    /// read_ahead_kb of the mount, KiB.
    pub max_readahead: u32,
    /// How long the kernel may keep attributes.
    pub attr_timeout: Duration,
    /// How long the kernel may keep names.
    pub entry_timeout: Duration,
    /// When access times change.
    pub atime: Atime,
    /// Slabs of 2 MiB in the buffer pool.
    pub slabs: usize,
    /// The mount is of type fuse.inflight; without, plain fuse, which xfstests expects.
    pub subtype: bool,
    /// The defect to serve with, in builds with the `mutants` feature.
    pub mutant: Option<Mutant>,
    /// A queue of transport=uring whose registration is made to fail, in builds with the `testing` feature.
    pub refused_queue: Option<usize>,
    /// Passed on to mount(2): nosuid, nodev, noexec, nosymfollow, sync, dirsync.
    pub kernel: Vec<String>,
}

/// The image has one owner, so what the kernel knows stays true: a year.
const FOREVER: Duration = Duration::from_secs(365 * 24 * 60 * 60);

impl Default for Options {
    fn default() -> Self {
        let cores = std::thread::available_parallelism().map_or(2, usize::from);
        Options {
            read_only: false,
            allow_other: false,
            default_permissions: true,
            read: ReadMode::Auto,
            write: WriteMode::Auto,
            transport: TransportMode::Auto,
            writeback: true,
            direct_io: false,
            auto_inval: false,
            open_messages: false,
            power_cut: false,
            auto_unmount: false,
            discard: false,
            fsname: None,
            threads: (2 * cores).max(4),
            max_readahead: 1024,
            attr_timeout: FOREVER,
            entry_timeout: FOREVER,
            atime: Atime::Relative,
            slabs: 8,
            subtype: true,
            mutant: None,
            refused_queue: None,
            kernel: Vec::new(),
        }
    }
}

/// Names of all options, for messages about unknown ones.
const NAMES: &[&str] = &[
    "ro",
    "rw",
    "allow_other",
    "default_permissions",
    "no_default_permissions",
    "read=",
    "write=",
    "transport=",
    "writeback",
    "nowriteback",
    "direct_io",
    "auto_inval",
    "open_messages",
    "power_cut",
    "auto_unmount",
    "discard",
    "nodiscard",
    "fsname=",
    "threads=",
    "max_readahead=",
    "attr_timeout=",
    "entry_timeout=",
    "noatime",
    "nodiratime",
    "relatime",
    "strictatime",
    "slabs=",
    "nosubtype",
    "nosuid",
    "nodev",
    "noexec",
    "nosymfollow",
    "sync",
    "dirsync",
];

/// What is wrong with an option.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum OptionError {
    /// There is none of that name.
    #[error("unknown mount option '{name}'{hint}")]
    Unknown {
        /// As it was written.
        name: String,
        /// The nearest known one, as a sentence.
        hint: String,
    },
    /// The value is not one of those allowed.
    #[error("mount option '{name}': '{value}' is not {expected}")]
    Value {
        /// The option.
        name: &'static str,
        /// As it was written.
        value: String,
        /// What would be.
        expected: String,
    },
}

impl Options {
    /// Adds a comma-separated list; a later option wins.
    pub fn add(&mut self, list: &str) -> Result<(), OptionError> {
        list.split(',').filter(|o| !o.is_empty()).try_for_each(|option| self.add_one(option))
    }

    fn add_one(&mut self, option: &str) -> Result<(), OptionError> {
        let (name, value) = option.split_once('=').unwrap_or((option, ""));
        match name {
            "ro" => self.read_only = true,
            "rw" => self.read_only = false,
            "allow_other" => self.allow_other = true,
            "default_permissions" => self.default_permissions = true,
            "no_default_permissions" => self.default_permissions = false,
            "writeback" => self.writeback = true,
            "nowriteback" => self.writeback = false,
            "direct_io" => self.direct_io = true,
            "auto_inval" => self.auto_inval = true,
            "open_messages" => self.open_messages = true,
            "power_cut" | "power-cut" => self.power_cut = true,
            "auto_unmount" => self.auto_unmount = true,
            "discard" => self.discard = true,
            "nodiscard" => self.discard = false,
            "fsname" if !value.is_empty() && !value.contains('/') => {
                self.fsname = Some(value.to_owned());
            }
            "fsname" => return Err(wrong("fsname", value, "a name without '/'")),
            "nosubtype" => self.subtype = false,
            "noatime" => self.atime = Atime::Never,
            "nodiratime" => self.atime = Atime::NoDirectories,
            "relatime" | "atime" | "diratime" => self.atime = Atime::Relative,
            "strictatime" => self.atime = Atime::Strict,
            "read" => self.read = read_mode(value)?,
            "write" => self.write = write_mode(value)?,
            "transport" => self.transport = transport_mode(value)?,
            "mutant" if cfg!(feature = "mutants") => self.mutant = Some(mutant(value)?),
            "refused_queue" if cfg!(feature = "testing") => {
                let what = "a number from 0 to 1023";
                self.refused_queue = Some(number("refused_queue", value, 0, 1023, what)?);
            }
            "threads" => {
                self.threads = number("threads", value, 1, 1024, "a number from 1 to 1024")?
            }
            "slabs" => self.slabs = number("slabs", value, 0, 1024, "a number from 0 to 1024")?,
            "max_readahead" => {
                let what = "a number of KiB from 0 to 1048576";
                self.max_readahead = number("max_readahead", value, 0, 1 << 20, what)?;
            }
            "attr_timeout" => self.attr_timeout = seconds("attr_timeout", value)?,
            "entry_timeout" => self.entry_timeout = seconds("entry_timeout", value)?,
            "nosuid" | "nodev" | "noexec" | "nosymfollow" | "sync" | "dirsync" => {
                self.kernel.push(name.to_owned());
            }
            "suid" | "dev" | "exec" | "symfollow" => self.kernel.retain(|k| k[2..] != *name),
            "async" => self.kernel.retain(|k| k != "sync"),
            // What mount(8), fstab(5) and systemd add for themselves; a read-only mount never recovers.
            "norecovery" | "defaults" | "auto" | "noauto" | "user" | "nouser" | "users"
            | "owner" | "_netdev" | "nofail" | "lazytime" | "nolazytime" | "loud" | "silent"
            | "iversion" | "noiversion" | "rootcontext" | "context" | "mand" | "nomand"
            | "X-mount.mkdir" => {}
            _ if name.starts_with("x-") || name.starts_with("comment") => {}
            _ => return Err(unknown(option)),
        }
        Ok(())
    }

    /// Changes of directories are durable before they are answered.
    pub fn dirsync(&self) -> bool {
        self.kernel.iter().any(|k| k == "sync" || k == "dirsync")
    }
}

fn unknown(option: &str) -> OptionError {
    let name = option.split('=').next().unwrap_or(option);
    let near = NAMES
        .iter()
        .map(|known| (strsim::jaro_winkler(name, known.trim_end_matches('=')), known))
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .filter(|(likeness, _)| *likeness > 0.8);
    let hint = match near {
        Some((_, known)) => format!("; did you mean '{known}'?"),
        None => format!("; known ones are {}", NAMES.join(" ")),
    };
    OptionError::Unknown { name: option.to_owned(), hint }
}

fn read_mode(value: &str) -> Result<ReadMode, OptionError> {
    match value {
        "auto" => Ok(ReadMode::Auto),
        "buffered" => Ok(ReadMode::Buffered),
        "direct" => Ok(ReadMode::Direct),
        "copy" => Ok(ReadMode::Copy),
        "pipe-backed" if cfg!(feature = "mutants") => Ok(ReadMode::PipeBacked),
        _ => Err(wrong("read", value, "auto, buffered, direct or copy")),
    }
}

fn write_mode(value: &str) -> Result<WriteMode, OptionError> {
    match value {
        "auto" => Ok(WriteMode::Auto),
        "buffered" => Ok(WriteMode::Buffered),
        "direct" => Ok(WriteMode::Direct),
        _ => Err(wrong("write", value, "auto, buffered or direct")),
    }
}

fn transport_mode(value: &str) -> Result<TransportMode, OptionError> {
    match value {
        "auto" => Ok(TransportMode::Auto),
        "uring" => Ok(TransportMode::Uring),
        "dev" => Ok(TransportMode::Dev),
        "fuser" => Ok(TransportMode::Fuser),
        _ => Err(wrong("transport", value, "auto, uring, dev or fuser")),
    }
}

fn mutant(value: &str) -> Result<Mutant, OptionError> {
    let found = Mutant::ALL.iter().find(|mutant| mutant.name() == value);
    let names: Vec<_> = Mutant::ALL.iter().map(|mutant| mutant.name()).collect();
    found.copied().ok_or_else(|| wrong("mutant", value, &format!("one of {}", names.join(", "))))
}

fn number<T: FromStr + PartialOrd>(
    name: &'static str,
    value: &str,
    min: T,
    max: T,
    expected: &'static str,
) -> Result<T, OptionError> {
    let parsed = value.parse().ok().filter(|n| *n >= min && *n <= max);
    parsed.ok_or_else(|| wrong(name, value, expected))
}

fn seconds(name: &'static str, value: &str) -> Result<Duration, OptionError> {
    let expected = "a number of seconds from 0 to 31536000";
    Ok(Duration::from_secs_f64(number(name, value, 0.0, 31_536_000.0, expected)?))
}

fn wrong(name: &'static str, value: &str, expected: &str) -> OptionError {
    OptionError::Value { name, value: value.to_owned(), expected: expected.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_option_wins_and_strangers_are_named() {
        let mut o = Options::default();
        o.add("ro,noatime,read=direct,threads=3,rw,x-systemd.automount").expect("valid");
        assert!(!o.read_only && o.read == ReadMode::Direct && o.threads == 3);
        o.add("nosuid,nodev,sync,suid,async,nosymfollow").expect("valid");
        assert_eq!(o.kernel, ["nodev", "nosymfollow"]);
        let e = o.add("writebak").expect_err("no such option");
        assert_eq!(e.to_string(), "unknown mount option 'writebak'; did you mean 'writeback'?");
        let e = o.add("threads=0").expect_err("out of range");
        assert!(e.to_string().contains("'0' is not a number from 1 to 1024"), "{e}");
    }
    #[test]
    fn the_manual_page_has_every_option() {
        let page = include_str!("../package/mount.fuse.inflight.8");
        let missing: Vec<_> = NAMES.iter().filter(|name| !page.contains(**name)).collect();
        assert!(missing.is_empty(), "{missing:?}");
    }
}

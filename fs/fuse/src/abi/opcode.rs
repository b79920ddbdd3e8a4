//! Opcodes, by number and by name.

use std::fmt;

/// What a request asks for (`enum fuse_opcode`). A number without a name is kept: a newer kernel
/// may send it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Opcode(pub u32);

/// A name that no opcode has.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no FUSE request is called '{0}'")]
pub struct UnknownOpcode(pub String);

macro_rules! opcodes {
    ($($name:ident = $number:literal, $text:literal;)*) => {
        impl Opcode {
            $(#[doc = concat!("Number ", stringify!($number), ".")]
            pub const $name: Opcode = Opcode($number);)*

            /// Every opcode of the protocol in order of its number, with its name in lower case.
            pub const TABLE: &[(Opcode, &str)] = &[$((Opcode($number), $text)),*];
        }
    };
}

opcodes! {
    LOOKUP = 1, "lookup";
    FORGET = 2, "forget";
    GETATTR = 3, "getattr";
    SETATTR = 4, "setattr";
    READLINK = 5, "readlink";
    SYMLINK = 6, "symlink";
    MKNOD = 8, "mknod";
    MKDIR = 9, "mkdir";
    UNLINK = 10, "unlink";
    RMDIR = 11, "rmdir";
    RENAME = 12, "rename";
    LINK = 13, "link";
    OPEN = 14, "open";
    READ = 15, "read";
    WRITE = 16, "write";
    STATFS = 17, "statfs";
    RELEASE = 18, "release";
    FSYNC = 20, "fsync";
    SETXATTR = 21, "setxattr";
    GETXATTR = 22, "getxattr";
    LISTXATTR = 23, "listxattr";
    REMOVEXATTR = 24, "removexattr";
    FLUSH = 25, "flush";
    INIT = 26, "init";
    OPENDIR = 27, "opendir";
    READDIR = 28, "readdir";
    RELEASEDIR = 29, "releasedir";
    FSYNCDIR = 30, "fsyncdir";
    GETLK = 31, "getlk";
    SETLK = 32, "setlk";
    SETLKW = 33, "setlkw";
    ACCESS = 34, "access";
    CREATE = 35, "create";
    INTERRUPT = 36, "interrupt";
    BMAP = 37, "bmap";
    DESTROY = 38, "destroy";
    IOCTL = 39, "ioctl";
    POLL = 40, "poll";
    NOTIFY_REPLY = 41, "notify_reply";
    BATCH_FORGET = 42, "batch_forget";
    FALLOCATE = 43, "fallocate";
    READDIRPLUS = 44, "readdirplus";
    RENAME2 = 45, "rename2";
    LSEEK = 46, "lseek";
    COPY_FILE_RANGE = 47, "copy_file_range";
    SETUPMAPPING = 48, "setupmapping";
    REMOVEMAPPING = 49, "removemapping";
    SYNCFS = 50, "syncfs";
    TMPFILE = 51, "tmpfile";
    STATX = 52, "statx";
    COPY_FILE_RANGE_64 = 53, "copy_file_range_64";
    CUSE_INIT = 4096, "cuse_init";
}

impl Opcode {
    /// The number.
    pub const fn number(self) -> u32 {
        self.0
    }

    /// The name in lower case; `None` for a number that the protocol does not have.
    pub fn name(self) -> Option<&'static str> {
        let at = Self::TABLE.binary_search_by_key(&self, |entry| entry.0).ok()?;
        Some(Self::TABLE[at].1)
    }

    /// Whether the kernel waits for an answer. It does not to FORGET, BATCH_FORGET and
    /// NOTIFY_REPLY; INTERRUPT is answered only to have it sent again (EAGAIN).
    pub fn wants_answer(self) -> bool {
        !matches!(self, Self::FORGET | Self::BATCH_FORGET | Self::NOTIFY_REPLY | Self::INTERRUPT)
    }
}

impl std::str::FromStr for Opcode {
    type Err = UnknownOpcode;

    /// Letter case, a leading `FUSE_` and `-` for `_` do not matter.
    fn from_str(name: &str) -> Result<Self, UnknownOpcode> {
        let wanted = name.to_lowercase().replace('-', "_");
        let wanted = wanted.strip_prefix("fuse_").unwrap_or(&wanted);
        let found = Self::TABLE.iter().find(|entry| entry.1 == wanted);
        found.map(|entry| entry.0).ok_or_else(|| UnknownOpcode(name.to_owned()))
    }
}

impl fmt::Display for Opcode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.write_str(name),
            None => write!(f, "opcode {}", self.0),
        }
    }
}

impl fmt::Debug for Opcode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

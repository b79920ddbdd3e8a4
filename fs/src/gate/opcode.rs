//! FUSE opcodes, by number and by name (`include/uapi/linux/fuse.h`, protocol 7.45).

use super::GateError;

macro_rules! opcodes {
    ($($name:ident = $number:literal, $text:literal;)*) => {
        $(#[doc = concat!("FUSE opcode `", stringify!($name), "` (", stringify!($number), ").")]
        pub const $name: u32 = $number;)*
        /// Every opcode with its name, in order of its number.
        pub const TABLE: &[(u32, &str)] = &[$(($number, $text)),*];
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
}

/// Name of an opcode, `None` for a number that the protocol does not have.
pub fn name(opcode: u32) -> Option<&'static str> {
    TABLE.binary_search_by_key(&opcode, |entry| entry.0).ok().map(|at| TABLE[at].1)
}

/// Number of an opcode; letter case and `-` for `_` do not matter.
///
/// # Errors
/// [`GateError::UnknownOp`] with the nearest names.
pub fn number(name: &str) -> Result<u32, GateError> {
    let wanted = name.to_lowercase().replace('-', "_");
    let wanted = wanted.strip_prefix("fuse_").unwrap_or(&wanted);
    if let Some(entry) = TABLE.iter().find(|entry| entry.1 == wanted) {
        return Ok(entry.0);
    }
    let mut near: Vec<_> =
        TABLE.iter().map(|entry| (strsim::damerau_levenshtein(entry.1, wanted), entry.1)).collect();
    near.sort();
    let nearest: Vec<_> = near.iter().take(3).map(|entry| entry.1).collect();
    Err(GateError::UnknownOp { name: name.to_owned(), nearest: nearest.join(", ") })
}

/// Whether requests of this kind carry a byte range, which a rule's range can overlap.
///
/// A SETATTR counts: its range is the single point of the new size.
pub fn has_range(opcode: u32) -> bool {
    matches!(
        opcode,
        READ | WRITE | FALLOCATE | LSEEK | COPY_FILE_RANGE | COPY_FILE_RANGE_64 | SETATTR
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers_agree_both_ways() {
        assert!(TABLE.is_sorted_by(|a, b| a.0 < b.0), "binary search needs the order");
        for &(opcode, text) in TABLE {
            assert_eq!(name(opcode), Some(text));
            assert_eq!(number(text).unwrap(), opcode);
        }
        assert_eq!(name(7), None);
        assert_eq!(number("FUSE_READ").unwrap(), READ);
        assert_eq!(number("Copy-File-Range").unwrap(), COPY_FILE_RANGE);
    }

    #[test]
    fn an_unknown_name_gets_the_nearest() {
        let text = number("raed").unwrap_err().to_string();
        assert!(text.starts_with("unknown request 'raed'; nearest: read,"), "{text}");
    }
}

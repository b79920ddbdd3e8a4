//! What a tar archive holds becomes the contents of an image: ustar, GNU and PAX, with times to the nanosecond and extended
//! attributes where PAX has them.

use crate::image::mkfs::ROOT;
use crate::image::tables::Time;
use crate::ops::{Caller, Fs, Make, SetAttr, SetTime, WriteArgs};
use anyhow::{Context as _, bail, ensure};
use std::collections::HashMap;
use std::io::{Cursor, Read};
use tar::{Archive, Entry, EntryType};

/// Bytes that are written at a time, and that become a hole when all of them are zero.
const STEP: usize = 64 << 10;
/// What PAX calls extended attributes, as GNU tar, bsdtar and star write them.
const ATTRIBUTE: &str = "SCHILY.xattr.";

/// How compressed archives begin, and what makes them plain.
const COMPRESSED: [(&[u8], &str); 4] = [
    (b"\x1f\x8b", "gzip -dc"),
    (b"\xfd7zXZ\0", "xz -dc"),
    (b"\x28\xb5\x2f\xfd", "zstd -dc"),
    (b"BZh", "bzip2 -dc"),
];

/// Fills an empty filesystem from an archive.
///
/// # Errors
/// It is none, or is compressed, or something in it does not fit; with its path.
pub(super) fn fill(fs: &Fs, mut archive: impl Read) -> anyhow::Result<()> {
    let mut head = Vec::new();
    archive.by_ref().take(8).read_to_end(&mut head)?;
    if let Some((_, plain)) = COMPRESSED.iter().find(|(magic, _)| head.starts_with(magic)) {
        bail!("the archive is compressed: {plain} ARCHIVE | inflight mkfs --from - ...");
    }
    let mut unpacked = Unpacked { fs, known: HashMap::new(), last: Vec::new() };
    unpacked.known.insert(Vec::new(), ROOT);
    let mut archive = Archive::new(Cursor::new(head).chain(archive));
    let mut count = 0;
    for entry in archive.entries()? {
        unpacked.add(entry.context("not a tar archive, or a damaged one")?)?;
        count += 1;
    }
    ensure!(count > 0, "the archive holds nothing; is it one?");
    unpacked.finish()
}

/// What PAX says of an entry beside what the crate reads of it.
#[derive(Default)]
struct Extensions {
    atime: Option<Time>,
    mtime: Option<Time>,
    attributes: Vec<(Vec<u8>, Vec<u8>)>,
}

struct Unpacked<'a> {
    fs: &'a Fs,
    /// Inodes by path, for what lies below them and for hard links. Each is held until the end.
    known: HashMap<Vec<u8>, u64>,
    /// What comes last, because to make children, and to write, changes it: owners, privileges, times.
    last: Vec<(u64, SetAttr)>,
}

impl Unpacked<'_> {
    fn add(&mut self, mut entry: Entry<'_, impl Read>) -> anyhow::Result<()> {
        let path = normal(&entry.path_bytes())?;
        let what = || String::from_utf8_lossy(&path).escape_debug().to_string();
        let extensions = extensions(&mut entry).with_context(what)?;
        let kind = entry.header().entry_type();
        if kind.is_hard_link() {
            return self.link(&path, &entry).with_context(what);
        }
        let Some(mode) = file_type(kind) else {
            // Labels of volumes and the like.
            return Ok(());
        };
        let mode = mode | entry.header().mode().with_context(what)? & 0o7777;
        let ino = self.node(&path, mode, &entry).with_context(what)?;
        if kind.is_file() || kind.is_contiguous() || kind.is_gnu_sparse() {
            self.write(ino, &mut entry).with_context(what)?;
        }
        for (name, value) in &extensions.attributes {
            let set = self.fs.setxattr(Caller::default(), ino, name, value, 0);
            set.with_context(|| format!("{}: attribute {}", what(), name.escape_ascii()))?;
        }
        let header = entry.header();
        let plain = || Some(Time { secs: header.mtime().ok()? as i64, nanos: 0 });
        let mtime = extensions.mtime.or_else(plain);
        self.last.push((
            ino,
            SetAttr {
                uid: Some(header.uid().with_context(what)? as u32),
                gid: Some(header.gid().with_context(what)? as u32),
                mode: (!kind.is_symlink()).then_some(mode),
                atime: extensions.atime.or(mtime).map(SetTime::At),
                mtime: mtime.map(SetTime::At),
                ..SetAttr::default()
            },
        ));
        Ok(())
    }

    /// The inode of a path, made unless it is a directory that is there. What else has the name goes.
    fn node(
        &mut self,
        path: &[u8],
        mode: u32,
        entry: &Entry<'_, impl Read>,
    ) -> anyhow::Result<u64> {
        let is_dir = mode & libc::S_IFMT == libc::S_IFDIR;
        if let Some(&known) = self.known.get(path)
            && is_dir
        {
            return Ok(known);
        }
        let target = entry.link_name_bytes().filter(|_| mode & libc::S_IFMT == libc::S_IFLNK);
        let device = || -> anyhow::Result<u32> {
            let (major, minor) = (entry.header().device_major()?, entry.header().device_minor()?);
            let numbers = (major.unwrap_or(0).into(), minor.unwrap_or(0).into());
            Ok(super::encode(nix::sys::stat::makedev(numbers.0, numbers.1)))
        };
        let is_device = matches!(mode & libc::S_IFMT, libc::S_IFCHR | libc::S_IFBLK);
        let rdev = if is_device { device()? } else { 0 };
        let (parent, name) = self.place(path)?;
        if let Some(old) = self.known.remove(path) {
            self.fs.unlink(parent, name)?;
            self.fs.forget(old, 1);
        }
        let ino = self.make(parent, name, mode, rdev, target.as_deref())?;
        self.known.insert(path.to_vec(), ino);
        Ok(ino)
    }

    fn make(
        &self,
        parent: u64,
        name: &[u8],
        mode: u32,
        rdev: u32,
        target: Option<&[u8]>,
    ) -> anyhow::Result<u64> {
        let caller = Caller::default();
        let make = Make { caller, parent, name, mode, umask: 0, rdev, target, security: &[] };
        Ok(self.fs.make(&make)?.ino)
    }

    /// The directory that a path lies in, made if the archive has not named it, and the last part.
    fn place<'p>(&mut self, path: &'p [u8]) -> anyhow::Result<(u64, &'p [u8])> {
        let (above, name) = match path.iter().rposition(|byte| *byte == b'/') {
            Some(at) => (&path[..at], &path[at + 1..]),
            None => (&path[..0], path),
        };
        if let Some(&dir) = self.known.get(above) {
            return Ok((dir, name));
        }
        let (parent, dir) = self.place(above)?;
        let ino = self.make(parent, dir, libc::S_IFDIR | 0o755, 0, None)?;
        self.known.insert(above.to_vec(), ino);
        Ok((ino, name))
    }

    fn link(&mut self, path: &[u8], entry: &Entry<'_, impl Read>) -> anyhow::Result<()> {
        let target = entry.link_name_bytes().context("a hard link to nothing")?;
        let ino = *self.known.get(&normal(&target)?).with_context(|| {
            format!("a hard link to {}, which is not before it", target.escape_ascii())
        })?;
        let (parent, name) = self.place(path)?;
        self.fs.link(ino, parent, name)?;
        self.known.insert(path.to_vec(), ino);
        Ok(())
    }

    fn write(&self, ino: u64, entry: &mut Entry<'_, impl Read>) -> anyhow::Result<()> {
        let (mut buffer, mut at, size) = (vec![0; STEP], 0, entry.size());
        while at < size {
            let part = &mut buffer[..(size - at).min(STEP as u64) as usize];
            entry.read_exact(part).context("the archive ends in the middle of it")?;
            if part.iter().any(|byte| *byte != 0) {
                self.fs.write(&WriteArgs { ino, offset: at, ..super::WRITE }, part)?;
            }
            at += part.len() as u64;
        }
        self.fs.setattr(ino, &SetAttr { size: Some(size), ..SetAttr::default() })?;
        Ok(())
    }

    fn finish(self) -> anyhow::Result<()> {
        for (ino, attributes) in &self.last {
            // An owner's change takes privileges away, and so comes before the mode.
            let SetAttr { uid, gid, .. } = *attributes;
            self.fs.setattr(*ino, &SetAttr { uid, gid, ..SetAttr::default() })?;
            self.fs.setattr(*ino, &SetAttr { uid: None, gid: None, ..*attributes })?;
        }
        self.known.values().filter(|ino| **ino != ROOT).for_each(|ino| self.fs.forget(*ino, 1));
        Ok(())
    }
}

/// The path below the root, without `.` and doubled slashes.
fn normal(path: &[u8]) -> anyhow::Result<Vec<u8>> {
    let parts: Vec<&[u8]> =
        path.split(|byte| *byte == b'/').filter(|part| !part.is_empty() && *part != b".").collect();
    ensure!(!parts.contains(&&b".."[..]), "{}: leads out of the archive", path.escape_ascii());
    Ok(parts.join(&b'/'))
}

fn file_type(kind: EntryType) -> Option<u32> {
    Some(match kind {
        EntryType::Directory => libc::S_IFDIR,
        EntryType::Symlink => libc::S_IFLNK,
        EntryType::Char => libc::S_IFCHR,
        EntryType::Block => libc::S_IFBLK,
        EntryType::Fifo => libc::S_IFIFO,
        EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => libc::S_IFREG,
        _ => return None,
    })
}

fn extensions(entry: &mut Entry<'_, impl Read>) -> anyhow::Result<Extensions> {
    let mut found = Extensions::default();
    for extension in entry.pax_extensions()?.into_iter().flatten() {
        // The crate takes each line for a record.
        let extension = extension.map_err(|_| {
            anyhow::anyhow!(
                "a name or attribute with a line break, which is not read of PAX archives; give the directory, or an \
                 archive made with --format=gnu"
            )
        })?;
        let (key, value) = (extension.key()?, extension.value_bytes());
        ensure!(
            !key.starts_with("GNU.sparse."),
            "a sparse file in PAX format, which is not read; make the archive without --sparse: holes are found here"
        );
        match key {
            "mtime" => found.mtime = Some(time(extension.value()?)?),
            "atime" => found.atime = Some(time(extension.value()?)?),
            _ => {
                if let Some(name) = key.strip_prefix(ATTRIBUTE) {
                    found.attributes.push((name.as_bytes().to_vec(), value.to_vec()));
                }
            }
        }
    }
    Ok(found)
}

/// Seconds since 1970 with a fraction, which may be before it.
fn time(text: &str) -> anyhow::Result<Time> {
    let what = || format!("'{text}' is no time");
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let (sign, digits) = whole.strip_prefix('-').map_or((1, whole), |digits| (-1, digits));
    let secs: i128 = digits.parse().with_context(what)?;
    let nanos = fraction.get(..9).unwrap_or(fraction);
    let nanos: i128 = format!("{nanos:0<9}").parse().with_context(what)?;
    let all = sign * (secs * 1_000_000_000 + nanos);
    let secs = i64::try_from(all.div_euclid(1_000_000_000)).with_context(what)?;
    Ok(Time { secs, nanos: all.rem_euclid(1_000_000_000) as u32 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_fractions_on_both_sides_of_1970() {
        let of = |text| time(text).map(|time| (time.secs, time.nanos)).unwrap();
        assert_eq!(of("1000000000.123456789"), (1_000_000_000, 123_456_789));
        assert_eq!(of("5"), (5, 0));
        assert_eq!(of("-0.000000001"), (-1, 999_999_999));
        assert_eq!(of("-2.25"), (-3, 750_000_000));
        assert!(time("soon").is_err());
    }

    #[test]
    fn paths_stay_inside() {
        assert_eq!(normal(b"./a//b/").unwrap(), b"a/b");
        assert_eq!(normal(b"/etc").unwrap(), b"etc");
        assert_eq!(normal(b".").unwrap(), b"");
        assert!(normal(b"a/../../b").is_err());
    }
}

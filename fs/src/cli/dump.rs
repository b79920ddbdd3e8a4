//! `inflight dump`.

use crate::image::BLOCK;
use crate::image::dump::{Dump, ExtentDump, InodeDump, Overview};
use crate::image::superblock::STATE_MOUNTED;
use crate::image::tables::Time;
use clap::Args;
use std::path::PathBuf;

/// What to show.
#[derive(Debug, Args)]
pub struct DumpArgs {
    /// As JSON.
    #[arg(long)]
    json: bool,
    /// File or block device; it is not written.
    image: PathBuf,
    /// A file or directory in it, from its root; the superblock when absent.
    path: Option<PathBuf>,
}

pub(super) fn run(args: &DumpArgs) -> anyhow::Result<()> {
    let dump = Dump::open(&args.image)?;
    match &args.path {
        None => {
            let overview = dump.overview()?;
            show(args.json, &overview, print_overview)
        }
        Some(path) => show(args.json, &dump.inode(path)?, print_inode),
    }
}

fn show<T: serde::Serialize>(json: bool, value: &T, print: fn(&T)) -> anyhow::Result<()> {
    if json {
        println!("{}", serde_json::to_string_pretty(value)?);
    } else {
        print(value);
    }
    Ok(())
}

fn print_overview(o: &Overview) {
    let sb = &o.superblock;
    let made = Time { secs: sb.created_secs, nanos: 0 };
    let state = if sb.state & STATE_MOUNTED != 0 { "not cleanly unmounted" } else { "clean" };
    println!("uuid       {}", uuid::Uuid::from_bytes(sb.uuid));
    println!("label      {}", if sb.label.is_empty() { "-" } else { &sb.label });
    println!("format     version {}, made {}", sb.version, utc(made));
    let features = (sb.compat, sb.ro_compat, sb.incompat);
    println!(
        "features   compat {:#x}, ro_compat {:#x}, incompat {:#x}",
        features.0, features.1, features.2
    );
    println!("state      {state}, superblock {} times written", sb.sequence);
    println!("size       {} blocks of {BLOCK} bytes", sb.total_blocks);
    println!("free       {} blocks, {} of them for data", o.usage.free, o.usage.available);
    println!("inodes     {}", o.inodes);
    println!("metadata   {} bytes, {} backed by:", sb.metadata_bytes, o.metadata_backed);
    for chunk in &sb.chunks {
        let crate::image::superblock::Chunk { logical, start, blocks } = chunk;
        println!("           {logical} +{blocks} at {start}");
    }
}

fn print_inode(d: &InodeDump) {
    let a = &d.attr;
    println!("inode      {}, generation {:#x}", d.ino, a.generation);
    println!("mode       {:#o} ({})", a.mode, kind((a.mode >> 12) as u8));
    println!("owner      {}:{}, project {}", a.uid, a.gid, a.project);
    println!("links      {}", a.nlink);
    if a.is_dir() {
        println!("entries    {}", a.size);
        println!("parent     {}", a.parent);
    } else {
        println!("size       {}", a.size);
        println!("blocks     {}", a.blocks);
    }
    if matches!(a.kind(), libc::S_IFCHR | libc::S_IFBLK) {
        println!("device     {:#x}", a.rdev);
    }
    println!("flags      {:#x}, xflags {:#x}", a.flags, a.xflags);
    for (name, time) in
        [("access", a.atime), ("modify", a.mtime), ("change", a.ctime), ("birth", a.btime)]
    {
        println!("{name:<10} {}", utc(time));
    }
    if let Some(target) = &d.target {
        println!("target     {target}");
    }
    for (name, len) in &d.xattrs {
        println!("attribute  {name}, {len} bytes");
    }
    if !d.extents.is_empty() {
        println!("extents    {:>12} {:>12} {:>8}", "file block", "image block", "blocks");
    }
    for ExtentDump { logical, block, blocks, unwritten } in &d.extents {
        let mark = if *unwritten { "  unwritten" } else { "" };
        println!("           {logical:>12} {block:>12} {blocks:>8}{mark}");
    }
    for entry in &d.entries {
        println!("entry      {:>12} {:<8} {}", entry.ino, kind(entry.kind), entry.name);
    }
}

/// The type that a DT_* number stands for.
fn kind(number: u8) -> &'static str {
    match number {
        libc::DT_FIFO => "fifo",
        libc::DT_CHR => "chardev",
        libc::DT_DIR => "dir",
        libc::DT_BLK => "blockdev",
        libc::DT_REG => "file",
        libc::DT_LNK => "symlink",
        libc::DT_SOCK => "socket",
        _ => "unknown",
    }
}

/// A time in the manner of RFC 3339; years may have more than four digits.
fn utc(time: Time) -> String {
    let (days, second) = (time.secs.div_euclid(86_400), time.secs.rem_euclid(86_400));
    let (year, month, day) = civil(days);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{:09}Z", time.nanos)
}

/// Year, month and day of a day since 1970-01-01 in the Gregorian calendar. Years begin in March
/// here, so that the leap day is the last one; 719468 days lie between 0000-03-01 and 1970-01-01.
fn civil(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let (era, day) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let (month, carry) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    (year + era * 400 + carry, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_readable_before_1970_and_past_2038() {
        let at = |secs| utc(Time { secs, nanos: 5 });
        assert_eq!(at(0), "1970-01-01T00:00:00.000000005Z");
        assert_eq!(at(-1), "1969-12-31T23:59:59.000000005Z");
        assert_eq!(at(951_782_400), "2000-02-29T00:00:00.000000005Z");
        assert_eq!(at(1 << 31), "2038-01-19T03:14:08.000000005Z");
        assert_eq!(at(13_000_000_000), "2381-12-14T23:06:40.000000005Z");
    }
}

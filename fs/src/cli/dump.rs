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
    /// File or block device; it is not written. Of one that is mounted, the last commit is shown.
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
    let state = match &o.mounted_on {
        Some(dir) => &format!("mounted on {dir}; this is its last commit"),
        None if sb.state & STATE_MOUNTED != 0 => "not cleanly unmounted",
        None => "clean",
    };
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
    if let Some(dir) = &d.mounted_on {
        println!(
            "mounted    on {dir}; this is its last commit, and blocks freed since may be others'"
        );
    }
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

fn utc(time: Time) -> String {
    inflight_gate::utc::utc(time.secs, time.nanos)
}

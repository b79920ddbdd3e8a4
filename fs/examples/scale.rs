//! What a size and a number of files cost: the table of `fs/FORMAT.md`.
//!
//! `cargo run --release -p inflight --example scale -- DIRECTORY SIZE:FILES...`, as in
//! `-- /var/tmp 1G:10000 64G:1000000`. Every step runs in a process of its own, so that its memory
//! is that of the step. Files are 4 KiB each, reserved and not written: rows as of any other
//! file, and no room in the file that holds the image. Images are removed afterwards.

use anyhow::{Context as _, bail, ensure};
use inflight::fsck::{self, Outcome};
use inflight::image::dump::Dump;
use inflight::image::mkfs::{MkfsOptions, ROOT, mkfs};
use inflight::image::store::Recovery;
use inflight::mounted;
use inflight::ops::{Caller, Fs, Make};
use inflight::options::Options;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

/// Files of one directory.
const IN_DIRECTORY: u64 = 1000;
/// Files between two commits.
const IN_COMMIT: u64 = 20_000;
/// Files that a mounted filesystem is asked about before its memory is looked at.
const ASKED: u64 = 20_000;

fn main() -> anyhow::Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match &args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["step", step, image, number] => run_step(step, Path::new(image), number.parse()?),
        [directory, rows @ ..] if !rows.is_empty() => {
            println!("| size | files | mkfs | fill | mount | fsck | metadata a file | pieces |");
            println!("|---:|---:|---:|---:|---:|---:|---:|---:|");
            rows.iter().try_for_each(|row| measure(Path::new(directory), row))
        }
        _ => bail!("usage: scale DIRECTORY SIZE:FILES..., as in scale /var/tmp 64G:1000000"),
    }
}

/// Seconds and peak memory of one step, and what else it had to say.
struct Step {
    seconds: f64,
    memory_kib: u64,
    rest: Vec<u64>,
}

impl std::fmt::Display for Step {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:.2} s, {} MiB", self.seconds, self.memory_kib.div_ceil(1024))
    }
}

/// Measures one row of the table and prints it.
fn measure(directory: &Path, row: &str) -> anyhow::Result<()> {
    let (size, files) = row.split_once(':').context("SIZE:FILES")?;
    let image = Removed(directory.join(format!("scale-{}.img", std::process::id())));
    let bytes = parse_size(size)?;
    let files: u64 = files.parse().context("a number of files")?;
    let step = |name: &str, number: u64| spawn(name, &image.0, number);
    let made = step("mkfs", bytes)?;
    let filled = step("fill", files)?;
    let mounted = step("mount", files)?;
    let checked = step("fsck", files)?;
    let [backed, pieces] = step("dump", 0)?.rest[..] else { bail!("dump said too little") };
    let each = backed.checked_div(files).map_or("-".to_owned(), |bytes| format!("{bytes} B"));
    println!(
        "| {size} | {files} | {made} | {filled} | {mounted} | {checked} | {each} | {pieces} |"
    );
    Ok(())
}

/// The image goes, whatever happens.
struct Removed(PathBuf);

impl Drop for Removed {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

fn spawn(step: &str, image: &Path, number: u64) -> anyhow::Result<Step> {
    let out = Command::new(std::env::current_exe()?)
        .args(["step", step])
        .arg(image)
        .arg(number.to_string())
        .output()?;
    let text = String::from_utf8_lossy(&out.stdout);
    ensure!(out.status.success(), "{step}: {text}{}", String::from_utf8_lossy(&out.stderr));
    let mut words = text.split_whitespace();
    let mut next = || words.next().context("a step said too little");
    let seconds = next()?.parse()?;
    let memory_kib = next()?.parse()?;
    Ok(Step { seconds, memory_kib, rest: words.map(str::parse).collect::<Result<_, _>>()? })
}

fn run_step(step: &str, image: &Path, number: u64) -> anyhow::Result<()> {
    let begun = Instant::now();
    let mut rest = String::new();
    let mut took = None;
    match step {
        "mkfs" => {
            let options = MkfsOptions { size: Some(number), ..MkfsOptions::default() };
            mkfs(image, &options)?;
        }
        "fill" => fill(image, number)?,
        "mount" => {
            let fs = mounted::open(image, &Options::default())?;
            took = Some(begun.elapsed());
            ask(&fs, number)?;
            mounted::close(&fs)?;
        }
        "fsck" => {
            let report = fsck::check(image, &fsck::Options { repair: false, progress: &|_| () })?;
            ensure!(report.outcome == Outcome::Clean, "{:#?}", report.found.list);
            ensure!(report.inodes == 1 + number + number.div_ceil(IN_DIRECTORY), "{report:?}");
        }
        "dump" => {
            let seen = Dump::open(image)?.overview()?;
            rest = format!("{} {}", seen.metadata_backed, seen.superblock.chunks.len());
        }
        _ => bail!("no such step: {step}"),
    }
    let took = took.unwrap_or_else(|| begun.elapsed());
    println!("{} {} {rest}", took.as_secs_f64(), peak_kib()?);
    Ok(())
}

fn fill(image: &Path, files: u64) -> anyhow::Result<()> {
    let fs = mounted::open(image, &Options::default())?;
    let mut directory = ROOT;
    for i in 0..files {
        if i % IN_DIRECTORY == 0 {
            directory =
                make(&fs, ROOT, &format!("dir{}", i / IN_DIRECTORY), libc::S_IFDIR | 0o755)?;
        }
        let ino = make(&fs, directory, &format!("file{i:08}.data"), libc::S_IFREG | 0o644)?;
        fs.fallocate(Caller::default(), ino, 0, 0, 4096)?;
        if i % IN_COMMIT == IN_COMMIT - 1 {
            fs.volume().commit(Recovery::Walk)?;
        }
    }
    mounted::close(&fs)?;
    Ok(())
}

fn make(fs: &Fs, parent: u64, name: &str, mode: u32) -> anyhow::Result<u64> {
    let caller = Caller::default();
    let name = name.as_bytes();
    let ino = fs
        .make(&Make { caller, parent, name, mode, umask: 0, rdev: 0, target: None, security: &[] })?
        .ino;
    fs.forget(ino, 1);
    Ok(ino)
}

/// Looks at files all over the filesystem, as somebody would who works with it.
fn ask(fs: &Fs, files: u64) -> anyhow::Result<()> {
    let asked = files.min(ASKED);
    for n in 0..asked {
        let i = n * (files / asked);
        let directory = fs.lookup(ROOT, format!("dir{}", i / IN_DIRECTORY).as_bytes())?.ino;
        let found = fs.lookup(directory, format!("file{i:08}.data").as_bytes())?;
        ensure!(found.attr.size == 4096, "file {i} has {} bytes", found.attr.size);
        fs.forget(found.ino, 1);
        fs.forget(directory, 1);
    }
    Ok(())
}

/// Peak resident memory of this process, in KiB: VmHWM of proc_pid_status(5).
fn peak_kib() -> anyhow::Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:")).context("no VmHWM")?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}

fn parse_size(text: &str) -> anyhow::Result<u64> {
    let (number, unit) = text.split_at(text.len().saturating_sub(1));
    let shift = match unit {
        "M" => 20,
        "G" => 30,
        "T" => 40,
        _ => bail!("a size in M, G or T, not {text}"),
    };
    Ok(number.parse::<u64>()? << shift)
}

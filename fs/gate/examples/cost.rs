//! What the proxy costs: `cost ALONE GATED FILE` compares one server mounted on two directories, by itself on
//! ALONE and behind `inflight-gate` on GATED, each of which has FILE. Rounds alternate; medians are printed.
#![allow(unsafe_code)]

use std::fs::File;
use std::io::Read as _;
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::Context as _;
use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};

const ROUNDS: usize = 9;
const STATS: u32 = 2000;

fn force_stat(file: &File) -> nix::Result<()> {
    // SAFETY: a structure of integers, which the call fills in.
    let mut stat: libc::statx = unsafe { std::mem::zeroed() };
    let (flags, mask) = (libc::AT_EMPTY_PATH | libc::AT_STATX_FORCE_SYNC, libc::STATX_BASIC_STATS);
    // SAFETY: an open descriptor, an empty C string, and a structure that lives through the call.
    let result = unsafe { libc::statx(file.as_raw_fd(), c"".as_ptr(), flags, mask, &raw mut stat) };
    nix::errno::Errno::result(result).map(drop)
}

/// Microseconds of one GETATTR, which the kernel is made to send.
fn getattr(file: &Path) -> anyhow::Result<f64> {
    let handle = File::open(file)?;
    let begun = Instant::now();
    for _ in 0..STATS {
        force_stat(&handle)?;
    }
    Ok(begun.elapsed().as_secs_f64() * 1e6 / f64::from(STATS))
}

/// MiB a second of a sequential read whose pages the mount does not have.
fn sequential(file: &Path) -> anyhow::Result<f64> {
    let mut handle = File::open(file)?;
    posix_fadvise(&handle, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED)?;
    let mut buffer = vec![0; 1 << 20];
    let (begun, mut bytes) = (Instant::now(), 0);
    loop {
        match handle.read(&mut buffer)? {
            0 => break,
            count => bytes += count,
        }
    }
    Ok(bytes as f64 / f64::from(1 << 20) / begun.elapsed().as_secs_f64())
}

/// Medians of rounds that take turns.
fn compare(
    files: &[PathBuf; 2],
    measure: fn(&Path) -> anyhow::Result<f64>,
) -> anyhow::Result<[f64; 2]> {
    let mut results = [Vec::new(), Vec::new()];
    for _ in 0..ROUNDS {
        for (file, list) in files.iter().zip(&mut results) {
            list.push(measure(file).with_context(|| file.display().to_string())?);
        }
    }
    Ok(results.map(|mut list| {
        list.sort_by(f64::total_cmp);
        list[ROUNDS / 2]
    }))
}

fn main() -> anyhow::Result<()> {
    let arguments: Vec<PathBuf> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    let [alone, gated, file] = &arguments[..] else {
        anyhow::bail!("usage: cost ALONE GATED FILE")
    };
    let files = [alone.join(file), gated.join(file)];
    let [alone, gated] = compare(&files, getattr)?;
    println!(
        "round trip    {alone:8.1} us alone {gated:8.1} us gated  {:5.2} of it",
        gated / alone
    );
    let [alone, gated] = compare(&files, sequential)?;
    println!(
        "read          {alone:8.0} MiB/s    {gated:8.0} MiB/s     {:5.2} of it",
        gated / alone
    );
    Ok(())
}

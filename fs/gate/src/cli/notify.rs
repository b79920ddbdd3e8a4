//! `inflight gate SOCKET notify`: the kernel is told something that it did not ask for.

use std::io::{Read as _, Write};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use clap::{Args, Subcommand};

use super::duration;
use crate::{Client, Notice, Notified, errno};

/// Bytes that one STORE carries: a line of the protocol has numbers of up to three digits and a comma for each.
const PART: usize = 12 << 10;

/// What the kernel is told.
#[derive(Debug, Args)]
pub struct NotifyArgs {
    /// Notification.
    #[command(subcommand)]
    what: What,
    /// How long the kernel may take: it may wait for a request in flight.
    #[arg(long, global = true, default_value = "10s", value_parser = duration)]
    timeout: Duration,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Cached pages and attributes of a file are stale (FUSE_NOTIFY_INVAL_INODE).
    Inval {
        #[command(flatten)]
        file: File,
        /// First byte that is stale; -1 for the attributes only.
        #[arg(long, default_value_t = 0, allow_negative_numbers = true)]
        offset: i64,
        /// Bytes; 0 for all behind the first.
        #[arg(long, default_value_t = 0)]
        len: i64,
    },
    /// A name is stale, and is looked up again (FUSE_NOTIFY_INVAL_ENTRY).
    InvalEntry {
        /// The name, as a path below the mount's root.
        #[arg(long)]
        path: String,
        /// Only let it time out: who has it open keeps it (Linux 6.2).
        #[arg(long)]
        expire: bool,
    },
    /// Put standard input into the page cache of a file (FUSE_NOTIFY_STORE).
    Store {
        #[command(flatten)]
        file: File,
        /// First byte.
        #[arg(long, default_value_t = 0)]
        offset: u64,
    },
    /// Print what the page cache has of a file, up to its first gap (FUSE_NOTIFY_RETRIEVE).
    Retrieve {
        #[command(flatten)]
        file: File,
        /// First byte.
        #[arg(long, default_value_t = 0)]
        offset: u64,
        /// Bytes; the kernel sends no more than one write of this mount may have.
        #[arg(long, default_value_t = 131_072)]
        len: u32,
    },
    /// Have everything that was read and not answered sent again (FUSE_NOTIFY_RESEND, Linux 6.9).
    Resend,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct File {
    /// File, as a path below the mount's root.
    #[arg(long)]
    path: Option<String>,
    /// File, by node id.
    #[arg(long)]
    ino: Option<u64>,
}

impl File {
    fn node(&self, client: &mut Client) -> anyhow::Result<u64> {
        match (&self.path, self.ino) {
            (Some(path), _) => Ok(client.node(path)?),
            (None, ino) => ino.context("--path or --ino"),
        }
    }
}

/// Tells it, and says what came of it.
///
/// # Errors
/// The kernel refused it, or did not take it within the time; the gate is gone.
pub(super) fn run(
    out: &mut impl Write,
    client: &mut Client,
    args: &NotifyArgs,
) -> anyhow::Result<()> {
    let bound = args.timeout;
    let notice = match &args.what {
        What::Retrieve { file, offset, len } => {
            let place = (file.node(client)?, *offset, *len);
            return retrieve(out, client, place, bound);
        }
        What::Store { file, offset } => {
            let ino = file.node(client)?;
            return store(out, client, (ino, *offset), bound);
        }
        What::Inval { file, offset, len } => {
            Notice::Inval { ino: file.node(client)?, offset: *offset, len: *len }
        }
        What::InvalEntry { path, expire } => {
            let (folder, name) = path.trim_end_matches('/').rsplit_once('/').unwrap_or(("", path));
            ensure!(!name.is_empty(), "the root has no name: --path is to name a file below it");
            let parent = client.node(if folder.is_empty() { "/" } else { folder })?;
            Notice::InvalEntry { parent, name: name.to_owned(), expire: *expire }
        }
        What::Resend => Notice::Resend,
    };
    taken(client.notify(notice, bound)?, bound)?;
    writeln!(out, "taken")?;
    Ok(())
}

fn store(
    out: &mut impl Write,
    client: &mut Client,
    (ino, offset): (u64, u64),
    bound: Duration,
) -> anyhow::Result<()> {
    let mut bytes = Vec::new();
    std::io::stdin().lock().read_to_end(&mut bytes).context("read standard input")?;
    ensure!(!bytes.is_empty(), "nothing to store: standard input is empty");
    for (at, part) in (offset..).step_by(PART).zip(bytes.chunks(PART)) {
        let notice = Notice::Store { ino, offset: at, data: part.to_vec() };
        taken(client.notify(notice, bound)?, bound)?;
    }
    writeln!(out, "taken: {} bytes", bytes.len())?;
    Ok(())
}

/// The bytes alone go to the standard output.
fn retrieve(
    out: &mut impl Write,
    client: &mut Client,
    place: (u64, u64, u32),
    bound: Duration,
) -> anyhow::Result<()> {
    let end = Instant::now() + bound;
    let (notified, number) = client.retrieve(place, bound)?;
    taken(notified, bound)?;
    let left = end.saturating_duration_since(Instant::now());
    let Some(bytes) = client.retrieved(number, left)? else {
        bail!("the kernel took it, and nothing came in {bound:?}");
    };
    out.write_all(&bytes)?;
    Ok(())
}

fn taken(notified: Notified, bound: Duration) -> anyhow::Result<()> {
    match notified {
        Notified { is_over: true, errno: None } => Ok(()),
        Notified { is_over: true, errno: Some(libc::ENOENT) } => {
            bail!("the kernel refused it: ENOENT, it does not have this file or name")
        }
        Notified { is_over: true, errno: Some(libc::EINVAL) } => {
            bail!("the kernel refused it: EINVAL, it does not know this notification or its range")
        }
        Notified { is_over: true, errno: Some(number) } => {
            bail!("the kernel refused it: {}", errno::name(number))
        }
        Notified { is_over: false, .. } => bail!(
            "the kernel has not taken it in {bound:?}: it waits for a request in flight, and goes on by itself"
        ),
    }
}

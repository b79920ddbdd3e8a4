//! IT2: a network filesystem that is cached on the target: cachefiles reads and writes there with the kernel's own
//! iterators.
//!
//! | kernel | kind |
//! |---|---|
//! | before 5.17 | none for reads, which take pages of the cached file's page cache; KVEC for writes |
//! | NFS before 6.4 | BVEC: one page at a time |
//! | up to 6.11, netfslib (9p; NFS since 6.4) | XARRAY: the pages of the cached file |
//! | since 6.12 | FOLIOQ: a queue of folios |
//!
//! No system call makes the last two for a local filesystem. The file is read from the server, which fills the cache,
//! the client forgets it, and it is read again until an answer comes that the server was not asked for: that is the
//! cache's. The control has no cache.

use std::fs::{File, Permissions};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::time::Instant;

use anyhow::Context;
use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};

use crate::cases::case::{Case, Reach};
use crate::cases::variant::Variant;
use crate::fixture::{Fixture, Stamped};
use crate::kit::bounds::rendezvous;
use crate::kit::event::Actor;
use crate::kit::mapping::Mapping;
use crate::kit::pause::Pause;
use crate::kit::verdict::no_proof;
use crate::target::network::cache::Cache;
use crate::target::network::{Caching, Kind, Share};

pub const CASE: Case = Case {
    id: "IT2",
    name: "cached-share",
    claim: "what a network filesystem keeps in a cache on the target comes back as it was",
    groups: &["network", "iterator"],
    reach: Reach::Any,
    variants: || [Kind::Nfs, Kind::NineP].map(of).into(),
    run: |fixture, _| run(fixture, Kind::Nfs),
    expected: &[],
};

/// Bytes of the file: many folios, and a last one that is not full.
const LEN: usize = 64 * 4096 + 512;

fn of(kind: Kind) -> Variant {
    Variant::new(kind.name()).plays(move |fixture, _| run(fixture, kind))
}

fn run(fixture: &mut Fixture<'_>, kind: Kind) -> anyhow::Result<()> {
    kind.check()?;
    let name = fixture.name();
    let cache = fixture.folder().join("cache");
    std::fs::create_dir(&cache)?;
    // Taken down before the cache is.
    let cache = if fixture.race() { Some(Cache::bind(&cache)?) } else { None };
    let caching = if cache.is_some() { Caching::On } else { Caching::Off };
    let folder = fixture.mounted().folder_beside(&format!("{}-{}", kind.name(), name.id));
    let share = Share::new(kind, &folder, caching)?;
    let (below, above) = share.paths("f");
    std::fs::write(&below, name.content(1, 0, LEN))?;
    std::fs::set_permissions(&below, Permissions::from_mode(0o644))?;
    let file = Stamped { path: above, len: LEN as u64, ..name };

    let end = Instant::now() + rendezvous();
    for round in 1.. {
        let handle = File::open(&file.path)?;
        let before = share.proxy()?.passed();
        let mut bytes = vec![0; LEN];
        handle.read_exact_at(&mut bytes, 0).context("read from the share")?;
        let brought = share.proxy()?.passed() - before;
        fixture.judge("the file", &bytes, 0, &[file.generation(1)]);
        if cache.is_none() {
            break;
        }
        if brought < LEN as u64 / 2 {
            let text = format!(
                "read {round}: {brought} bytes came from the server, the file from the cache"
            );
            fixture.event(Actor::Test, text);
            break;
        }
        forget(&handle, end)?;
        if Instant::now() >= end {
            let text = format!(
                "the server was asked again each of {round} times: nothing came from the cache"
            );
            return Err(no_proof(text));
        }
    }
    drop(share);
    drop(cache);
    Ok(())
}

/// Has the client forget the file. It keeps a page until that is in the cache.
fn forget(handle: &File, end: Instant) -> anyhow::Result<()> {
    let mapping = Mapping::private(handle, LEN)?;
    let mut pause = Pause::default();
    loop {
        posix_fadvise(handle, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED).context("fadvise")?;
        let left = mapping.resident()?;
        if left == 0 {
            return Ok(());
        }
        if Instant::now() >= end {
            return Err(no_proof(format!("the client does not let go of {left} pages")));
        }
        pause.rest();
    }
}

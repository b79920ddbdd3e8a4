//! FK5: FK1 on network filesystems: fork, and a store to the same page, while the answer of a direct read is held back.
//!
//! Server, client and a proxy between them run on this machine ([`crate::target::network`]). The client holds the memory from
//! the call until the answer is there: NFS by references only, on every kernel; cifs by pins since 6.3. 9p over TCP
//! reads into memory of its own and copies, so there is nothing to lose, until netfslib pins for it (6.8).

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;

use nix::sys::mman::MmapAdvise;

use crate::cases::case::{Case, Reach};
use crate::cases::expect::{COPIED_AT_FORK, Expected};
use crate::cases::variant::Variant;
use crate::fixture::touch::{HALF, Touch, prove};
use crate::fixture::{Fixture, Open, Stamped};
use crate::kit::bounds::rendezvous;
use crate::kit::engine::{Engine, Io};
use crate::kit::event::Actor;
use crate::kit::kernel::Version;
use crate::kit::memory::{Buffer, Memory};
use crate::kit::verdict::Stop;
use crate::target::network::Kind;

pub const CASE: Case = Case {
    id: "FK5",
    name: "fork-network",
    claim: "data of a direct read from a network filesystem reaches the parent across fork and store",
    groups: &["fork", "network"],
    reach: Reach::Any,
    variants,
    run: |fixture, variant| run(fixture, variant, Kind::Nfs),
    expected: &[
        Expected {
            on: "*",
            variant: "nfs-store/*|nfs-no-store/*|nfs-child-exited/*",
            seen: COPIED_AT_FORK,
            reference: "nfs_direct_read_schedule_iovec takes references (iov_iter_get_pages_alloc2)",
            ..Expected::ALWAYS
        },
        Expected {
            on: "*",
            variant: "cifs-store/*|cifs-no-store/*|cifs-child-exited/*",
            seen: COPIED_AT_FORK,
            until: Some(Version(6, 3, 0)),
            reference: "cifs: Change the I/O paths to use an iterator rather than a page list, d08089f649a0",
            ..Expected::ALWAYS
        },
    ],
};

/// What is mounted, and what is done to the memory.
fn of(kind: Kind, act: &'static str) -> Variant {
    Variant::new(kind.name()).how(act).plays(move |fixture, variant| run(fixture, variant, kind))
}

fn variants() -> Vec<Variant> {
    let mut all = Vec::new();
    for kind in [Kind::Nfs, Kind::Cifs, Kind::NineP] {
        for engine in [Engine::Pread, Engine::Preadv, Engine::Aio, Engine::Uring] {
            all.push(of(kind, "store").engine(engine));
        }
    }
    for kind in [Kind::Nfs, Kind::Cifs] {
        for act in ["no-store", "child-exited", "child-store", "spawn", "dontfork"] {
            all.push(of(kind, act).engine(Engine::Pread));
        }
    }
    all
}

/// An answer of this length, in bytes, carries data: cifs before 6.3 asks for each of two ranges by itself.
const DATA: usize = HALF / 2;

fn run(fixture: &mut Fixture<'_>, variant: &Variant, kind: Kind) -> anyhow::Result<()> {
    let act = variant.how;
    let name = fixture.name();
    let share = fixture.mounted().share(kind)?;
    // Made where the server sees it, so that the client has nothing of it in its cache.
    let (below, above) = share.paths(&format!("f{}", name.id));
    std::fs::write(&below, name.content(1, 0, 4096))?;
    // Whoever the server takes the client for.
    std::fs::set_permissions(&below, Permissions::from_mode(0o666))?;
    let file = Stamped { path: above, len: 4096, ..name };
    // Without a cache 9p reads directly whatever the flags are, and older kernels refuse O_DIRECT.
    let how = if kind == Kind::NineP { Open::Buffered } else { Open::Direct };
    let handle = fixture.open(&file, how)?;
    let buffer = Buffer::new(Memory::Anon, 4096)?;
    if act == "dontfork" {
        buffer.advise(MmapAdvise::MADV_DONTFORK)?;
    }
    share.proxy()?.hold(DATA);
    let flight =
        fixture.start(variant.engine_or_pread(), Io::read(&handle, &buffer, 0..HALF, 0))?;
    if !share.proxy()?.wait_held(HALF, rendezvous()) {
        let text =
            format!("the answer of the read did not come to the proxy in {:?}", rendezvous());
        return Err(Stop::Broken(text).into());
    }
    fixture.event(Actor::Gate, "the answer is held back");

    let touch = if fixture.race() { Touch::race(fixture, act, &buffer)? } else { Touch::default() };

    fixture.event(Actor::Gate, "release");
    share.proxy()?.release()?;
    let done = fixture.finish(flight)?;
    fixture.count("the read", done, HALF);
    let held = touch.judge(fixture, &buffer, &file, HALF, false)?;
    // What is read into other memory and copied needs no proof but the answer that was held back.
    if kind == Kind::NineP { Ok(()) } else { prove(fixture, held) }
}

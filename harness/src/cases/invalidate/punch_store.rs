//! IV4: stores through a mapping while their range is punched out, zeroed or copied over, with a write-back between them.
//!
//! The server has made the change, and its answer waits. The client stores, has that written back, and stores again: the
//! server has the first store, a dirty page the second one. The kernel may put the change before both or behind both. When
//! it drops the page after the answer, the second store is gone and the first one is back: no order of the three leaves that.
//! Where only a part of the page is changed, the stores beside it are nobody's to drop.

use std::fs::File;
use std::os::fd::AsFd;

use inflight_gate::Phase;
use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, copy_file_range, fallocate};

use crate::cases::case::{Case, Reach};
use crate::cases::expect::{Expected, Seen};
use crate::cases::variant::Variant;
use crate::fixture::{Fixture, Open};
use crate::kit::mapping::Mapping;
use crate::kit::memory::PAGE;
use crate::kit::sys;
use crate::kit::verdict::{Class, not_run};

pub const CASE: Case = Case {
    id: "IV4",
    name: "punch-store",
    claim: "a store through a mapping is not undone down to an older store by a punch, a zeroing or a copy that was under way",
    groups: &["quick", "invalidate"],
    reach: Reach::Fuse,
    variants,
    run,
    expected: &[
        Expected { variant: "*-page*", seen: &[OLDER], ..DROPPED },
        Expected { variant: "copy-part*", seen: &[OLDER, BESIDE], ..DROPPED },
    ],
};

/// The page is dropped when the answer has come, whatever was stored meanwhile: seen on 5.10.262, 6.1.192, 6.12.117, 6.18.15,
/// 6.18.44 and 7.3.4. Of a page that is changed in part a punch and a zeroing keep the rest, a copy does not.
const DROPPED: Expected = Expected {
    on: "inflight",
    variant: "",
    seen: &[],
    reference: "findings/punch-drops-store.md",
    ..Expected::ALWAYS
};
const OLDER: Seen = Seen::Words(Class::Stale, "mapping after: * generation 2; legal: *");
const BESIDE: Seen = Seen::Words(Class::Stale, "stores beside it: * generation 2; legal: *");

fn variants() -> Vec<Variant> {
    let changes = ["punch", "zero", "copy"].into_iter();
    let of = |act| {
        ["page", "part"].into_iter().flat_map(move |how| {
            let variant = || Variant::new(act).how(how);
            [variant(), variant().mount("nowriteback")]
        })
    };
    changes.flat_map(of).collect()
}

const LEN: usize = 4 * PAGE;
/// The page that is changed, or of which a part is.
const AT: usize = PAGE;

fn run(fixture: &mut Fixture<'_>, variant: &Variant) -> anyhow::Result<()> {
    let (file, source) = (fixture.file(LEN as u64)?, fixture.file(LEN as u64)?);
    let handle = fixture.open(&file, Open::Buffered)?;
    let other = fixture.open(&file, Open::Buffered)?;
    let from = fixture.open(&source, Open::Buffered)?;
    let mapping = Mapping::shared(&handle, LEN)?;
    let (act, len) = (variant.act, if variant.how == "part" { PAGE / 4 } else { PAGE });
    let trial = fixture.file(LEN as u64)?;
    // A kernel that refuses it by itself sends no request that could be waited for.
    if change(act, len, &fixture.open(&trial, Open::Buffered)?, &from) == Err(Errno::EOPNOTSUPP) {
        return Err(not_run(format!("no {act} here")));
    }
    let (op, named) =
        if act == "copy" { ("copy_file_range", &source) } else { ("fallocate", &file) };
    let parked = fixture.park_with(op, named, Phase::Applied, |rule| rule.count(1))?;
    let changing = fixture.aside(act, move || change(act, len, &other, &from))?;
    fixture.meet(parked, 1)?;
    let older = file.content(2, AT as u64, PAGE);
    let newer = file.content(3, AT as u64, PAGE);
    let mut stores = None;
    if fixture.race() {
        let mut racer = fixture.aside("store, write back, store", move || {
            mapping.store(AT, &older);
            sys::write_back(&handle)?;
            mapping.store(AT, &newer);
            // Both stay: close(2) writes back.
            Ok::<_, Errno>((mapping, handle))
        })?;
        if !racer.returns()? {
            fixture.serialised(&racer);
        }
        stores = Some(racer);
    }
    fixture.release(parked)?;
    changing.join()??;
    let mut legal = vec![if act == "copy" { source.generation(1) } else { file.hole() }];
    let (mut beside, mut kept) = (1, None);
    if let Some(stores) = stores {
        kept = Some(stores.join()??);
        legal.push(file.generation(3));
        beside = 3;
    }
    let reader = fixture.open(&file, Open::Buffered)?;
    let bytes = Mapping::shared(&reader, LEN)?.load(0, LEN);
    drop(kept);
    let (middle, end) = (AT + len, AT + PAGE);
    fixture.judge("mapping after", &bytes[AT..middle], AT as u64, &legal);
    let stored = file.generation(beside);
    fixture.judge("stores beside it", &bytes[middle..end], middle as u64, &[stored]);
    fixture.judge("before it", &bytes[..AT], 0, &[file.generation(1)]);
    fixture.judge("behind it", &bytes[end..], end as u64, &[file.generation(1)]);
    Ok(())
}

/// Changes the first bytes of the page to zeroes, or to the source's.
fn change(act: &str, len: usize, file: &File, source: &File) -> Result<(), Errno> {
    let flags = match act {
        "copy" => {
            let (mut from, mut to) = (AT as i64, AT as i64);
            return copy_file_range(source, Some(&mut from), file, Some(&mut to), len).map(drop);
        }
        "punch" => FallocateFlags::FALLOC_FL_PUNCH_HOLE,
        _ => FallocateFlags::FALLOC_FL_ZERO_RANGE,
    };
    let flags = flags | FallocateFlags::FALLOC_FL_KEEP_SIZE;
    fallocate(file.as_fd(), flags, AT as i64, len as i64)
}

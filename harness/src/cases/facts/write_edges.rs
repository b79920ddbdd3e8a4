//! FA4: direct writes that are no whole pages of memory that is there.
//!
//! Around 512 bytes that are written into a hole the block is zeroed from the kernel's zero page, without a reference on it
//! (iomap). A write whose memory ends half-way writes what it says, and nothing stale.

use std::fs::File;
use std::os::unix::fs::FileExt;

use nix::sys::mman::ProtFlags;

use super::{by_itself, fact};
use crate::cases::case::{Case, Reach};
use crate::cases::expect::EVER;
use crate::cases::variant::Variant;
use crate::fixture::{Fixture, Open, Stamped};
use crate::kit::engine::{Engine, Io};
use crate::kit::memory::{self, Buffer, Memory, PAGE};
use crate::kit::seen::Seen;
use crate::kit::verdict::{Class, not_run};

pub const CASE: Case = Case {
    id: "FA4",
    name: "write-edges",
    claim: "a direct write of part of a block, or from memory that ends half-way, stores what it says and leaves zeroes or the old beside it",
    groups: &["facts", "write"],
    reach: Reach::Any,
    variants,
    run: by_itself,
    expected: &[],
};

fn variants() -> Vec<Variant> {
    vec![
        fact("sub-block", sub_block, &[("*", EVER, "zeroes around it")]),
        fact("half-mapped", half_mapped, &[("*", EVER, "nothing stale")]),
    ]
}

/// Writes 512 bytes into a hole.
fn sub_block(fixture: &mut Fixture<'_>) -> anyhow::Result<Seen> {
    const AT: usize = 512;
    let file = Stamped { len: 4 * PAGE as u64, ..fixture.name() };
    File::create_new(&file.path)?.set_len(file.len)?;
    let handle = fixture.open(&file, Open::Direct)?;
    let buffer = Buffer::new(Memory::Anon, PAGE)?;
    buffer.write(0, &file.content(1, AT as u64, AT));
    let done = fixture.transfer(Engine::Pread, Io::write(&handle, &buffer, 0..AT, AT as u64))?;
    if done != Ok(AT) {
        return Err(not_run(format!("a direct write of {AT} bytes: {done:?}")));
    }
    let block = read(&file, PAGE)?;
    let before = fixture.faults.len();
    fixture.judge("before it", &block[..AT], 0, &[file.hole()]);
    fixture.judge("what was written", &block[AT..2 * AT], AT as u64, &[file.generation(1)]);
    fixture.judge("behind it", &block[2 * AT..], 2 * AT as u64, &[file.hole()]);
    let is_right = fixture.faults.len() == before;
    let word = if is_right { "zeroes around it" } else { "other bytes" };
    Ok(Seen::new(word, "512 bytes at 512 of a block that was a hole"))
}

/// Writes four pages, the third of which may not be read, over old ones.
fn half_mapped(fixture: &mut Fixture<'_>) -> anyhow::Result<Seen> {
    const LEN: usize = 4 * PAGE;
    let file = fixture.file(LEN as u64)?;
    let handle = fixture.open(&file, Open::Direct)?;
    let buffer = Buffer::new(Memory::Anon, LEN)?;
    buffer.write(0, &file.content(2, 0, LEN));
    let third = buffer.at(2 * PAGE) as usize;
    memory::protect(third, PAGE, ProtFlags::PROT_NONE)?;
    let done = fixture.transfer(Engine::Pread, Io::write(&handle, &buffer, 0..LEN, 0));
    memory::protect(third, PAGE, ProtFlags::PROT_READ | ProtFlags::PROT_WRITE)?;
    let done = done?;
    let (now, count) = (read(&file, LEN)?, done.unwrap_or(0).min(LEN));
    let before = fixture.faults.len();
    if count > 2 * PAGE {
        fixture.fault(Class::Short, format!("{count} bytes of {} were there", 2 * PAGE));
    }
    fixture.judge("what was written", &now[..count], 0, &[file.generation(2)]);
    // Beyond the count the old is right, and so is the new that was submitted before the fault.
    let either = [file.generation(1), file.generation(2)];
    fixture.judge("the rest", &now[count..], count as u64, &either);
    let is_right = fixture.faults.len() == before;
    let word = if is_right { "nothing stale" } else { "other bytes" };
    Ok(Seen::new(word, format!("the write returned {done:?} of {LEN}")))
}

/// The beginning of a file through the page cache.
fn read(file: &Stamped, len: usize) -> anyhow::Result<Vec<u8>> {
    let mut bytes = vec![0; len];
    File::open(&file.path)?.read_exact_at(&mut bytes, 0)?;
    Ok(bytes)
}

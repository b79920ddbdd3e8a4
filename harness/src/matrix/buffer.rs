//! Kinds of memory in the matrix.

use std::fs::File;
use std::os::unix::fs::FileExt;

use anyhow::Context;

use crate::fixture::{Fixture, Open, Stamped};
use crate::kit::memory::{Buffer, Memory};

/// Bytes of memory, and of the part of the file, that an I/O may use.
pub const SPACE: usize = 65536;

/// A kind of memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// No user memory: the data goes to a pipe, a file, or a mapping of the file itself.
    Nothing,
    /// Private anonymous base pages.
    Anon,
    /// A private transparent huge page.
    Thp,
    /// A private page of hugetlbfs.
    Hugetlb,
    /// Shared anonymous base pages.
    Shared,
    /// A shared mapping of a memfd.
    Memfd,
    /// A shared mapping of the same file, behind the part that is transferred.
    SelfMap,
    /// A shared mapping of another file of the target.
    OtherMap,
    /// A read-only mapping of another file of the target.
    ReadOnly,
    /// Private pages that nobody ever touched.
    Zero,
    /// Pages of a thread's stack.
    Stack,
}

impl Kind {
    /// All of them.
    pub const ALL: [Kind; 11] = [
        Kind::Nothing,
        Kind::Anon,
        Kind::Thp,
        Kind::Hugetlb,
        Kind::Shared,
        Kind::Memfd,
        Kind::SelfMap,
        Kind::OtherMap,
        Kind::ReadOnly,
        Kind::Zero,
        Kind::Stack,
    ];

    /// The name in variants.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Nothing => "nothing",
            Kind::SelfMap => "self-map",
            Kind::OtherMap => "other-map",
            Kind::ReadOnly => "read-only",
            _ => self.memory().map_or("", Memory::name),
        }
    }

    fn memory(self) -> Option<Memory> {
        Some(match self {
            Kind::Anon => Memory::Anon,
            Kind::Thp => Memory::Thp,
            Kind::Hugetlb => Memory::Hugetlb,
            Kind::Shared => Memory::Shared,
            Kind::Memfd => Memory::Memfd,
            Kind::Zero => Memory::Zero,
            Kind::Stack => Memory::Stack,
            _ => return None,
        })
    }

    /// Whether it is a mapping of a file of the target.
    pub fn is_mapped_file(self) -> bool {
        matches!(self, Kind::SelfMap | Kind::OtherMap | Kind::ReadOnly)
    }

    /// Whether a child gets a copy, and advice may empty it.
    pub fn is_private(self) -> bool {
        matches!(self, Kind::Anon | Kind::Thp | Kind::Hugetlb | Kind::Zero | Kind::Stack)
    }
}

/// Memory of a kind, ready for an I/O.
#[derive(Debug)]
pub struct Held {
    /// The memory.
    pub buffer: Buffer,
    /// The file that it maps and where, if it maps one.
    pub mapped: Option<(Stamped, File, u64)>,
}

impl Held {
    /// Makes memory of a kind. `source` is what it has to hold for a write; for a read it is poison.
    ///
    /// # Errors
    /// NOTRUN when the kind cannot be had here.
    pub fn new(
        fixture: &mut Fixture<'_>,
        kind: Kind,
        file: &Stamped,
        source: Option<&[u8]>,
    ) -> anyhow::Result<Option<Held>> {
        if kind == Kind::Nothing {
            return Ok(None);
        }
        if let Some(memory) = kind.memory() {
            let buffer = Buffer::new(memory, SPACE)?;
            if let Some(source) = source.filter(|_| kind != Kind::Zero) {
                buffer.write(0, source);
            }
            return Ok(Some(Held { buffer, mapped: None }));
        }
        let (mapped, offset) = match kind {
            Kind::SelfMap => (file.clone(), SPACE as u64),
            _ => (fixture.quick_file(SPACE as u64)?, 0),
        };
        let handle = fixture.open(&mapped, Open::Buffered)?;
        let is_writable = kind != Kind::ReadOnly;
        if let Some(source) = source.filter(|_| !is_writable) {
            handle.write_all_at(source, 0).context("fill the mapped file")?;
        }
        let buffer = Buffer::of_file(&handle, offset, SPACE, is_writable)?;
        if let Some(source) = source.filter(|_| is_writable) {
            buffer.write(0, source);
        }
        Ok(Some(Held { buffer, mapped: Some((mapped, handle, offset)) }))
    }
}

//! User memory of a kind of page.

use anyhow::{Context, Result, ensure};
use memmap2::{Advice, MmapMut, MmapOptions};

const HUGE: usize = 2 << 20;

/// Kinds of pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// 4 KiB.
    Base,
    /// Transparent huge pages.
    Thp,
    /// Huge pages of hugetlbfs.
    Hugetlb,
}

impl Kind {
    pub fn name(self) -> &'static str {
        match self {
            Kind::Base => "base",
            Kind::Thp => "THP",
            Kind::Hugetlb => "hugetlb",
        }
    }
}

/// A mapping, all of it touched.
pub struct Memory {
    kind: Kind,
    map: MmapMut,
    from: usize,
    len: usize,
}

impl Memory {
    pub fn new(kind: Kind, len: usize) -> Result<Memory> {
        let mut options = MmapOptions::new();
        let mut map = match kind {
            Kind::Hugetlb => options.len(len).huge(Some(21)).map_anon(),
            _ => options.len(len + HUGE).map_anon(),
        }
        .context("mmap (see /proc/sys/vm/nr_hugepages)")?;
        match kind {
            Kind::Base => map.advise(Advice::NoHugePage)?,
            Kind::Thp => map.advise(Advice::HugePage)?,
            Kind::Hugetlb => {}
        }
        let start = map.as_ptr() as usize;
        let from = start.next_multiple_of(HUGE) - start;
        map[from..from + len].fill(1);
        if kind == Kind::Thp {
            ensure!(huge_kib(start)? * 1024 >= len, "the kernel gave no transparent huge pages");
        }
        Ok(Memory { kind, map, from, len })
    }

    pub fn kind(&self) -> Kind {
        self.kind
    }

    pub fn bytes(&mut self) -> &mut [u8] {
        &mut self.map[self.from..self.from + self.len]
    }
}

/// KiB of transparent huge pages in the mapping at an address (proc_pid_smaps(5)).
fn huge_kib(start: usize) -> Result<usize> {
    let smaps = std::fs::read_to_string("/proc/self/smaps")?;
    let head = smaps.find(&format!("{start:x}-")).context("the mapping is not in smaps")?;
    let line = smaps[head..].lines().find_map(|line| line.strip_prefix("AnonHugePages:"));
    let number = line.and_then(|line| line.split_whitespace().next());
    Ok(number.context("smaps has no AnonHugePages")?.parse()?)
}

//! The pool of pinned, huge, page-aligned memory.

mod report;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use crate::sync::Mutex;

pub use report::{Backing, PinKind, PoolReport};

use crate::buddy::{Buddy, Piece};
use crate::buffer::Buffer;
use crate::mapping::{Mapping, SLAB, align_up, page_size};
use crate::ring::Ring;

/// Fixed buffers that one ring takes at most (`IORING_MAX_REG_BUFFERS`, io_uring/rsrc.c).
const SLABS_MAX: usize = 1 << 14;

/// How the slabs of a pool are pinned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Registration {
    /// io_uring fixed buffers; mlock where io_uring is refused; plain pages where that is too.
    #[default]
    Auto,
    /// mlock only, or plain pages where it is refused.
    Mlock,
    /// Plain pages. They can be swapped and migrated between two I/Os; during an I/O the kernel
    /// pins them itself.
    Off,
}

/// What a [`Pool`] is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PoolConfig {
    /// Slabs of 2 MiB, 0 to 16384. With 0 every buffer is a private mapping.
    pub slabs: usize,
    /// How they are pinned.
    pub registration: Registration,
    /// Whether to ask for transparent huge pages (`MADV_HUGEPAGE`). Default true.
    pub huge: bool,
}

impl Default for PoolConfig {
    /// 16 slabs (32 MiB), huge, registered.
    fn default() -> Self {
        Self { slabs: 16, registration: Registration::Auto, huge: true }
    }
}

/// Why a pool could not be made. A refused pin is not among the reasons: the pool then works
/// without, and its report says so.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PoolError {
    /// More slabs than one ring can register.
    #[error("a pool of {slabs} slabs is too large, the limit is {max}")]
    TooLarge {
        /// Slabs asked for.
        slabs: usize,
        /// Slabs possible.
        max: usize,
    },
    /// The memory itself could not be had.
    #[error("cannot map {bytes} bytes for the buffer pool: {source}; use fewer slabs")]
    Memory {
        /// Bytes asked for.
        bytes: usize,
        /// mmap(2), mprotect(2) or madvise(2).
        source: io::Error,
    },
}

/// A pool of page-aligned buffers in pinned 2 MiB slabs. Cloning gives another handle to the same
/// pool. The memory and the pins go when the last handle and the last [`Buffer`] are gone.
#[derive(Debug, Clone)]
pub struct Pool {
    inner: Arc<Inner>,
}

pub(crate) struct Inner {
    // Declared, and so dropped, before `memory`: see Ring::register.
    ring: Option<Arc<Ring>>,
    memory: Option<Mapping>,
    free: Mutex<Buddy>,
    levels: u8,
    in_use: AtomicUsize,
    fallbacks: AtomicU64,
    facts: Facts,
}

/// What was found out when the pool was made.
#[derive(Debug)]
struct Facts {
    slabs: usize,
    pinned_slabs: usize,
    backing: Backing,
    pin: PinKind,
    reasons: Vec<String>,
}

impl std::fmt::Debug for Inner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pool").field("facts", &self.facts).finish_non_exhaustive()
    }
}

impl Pool {
    /// Maps, populates and pins the slabs.
    ///
    /// # Errors
    /// [`PoolError`] when the memory cannot be had. Refused huge pages, io_uring or memlock are
    /// not errors; [`Pool::report`] names them.
    pub fn new(config: PoolConfig) -> Result<Self, PoolError> {
        if config.slabs > SLABS_MAX {
            return Err(PoolError::TooLarge { slabs: config.slabs, max: SLABS_MAX });
        }
        let bytes = config.slabs * SLAB;
        let fail = |source| PoolError::Memory { bytes, source };
        let mut facts = Facts {
            slabs: config.slabs,
            pinned_slabs: 0,
            backing: Backing::Base,
            pin: PinKind::None,
            reasons: Vec::new(),
        };
        let (memory, ring) = if config.slabs == 0 {
            (None, None)
        } else {
            let memory = Mapping::new(bytes, SLAB).map_err(fail)?;
            back(&memory, config.huge, &mut facts).map_err(fail)?;
            let ring = pin(&memory, config.registration, &mut facts);
            (Some(memory), ring)
        };
        let levels = (SLAB / page_size()).trailing_zeros() as u8;
        Ok(Self {
            inner: Arc::new(Inner {
                ring,
                memory,
                free: Mutex::new(Buddy::new(config.slabs, levels)),
                levels,
                in_use: AtomicUsize::new(0),
                fallbacks: AtomicU64::new(0),
                facts,
            }),
        })
    }

    /// A buffer with room for `len` bytes, `len` of them in use, contents unspecified.
    ///
    /// Up to 2 MiB it is a piece of a slab: a power of two, at least a page, aligned to its own
    /// size. A larger one, or one that finds the slabs full, is a private mapping, counted in
    /// [`PoolReport::fallbacks`]. Never waits.
    ///
    /// The bytes may be those of an earlier user of the piece: [`Buffer::fill_zero`] what will not
    /// be overwritten.
    ///
    /// # Panics
    /// When the process is out of memory or of mappings (`vm.max_map_count`), as `Vec` does.
    pub fn take(&self, len: usize) -> Buffer {
        self.try_take(len).unwrap_or_else(|e| panic!("a buffer of {len} bytes: {e}"))
    }

    /// [`Pool::take`], with an error where that panics.
    ///
    /// # Errors
    /// `ENOMEM` from mmap(2).
    pub fn try_take(&self, len: usize) -> io::Result<Buffer> {
        if let Some(piece) = self.order(len).and_then(|order| self.inner.free.lock().take(order)) {
            self.inner.in_use.fetch_add(self.inner.bytes_of(piece), Ordering::Relaxed);
            return Ok(Buffer::piece(Arc::clone(&self.inner), piece, len));
        }
        self.inner.fallbacks.fetch_add(1, Ordering::Relaxed);
        let align = if len >= SLAB { SLAB } else { page_size() };
        let mapping = Mapping::new(len, align)?;
        if len >= SLAB {
            // Refused where transparent huge pages are off; the buffer is only slower then.
            let _ = mapping.advise(libc::MADV_HUGEPAGE);
        }
        Ok(Buffer::private(mapping, len))
    }

    /// What the pool is made of and how much of it is in use now.
    pub fn report(&self) -> PoolReport {
        let facts = &self.inner.facts;
        PoolReport {
            slabs: facts.slabs,
            bytes: facts.slabs * SLAB,
            pinned_bytes: facts.pinned_slabs * SLAB,
            backing: facts.backing,
            pin: facts.pin,
            in_use: self.inner.in_use.load(Ordering::Relaxed),
            fallbacks: self.inner.fallbacks.load(Ordering::Relaxed),
            reasons: facts.reasons.clone(),
        }
    }

    /// The ring whose fixed buffers are this pool's slabs.
    pub(crate) fn ring(&self) -> Option<&Arc<Ring>> {
        self.inner.ring.as_ref()
    }

    /// The number of the fixed buffer that `buf` lies in, if it is one of this pool's.
    pub(crate) fn fixed_index(&self, buf: &Buffer) -> Option<u16> {
        let registered = self.inner.ring.as_ref()?.registered();
        let slab = buf.slab_of(Arc::as_ptr(&self.inner)).filter(|&slab| slab < registered)?;
        u16::try_from(slab).ok()
    }

    fn order(&self, len: usize) -> Option<u8> {
        let pages = align_up(len.max(1), page_size()) / page_size();
        let order = pages.checked_next_power_of_two()?.trailing_zeros() as u8;
        (order <= self.inner.levels).then_some(order)
    }
}

impl Inner {
    pub(crate) fn bytes_of(&self, piece: Piece) -> usize {
        page_size() << piece.order
    }

    /// First byte of a piece.
    pub(crate) fn address_of(&self, piece: Piece) -> std::ptr::NonNull<u8> {
        let memory = self.memory.as_ref().expect("a piece implies slabs");
        let at = piece.slab as usize * SLAB + piece.index as usize * self.bytes_of(piece);
        assert!(at + self.bytes_of(piece) <= memory.len());
        memory.at(at)
    }

    /// Takes a piece back. Called once for each piece, by the drop of its buffer.
    pub(crate) fn give(&self, piece: Piece) {
        self.in_use.fetch_sub(self.bytes_of(piece), Ordering::Relaxed);
        self.free.lock().give(piece);
    }
}

/// Asks for huge pages, makes everything present, and looks what came.
fn back(memory: &Mapping, huge: bool, facts: &mut Facts) -> io::Result<()> {
    if huge && let Err(e) = memory.advise(libc::MADV_HUGEPAGE) {
        facts.reasons.push(format!("transparent huge pages refused: {e}"));
    }
    memory.populate()?;
    match memory.huge_bytes() {
        Ok(bytes) if bytes >= memory.len() => facts.backing = Backing::Huge,
        Ok(bytes) if huge => facts.reasons.push(format!(
            "only {bytes} of {} bytes are in huge pages; see /sys/kernel/mm/transparent_hugepage/enabled",
            memory.len()
        )),
        Ok(_) => {}
        Err(e) => facts.reasons.push(format!("cannot tell the page size from /proc/self/smaps: {e}")),
    }
    Ok(())
}

/// Pins by the best means that is not refused.
fn pin(memory: &Mapping, how: Registration, facts: &mut Facts) -> Option<Arc<Ring>> {
    if how == Registration::Off {
        return None;
    }
    if how == Registration::Auto {
        match pin_by_ring(memory, facts) {
            Ok(ring) => return Some(ring),
            Err(e) => facts.reasons.push(format!("io_uring registration refused: {e}")),
        }
    }
    match memory.lock(memory.len()) {
        Ok(()) => {
            facts.pin = PinKind::Mlock;
            facts.pinned_slabs = facts.slabs;
        }
        Err(e) => facts.reasons.push(format!("mlock of {} bytes refused: {e}", memory.len())),
    }
    None
}

fn pin_by_ring(memory: &Mapping, facts: &mut Facts) -> io::Result<Arc<Ring>> {
    let mut ring = Ring::new()?;
    let registered = ring.register(memory)?;
    facts.pin = PinKind::IoUring;
    facts.pinned_slabs = registered;
    if registered < facts.slabs {
        facts.reasons.push(format!(
            "memlock limit: {registered} of {} slabs registered; raise `ulimit -l`",
            facts.slabs
        ));
    }
    Ok(Arc::new(ring))
}

//! How memory of each kind is made.
#![allow(unsafe_code)]

use std::fs::File;
use std::num::NonZeroUsize;
use std::os::fd::{AsFd, FromRawFd, OwnedFd};
use std::sync::mpsc::{Sender, channel};
use std::thread::JoinHandle;

use anyhow::Context;
use nix::errno::Errno;
use nix::sys::mman::{MapFlags, MmapAdvise, ProtFlags, mmap, mmap_anonymous};

use super::{Buffer, HUGE, Memory, Owner, PAGE};
use crate::kit::pagemap;
use crate::kit::stamp::POISON;
use crate::kit::verdict::not_run;

/// Bytes that a buffer on a stack can have.
pub const STACK: usize = 64 << 10;

/// Whole pages of a stack.
#[repr(C, align(4096))]
struct Space([u8; STACK]);

/// A thread that has memory on its stack and sleeps until this is dropped.
#[derive(Debug)]
pub(super) struct Sleeper {
    base: usize,
    wake: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Sleeper {
    fn new() -> anyhow::Result<Sleeper> {
        let (say, hear) = channel();
        let (wake, sleep) = channel::<()>();
        let run = move || {
            let mut space = std::mem::MaybeUninit::<Space>::uninit();
            // No reference: others write to it while this thread sleeps.
            let base = space.as_mut_ptr();
            say.send(base as usize).ok();
            sleep.recv().ok();
            std::hint::black_box(base);
        };
        let builder = std::thread::Builder::new().name("race-stack".to_owned());
        let thread = builder.stack_size(4 * STACK).spawn(run).context("start a thread")?;
        let base = hear.recv().context("a thread did not start")?;
        Ok(Sleeper { base, wake: Some(wake), thread: Some(thread) })
    }
}

impl Drop for Sleeper {
    fn drop(&mut self) {
        drop(self.wake.take());
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

impl Buffer {
    /// Maps at least `len` bytes of the kind, all touched and filled with poison (but for [`Memory::Zero`]).
    ///
    /// # Errors
    /// NOTRUN when the kind cannot be had here; otherwise mmap(2) failed.
    pub fn new(kind: Memory, len: usize) -> anyhow::Result<Buffer> {
        if kind == Memory::Stack {
            return Buffer::on_stack(len);
        }
        let unit = if matches!(kind, Memory::Thp | Memory::Hugetlb) { HUGE } else { PAGE };
        let len = len.next_multiple_of(unit);
        let mut buffer = Buffer::reserve(len, unit)?;
        buffer.map(kind)?;
        if kind == Memory::Zero {
            return Ok(buffer);
        }
        buffer.fill(0, buffer.len, POISON);
        if kind == Memory::Thp && !pagemap::is_thp(buffer.base as usize)? {
            return Err(not_run("the kernel gave no transparent huge page"));
        }
        Ok(buffer)
    }

    /// A shared mapping of a file from `offset` on; filled with poison, and so is the file, when it is writable.
    ///
    /// # Errors
    /// mmap(2) failed.
    pub fn of_file(file: &File, offset: u64, len: usize, writable: bool) -> anyhow::Result<Buffer> {
        let buffer = Buffer::reserve(len.next_multiple_of(PAGE), PAGE)?;
        let at = NonZeroUsize::new(buffer.base as usize);
        let whole = NonZeroUsize::new(buffer.len).expect("not empty");
        let write = if writable { ProtFlags::PROT_WRITE } else { ProtFlags::empty() };
        let (prot, flags) =
            (ProtFlags::PROT_READ | write, MapFlags::MAP_SHARED | MapFlags::MAP_FIXED);
        // SAFETY: the address range is our own reservation, which this replaces.
        unsafe { mmap(at, whole, prot, flags, file, offset as i64) }.context("map a file")?;
        // A fault brings in its own page and no other part of the file.
        buffer.advise(MmapAdvise::MADV_RANDOM)?;
        if writable {
            buffer.fill(0, buffer.len, POISON);
        }
        Ok(buffer)
    }

    /// Pages of the stack of a thread that sleeps as long as the buffer lives.
    ///
    /// # Errors
    /// No thread can be had.
    fn on_stack(len: usize) -> anyhow::Result<Buffer> {
        anyhow::ensure!(len <= STACK, "{len} bytes on a stack, at most {STACK}");
        let sleeper = Sleeper::new()?;
        let (base, len) = (sleeper.base as *mut u8, len.next_multiple_of(PAGE));
        let owner = Owner::Thread(sleeper);
        let buffer = Buffer { base, len, unit: PAGE, whole: (base, 0), _owner: owner };
        buffer.fill(0, buffer.len, POISON);
        Ok(buffer)
    }

    /// Reserves address space with one unmapped unit on each side.
    pub(super) fn reserve(len: usize, unit: usize) -> anyhow::Result<Buffer> {
        let size = NonZeroUsize::new(len + 3 * unit).expect("not empty");
        let flags = MapFlags::MAP_PRIVATE | MapFlags::MAP_NORESERVE;
        // SAFETY: a fresh mapping at an address of the kernel's choice touches nothing that exists.
        let start = unsafe { mmap_anonymous(None, size, ProtFlags::PROT_NONE, flags) }
            .context("reserve address space")?;
        let start = start.as_ptr().cast::<u8>();
        let base = (start as usize).next_multiple_of(unit) + unit;
        let whole = (start, size.get());
        Ok(Buffer { base: base as *mut u8, len, unit, whole, _owner: Owner::Nobody })
    }

    pub(super) fn map(&mut self, kind: Memory) -> anyhow::Result<()> {
        let at = NonZeroUsize::new(self.base as usize);
        let len = NonZeroUsize::new(self.len).expect("not empty");
        let rw = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        let fixed = MapFlags::MAP_FIXED;
        let flags = match kind {
            Memory::Anon | Memory::Zero | Memory::Stack | Memory::Thp => {
                fixed | MapFlags::MAP_PRIVATE
            }
            Memory::Hugetlb => fixed | MapFlags::MAP_PRIVATE | MapFlags::MAP_HUGETLB,
            Memory::Shared | Memory::Memfd | Memory::Secret => fixed | MapFlags::MAP_SHARED,
        };
        let mapped = if matches!(kind, Memory::Memfd | Memory::Secret) {
            let file = if kind == Memory::Secret { secret()? } else { memfd()? };
            nix::unistd::ftruncate(&file, self.len as i64).context("size of the memfd")?;
            // SAFETY: the address range is our own reservation, which this replaces.
            let mapped = unsafe { mmap(at, len, rw, flags, file.as_fd(), 0) };
            self._owner = Owner::File(file);
            mapped
        } else {
            // SAFETY: as above.
            unsafe { mmap_anonymous(at, len, rw, flags) }
        };
        match mapped {
            Ok(_) => {}
            Err(nix::errno::Errno::ENOMEM) if kind == Memory::Hugetlb => {
                return Err(not_run("no free huge page (see /proc/sys/vm/nr_hugepages)"));
            }
            Err(error) => return Err(error).context("map the buffer"),
        }
        match kind {
            Memory::Anon | Memory::Zero => self.advise(MmapAdvise::MADV_NOHUGEPAGE),
            Memory::Thp => self.advise(MmapAdvise::MADV_HUGEPAGE),
            _ => Ok(()),
        }
    }
}

fn memfd() -> anyhow::Result<OwnedFd> {
    let flags = nix::sys::memfd::MFdFlags::MFD_CLOEXEC;
    nix::sys::memfd::memfd_create("race", flags).context("memfd_create")
}

fn secret() -> anyhow::Result<OwnedFd> {
    // Its flag is O_CLOEXEC (mm/secretmem.c); the manual page has the name of another one.
    // SAFETY: the call takes flags and gives a descriptor, which is ours alone.
    let fd = unsafe {
        let fd = libc::syscall(libc::SYS_memfd_secret, libc::O_CLOEXEC);
        Errno::result(fd).map(|fd| OwnedFd::from_raw_fd(fd as i32))
    };
    fd.map_err(|errno| {
        not_run(format!("memfd_secret: {errno} (5.14, CONFIG_SECRETMEM, secretmem.enable=1)"))
    })
}

//! RB3: which mappings can be registered as io_uring buffers, and what becomes of data that is read into them.
//!
//! A long pin of a shared file mapping would let the kernel write to pages behind the filesystem's back, so
//! filesystems that track dirty pages refuse it since 6.5. Whatever is accepted must carry the data: into
//! the memory, and into the file where the mapping is shared.

use std::os::fd::AsRawFd;

use nix::errno::Errno;

use crate::cases::case::{Case, Reach};
use crate::cases::variant::Variant;
use crate::fixture::{Fixture, Open};
use crate::kit::engine::{Engine, Io, Way};
use crate::kit::kernel::{Kernel, Version};
use crate::kit::mapping::Mapping;
use crate::kit::memory::{Buffer, Memory};
use crate::kit::seen::Seen;
use crate::kit::verdict::{Class, reason_not_run};
use crate::target::Target;

pub const CASE: Case = Case {
    id: "RB3",
    name: "register-matrix",
    claim: "a mapping that io_uring registers carries the data, and those that cannot are refused with the right errno",
    groups: &["quick", "registered"],
    reach: Reach::Any,
    variants,
    run,
    expected: &[],
};

fn variants() -> Vec<Variant> {
    let of_memory = ["anon", "untouched", "thp", "hugetlb", "shared", "memfd"];
    let of_files = ["file-shared", "file-private", "file-stored", "read-only"];
    of_memory.into_iter().chain(of_files).map(Variant::new).collect()
}

const LEN: usize = 4096;

fn run(fixture: &mut Fixture<'_>, variant: &Variant) -> anyhow::Result<()> {
    let source = fixture.file(LEN as u64)?;
    // Registering is told also where nothing is read directly.
    let input =
        fixture.open(&source, Open::Direct).or_else(|error| match reason_not_run(&error) {
            Some(_) => fixture.open(&source, Open::Buffered),
            None => Err(error),
        })?;
    // The control registers plain memory: the ring and the read work.
    let act = if fixture.race() { variant.act } else { "anon" };
    let target = fixture.file(LEN as u64)?;
    let handle = fixture.open(&target, Open::Buffered)?;
    let (mut buffer, mut mapping) = (None, None);
    match act {
        "anon" => buffer = Some(Buffer::new(Memory::Anon, LEN)?),
        "untouched" => buffer = Some(Buffer::new(Memory::Zero, LEN)?),
        "thp" => buffer = Some(Buffer::new(Memory::Thp, LEN)?),
        "shared" => buffer = Some(Buffer::new(Memory::Shared, LEN)?),
        "memfd" => buffer = Some(Buffer::new(Memory::Memfd, LEN)?),
        "hugetlb" => buffer = Some(Buffer::new(Memory::Hugetlb, LEN)?),
        "file-shared" => mapping = Some(Mapping::shared(&handle, LEN)?),
        "file-private" | "file-stored" => mapping = Some(Mapping::private_writable(&handle, LEN)?),
        _ => mapping = Some(Mapping::private(&handle, LEN)?),
    }
    let memory = match (&buffer, &mapping) {
        (Some(buffer), _) => buffer.ptr(),
        (_, Some(mapping)) => mapping.address(0),
        _ => unreachable!("one of the two"),
    };
    if act == "file-stored" {
        // A page of its own, no longer the file's.
        mapping.iter().for_each(|mapping| mapping.store(0, &[1]));
    }
    let wanted = wanted(act, fixture.mounted().target(), &Kernel::running()?);
    let registered = fixture.engines().register(memory, LEN)?;
    if fixture.race() {
        let refused = |errno| format!("refused: {errno:?}");
        fixture.see(Seen::new(registered.map_or_else(refused, |()| "accepted".to_owned()), ""));
    }
    if !wanted.contains(&registered) {
        let text = format!("registering {act} memory: {registered:?}, must be one of {wanted:?}");
        fixture.fault(Class::Errno, text);
    }
    if registered.is_err() {
        return Ok(());
    }
    let io = Io { fd: input.as_raw_fd(), way: Way::Read, memory, len: LEN, offset: 0 };
    let done = fixture.transfer(Engine::Fixed, io)?;
    fixture.engines().unregister()?;
    fixture.count("the read", done, LEN);
    let bytes = match (&buffer, &mapping) {
        (Some(buffer), _) => buffer.bytes(0, LEN),
        (_, Some(mapping)) => mapping.load(0, LEN),
        _ => unreachable!("one of the two"),
    };
    fixture.judge("the memory", &bytes, 0, &[source.generation(1)]);
    drop(mapping);
    handle.sync_all()?;
    fixture.forget(&target)?;
    let bytes = fixture.read(&handle, 0, LEN)?.map_err(anyhow::Error::from)?;
    let legal = if act == "file-shared" { &source } else { &target };
    fixture.judge("the mapped file", &bytes, 0, &[legal.generation(1)]);
    Ok(())
}

/// What registering may say.
fn wanted(act: &str, target: &Target, kernel: &Kernel) -> Vec<Result<(), Errno>> {
    let pins_refuse = kernel.version() >= Version(6, 5, 0);
    let by_old_ring = Err(Errno::EOPNOTSUPP);
    match (act, target) {
        ("read-only", _) if pins_refuse => vec![Err(Errno::EFAULT)],
        ("read-only", _) => vec![Err(Errno::EFAULT), by_old_ring],
        // shmem does not track dirty pages, and its pages may be pinned; overlayfs may be over it.
        ("file-shared" | "file-private" | "file-stored", Target::Tmpfs | Target::Overlay) => {
            vec![Ok(())]
        }
        ("file-shared", Target::Dir(_)) => vec![Ok(()), Err(Errno::EFAULT), by_old_ring],
        ("file-shared", _) if pins_refuse => vec![Err(Errno::EFAULT)],
        ("file-shared", _) => vec![by_old_ring],
        ("file-private" | "file-stored", _) if !pins_refuse => vec![by_old_ring, Ok(())],
        _ => vec![Ok(())],
    }
}

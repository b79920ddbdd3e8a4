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
use crate::kit::verdict::Class;
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
    let acts =
        ["anon", "untouched", "memfd", "hugetlb", "file-shared", "file-private", "read-only"];
    acts.map(Variant::new).into()
}

const LEN: usize = 4096;

fn run(fixture: &mut Fixture<'_>, variant: &Variant) -> anyhow::Result<()> {
    let source = fixture.file(LEN as u64)?;
    let input = fixture.open(&source, Open::Direct)?;
    // The control registers plain memory: the ring and the read work.
    let act = if fixture.race() { variant.act } else { "anon" };
    let target = fixture.file(LEN as u64)?;
    let handle = fixture.open(&target, Open::Buffered)?;
    let (mut buffer, mut mapping) = (None, None);
    match act {
        "anon" => buffer = Some(Buffer::new(Memory::Anon, LEN)?),
        "untouched" => buffer = Some(Buffer::new(Memory::Zero, LEN)?),
        "memfd" => buffer = Some(Buffer::new(Memory::Memfd, LEN)?),
        "hugetlb" => buffer = Some(Buffer::new(Memory::Hugetlb, LEN)?),
        "file-shared" => mapping = Some(Mapping::shared(&handle, LEN)?),
        "file-private" => mapping = Some(Mapping::private_writable(&handle, LEN)?),
        _ => mapping = Some(Mapping::private(&handle, LEN)?),
    }
    let memory = match (&buffer, &mapping) {
        (Some(buffer), _) => buffer.ptr(),
        (_, Some(mapping)) => mapping.address(0),
        _ => unreachable!("one of the two"),
    };
    let wanted = wanted(act, fixture.mounted().target(), &Kernel::running()?);
    let registered = fixture.engines().register(memory, LEN)?;
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
        ("file-shared" | "file-private", Target::Tmpfs | Target::Overlay) => vec![Ok(())],
        ("file-shared", Target::Dir(_)) => vec![Ok(()), Err(Errno::EFAULT), by_old_ring],
        ("file-shared", _) if pins_refuse => vec![Err(Errno::EFAULT)],
        ("file-shared", _) => vec![by_old_ring],
        ("file-private", _) if !pins_refuse => vec![by_old_ring, Ok(())],
        _ => vec![Ok(())],
    }
}

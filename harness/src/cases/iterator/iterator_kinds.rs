//! IT1: one filesystem, every kind of iterator that a system call can hand to its read and write methods.
//!
//! | kind | system call |
//! |---|---|
//! | UBUF | pread, pwrite, libaio, io_uring with one range |
//! | IOVEC | preadv, pwritev with two ranges |
//! | BVEC | io_uring with a registered buffer; splice from an O_DIRECT file and to any; a loop device |
//! | KVEC | execve reads the program's headers, a core dump writes most of its file so |
//!
//! XARRAY and FOLIOQ reach a local filesystem only through cachefiles: IT2. The control reads and writes with
//! pread and pwrite alone.

use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::process::{Command, Stdio};

use anyhow::{Context, ensure};

use crate::cases::case::{Case, Reach};
use crate::cases::variant::Variant;
use crate::fixture::{Fixture, Open, Stamped};
use crate::kit::bounds::bound;
use crate::kit::engine::{Engine, Io};
use crate::kit::event::Actor;
use crate::kit::fork::{self, Task};
use crate::kit::loop_device::Attached;
use crate::kit::memory::{Buffer, Memory};
use crate::kit::pipe::Pipe;
use crate::kit::verdict::{Class, not_run};

pub const CASE: Case = Case {
    id: "IT1",
    name: "iterator-kinds",
    claim: "what is read and written through every kind of iterator is the file's content",
    groups: &["quick", "iterator"],
    reach: Reach::Any,
    variants,
    run,
    expected: &[],
};

/// Bytes of a file: more than a page, and no power of two.
const LEN: usize = 5 * 4096 + 512;
/// What a loop device and a registered buffer move: whole pages.
const PAGES: usize = 4 * 4096;

fn variants() -> Vec<Variant> {
    let mut all = Vec::new();
    for engine in [Engine::Pread, Engine::Aio, Engine::Uring] {
        all.push(Variant::new("ubuf").engine(engine));
    }
    all.push(Variant::new("iovec").engine(Engine::Preadv));
    all.push(Variant::new("bvec").engine(Engine::Fixed));
    all.extend(["bvec-splice", "bvec-loop", "kvec-exec", "kvec-core"].map(Variant::new));
    all
}

fn run(fixture: &mut Fixture<'_>, variant: &Variant) -> anyhow::Result<()> {
    let act = if fixture.race() { variant.act } else { "ubuf" };
    match act {
        "bvec-splice" => splices(fixture),
        "bvec-loop" => loop_device(fixture),
        "kvec-exec" => program(fixture),
        "kvec-core" => core_dump(fixture),
        _ => {
            let engine = if fixture.race() { variant.engine_or_pread() } else { Engine::Pread };
            for how in [Open::Buffered, Open::Direct] {
                let file = fixture.file(LEN as u64)?;
                transfers(fixture, &file, engine, how)?;
            }
            Ok(())
        }
    }
}

/// Reads generation 1 and writes generation 2 over it.
fn transfers(
    fixture: &mut Fixture<'_>,
    file: &Stamped,
    engine: Engine,
    how: Open,
) -> anyhow::Result<()> {
    let len = if how == Open::Direct { PAGES } else { LEN };
    let handle = fixture.open(file, how)?;
    let buffer = Buffer::new(Memory::Anon, LEN)?;
    if engine == Engine::Fixed {
        fixture.engines().pin(buffer.ptr(), buffer.len())?;
    }
    let done = fixture.transfer(engine, Io::read(&handle, &buffer, 0..len, 0))?;
    if fixture.count("the read", done, len) {
        fixture.judge("what was read", &buffer.bytes(0, len), 0, &[file.generation(1)]);
    }
    buffer.write(0, &file.content(2, 0, len));
    let done = fixture.transfer(engine, Io::write(&handle, &buffer, 0..len, 0))?;
    if engine == Engine::Fixed {
        fixture.engines().unregister()?;
    }
    if fixture.count("the write", done, len) {
        check(fixture, file, len)?;
    }
    Ok(())
}

/// That the first bytes are generation 2 now and the rest still generation 1, read from the filesystem.
fn check(fixture: &mut Fixture<'_>, file: &Stamped, len: usize) -> anyhow::Result<()> {
    let handle = fixture.open(file, Open::Buffered)?;
    handle.sync_all().context("fsync")?;
    fixture.forget(file)?;
    let whole = fixture.read(&handle, 0, file.len as usize)?.map_err(anyhow::Error::from)?;
    if fixture.count("the file", Ok(whole.len()), file.len as usize) {
        fixture.judge("what was written", &whole[..len], 0, &[file.generation(2)]);
        fixture.judge("the rest", &whole[len..], len as u64, &[file.generation(1)]);
    }
    Ok(())
}

/// From an O_DIRECT file into a pipe, and from a pipe into files.
fn splices(fixture: &mut Fixture<'_>) -> anyhow::Result<()> {
    let source = fixture.file(LEN as u64)?;
    let direct = fixture.open(&source, Open::Direct)?;
    let mut pipe = Pipe::new()?;
    let count = pipe.fill_all(&direct, LEN);
    if fixture.count("the splice", count, LEN) {
        let bytes = pipe.drain()?;
        fixture.judge("the pipe", &bytes, 0, &[source.generation(1)]);
    }
    for how in [Open::Buffered, Open::Direct] {
        let target = fixture.file(LEN as u64)?;
        let handle = fixture.open(&target, how)?;
        let pipe = Pipe::new()?;
        let bytes = target.content(2, 0, PAGES);
        let buffer = Buffer::new(Memory::Anon, PAGES)?;
        buffer.write(0, &bytes);
        ensure!(pipe.gift(buffer.ptr(), PAGES) == Ok(PAGES), "vmsplice");
        let count = pipe.pour(&handle, 0, PAGES);
        if fixture.count("the splice into a file", count, PAGES) {
            check(fixture, &target, PAGES)?;
        }
    }
    Ok(())
}

/// Through a loop device on the file, which hands the pages of its own requests on.
fn loop_device(fixture: &mut Fixture<'_>) -> anyhow::Result<()> {
    let file = fixture.file(LEN as u64)?;
    let backing = fixture.open(&file, Open::Buffered)?;
    let device = Attached::to(&backing)?;
    fixture.event(Actor::Test, format!("{} on the file", device.path().display()));
    let handle = std::fs::File::options().read(true).write(true).open(device.path())?;
    let mut bytes = vec![0; PAGES];
    handle.read_exact_at(&mut bytes, 0).context("read the device")?;
    handle.write_all_at(&file.content(2, 0, PAGES), 0).context("write the device")?;
    handle.sync_all().context("fsync the device")?;
    drop((handle, device));
    fixture.judge("the device", &bytes, 0, &[file.generation(1)]);
    check(fixture, &file, PAGES)
}

/// Runs a program that lies on the target: this one.
fn program(fixture: &mut Fixture<'_>) -> anyhow::Result<()> {
    let path = fixture.folder().join("program");
    std::fs::copy("/proc/self/exe", &path).context("copy a program to the target")?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o700))?;
    let file = Stamped { path, id: 0, len: 0 };
    fixture.open(&file, Open::Buffered)?.sync_all()?;
    fixture.forget(&file)?;
    fixture.event(Actor::Test, "execve");
    let output = Command::new(&file.path).arg("--version").stdin(Stdio::null()).output();
    let output = match output {
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
            return Err(not_run("the target is mounted noexec"));
        }
        other => other,
    };
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
    let wanted = concat!("inflight-race ", env!("CARGO_PKG_VERSION"), "\n");
    if text.as_deref().ok() != Some(wanted) {
        fixture.fault(Class::Foreign, format!("the program said {text:?}, must say {wanted:?}"));
    }
    Ok(())
}

/// Lets a child dump its core into the target, and looks for the stamps of its memory in it.
fn core_dump(fixture: &mut Fixture<'_>) -> anyhow::Result<()> {
    let pattern = std::fs::read_to_string("/proc/sys/kernel/core_pattern")?;
    if pattern.trim_start().starts_with(['|', '/', '@']) || pattern.trim().is_empty() {
        let reason = format!("core dumps go elsewhere: core_pattern is {:?}", pattern.trim());
        return Err(not_run(reason));
    }
    let (_, limit) = nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_CORE)?;
    if limit == 0 {
        return Err(not_run("the hard limit of RLIMIT_CORE is 0"));
    }
    let stamped = fixture.name();
    let buffer = Buffer::new(Memory::Anon, PAGES)?;
    buffer.write(0, &stamped.content(1, 0, PAGES));
    let folder = std::ffi::CString::new(fixture.folder().as_os_str().as_encoded_bytes())?;
    let child = fork::child(Task::Dump { folder: folder.as_ptr(), limit })?;
    fixture.event(Actor::Racer, "a child dumps its core");
    child.buried(bound())?;
    let entries = std::fs::read_dir(fixture.folder())?.collect::<Result<Vec<_>, _>>()?;
    let core =
        entries.iter().find(|entry| entry.file_name().as_encoded_bytes().starts_with(b"core"));
    let core = core.ok_or_else(|| not_run("the kernel wrote no core"))?.path();
    let file = Stamped { path: core, id: stamped.id, len: 0 };
    fixture.forget(&file)?;
    let content = std::fs::read(&file.path).context("read the core")?;
    let mode = std::fs::metadata(&file.path)?.mode() & 0o777;
    if content.is_empty() && mode != 0o600 {
        let reason = format!("files have mode {mode:o} there; the kernel writes cores to 600 only");
        return Err(not_run(reason));
    }
    match part(&content, buffer.ptr() as u64, PAGES) {
        Some(bytes) => fixture.judge("the core", bytes, 0, &[stamped.generation(1)]),
        None => fixture.fault(Class::Lost, "the core does not hold the child's memory"),
    }
    Ok(())
}

/// The bytes at an address in a core file: those of the PT_LOAD segment that holds it (elf(5)).
fn part(core: &[u8], address: u64, len: usize) -> Option<&[u8]> {
    const PT_LOAD: u64 = 1;
    let number = |at: u64, size: usize| {
        let bytes = core.get(at as usize..at as usize + size)?;
        Some(bytes.iter().rev().fold(0, |number, &byte| number << 8 | u64::from(byte)))
    };
    let (table, size, count) = (number(32, 8)?, number(54, 2)?, number(56, 2)?);
    (0..count).map(|index| table + index * size).find_map(|header| {
        let (kind, at) = (number(header, 4)?, number(header + 8, 8)?);
        let (start, filled) = (number(header + 16, 8)?, number(header + 32, 8)?);
        let inside = kind == PT_LOAD && start <= address && address + len as u64 <= start + filled;
        let from = (at + address.wrapping_sub(start)) as usize;
        inside.then(|| core.get(from..from + len)).flatten()
    })
}

//! System calls that no crate wraps.
#![allow(unsafe_code)]

use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::path::Path;

use anyhow::{Context, bail, ensure};
use nix::errno::Errno;

/// Bytes of a base page.
pub const PAGE: usize = 4096;
/// Bytes of a huge page.
pub const HUGE: usize = 2 << 20;

/// `struct fiemap` with one `struct fiemap_extent` (include/uapi/linux/fiemap.h).
#[repr(C)]
#[derive(Default)]
struct Fiemap {
    start: u64,
    length: u64,
    flags: u32,
    mapped_extents: u32,
    extent_count: u32,
    reserved: u32,
    logical: u64,
    physical: u64,
    extent_length: u64,
    reserved64: [u64; 2],
    extent_flags: u32,
    reserved32: [u32; 3],
}

const FS_IOC_FIEMAP: libc::c_ulong = 0xC020_660B;
const FLAG_SYNC: u32 = 1;
/// UNKNOWN, DELALLOC, ENCODED, DATA_ENCRYPTED, NOT_ALIGNED, DATA_INLINE, DATA_TAIL, UNWRITTEN.
const NO_PLACE: u32 = 0x2 | 0x4 | 0x8 | 0x80 | 0x100 | 0x200 | 0x400 | 0x800;

/// Where a byte of a file lies on its block device: by FIEMAP, or by FIBMAP where that is not implemented.
///
/// # Errors
/// The filesystem has neither, or the byte has no place of its own (hole, inline, not allocated).
pub fn place(file: &File, offset: u64) -> anyhow::Result<u64> {
    match place_by_extent(file, offset) {
        Err(error) if matches!(error.downcast_ref(), Some(Errno::EOPNOTSUPP | Errno::ENOTTY)) => {
            place_by_block(file, offset)
        }
        other => other,
    }
}

fn place_by_block(file: &File, offset: u64) -> anyhow::Result<u64> {
    const FIBMAP: libc::c_ulong = 1;
    const FIGETBSZ: libc::c_ulong = 2;
    let ask = |request, number: &mut libc::c_int| {
        // SAFETY: both requests read and write one int.
        Errno::result(unsafe { libc::ioctl(file.as_raw_fd(), request, &raw mut *number) })
    };
    // Blocks that were not allocated yet have no place.
    file.sync_all().context("fsync")?;
    let mut size = 0;
    ask(FIGETBSZ, &mut size).context("FIGETBSZ")?;
    let size = u64::try_from(size).context("FIGETBSZ")?;
    ensure!(size > 0, "FIGETBSZ gives 0");
    let mut block = libc::c_int::try_from(offset / size).context("FIBMAP counts in an int")?;
    ask(FIBMAP, &mut block).context("FIBMAP")?;
    ensure!(block > 0, "byte {offset} is in a hole");
    Ok(block as u64 * size + offset % size)
}

fn place_by_extent(file: &File, offset: u64) -> anyhow::Result<u64> {
    let mut map =
        Fiemap { start: offset, length: 1, flags: FLAG_SYNC, extent_count: 1, ..Fiemap::default() };
    // SAFETY: the ioctl reads and writes this struct, which has room for the one extent asked for.
    let result = unsafe { libc::ioctl(file.as_raw_fd(), FS_IOC_FIEMAP, &raw mut map) };
    Errno::result(result).context("FIEMAP")?;
    ensure!(map.mapped_extents == 1, "byte {offset} is in a hole");
    if map.extent_flags & NO_PLACE != 0 {
        bail!("byte {offset} has no place on the device (flags {:#x})", map.extent_flags);
    }
    Ok(map.physical + (offset - map.logical))
}

/// Asks the server for a file's attributes, whatever the kernel has cached (statx AT_STATX_FORCE_SYNC).
///
/// # Errors
/// Those of statx(2).
pub fn refresh(path: &Path) -> anyhow::Result<u64> {
    Ok(statx(path, libc::AT_STATX_FORCE_SYNC, libc::STATX_BASIC_STATS)?.stx_size)
}

/// The size of a file as the kernel keeps it, nobody being asked (statx AT_STATX_DONT_SYNC).
///
/// # Errors
/// Those of statx(2).
pub fn kept_size(path: &Path) -> anyhow::Result<u64> {
    Ok(statx(path, libc::AT_STATX_DONT_SYNC, libc::STATX_SIZE)?.stx_size)
}

fn statx(path: &Path, flags: i32, mask: u32) -> anyhow::Result<libc::statx> {
    let name = std::ffi::CString::new(path.as_os_str().as_encoded_bytes())?;
    // SAFETY: statx is plain data; the call fills it.
    let mut stat: libc::statx = unsafe { std::mem::zeroed() };
    // SAFETY: the name is terminated, and `stat` is ours.
    let result = unsafe { libc::statx(libc::AT_FDCWD, name.as_ptr(), flags, mask, &raw mut stat) };
    Errno::result(result).with_context(|| format!("statx {}", path.display()))?;
    Ok(stat)
}

/// Alignment of direct I/O in memory and in the file, in bytes, as statx(2) tells it (STATX_DIOALIGN, 6.1);
/// `None` where it does not.
///
/// # Errors
/// Those of statx(2).
pub fn direct_alignment(path: &Path) -> anyhow::Result<Option<(u32, u32)>> {
    const STATX_DIOALIGN: u32 = 0x2000;
    let stat = statx(path, 0, STATX_DIOALIGN)?;
    let told = stat.stx_mask & STATX_DIOALIGN != 0;
    Ok(told.then_some((stat.stx_dio_mem_align, stat.stx_dio_offset_align)))
}

/// pwritev(2) of the same memory twice in a row.
///
/// # Errors
/// The errno of the call.
pub fn write_twice(file: &File, memory: *const u8, len: usize) -> Result<usize, Errno> {
    let vector = libc::iovec { iov_base: memory.cast_mut().cast(), iov_len: len };
    let vectors = [vector, vector];
    // SAFETY: the kernel checks the range and only reads it.
    let count = unsafe { libc::pwritev(file.as_raw_fd(), vectors.as_ptr(), 2, 0) };
    Errno::result(count).map(|count| count as usize)
}

/// Repeats a call that moves part of what is left, from what was moved on, until all is moved or it moves nothing.
///
/// # Errors
/// The errno of the call, if it was the first to move anything; EINTR only repeats it.
pub fn repeat(
    len: usize,
    mut call: impl FnMut(usize) -> Result<usize, Errno>,
) -> Result<usize, Errno> {
    let mut moved = 0;
    while moved < len {
        match call(moved) {
            Ok(0) => break,
            Ok(count) => moved += count,
            Err(Errno::EINTR) => {}
            Err(_) if moved > 0 => break,
            Err(errno) => return Err(errno),
        }
    }
    Ok(moved)
}

/// splice(2), with offsets where the end is a file.
///
/// # Errors
/// The errno of the call.
pub fn splice(
    from: RawFd,
    from_offset: Option<&mut i64>,
    to: RawFd,
    len: usize,
    flags: u32,
) -> Result<usize, Errno> {
    let offset = from_offset.map_or(std::ptr::null_mut(), |offset| offset as *mut i64);
    // SAFETY: the offset is a valid i64 or null.
    let count = unsafe { libc::splice(from, offset, to, std::ptr::null_mut(), len, flags) };
    Errno::result(count).map(|count| count as usize)
}

/// splice(2) from a pipe into a file at an offset.
///
/// # Errors
/// The errno of the call.
pub fn splice_to(from: RawFd, to: RawFd, offset: i64, len: usize) -> Result<usize, Errno> {
    let mut offset = offset;
    // SAFETY: the offset is a local.
    let count = unsafe { libc::splice(from, std::ptr::null_mut(), to, &raw mut offset, len, 0) };
    Errno::result(count).map(|count| count as usize)
}

/// write(2) from any address: the kernel checks it.
///
/// # Errors
/// The errno of the call; EFAULT for an address that cannot be read.
pub fn write_from(to: &OwnedFd, memory: *const u8, len: usize) -> Result<usize, Errno> {
    // SAFETY: the kernel reads the range, or refuses it; nothing of ours is changed.
    let count = unsafe { libc::write(to.as_raw_fd(), memory.cast(), len) };
    Errno::result(count).map(|count| count as usize)
}

/// read(2) to any address: the kernel checks it.
///
/// # Errors
/// The errno of the call; EFAULT for an address that cannot be written.
///
/// # Safety
/// What is mapped in the range stays until the call returns, is test memory, and no reference to it exists.
pub unsafe fn read_to(from: &OwnedFd, memory: *mut u8, len: usize) -> Result<usize, Errno> {
    // SAFETY: the kernel writes to the range, or refuses it; the caller says that it may.
    let count = unsafe { libc::read(from.as_raw_fd(), memory.cast(), len) };
    Errno::result(count).map(|count| count as usize)
}

/// pread(2) to any address: the kernel checks it.
///
/// # Errors
/// The errno of the call; EFAULT for an address that cannot be written.
///
/// # Safety
/// As for [`read_to`].
pub unsafe fn read_into(
    from: &File,
    offset: u64,
    memory: *mut u8,
    len: usize,
) -> Result<usize, Errno> {
    // SAFETY: as in `read_to`.
    let count = unsafe { libc::pread(from.as_raw_fd(), memory.cast(), len, offset as i64) };
    Errno::result(count).map(|count| count as usize)
}

/// State of a process or thread as proc_pid_status(5) has it, `Z` when it has ended; `None` where there is none. `folder`
/// is its folder in /proc. (To read `stat` of a process whose execve(2) waits for a request of libaio's would wait too,
/// and not for a signal.)
pub fn state(folder: &Path) -> Option<char> {
    let status = std::fs::read_to_string(folder.join("status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("State:"))?;
    line.trim_start().chars().next()
}

/// sync_file_range(2) of a whole file: its dirty pages are written, its metadata and the device's cache are not.
///
/// # Errors
/// The errno of the call.
pub fn write_back(file: &File) -> Result<(), Errno> {
    let (before, write) = (libc::SYNC_FILE_RANGE_WAIT_BEFORE, libc::SYNC_FILE_RANGE_WRITE);
    let flags = before | write | libc::SYNC_FILE_RANGE_WAIT_AFTER;
    // SAFETY: no memory operands.
    Errno::result(unsafe { libc::sync_file_range(file.as_raw_fd(), 0, 0, flags) }).map(drop)
}

/// tee(2), without waiting.
///
/// # Errors
/// The errno of the call.
pub fn tee(from: RawFd, to: RawFd, len: usize) -> Result<usize, Errno> {
    // SAFETY: no memory operands.
    let count = unsafe { libc::tee(from, to, len, libc::SPLICE_F_NONBLOCK) };
    Errno::result(count).map(|count| count as usize)
}

/// vmsplice(2) of one range into a pipe.
///
/// # Errors
/// The errno of the call.
pub fn vmsplice(pipe: RawFd, memory: *const u8, len: usize) -> Result<usize, Errno> {
    let vector = libc::iovec { iov_base: memory.cast_mut().cast(), iov_len: len };
    // SAFETY: the kernel checks the range and takes references to its pages; the caller means
    // what happens to them later.
    let count = unsafe { libc::vmsplice(pipe, &raw const vector, 1, 0) };
    Errno::result(count).map(|count| count as usize)
}

/// Bytes that a pipe holds.
///
/// # Errors
/// The errno of the call.
pub fn pipe_bytes(pipe: RawFd) -> Result<usize, Errno> {
    let mut count: libc::c_int = 0;
    // SAFETY: FIONREAD writes an int.
    Errno::result(unsafe { libc::ioctl(pipe, libc::FIONREAD, &raw mut count) })?;
    Ok(count as usize)
}

/// Sets or clears O_DIRECT on an open file.
///
/// # Errors
/// The errno of the call.
pub fn set_direct(fd: RawFd, direct: bool) -> Result<(), Errno> {
    // SAFETY: fcntl with integers only.
    let flags = Errno::result(unsafe { libc::fcntl(fd, libc::F_GETFL) })?;
    let flags = if direct { flags | libc::O_DIRECT } else { flags & !libc::O_DIRECT };
    // SAFETY: as above.
    Errno::result(unsafe { libc::fcntl(fd, libc::F_SETFL, flags) }).map(drop)
}

/// Brings the loopback interface up, as `ip link set lo up` does.
///
/// # Errors
/// No network, or no privilege.
pub fn loopback_up() -> anyhow::Result<()> {
    use std::os::fd::FromRawFd;
    // SAFETY: no memory operands.
    let raw = unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) };
    // SAFETY: a new descriptor, owned by nobody else.
    let socket = unsafe { OwnedFd::from_raw_fd(Errno::result(raw).context("a socket")?) };
    // SAFETY: plain data, for which zeroes are valid; the name stays terminated.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"lo") {
        *to = *from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = libc::IFF_UP as libc::c_short;
    // SAFETY: the kernel reads the struct.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request) };
    Errno::result(result).context("SIOCSIFFLAGS lo").map(drop)
}

/// Everything that a file holds, from its beginning.
///
/// # Errors
/// Those of pread(2).
pub fn contents(file: &File) -> anyhow::Result<Vec<u8>> {
    use std::os::unix::fs::FileExt;
    let mut bytes = vec![0; file.metadata()?.len() as usize];
    file.read_exact_at(&mut bytes, 0).context("read a file")?;
    Ok(bytes)
}

/// Swaps to a device.
///
/// # Errors
/// No swap area, or no privilege.
pub fn swap_on(device: &Path) -> anyhow::Result<()> {
    let name = std::ffi::CString::new(device.as_os_str().as_encoded_bytes())?;
    // SAFETY: the name is terminated.
    let result = unsafe { libc::swapon(name.as_ptr(), 0) };
    Errno::result(result).with_context(|| format!("swapon {}", device.display())).map(drop)
}

/// Makes the kernel kill a program when the thread that starts it ends, however it ends.
pub fn end_with_parent(command: &mut std::process::Command) {
    use std::os::unix::process::CommandExt;
    let end = || {
        // SAFETY: prctl with integers only.
        Errno::result(unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) })?;
        Ok(())
    };
    // SAFETY: between fork and exec it makes one system call, which is async-signal-safe, and allocates nothing.
    unsafe { command.pre_exec(end) };
}

/// A program in `$PATH`, or where ordinary users do not look.
pub fn find_program(name: &str) -> Option<std::path::PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let extra = ["/usr/sbin", "/sbin"].map(std::path::PathBuf::from);
    let mut places = std::env::split_paths(&path).chain(extra);
    places.find_map(|folder| Some(folder.join(name)).filter(|file| file.is_file()))
}

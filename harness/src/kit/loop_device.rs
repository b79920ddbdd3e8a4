//! Loop devices (loop(4)).
#![allow(unsafe_code)]

use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use nix::errno::Errno;

use crate::kit::verdict::not_run;

const LOOP_CTL_GET_FREE: libc::c_ulong = 0x4C82;
const LOOP_CONFIGURE: libc::c_ulong = 0x4C0A;
const LOOP_CLR_FD: libc::c_ulong = 0x4C01;
const LO_FLAGS_DIRECT_IO: u32 = 16;

/// `struct loop_config` (include/uapi/linux/loop.h): fd, block size, `struct loop_info64`, reserved.
#[repr(C)]
struct LoopConfig {
    fd: u32,
    block_size: u32,
    device: u64,
    inode: u64,
    rdevice: u64,
    offset: u64,
    sizelimit: u64,
    number: u32,
    encrypt_type: u32,
    encrypt_key_size: u32,
    flags: u32,
    file_name: [u8; 64],
    crypt_name: [u8; 64],
    encrypt_key: [u8; 32],
    init: [u64; 2],
    reserved: [u64; 8],
}

/// A loop device that is attached until this is dropped.
#[derive(Debug)]
pub struct Attached(PathBuf);

impl Attached {
    /// Attaches one to an open file, with direct I/O: without, it would serialise its requests, and the second would wait
    /// behind the parked one.
    ///
    /// # Errors
    /// NOTRUN: no loop device, no privilege, or the file refuses direct I/O.
    pub fn to(backing: &File) -> anyhow::Result<Attached> {
        attach(backing).map(Attached).map_err(|error| not_run(format!("{error:#}")))
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Attached {
    fn drop(&mut self) {
        let _ = detach(&self.0);
    }
}

fn attach(backing: &File) -> anyhow::Result<PathBuf> {
    let control = File::options().read(true).write(true).open("/dev/loop-control");
    let control = control.context("/dev/loop-control")?;
    // Another process may take the free device first.
    for _ in 0..16 {
        // SAFETY: no memory operands.
        let number = unsafe { libc::ioctl(control.as_raw_fd(), LOOP_CTL_GET_FREE) };
        let number = Errno::result(number).context("/dev/loop-control gives no loop device")?;
        let path = Path::new("/dev").join(format!("loop{number}"));
        let device = File::options().read(true).write(true).open(&path);
        let device = device.with_context(|| path.display().to_string())?;
        // SAFETY: plain data, for which zeroes are valid.
        let mut config: LoopConfig = unsafe { std::mem::zeroed() };
        config.fd = backing.as_raw_fd() as u32;
        config.block_size = 512;
        config.flags = LO_FLAGS_DIRECT_IO;
        // SAFETY: the kernel reads the struct, whose layout is that of the UAPI header.
        let result = unsafe { libc::ioctl(device.as_raw_fd(), LOOP_CONFIGURE, &raw const config) };
        match Errno::result(result) {
            Ok(_) => return Ok(path),
            Err(Errno::EBUSY) => {}
            Err(errno) => return Err(errno).with_context(|| format!("attach {}", path.display())),
        }
    }
    bail!("every loop device that was free was taken by somebody else")
}

/// Detaches a loop device.
///
/// # Errors
/// Not attached, or no privilege.
pub fn detach(device: &Path) -> anyhow::Result<()> {
    let file = File::open(device).with_context(|| device.display().to_string())?;
    // SAFETY: no memory operands.
    let result = unsafe { libc::ioctl(file.as_raw_fd(), LOOP_CLR_FD) };
    Errno::result(result).with_context(|| format!("detach {}", device.display())).map(drop)
}

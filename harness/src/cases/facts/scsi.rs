//! SCSI commands from user space (SG_IO), whose memory bio_map_user_iov hands to the block layer.
//!
//! Source: include/scsi/sg.h, block/blk-map.c.
#![allow(unsafe_code)]

use std::ffi::OsStr;
use std::fs::{File, OpenOptions};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use anyhow::Context;

use super::pins_taken::{PAGES, PART, counted};
use crate::kit::memory::{Buffer, Memory, PAGE};
use crate::kit::seen::Seen;
use crate::kit::verdict::not_run;

/// Bytes of the kernel's own unit of sizes.
const SECTOR: usize = 512;
/// Milliseconds until the kernel aborts a command.
const TIMEOUT: u32 = 10_000;

const SG_IO: u16 = 0x2285;
const SG_DXFER_FROM_DEV: i32 = -3;
const READ_10: u8 = 0x28;

/// `struct sg_io_hdr`.
#[repr(C)]
struct Header {
    interface_id: i32,
    dxfer_direction: i32,
    cmd_len: u8,
    mx_sb_len: u8,
    iovec_count: u16,
    dxfer_len: u32,
    dxferp: *mut libc::c_void,
    cmdp: *const u8,
    sbp: *mut u8,
    timeout: u32,
    flags: u32,
    pack_id: i32,
    usr_ptr: *mut libc::c_void,
    status: u8,
    masked_status: u8,
    msg_status: u8,
    sb_len_wr: u8,
    host_status: u16,
    driver_status: u16,
    resid: i32,
    duration: u32,
    info: u32,
}

nix::ioctl_readwrite_bad!(
    #[doc = "SG_IO of scsi(4)."]
    sg_io,
    SG_IO as u32,
    Header
);

/// Reads from a SCSI disk into user memory by SG_IO.
///
/// # Errors
/// NOTRUN without such a disk, or without the right to talk to it.
pub(super) fn command() -> anyhow::Result<Seen> {
    let disk = disk()?;
    let buffer = Buffer::new(Memory::Anon, PART)?;
    counted(|| (0..PAGES * PAGE / PART).try_for_each(|_| disk.read(&buffer)))
}

struct Disk {
    file: File,
    /// Blocks of the device in [`PART`].
    blocks: u16,
}

/// The first disk that is a SCSI device and has so much to read.
fn disk() -> anyhow::Result<Disk> {
    let disks = std::fs::read_dir("/sys/class/scsi_disk").into_iter().flatten().flatten();
    let devices = disks.filter_map(|disk| {
        let mut devices = std::fs::read_dir(disk.path().join("device/block")).ok()?;
        Some(devices.next()?.ok()?.path())
    });
    // A card reader without a card is a disk of no size.
    let holds = |device: &PathBuf| number(device, "size").is_some_and(|size| size >= PART / SECTOR);
    let device = devices.filter(holds).min_by_key(|device| device.file_name().map(OsStr::to_owned));
    let device = device.ok_or_else(|| not_run("this machine has no SCSI disk"))?;
    let path = Path::new("/dev").join(device.file_name().unwrap_or_default());
    let size = number(&device, "queue/logical_block_size").unwrap_or(0);
    let blocks = blocks(size).ok_or_else(|| {
        let path = path.display();
        not_run(format!("{path} has blocks of {size} bytes, which do not make up {PART}"))
    })?;
    let opened = OpenOptions::new().read(true).open(&path);
    let file = opened.map_err(|error| not_run(format!("{}: {error}", path.display())))?;
    Ok(Disk { file, blocks })
}

/// A number that the kernel shows of a device.
fn number(device: &Path, name: &str) -> Option<usize> {
    std::fs::read_to_string(device.join(name)).ok()?.trim().parse().ok()
}

/// How many blocks of a size are [`PART`], if some are.
fn blocks(size: usize) -> Option<u16> {
    let whole = size > 0 && PART.is_multiple_of(size);
    whole.then(|| u16::try_from(PART / size).ok()).flatten()
}

impl Disk {
    fn read(&self, buffer: &Buffer) -> anyhow::Result<()> {
        let blocks = self.blocks.to_be_bytes();
        let command = [READ_10, 0, 0, 0, 0, 0, 0, blocks[0], blocks[1], 0];
        let mut sense = [0u8; 32];
        // SAFETY: plain data, of which zero is a value.
        let mut header: Header = unsafe { std::mem::zeroed() };
        header.interface_id = i32::from(b'S');
        header.dxfer_direction = SG_DXFER_FROM_DEV;
        header.cmd_len = command.len() as u8;
        header.mx_sb_len = sense.len() as u8;
        header.dxfer_len = PART as u32;
        header.dxferp = buffer.ptr().cast();
        header.cmdp = command.as_ptr();
        header.sbp = sense.as_mut_ptr();
        header.timeout = TIMEOUT;
        // SAFETY: the header points to a command, room for its sense data and memory for the data, all of which
        // outlive the call, which returns when the device is done.
        unsafe { sg_io(self.file.as_raw_fd(), &raw mut header) }.context("SG_IO")?;
        let (status, host, driver) = (header.status, header.host_status, header.driver_status);
        anyhow::ensure!(
            (status, host, driver) == (0, 0, 0) && header.resid == 0,
            "READ(10): status {status}, host {host}, driver {driver}, {} bytes missing",
            header.resid
        );
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::blocks;

    #[test]
    fn a_command_reads_as_many_bytes_whatever_the_blocks_are() {
        assert_eq!((blocks(512), blocks(4096), blocks(65536)), (Some(128), Some(16), Some(1)));
        assert_eq!((blocks(0), blocks(520), blocks(131072), blocks(1)), (None, None, None, None));
    }
}

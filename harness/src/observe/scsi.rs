//! SCSI commands from user space (SG_IO), whose memory bio_map_user_iov hands to the block layer.
//!
//! Source: include/scsi/sg.h, block/blk-map.c.
#![allow(unsafe_code)]

use std::fs::{File, OpenOptions};
use std::os::fd::AsRawFd;
use std::path::PathBuf;

use anyhow::Context;

use super::Seen;
use super::pins::{PAGES, counted};
use crate::memory::{Buffer, Memory, PAGE};
use crate::verdict::not_run;

/// Bytes that one command reads: within what any device takes at once.
const PART: usize = 16 * PAGE;
/// Bytes of a block of the device.
const BLOCK: usize = 512;
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
pub fn command() -> anyhow::Result<Seen> {
    let disk = disk()?;
    let buffer = Buffer::new(Memory::Anon, PART)?;
    counted(PAGES, || (0..PAGES * PAGE / PART).try_for_each(|_| read(&disk, &buffer)))
}

/// The first disk that is a SCSI device.
fn disk() -> anyhow::Result<File> {
    let disks = std::fs::read_dir("/sys/class/scsi_disk").into_iter().flatten().flatten();
    let names = disks.filter_map(|disk| {
        let mut blocks = std::fs::read_dir(disk.path().join("device/block")).ok()?;
        Some(PathBuf::from("/dev").join(blocks.next()?.ok()?.file_name()))
    });
    let path = names.min().ok_or_else(|| not_run("this machine has no SCSI disk"))?;
    let opened = OpenOptions::new().read(true).open(&path);
    opened.map_err(|error| not_run(format!("{}: {error}", path.display())))
}

fn read(disk: &File, buffer: &Buffer) -> anyhow::Result<()> {
    let blocks = u16::try_from(PART / BLOCK)?.to_be_bytes();
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
    unsafe { sg_io(disk.as_raw_fd(), &raw mut header) }.context("SG_IO")?;
    let (status, host, driver) = (header.status, header.host_status, header.driver_status);
    anyhow::ensure!(
        (status, host, driver) == (0, 0, 0) && header.resid == 0,
        "READ(10): status {status}, host {host}, driver {driver}, {} bytes missing",
        header.resid
    );
    Ok(())
}

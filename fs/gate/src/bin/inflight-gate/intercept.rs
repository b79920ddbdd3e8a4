//! Servers that insist on mounting by themselves: their mount(2) is caught by seccomp(2), the proxy mounts
//! instead, and the descriptor of /dev/fuse that they named becomes the proxy's socket. It catches their
//! helpers too, fusermount and mount.fuse among them: a filter is inherited.
#![allow(unsafe_code)]

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd as _, AsRawFd as _, FromRawFd as _, OwnedFd, RawFd};
use std::os::unix::ffi::OsStringExt as _;
use std::os::unix::fs::FileExt as _;
use std::time::Duration;

use inflight_fuse::mount::MountOptions;
use libc::{BPF_ABS, BPF_JEQ, BPF_JMP, BPF_K, BPF_LD, BPF_RET, BPF_W, sock_filter};
use nix::errno::Errno;
use nix::mount::MsFlags;
use nix::poll::{PollFd, PollFlags, poll};
use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg};

use crate::options;

/// `AUDIT_ARCH_*` (linux/audit.h) of this program; calls of other kinds pass.
#[cfg(target_arch = "x86_64")]
const ARCH: u32 = 0xC000_003E;
#[cfg(target_arch = "aarch64")]
const ARCH: u32 = 0xC000_00B7;
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
const ARCH: u32 = 0;

/// Longest string that a mount(2) is given, in bytes: a page, and no more is copied by the kernel.
const STRING_MAX: usize = 4096;

/// Flags of mount(2) that say something of the mount (linux/mount.h), not how it is made.
const KEPT: MsFlags = MsFlags::MS_RDONLY
    .union(MsFlags::MS_NOSUID)
    .union(MsFlags::MS_NODEV)
    .union(MsFlags::MS_NOEXEC)
    .union(MsFlags::MS_SYNCHRONOUS)
    .union(MsFlags::MS_DIRSYNC)
    .union(MsFlags::MS_NOATIME)
    .union(MsFlags::MS_NODIRATIME);

/// Has every mount(2) of this process and its children reported, and sends the listener over `socket`.
/// fsopen(2) does not exist for them, so that they use mount(2).
///
/// # Errors
/// seccomp(2), for want of kernel support; sendmsg(2).
pub fn install(socket: RawFd) -> io::Result<()> {
    if !nix::unistd::geteuid().is_root() {
        // Filters are for those who cannot gain by exec(2), or may do anything.
        nix::sys::prctl::set_no_new_privs()?;
    }
    let deny = libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32;
    let mut program = [
        statement(BPF_LD | BPF_W | BPF_ABS, std::mem::offset_of!(libc::seccomp_data, arch)),
        jump(ARCH, 0, 5),
        statement(BPF_LD | BPF_W | BPF_ABS, std::mem::offset_of!(libc::seccomp_data, nr)),
        jump(libc::SYS_mount as u32, 0, 1),
        statement(BPF_RET | BPF_K, libc::SECCOMP_RET_USER_NOTIF as usize),
        jump(libc::SYS_fsopen as u32, 0, 1),
        statement(BPF_RET | BPF_K, deny as usize),
        statement(BPF_RET | BPF_K, libc::SECCOMP_RET_ALLOW as usize),
    ];
    let program = libc::sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
    // SAFETY: `program` points to as many instructions as it says, alive for the call, which copies them.
    let listener = Errno::result(unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            libc::SECCOMP_FILTER_FLAG_NEW_LISTENER,
            &raw const program,
        )
    })?;
    // SAFETY: the call succeeded and returned a fresh descriptor that nobody else knows.
    let listener = unsafe { OwnedFd::from_raw_fd(listener as RawFd) };
    let fds = [listener.as_raw_fd()];
    let rights = [ControlMessage::ScmRights(&fds)];
    sendmsg::<()>(socket, &[IoSlice::new(b"l")], &rights, MsgFlags::empty(), None)?;
    Ok(())
}

fn statement(code: u32, k: usize) -> sock_filter {
    sock_filter { code: code as u16, jt: 0, jf: 0, k: k as u32 }
}

fn jump(k: u32, jt: u8, jf: u8) -> sock_filter {
    sock_filter { code: (BPF_JMP | BPF_JEQ | BPF_K) as u16, jt, jf, k }
}

/// A mount(2) of a FUSE filesystem that waits for its result.
#[derive(Debug)]
pub struct MountCall {
    id: u64,
    device: RawFd,
    /// How the server wants to be mounted.
    pub options: MountOptions,
}

/// The proxy's end.
#[derive(Debug)]
pub struct Catcher {
    listener: OwnedFd,
}

impl Catcher {
    /// Takes what [`install`] sent over the other end of `socket`.
    ///
    /// # Errors
    /// Nothing was sent: the process that was to do it said why.
    pub fn receive(socket: &OwnedFd) -> io::Result<Catcher> {
        let mut byte = [0];
        let mut space = nix::cmsg_space!(RawFd);
        let mut data = [IoSliceMut::new(&mut byte)];
        let flags = MsgFlags::MSG_CMSG_CLOEXEC;
        let message = recvmsg::<()>(socket.as_raw_fd(), &mut data, Some(&mut space), flags)?;
        let listener = message.cmsgs()?.find_map(|message| match message {
            ControlMessageOwned::ScmRights(fds) => fds.first().copied(),
            _ => None,
        });
        let listener = listener.ok_or(io::ErrorKind::UnexpectedEof)?;
        // SAFETY: the kernel just installed this descriptor for us (SCM_RIGHTS); nobody else has it.
        Ok(Catcher { listener: unsafe { OwnedFd::from_raw_fd(listener) } })
    }

    /// The next mount(2) of a FUSE filesystem within `bound`. Others are let through.
    ///
    /// # Errors
    /// poll(2), ioctl(2); UnexpectedEof when nobody is left who could mount.
    pub fn wait(&self, bound: Duration) -> io::Result<Option<MountCall>> {
        let ms = u16::try_from(bound.as_millis()).unwrap_or(u16::MAX);
        let mut polled = [PollFd::new(self.listener.as_fd(), PollFlags::POLLIN)];
        if poll(&mut polled, ms)? == 0 {
            return Ok(None);
        }
        let seen = polled[0].revents().unwrap_or(PollFlags::empty());
        if !seen.contains(PollFlags::POLLIN) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        // SAFETY: a structure of integers; the ioctl wants it zeroed.
        let mut call: libc::seccomp_notif = unsafe { std::mem::zeroed() };
        match self.ioctl(libc::SECCOMP_IOCTL_NOTIF_RECV, &mut call) {
            // Whoever called was killed.
            Err(Errno::ENOENT | Errno::EINTR) => return Ok(None),
            other => other?,
        }
        let parsed = MountCall::read(&call);
        // What was read is of that process only if the call still waits.
        let mut id = call.id;
        if self.ioctl(libc::SECCOMP_IOCTL_NOTIF_ID_VALID, &mut id).is_err() {
            return Ok(None);
        }
        if parsed.is_none() {
            self.respond(call.id, 0, libc::SECCOMP_USER_NOTIF_FLAG_CONTINUE as u32)?;
        }
        Ok(parsed)
    }

    /// Makes the call succeed, with `socket` in the place of its device.
    ///
    /// # Errors
    /// ioctl(2); ENOENT when whoever called was killed.
    pub fn grant(&self, call: &MountCall, socket: &OwnedFd) -> io::Result<()> {
        let mut place = libc::seccomp_notif_addfd {
            id: call.id,
            flags: libc::SECCOMP_ADDFD_FLAG_SETFD as u32,
            srcfd: socket.as_raw_fd() as u32,
            newfd: call.device as u32,
            newfd_flags: 0,
        };
        self.ioctl(libc::SECCOMP_IOCTL_NOTIF_ADDFD, &mut place)?;
        Ok(self.respond(call.id, 0, 0)?)
    }

    /// Makes the call fail.
    pub fn refuse(&self, call: &MountCall, errno: Errno) {
        // It fails only when whoever called was killed.
        let _ = self.respond(call.id, errno as i32, 0);
    }

    /// Refuses what is mounted from here on, until nobody is left who could.
    pub fn close(self) {
        loop {
            match self.wait(Duration::from_secs(60)) {
                Ok(Some(call)) => self.refuse(&call, Errno::EBUSY),
                Ok(None) => {}
                Err(_) => return,
            }
        }
    }

    fn respond(&self, id: u64, errno: i32, flags: u32) -> nix::Result<()> {
        let mut response = libc::seccomp_notif_resp { id, val: 0, error: -errno, flags };
        self.ioctl(libc::SECCOMP_IOCTL_NOTIF_SEND, &mut response)
    }

    fn ioctl<T>(&self, request: libc::Ioctl, argument: &mut T) -> nix::Result<()> {
        // SAFETY: every request here takes a pointer to the structure that its caller passes
        // (linux/seccomp.h), which is alive and exclusively borrowed for the call.
        let result = unsafe { libc::ioctl(self.listener.as_raw_fd(), request, &raw mut *argument) };
        Errno::result(result).map(drop)
    }
}

impl MountCall {
    /// `None` when it is no mount of a FUSE filesystem.
    fn read(call: &libc::seccomp_notif) -> Option<MountCall> {
        let memory = File::open(format!("/proc/{}/mem", call.pid)).ok()?;
        let text = |at: u64| string(&memory, at);
        let [source, _, kind, flags, data, _] = call.data.args;
        let flags = MsFlags::from_bits_retain(flags);
        if flags.intersects(MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_MOVE) {
            return None;
        }
        MountCall::parse(call.id, &text(source)?, &text(kind)?, flags, &text(data)?)
    }

    fn parse(
        id: u64,
        source: &[u8],
        kind: &[u8],
        flags: MsFlags,
        data: &[u8],
    ) -> Option<MountCall> {
        let kind = std::str::from_utf8(kind).ok()?;
        let (family, subtype) = match kind.split_once('.') {
            Some((family, subtype)) => (family, Some(subtype.to_owned())),
            None => (kind, None),
        };
        // A fuseblk would want a block device as its source, which the proxy does not need.
        if !matches!(family, "fuse" | "fuseblk") {
            return None;
        }
        let source = OsString::from_vec(source.to_vec());
        let mut options =
            MountOptions { source, subtype, flags: flags & KEPT, ..MountOptions::default() };
        let mut device = None;
        let data = String::from_utf8_lossy(data);
        let own = |word: &&str| match word.split_once('=') {
            Some(("fd", number)) => {
                device = number.parse().ok();
                false
            }
            Some(("rootmode" | "user_id" | "group_id" | "blksize", _)) => false,
            _ => true,
        };
        let rest: Vec<&str> = data.split(',').filter(own).collect();
        options::parse(&rest.join(","), &mut options).ok()?;
        Some(MountCall { id, device: device?, options })
    }
}

/// The string at an address of another process; empty for a null pointer.
fn string(memory: &File, at: u64) -> Option<Vec<u8>> {
    let mut bytes = vec![0; STRING_MAX];
    let mut len = 0;
    // What follows its page may not be mapped.
    while at != 0 && len < bytes.len() {
        let page_end = 4096 - (at as usize + len) % 4096;
        let end = (len + page_end).min(bytes.len());
        memory.read_exact_at(&mut bytes[len..end], at + len as u64).ok()?;
        if let Some(zero) = bytes[len..end].iter().position(|byte| *byte == 0) {
            bytes.truncate(len + zero);
            return Some(bytes);
        }
        len = end;
    }
    (at == 0).then(Vec::new)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fuse_mount_is_told_from_others_and_its_options_are_kept() {
        let parse = |kind: &str, data: &str| {
            let flags = MsFlags::MS_NOSUID | MsFlags::MS_SILENT;
            MountCall::parse(7, b"/dev/x", kind.as_bytes(), flags, data.as_bytes())
        };
        let data =
            "allow_other,fd=5,rootmode=40000,user_id=0,group_id=0,max_read=131072,blksize=512";
        let call = parse("fuseblk.ntfs", data).unwrap();
        assert_eq!((call.id, call.device), (7, 5));
        assert_eq!(call.options.subtype.as_deref(), Some("ntfs"));
        assert_eq!(call.options.source, "/dev/x");
        assert_eq!(call.options.flags, MsFlags::MS_NOSUID);
        assert_eq!((call.options.max_read, call.options.allow_other), (Some(131_072), true));
        assert!(call.options.more.is_empty());
        assert!(parse("tmpfs", data).is_none() && parse("fusectl", "").is_none());
        assert!(parse("fuse", "rootmode=40000").is_none(), "without a device");
    }

    #[test]
    fn strings_of_a_process_are_read_up_to_their_end() {
        let memory = File::open("/proc/self/mem").unwrap();
        let text = c"a string".as_ptr();
        assert_eq!(string(&memory, text.addr() as u64).unwrap(), b"a string");
        assert_eq!(string(&memory, 0).unwrap(), b"");
        assert!(string(&memory, 8).is_none());
    }
}

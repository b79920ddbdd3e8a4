//! What must hold on each way.

use crate::memfs::PARKED;
use crate::mounted::{Mounted, PATIENCE, Transport};
use inflight_fuse::channel::SendError;
use inflight_fuse::{Notification, Reply};
use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sys::stat::{Mode, UtimensatFlags, utimensat};
use nix::sys::time::TimeSpec;
use std::fs::{self, File};
use std::io::Read as _;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::process::{Command, Stdio};

/// Bytes that say where they are.
fn pattern(len: usize) -> Vec<u8> {
    (0..len / 8 + 1).flat_map(|word| (word as u64 * 0x9e37_79b9).to_ne_bytes()).take(len).collect()
}

pub fn what_is_written_is_read(transport: Transport) {
    let mounted = Mounted::new(transport);
    for len in [0, 1, 4095, 4096, 4097, 100_000, (3 << 20) + 17] {
        let path = mounted.file(&format!("f{len}"));
        let bytes = pattern(len);
        fs::write(&path, &bytes).unwrap();
        assert!(fs::read(&path).unwrap() == bytes, "{len} bytes");
    }
    mounted.finish();
}

pub fn data_of_direct_writes_come_aligned(transport: Transport) {
    let mounted = Mounted::new(transport);
    let path = mounted.file("f");
    let direct = |options: &mut fs::OpenOptions| options.custom_flags(libc::O_DIRECT).open(&path);
    let bytes = pattern(1 << 20);
    let file = direct(File::options().write(true).create(true)).unwrap();
    file.write_all_at(&bytes, 0).unwrap();
    drop(file);
    let file = direct(File::options().read(true)).unwrap();
    let mut back = vec![0; bytes.len()];
    file.read_exact_at(&mut back, 0).unwrap();
    assert!(back == bytes);
    drop(file);
    let (aligned, all) = *mounted.fs.written.lock();
    assert_eq!((aligned, all), (1 << 20, 1 << 20));
    mounted.finish();
}

pub fn a_thousand_entries_are_listed(transport: Transport) {
    let mounted = Mounted::new(transport);
    let name = |i: usize| format!("{i:04}-{}", "x".repeat(i % 200));
    (0..1000).for_each(|i| drop(File::create(mounted.file(&name(i))).unwrap()));
    let mut seen: Vec<_> = fs::read_dir(mounted.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    seen.sort();
    assert_eq!(seen, (0..1000).map(name).collect::<Vec<_>>());
    mounted.finish();
}

pub fn names_move_and_go(transport: Transport) {
    let mounted = Mounted::new(transport);
    fs::create_dir(mounted.file("d")).unwrap();
    fs::write(mounted.file("a"), b"1").unwrap();
    fs::rename(mounted.file("a"), mounted.file("d/b")).unwrap();
    std::os::unix::fs::symlink("d/b", mounted.file("l")).unwrap();
    assert_eq!(fs::read(mounted.file("l")).unwrap(), b"1");
    let target = "t/".repeat(1500);
    std::os::unix::fs::symlink(&target, mounted.file("long")).unwrap();
    assert_eq!(fs::read_link(mounted.file("long")).unwrap().to_str(), Some(&*target));
    fs::remove_file(mounted.file("d/b")).unwrap();
    fs::remove_dir(mounted.file("d")).unwrap();
    let error = fs::metadata(mounted.file("d")).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::ENOENT));
    mounted.finish();
}

pub fn times_before_1970_come_back(transport: Transport) {
    let mounted = Mounted::new(transport);
    let path = mounted.file("f");
    fs::write(&path, b"").unwrap();
    let (atime, mtime) = (TimeSpec::new(-1, 999_999_999), TimeSpec::new(-86_400, 250_000_000));
    let flags = UtimensatFlags::FollowSymlink;
    utimensat(nix::fcntl::AT_FDCWD, &path, &atime, &mtime, flags).unwrap();
    let found = fs::metadata(&path).unwrap();
    assert_eq!((found.atime(), found.atime_nsec()), (-1, 999_999_999));
    assert_eq!((found.mtime(), found.mtime_nsec()), (-86_400, 250_000_000));
    mounted.finish();
}

pub fn statx_knows_the_birth(transport: Transport) {
    let mounted = Mounted::new(transport);
    let path = mounted.file("f");
    fs::write(&path, b"").unwrap();
    let born = fs::metadata(&path).unwrap().created();
    // STATX is asked since Linux 6.6 (7.39).
    if mounted.agreed.minor >= 39 {
        assert!(born.unwrap().elapsed().unwrap() < PATIENCE);
    }
    mounted.finish();
}

pub fn a_file_without_a_name_is_made(transport: Transport) {
    let mounted = Mounted::new(transport);
    // TMPFILE is asked since Linux 6.2 (7.37).
    if mounted.agreed.minor >= 37 {
        let file = open(
            mounted.path(),
            OFlag::O_TMPFILE | OFlag::O_RDWR | OFlag::O_CLOEXEC,
            Mode::S_IRWXU,
        )
        .unwrap();
        let file = File::from(file);
        file.write_all_at(b"nameless", 3).unwrap();
        let mut bytes = [1; 11];
        file.read_exact_at(&mut bytes, 0).unwrap();
        assert_eq!(&bytes, b"\0\0\0nameless");
        assert!(fs::read_dir(mounted.path()).unwrap().next().is_none());
    }
    mounted.finish();
}

pub fn an_unknown_ioctl_is_refused(transport: Transport) {
    let mounted = Mounted::new(transport);
    let path = mounted.file("f");
    fs::write(&path, b"").unwrap();
    let file = File::open(&path).unwrap();
    assert_eq!(get_version(&file), Err(Errno::ENOTTY));
    drop(file);
    mounted.finish();
}

pub fn many_threads_do_not_mix(transport: Transport) {
    let mounted = Mounted::new(transport);
    std::thread::scope(|scope| {
        for worker in 0..4_u8 {
            let folder = mounted.path();
            scope.spawn(move || {
                for round in 0..30_u8 {
                    let path = folder.join(format!("{worker}-{round}"));
                    let bytes = vec![worker * 31 + round; 50_000 + usize::from(round) * 1000];
                    fs::write(&path, &bytes).unwrap();
                    assert!(fs::read(&path).unwrap() == bytes);
                    fs::remove_file(&path).unwrap();
                }
            });
        }
    });
    mounted.finish();
}

pub fn another_thread_answers_later(transport: Transport) {
    let mounted = Mounted::new(transport);
    let path = mounted.file(PARKED);
    fs::write(&path, vec![1; 4096]).unwrap();
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| direct_read(&path));
        let (request, ticket) = mounted.fs.take_parked(PATIENCE).expect("a READ is put aside");
        // Others are served meanwhile.
        fs::write(mounted.file("other"), b"x").unwrap();
        assert_eq!(request.header.unique, ticket.unique());
        ticket.reply(Reply::Data(vec![9; 4096].into())).unwrap();
        assert!(reader.join().unwrap().unwrap() == [9; 4096]);
    });
    mounted.finish();
}

/// FS_IOC_GETVERSION, an ioctl that reaches the server.
#[allow(unsafe_code)]
fn get_version(file: &File) -> nix::Result<i32> {
    nix::ioctl_read!(getversion, b'v', 1, libc::c_long);
    let mut version = 0;
    // SAFETY: the ioctl stores at most a long, which `version` is.
    unsafe { getversion(file.as_raw_fd(), &mut version) }
}

fn direct_read(path: &std::path::Path) -> std::io::Result<Vec<u8>> {
    let file = File::options().read(true).custom_flags(libc::O_DIRECT).open(path)?;
    let mut bytes = vec![0; 4096];
    file.read_exact_at(&mut bytes, 0)?;
    Ok(bytes)
}

pub fn a_killed_client_is_told_and_leaves(transport: Transport) {
    let mounted = Mounted::new(transport);
    let path = mounted.file(PARKED);
    fs::write(&path, vec![1; 4096]).unwrap();
    // Not a READ: those go in the background, where nobody is interrupted.
    let mut client = Command::new("sync").arg(&path).stderr(Stdio::null()).spawn().unwrap();
    let (request, ticket) = mounted.fs.take_parked(PATIENCE).expect("a FSYNC is put aside");
    client.kill().unwrap();
    assert!(mounted.fs.was_interrupted(request.header.unique, PATIENCE), "INTERRUPT comes");
    // The process waits for the answer, and for nothing else.
    let sent = ticket.reply(Reply::Error(Errno::EINTR));
    assert!(sent.is_ok(), "{sent:?}");
    assert!(!client.wait().unwrap().success());
    fs::write(mounted.file("other"), b"x").unwrap();
    mounted.finish();
}

pub fn an_abort_ends_everything(transport: Transport) {
    let mut mounted = Mounted::new(transport);
    let path = mounted.file(PARKED);
    fs::write(&path, vec![1; 4096]).unwrap();
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| direct_read(&path));
        let (_, ticket) = mounted.fs.take_parked(PATIENCE).expect("a READ is put aside");
        mounted.connection.abort().unwrap();
        let error = reader.join().unwrap().unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ECONNABORTED));
        // The late answer harms nobody.
        let _ = ticket.reply(Reply::Data(vec![9; 4096].into()));
    });
    inflight_fuse::mount::unmount(mounted.path(), true).unwrap();
    mounted.join();
}

pub fn notifications_arrive(transport: Transport) {
    let mounted = Mounted::new(transport);
    fs::write(mounted.file("f"), vec![1; 4096]).unwrap();
    let mut file = File::open(mounted.file("f")).unwrap();
    let nodeid = file.metadata().unwrap().ino();
    let mut bytes = [0; 4096];
    file.read_exact(&mut bytes).unwrap();
    // A proxy passes on in order: what is asked next is answered after the notification.
    let notify = |notification: &Notification<'_>| {
        let sent = mounted.channel.notify(notification);
        assert!(fs::metadata(mounted.file("none")).is_err());
        sent
    };
    // The page cache is given other bytes, shows them and gives them back.
    notify(&Notification::Store { nodeid, offset: 0, data: &[7; 4096] }).unwrap();
    file.read_exact_at(&mut bytes, 0).unwrap();
    assert!(bytes == [7; 4096]);
    notify(&Notification::Retrieve { notify_unique: 99, nodeid, offset: 0, size: 4096 }).unwrap();
    assert!(mounted.fs.take_retrieved(PATIENCE).expect("the kernel answers") == [7; 4096]);
    // It drops them and asks again.
    notify(&Notification::InvalInode { nodeid, offset: 0, len: 0 }).unwrap();
    file.read_exact_at(&mut bytes, 0).unwrap();
    assert!(bytes == [1; 4096]);
    if transport != Transport::Pair {
        let entry = Notification::InvalEntry { parent: 1, name: b"never", expire_only: false };
        assert!(matches!(notify(&entry), Err(SendError::Gone)));
        notify(&Notification::InvalEntry { parent: 1, name: b"f", expire_only: false }).unwrap();
        if mounted.agreed.minor >= 44 {
            notify(&Notification::IncEpoch).unwrap();
        }
        // A code that the kernel does not know is refused with EINVAL and harms nothing.
        match notify(&Notification::Prune { nodeids: &[nodeid] }) {
            Ok(()) => {}
            Err(SendError::Io(error)) => assert_eq!(error.raw_os_error(), Some(libc::EINVAL)),
            Err(other) => panic!("{other}"),
        }
    }
    drop(file);
    mounted.finish();
}

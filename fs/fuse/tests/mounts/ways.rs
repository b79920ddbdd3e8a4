//! The ways to mount, and what the kernel shows of a mount.

use crate::mounted::PATIENCE;
use inflight_fuse::Wanted;
use inflight_fuse::channel::{Channel, Config, ReceiveError};
use inflight_fuse::mount::{Connection, Method, MountError, MountOptions, mount_by, unmount};
use nix::mount::MsFlags;
use std::path::Path;
use std::sync::mpsc;

fn row(mountpoint: &Path) -> String {
    let table = std::fs::read_to_string("/proc/self/mounts").unwrap();
    let path = mountpoint.to_str().unwrap();
    let row = table.lines().rev().find(|line| line.split(' ').nth(1) == Some(path));
    row.expect("it is mounted").to_owned()
}

fn options() -> MountOptions {
    MountOptions {
        source: "some thing".into(),
        subtype: Some("sample".into()),
        flags: MsFlags::MS_RDONLY | MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC,
        allow_other: true,
        default_permissions: true,
        max_read: Some(65_536),
        more: Vec::new(),
    }
}

fn shows_what_was_asked(method: Method) {
    let folder = tempfile::tempdir().unwrap();
    let mounted = mount_by(method, folder.path(), &options()).unwrap();
    let row = row(folder.path());
    let connection = Connection::of_mount(folder.path()).unwrap();
    assert!(connection.waiting().unwrap() <= 1, "INIT at most");
    connection.set_readahead_kib(512).unwrap();
    unmount(folder.path(), false).unwrap();
    drop(mounted);
    assert!(row.starts_with("some\\040thing "), "{row}");
    let mut words = row.split(' ').skip(2);
    assert_eq!(words.next(), Some("fuse.sample"));
    let words: Vec<_> = words.next().unwrap().split(',').collect();
    for word in ["ro", "nosuid", "nodev", "noexec", "allow_other", "default_permissions"] {
        assert!(words.contains(&word), "{word} in {row}");
    }
    assert!(words.contains(&"max_read=65536"), "{row}");
}

#[test]
fn by_fsopen() {
    shows_what_was_asked(Method::Fsopen);
}

#[test]
fn by_mount() {
    shows_what_was_asked(Method::Mount);
}

#[test]
fn by_fusermount3() {
    let found = std::env::var_os("PATH").is_some_and(|path| {
        std::env::split_paths(&path).any(|folder| folder.join("fusermount3").exists())
    });
    if !found {
        eprintln!("NOT TESTED: there is no fusermount3 (package fuse3)");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let mounted = mount_by(Method::Helper, folder.path(), &options()).unwrap();
    let row = row(folder.path());
    unmount(folder.path(), false).unwrap();
    drop(mounted);
    assert!(row.contains(" fuse.sample ro,"), "{row}");
    let missing = Path::new("/nonexistent/here");
    let error = mount_by(Method::Helper, missing, &options()).unwrap_err();
    assert!(error.to_string().contains("/nonexistent/here"), "{error}");
}

#[test]
fn a_refusal_names_the_place_and_the_reason() {
    let missing = Path::new("/nonexistent/here");
    for method in [Method::Fsopen, Method::Mount] {
        let error = mount_by(method, missing, &MountOptions::default()).unwrap_err();
        let text = error.to_string();
        assert!(text.contains("/nonexistent/here") && text.contains("ENOENT"), "{text}");
    }
    let folder = tempfile::tempdir().unwrap();
    let options = MountOptions { more: vec!["nonsense=1".into()], ..MountOptions::default() };
    let error = mount_by(Method::Fsopen, folder.path(), &options).unwrap_err();
    assert!(matches!(error, MountError::Call { .. }));
    assert!(error.to_string().contains("nonsense"), "{error}");
}

#[test]
fn a_clone_has_a_queue_of_its_own() {
    let folder = tempfile::tempdir().unwrap();
    let mounted = mount_by(Method::Fsopen, folder.path(), &MountOptions::default()).unwrap();
    let config = Config::plain().unwrap();
    let channel = Channel::device(mounted.device, config.clone()).unwrap();
    channel.handshake(&Wanted::default()).unwrap();
    let clone = channel.try_clone_device(config).unwrap();
    let (ended, end) = mpsc::channel();
    let served = std::thread::spawn(move || {
        let mut receiver = clone.receiver();
        let error = loop {
            match receiver.receive() {
                Ok(received) => {
                    let errno = nix::errno::Errno::ENOSYS;
                    received.ticket.reply(inflight_fuse::Reply::Error(errno)).unwrap();
                }
                Err(error) => break error,
            }
        };
        ended.send(()).unwrap();
        error
    });
    // The root is asked for, and the clone answers.
    let error = std::fs::metadata(folder.path()).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::ENOSYS));
    unmount(folder.path(), false).unwrap();
    end.recv_timeout(PATIENCE).expect("the receiver ends");
    assert!(matches!(served.join().unwrap(), ReceiveError::Closed));
}

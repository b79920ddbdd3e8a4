//! What `ops` can do and the fuser transport cannot carry yet: files without a name, birth times.

mod common;

use common::{Place, ok};
use inflight::mounted;
use inflight::ops::{Caller, Control, Fs, Make, Unnamed, WriteArgs};
use inflight::options::Options;

fn open(place: &Place) -> inflight::ops::Fs {
    let options = Options { slabs: 1, ..Options::default() };
    mounted::open(&place.image, &options).expect("an image")
}

const ME: Caller = Caller { uid: 7, gid: 8, pid: 9 };

#[test]
fn a_file_without_a_name_gets_one_or_goes() {
    let place = Place::new(32);
    let fs = open(&place);
    let make = Unnamed { caller: ME, parent: 1, mode: 0o640, umask: 0o022, security: &[] };
    let kept = fs.tmpfile(&make).expect("tmpfile");
    let gone = fs.tmpfile(&make).expect("tmpfile");
    assert_eq!((kept.attr.nlink, kept.attr.mode), (0, libc::S_IFREG | 0o640));
    assert_eq!((kept.attr.uid, kept.attr.gid), (7, 8));
    for entry in [&kept, &gone] {
        let args = WriteArgs {
            ino: entry.ino,
            offset: 0,
            direct: false,
            append: false,
            cached: false,
            kill_suidgid: false,
        };
        fs.write(&args, &[5; 10_000]).expect("write");
    }
    fs.link(kept.ino, 1, b"named").expect("link");
    let used = fs.volume().store().space().usage().free;
    fs.forget(gone.ino, 1);
    assert!(fs.getattr(gone.ino).is_err(), "nobody can reach it any more");
    assert!(fs.volume().store().space().usage().free > used);
    mounted::close(&fs).expect("close");
    drop(fs);
    ok(&["fsck", place.image()]);
    let fs = open(&place);
    assert_eq!(fs.lookup(1, b"named").expect("lookup").attr.size, 10_000);
    mounted::close(&fs).expect("close");
}

#[test]
fn an_unnamed_file_does_not_survive_a_crash() {
    let place = Place::new(32);
    let fs = open(&place);
    let make = Unnamed { caller: ME, parent: 1, mode: 0o600, umask: 0, security: &[] };
    let entry = fs.tmpfile(&make).expect("tmpfile");
    fs.syncfs().expect("sync");
    // Dropped without close, as a crash would.
    drop(fs);
    let fs = open(&place);
    assert!(fs.getattr(entry.ino).is_err());
    mounted::close(&fs).expect("close");
    drop(fs);
    ok(&["fsck", place.image()]);
}

// > The birth time of a file is the time of its creation for good.
#[test]
fn the_birth_time_is_the_time_of_creation_for_good() {
    let place = Place::new(32);
    let fs = open(&place);
    let entry =
        fs.tmpfile(&Unnamed { caller: ME, parent: 1, mode: 0o600, umask: 0, security: &[] });
    let entry = entry.expect("tmpfile");
    fs.link(entry.ino, 1, b"f").expect("link");
    let set = inflight::ops::SetAttr {
        mtime: Some(inflight::ops::SetTime::At(inflight::image::tables::Time {
            secs: 5,
            nanos: 6,
        })),
        ..Default::default()
    };
    let changed = fs.setattr(entry.ino, &set).expect("setattr");
    assert_eq!(changed.attr.mtime.secs, 5);
    assert_eq!(changed.attr.btime, entry.attr.btime);
    mounted::close(&fs).expect("close");
    drop(fs);
    let fs = open(&place);
    assert_eq!(fs.lookup(1, b"f").expect("lookup").attr.btime, entry.attr.btime);
    mounted::close(&fs).expect("close");
}

/// Mounts, changes names, loses power; the names that are there afterwards.
fn names_after_a_crash(place: &Place, options: &Options, change: impl FnOnce(&Fs)) -> Vec<String> {
    let fs = mounted::open(&place.image, options).expect("an image");
    change(&fs);
    // Dropped without close, as a crash would.
    drop(fs);
    let fs = open(place);
    let mut names = Vec::new();
    let list = fs.readdir(1, 0, |entry| {
        names.push(String::from_utf8_lossy(&entry.name).into_owned());
        false
    });
    list.expect("readdir");
    mounted::close(&fs).expect("close");
    names.retain(|name| name != "." && name != "..");
    names.sort();
    names
}

fn change_names(fs: &Fs) {
    let make = |name, mode| {
        let make = Make {
            caller: ME,
            parent: 1,
            name,
            mode,
            umask: 0,
            rdev: 0,
            target: None,
            security: &[],
        };
        fs.make(&make).expect("make").ino
    };
    let file = make(b"made", libc::S_IFREG | 0o644);
    make(b"unlinked", libc::S_IFREG | 0o644);
    make(b"dir", libc::S_IFDIR | 0o755);
    make(b"moving", libc::S_IFREG | 0o644);
    fs.link(file, 1, b"linked").expect("link");
    fs.unlink(1, b"unlinked").expect("unlink");
    fs.rmdir(1, b"dir").expect("rmdir");
    fs.rename(ME, (1, b"moving"), (1, b"moved"), 0).expect("rename");
}

// > With `-o sync` or `-o dirsync`, and in directories with `chattr +D`, a name that was made, moved or removed is durable
// when the call returns.
#[test]
fn where_directories_are_synchronous_no_name_is_lost() {
    let all = ["linked", "made", "moved"];
    for how in ["", "sync", "dirsync", "+D"] {
        let place = Place::new(32);
        let mut options = Options { slabs: 1, ..Options::default() };
        options.add(how.trim_start_matches("+D")).expect("options");
        let names = names_after_a_crash(&place, &options, |fs| {
            if how == "+D" {
                let input = &0x1_0000_u32.to_le_bytes();
                let caller = Caller { uid: 0, ..ME };
                let set = Control { caller, ino: 1, command: 0x4008_6602, input };
                fs.ioctl(&set).expect("FS_IOC_SETFLAGS");
            }
            change_names(fs);
        });
        let expected: &[&str] = if how.is_empty() { &[] } else { &all };
        assert_eq!(names, expected, "{how}");
    }
}

#[test]
fn a_flag_that_would_not_be_kept_is_refused() {
    let place = Place::new(32);
    let fs = open(&place);
    let sync = &0x8_u32.to_le_bytes();
    let set =
        Control { caller: Caller { uid: 0, ..ME }, ino: 1, command: 0x4008_6602, input: sync };
    assert_eq!(fs.ioctl(&set), Err(inflight::errno::Errno::EOPNOTSUPP));
    mounted::close(&fs).expect("close");
}

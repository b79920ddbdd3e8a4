//! Promises of SEMANTICS.md that no other test holds; each test quotes its own.

mod common;
mod images;

use common::{Place, can_mount, ok};
use images::{Image, file, make, read, stamped, write};
use inflight::disk::{Disk, MemoryDisk, Over};
use inflight::errno::Errno;
use inflight::image::BLOCK;
use inflight::mounted;
use inflight::ops::{Caller, Fs, SetAttr};
use inflight::options::{Options, ReadMode};
use parking_lot::Mutex;
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};

const ROOT: u64 = 1;
const ME: Caller = Caller { uid: 0, gid: 0, pid: 1 };

/// A write since the last flush: offset and bytes.
type Pending = (u64, Vec<u8>);

/// A disk with a plug to pull: what was not flushed is lost, or kept in any part.
#[derive(Debug)]
struct Plug {
    now: MemoryDisk,
    /// What a power cut leaves for certain, and what came after it.
    durable: Mutex<(MemoryDisk, Vec<Pending>)>,
    fails: AtomicBool,
    flushes: AtomicU64,
}

impl Plug {
    fn new(disk: MemoryDisk) -> Arc<Plug> {
        let durable = Mutex::new((disk.fork(), Vec::new()));
        let (fails, flushes) = (AtomicBool::new(false), AtomicU64::new(0));
        Arc::new(Plug { now: disk, durable, fails, flushes })
    }

    /// A new filesystem.
    fn empty() -> Arc<Plug> {
        let bytes = Image::empty().bytes();
        let disk = MemoryDisk::new(bytes.len() as u64);
        for (i, block) in bytes.chunks(BLOCK as usize).enumerate() {
            if block.iter().any(|b| *b != 0) {
                disk.write(i as u64 * BLOCK, block).expect("write");
            }
        }
        Plug::new(disk)
    }

    /// What the disk may hold if power is lost now: every write since the last flush is there or not, as `rng` says.
    fn cut(&self, rng: &mut ChaCha8Rng) -> MemoryDisk {
        let durable = self.durable.lock();
        let disk = durable.0.fork();
        for (offset, data) in &durable.1 {
            if rng.random() {
                disk.write(*offset, data).expect("write");
            }
        }
        disk
    }

    /// What it holds when all that was not flushed is lost.
    fn lose(&self) -> MemoryDisk {
        self.durable.lock().0.fork()
    }
}

impl Over for Plug {
    fn below(&self) -> &dyn Disk {
        &self.now
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.now.write(offset, data)?;
        self.durable.lock().1.push((offset, data.to_vec()));
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        if self.fails.load(SeqCst) {
            return Err(io::Error::from_raw_os_error(libc::EIO));
        }
        *self.durable.lock() = (self.now.fork(), Vec::new());
        self.flushes.fetch_add(1, SeqCst);
        Ok(())
    }

    fn discard(&self, _: u64, _: u64) -> io::Result<()> {
        Ok(())
    }
}

fn open(disk: Arc<dyn Disk>) -> Fs {
    let options = Options { read: ReadMode::Copy, threads: 1, slabs: 1, ..Options::default() };
    mounted::open_on(disk, &options).expect("an image")
}

fn after(cut: MemoryDisk) -> Fs {
    open(Arc::new(cut))
}

/// All of a file by its name; `None` when there is none.
fn contents(fs: &Fs, name: &str) -> Option<Vec<u8>> {
    let entry = match fs.lookup(ROOT, name.as_bytes()) {
        Err(Errno::ENOENT) => return None,
        found => found.expect("lookup"),
    };
    Some(read(fs, entry.ino, 0, entry.attr.size as usize).expect("read"))
}

fn names(fs: &Fs) -> Vec<String> {
    let mut names: Vec<_> = images::walk(fs).into_keys().collect();
    names.sort();
    names
}

// > When fsync(2) or fdatasync(2) returns 0, the bytes of the file, its size and its names survive power loss.
#[test]
fn what_was_synced_survives() {
    for data_only in [false, true] {
        let plug = Plug::empty();
        let fs = open(plug.clone());
        let ino = file(&fs, ROOT, "f", 70_000).expect("create");
        fs.link(ino, ROOT, b"also").expect("link");
        fs.fsync(ino, data_only).expect("sync");
        let lost = after(plug.lose());
        assert!(contents(&lost, "f").expect("its name") == stamped(ino, 0, 70_000));
        assert!(contents(&lost, "also").is_some(), "every name");
        // In place, at the end, and cut: each is another way through the volume.
        write(&fs, ino, 8_000, 100).expect("overwrite");
        write(&fs, ino, 70_000, 5_000).expect("append");
        fs.rename(ME, (ROOT, b"f"), (ROOT, b"g"), 0).expect("rename");
        fs.fsync(ino, data_only).expect("sync");
        let lost = after(plug.lose());
        assert!(contents(&lost, "g").expect("its new name") == stamped(ino, 0, 75_000));
        assert_eq!(contents(&lost, "f"), None);
        fs.setattr(ino, &SetAttr { size: Some(10), ..SetAttr::default() }).expect("cut");
        fs.fsync(ino, data_only).expect("sync");
        assert_eq!(contents(&after(plug.lose()), "g").map(|b| b.len()), Some(10));
    }
}

// > fsync(2) of any directory makes durable whatever was done to names anywhere on the image before it.
#[test]
fn a_directory_takes_all_names_along() {
    let plug = Plug::empty();
    let fs = open(plug.clone());
    for name in ["unlinked", "moving", "kept"] {
        file(&fs, ROOT, name, 10).expect("create");
    }
    let dir = make(&fs, ROOT, "dir", libc::S_IFDIR | 0o755, None).expect("mkdir");
    fs.fsyncdir().expect("sync");
    fs.unlink(ROOT, b"unlinked").expect("unlink");
    fs.rename(ME, (ROOT, b"moving"), (dir, b"moved"), 0).expect("rename");
    make(&fs, dir, "link", libc::S_IFLNK | 0o777, Some("kept")).expect("symlink");
    fs.fsyncdir().expect("sync");
    assert_eq!(names(&after(plug.lose())), ["/dir", "/dir/link", "/dir/moved", "/kept"]);
}

// > What has reached the server is durable without being asked for after the next commit, which comes by itself.
#[test]
fn a_commit_comes_by_itself() {
    if !can_mount() {
        return;
    }
    let place = Place::new(32);
    let mount = place.mount("nowriteback", &[]);
    let commits = || mount.stat()["commits"].as_u64().expect("a number");
    std::fs::write(mount.path("f"), stamped(7, 0, 50_000)).expect("write");
    let (before, begun) = (commits(), std::time::Instant::now());
    while commits() == before {
        assert!(begun.elapsed().as_secs() < 120, "no commit");
        std::thread::yield_now();
    }
    mount.kill();
    let mount = place.mount("", &[]);
    assert!(std::fs::read(mount.path("f")).expect("read") == stamped(7, 0, 50_000));
    mount.umount();
}

/// An image on which every free block holds what a deleted file had.
fn stale() -> Arc<Plug> {
    let plug = Plug::empty();
    let fs = open(plug.clone());
    let old = make(&fs, ROOT, "old", libc::S_IFREG | 0o600, None).expect("create");
    let mut at = 0;
    while write(&fs, old, at, 1 << 18).is_ok() {
        at += 1 << 18;
    }
    fs.unlink(ROOT, b"old").expect("unlink");
    mounted::close(&fs).expect("close");
    assert!(at > 8 << 20, "most of it was written: {at}");
    plug
}

// > Data reaches the image before the metadata that points at it: after a crash no file shows bytes that were not written to it.
//
// > After a crash the image is at its last commit, whole: nothing is replayed and nothing is half done.
#[test]
fn a_crash_shows_nothing_foreign_and_nothing_half_done() {
    let plug = stale();
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    let fs = open(plug.clone());
    let (mut committed, mut compared) = (Vec::new(), 0);
    let commits = || fs.volume().store().durable();
    for i in 0..40_u64 {
        let before = commits();
        // Whole words of the stamp, so that every word is a stamp or zero.
        let (len, at) = (16 * rng.random_range(1..5_000_usize), 16 * rng.random_range(0..10_000));
        let ino = file(&fs, ROOT, &format!("f{i}"), len).expect("create");
        write(&fs, ino, at, 5_008).expect("write");
        if i % 3 == 0 {
            fs.unlink(ROOT, format!("f{}", i / 2).as_bytes()).expect("unlink");
            make(&fs, ROOT, &format!("d{i}"), libc::S_IFDIR | 0o755, None).expect("mkdir");
        }
        // A store that is short of room commits in between.
        if commits() != before {
            fs.syncfs().expect("commit");
            committed = names(&fs);
        }
        for _ in 0..3 {
            let lost = after(plug.cut(&mut rng));
            assert_eq!(names(&lost), committed, "of the last commit, after file {i}");
            compared += usize::from(names(&fs) != committed);
            for name in names(&lost).iter().filter(|name| name.starts_with("/f")) {
                let ino = lost.lookup(ROOT, &name.as_bytes()[1..]).expect("lookup").ino;
                let bytes = contents(&lost, &name[1..]).expect("a file");
                assert_eq!(images::foreign(ino, 0, &bytes), None, "in {name}");
            }
        }
        if i % 4 == 3 {
            fs.syncfs().expect("commit");
            committed = names(&fs);
        }
    }
    assert!(compared > 50, "{compared} crashes lost something");
}

// > A rename over an existing name is atomic: after a crash the name leads to the old file or to the new one.
#[test]
fn a_rename_replaces_in_one_step() {
    let plug = Plug::empty();
    let mut rng = ChaCha8Rng::seed_from_u64(2);
    let fs = open(plug.clone());
    let mut old = file(&fs, ROOT, "f", 30_000).expect("create");
    fs.fsync(old, false).expect("sync");
    let (mut kept, mut replaced) = (0, 0);
    for _ in 0..40 {
        let new = file(&fs, ROOT, "new", 30_000).expect("create");
        fs.fsync(new, false).expect("sync");
        fs.rename(ME, (ROOT, b"new"), (ROOT, b"f"), 0).expect("rename");
        let commits = rng.random();
        if commits {
            fs.syncfs().expect("commit");
        }
        let bytes = contents(&after(plug.cut(&mut rng)), "f").expect("the name is there");
        let is = |ino| bytes == stamped(ino, 0, 30_000);
        assert!(is(new) || !commits && is(old));
        (kept, replaced) = (kept + u32::from(is(old)), replaced + u32::from(is(new)));
        old = new;
    }
    assert!(kept > 0 && replaced > 0, "both were seen");
}

// > A file that is open keeps its bytes when its last name goes, and its blocks are free when it is closed.
#[test]
fn an_open_file_outlives_its_name() {
    let fs = open(Plug::empty());
    fs.syncfs().expect("commit");
    let available = || fs.statfs().expect("statfs").available;
    let before = available();
    let ino = file(&fs, ROOT, "f", 1 << 20).expect("create");
    fs.lookup(ROOT, b"f").expect("the kernel holds it");
    fs.unlink(ROOT, b"f").expect("unlink");
    assert!(read(&fs, ino, 0, 1 << 20).expect("read") == stamped(ino, 0, 1 << 20));
    assert!(available() <= before - 256);
    fs.forget(ino, 1);
    assert!(read(&fs, ino, 0, 1).is_err());
    assert!(available() > before - 256, "but for what the metadata took");
}

// > When the image cannot be written or flushed, fsync(2) of every file fails with EIO from then on, until it is mounted again.
#[test]
fn a_failed_flush_is_told_to_everybody() {
    let plug = Plug::empty();
    let fs = open(plug.clone());
    let one = file(&fs, ROOT, "one", 10_000).expect("create");
    let two = file(&fs, ROOT, "two", 10_000).expect("create");
    fs.syncfs().expect("commit");
    write(&fs, one, 0, 10_000).expect("in place");
    plug.fails.store(true, SeqCst);
    assert_eq!(fs.fsync(one, false), Err(Errno::EIO));
    plug.fails.store(false, SeqCst);
    // The disk is well again, but what it lost may have been anybody's.
    for ino in [one, two, one] {
        assert_eq!(fs.fsync(ino, false), Err(Errno::EIO));
        assert_eq!(fs.fsync(ino, true), Err(Errno::EIO));
    }
    assert_eq!(fs.fsyncdir(), Err(Errno::EIO));
    drop(fs);
    let fs = open(plug);
    fs.fsync(one, false).expect("mounted again");
    assert!(contents(&fs, "two").expect("two") == stamped(two, 0, 10_000));
}

// > Blocks that a deletion frees are available to df and to the next write, without waiting for a commit.
#[test]
fn what_is_deleted_is_available_at_once() {
    let fs = open(Plug::empty());
    let free = fs.statfs().expect("statfs").available;
    let ino = make(&fs, ROOT, "f", libc::S_IFREG | 0o600, None).expect("create");
    let mut at = 0;
    while write(&fs, ino, at, 1 << 16).is_ok() {
        at += 1 << 16;
    }
    assert_eq!(write(&fs, ino, at, 1 << 16), Err(Errno::ENOSPC));
    fs.syncfs().expect("commit");
    assert!(fs.statfs().expect("statfs").available < 64);
    fs.unlink(ROOT, b"f").expect("unlink");
    let now = fs.statfs().expect("statfs");
    assert!(now.available >= free - 64, "{} of {free} blocks", now.available);
    assert!(now.available <= now.free && now.files_free > 0);
    let ino = file(&fs, ROOT, "g", at as usize).expect("all of it can be written");
    fs.unlink(ROOT, b"g").expect("unlink");
    assert!(fs.getattr(ino).is_err(), "nobody has it open");
    let ino = make(&fs, ROOT, "h", libc::S_IFREG | 0o600, None).expect("create");
    fs.fallocate(ME, ino, 0, 0, at).expect("or set aside");
}

// > An inode number never stands for another file later, and survives mounts.
#[test]
fn a_number_is_a_file_for_good() {
    let plug = Plug::empty();
    let mut seen = HashMap::new();
    for round in 0..4 {
        let fs = open(plug.clone());
        for (ino, name) in &seen {
            match fs.lookup(ROOT, format!("{name}").as_bytes()) {
                Ok(found) => assert_eq!(found.ino, *ino),
                Err(e) => assert!(e == Errno::ENOENT && name % 2 == 0, "{name}: {e:?}"),
            }
        }
        for i in 0..50 {
            let name = round * 50 + i;
            let ino = file(&fs, ROOT, &name.to_string(), 10).expect("create");
            assert_eq!(seen.insert(ino, name), None, "inode {ino} was another file before");
            if name % 2 == 0 {
                fs.unlink(ROOT, name.to_string().as_bytes()).expect("unlink");
                assert_eq!(fs.getattr(ino).map(|e| e.ino), Err(Errno::ESTALE));
            }
        }
        mounted::close(&fs).expect("close");
    }
}

// > Locks of fcntl(2) and flock(2) hold between all processes of the machine.
#[test]
fn locks_hold_between_processes() {
    if !can_mount() {
        return;
    }
    let place = Place::new(32);
    let mount = place.mount("", &[]);
    let path = mount.path("f");
    let file = std::fs::File::create(&path).expect("create");
    let try_lock = || {
        let status = std::process::Command::new("flock").arg("-n").arg(&path).arg("true").status();
        status.expect("util-linux").success()
    };
    assert!(try_lock());
    let lock = nix::fcntl::Flock::lock(file, nix::fcntl::FlockArg::LockExclusive).expect("lock");
    assert!(!try_lock(), "another process holds it");
    drop(lock);
    assert!(try_lock());
    // Records: the lock of one open file description keeps another's off its bytes, and off no others.
    let open = || std::fs::File::options().read(true).write(true).open(&path).expect("open");
    let (one, two) = (open(), open());
    let lock = |file: &std::fs::File, start, kind: libc::c_int| {
        let range = libc::flock {
            l_type: kind as i16,
            l_whence: libc::SEEK_SET as i16,
            l_start: start,
            l_len: 10,
            l_pid: 0,
        };
        nix::fcntl::fcntl(file, nix::fcntl::FcntlArg::F_OFD_SETLK(&range))
    };
    lock(&one, 0, libc::F_WRLCK).expect("free");
    assert_eq!(lock(&two, 5, libc::F_RDLCK), Err(nix::errno::Errno::EAGAIN));
    lock(&two, 10, libc::F_WRLCK).expect("other bytes");
    drop((one, two));
    mount.umount();
    ok(&["fsck", place.image()]);
}

// > A deletion that the kernel has not finished yet is waited for before ENOSPC is said.
#[test]
fn what_is_being_deleted_is_waited_for() {
    let plug = Plug::empty();
    let fs = open(plug.clone());
    let files: Vec<u64> = (0..4)
        .map(|i| file(&fs, ROOT, &i.to_string(), 3 << 20).expect("room for all four"))
        .collect();
    for (i, ino) in files.iter().enumerate() {
        fs.lookup(ROOT, i.to_string().as_bytes()).expect("the kernel holds it");
        fs.unlink(ROOT, i.to_string().as_bytes()).expect("unlink");
        assert_eq!(fs.getattr(*ino).expect("it is open").attr.nlink, 0);
    }
    fs.syncfs().expect("commit");
    let new = make(&fs, ROOT, "new", libc::S_IFREG | 0o600, None).expect("create");
    let want = fs.statfs().expect("statfs").available * BLOCK + (2 << 20);
    let refused = write(&fs, new, 0, want as usize);
    assert_eq!(refused, Err(Errno::ENOSPC), "nobody closes it");
    // One goes; what it frees waits for a commit, and the flush of that is the sign that the write is waiting for room.
    // The second one, which it takes to fill the file, goes only then.
    fs.forget(files[0], 1);
    let flushes = plug.flushes.load(SeqCst);
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| write(&fs, new, 0, want as usize + (3 << 20)));
        while plug.flushes.load(SeqCst) == flushes && !writer.is_finished() {
            std::thread::yield_now();
        }
        fs.forget(files[1], 1);
        assert_eq!(writer.join().expect("the writer"), Ok(()));
    });
}

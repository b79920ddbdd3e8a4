//! Every way of reading gives the same bytes, and is the way that was asked for.
//!
//! That a way was taken is proved three times: by the server's counters, by the server's system
//! calls (strace), and by the alias test: page cache pages in a pipe change with the image, private
//! buffers do not.

mod common;

use common::{Mount, Place, can_mount, drop_caches, ok, open_direct, pattern};
use inflight_dio::{Pool, PoolConfig};
use std::fs::{self, File};
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

const LEN: usize = 3 * 1024 * 1024 + 777;

/// A file with data, a hole, preallocated blocks and a ragged end.
fn make(mount: &Mount) -> Vec<u8> {
    let mut want = pattern(LEN, 11);
    let file = File::create(mount.path("f")).expect("create");
    file.write_all_at(&want, 0).expect("write");
    let hole = 1_000_000..1_300_001;
    let punch = nix::fcntl::FallocateFlags::FALLOC_FL_PUNCH_HOLE
        | nix::fcntl::FallocateFlags::FALLOC_FL_KEEP_SIZE;
    nix::fcntl::fallocate(&file, punch, hole.start as i64, hole.len() as i64).expect("punch");
    want[hole].fill(0);
    nix::fcntl::fallocate(&file, nix::fcntl::FallocateFlags::empty(), LEN as i64, 300_000)
        .expect("preallocate");
    want.resize(LEN + 300_000, 0);
    file.write_all_at(b"island", LEN as u64 + 100_000).expect("write");
    want[LEN + 100_000..][..6].copy_from_slice(b"island");
    file.sync_all().expect("sync");
    want
}

fn read_aligned(path: &Path, len: usize) -> Vec<u8> {
    // O_DIRECT on FUSE takes any memory; large aligned requests are what applications do.
    let mut buf = Pool::new(PoolConfig { slabs: 0, ..PoolConfig::default() })
        .expect("memory")
        .take(len.next_multiple_of(4096));
    buf.set_len(len.next_multiple_of(4096));
    let mut file = open_direct(path);
    let mut got = 0;
    loop {
        match file.read(&mut buf.as_mut_slice()[got..]).expect("read") {
            0 => return buf.as_slice()[..got].to_vec(),
            n => got += n,
        }
    }
}

/// Spliced answers are the device's; the queues of transport=uring and the crate fuser have none.
fn by_device(options: &str) -> String {
    format!("transport=dev,{options}")
}

// > Every way of reading and writing gives the same bytes, O_DIRECT at any offset and length included.
#[test]
fn every_way_gives_the_same_bytes() {
    if !can_mount() {
        return;
    }
    let place = Place::new(64);
    let mount = place.mount("", &[]);
    let want = make(&mount);
    mount.umount();
    let ways = [
        ("read=copy", "copy", "copy"),
        ("read=buffered", "splice-buffered", "splice-buffered"),
        ("read=direct", "splice-direct", "splice-direct"),
        ("read=auto", "splice-direct", "splice-direct"),
    ];
    for (option, buffered, direct) in ways {
        let mount = place.mount(&by_device(option), &[]);
        drop_caches();
        assert!(fs::read(mount.path("f")).expect("read") == want, "{option}, buffered open");
        assert!(mount.reads(buffered) > 0, "{option}: {}", mount.stat());
        drop_caches();
        let before = mount.reads(direct);
        assert!(read_aligned(&mount.path("f"), want.len()) == want, "{option}, O_DIRECT open");
        assert!(mount.reads(direct) > before, "{option}: {}", mount.stat());
        let expected = [buffered, direct, "copy", "copy-direct"];
        for (way, count) in mount.stat()["reads"].as_object().expect("counters") {
            let requests = count["requests"].as_u64().expect("a number");
            // Small reads are not worth a trip to the device.
            let small = option == "read=auto" && way == "splice-buffered";
            let is_expected = small || expected.contains(&way.as_str());
            assert!(requests == 0 || is_expected, "{option} took {way}");
        }
        mount.umount();
    }
    ok(&["fsck", place.image()]);
}

// > Every way of reading and writing gives the same bytes, O_DIRECT at any offset and length included.
#[test]
fn large_transfers_go_past_the_images_page_cache_unless_it_has_the_bytes() {
    if !can_mount() {
        return;
    }
    let place = Place::new(64);
    for transport in ["dev", "uring"] {
        let option = format!("transport={transport}");
        let (cached, direct) = match transport {
            "dev" => ("splice-buffered", "splice-direct"),
            _ => ("copy", "copy-direct"),
        };
        let want = pattern(4 << 20, 5);
        let mount = place.mount(&option, &[]);
        fs::write(mount.path("large"), &want).expect("write");
        File::open(mount.path("large")).and_then(|f| f.sync_all()).expect("sync");
        let written = mount.stat()["writes"].to_string();
        assert!(mount.stat()["writes"]["direct"]["requests"].as_u64() > Some(0), "{written}");
        drop_caches();
        assert!(fs::read(mount.path("large")).expect("read") == want, "{option}, cold");
        assert!(mount.reads(direct) > 0, "{option}: {}", mount.stat());
        mount.umount();
        // Other tests drop the caches of the whole machine meanwhile: one try in peace is enough.
        let hot = (0..50).any(|_| {
            fs::read(place.image()).expect("the image's pages");
            let mount = place.mount(&option, &[]);
            assert!(fs::read(mount.path("large")).expect("read") == want, "{option}, hot");
            let (hits, misses) = (mount.reads(cached), mount.reads(direct));
            mount.umount();
            hits > 0 && misses == 0
        });
        assert!(hot, "{option}: bytes in the page cache are read from the device");
    }
    ok(&["fsck", place.image()]);
}

// > Every way of reading and writing gives the same bytes, O_DIRECT at any offset and length included.
#[test]
fn any_range_of_any_alignment_is_served_directly() {
    if !can_mount() {
        return;
    }
    let place = Place::new(64);
    let mount = place.mount("read=direct,write=direct,nowriteback", &[]);
    let mut want = make(&mount);
    let file = open_direct(&mount.path("f"));
    let mut odd = vec![0u8; 70_000];
    for (offset, len) in
        [(7, 13), (4095, 2), (511, 513), (999_990, 40), (1_299_990, 30), (0, 65_537), (4096, 4096)]
    {
        let memory = &mut odd[1..1 + len];
        file.read_exact_at(memory, offset as u64).expect("read");
        assert!(memory == &want[offset..offset + len], "read of {len} bytes at {offset}");
        let fresh = pattern(len, offset as u64 + 1);
        file.write_all_at(&fresh, offset as u64).expect("write");
        want[offset..offset + len].copy_from_slice(&fresh);
    }
    let mut past = [1u8; 16];
    assert_eq!(file.read_at(&mut past, want.len() as u64).expect("read"), 0);
    assert_eq!(file.read_at(&mut past, want.len() as u64 - 5).expect("read"), 5);
    assert!(read_aligned(&mount.path("f"), want.len()) == want);
    drop(file);
    mount.umount();
    ok(&["fsck", place.image()]);
    let mount = place.mount("ro", &[]);
    assert!(fs::read(mount.path("f")).expect("read") == want, "after a remount");
    mount.umount();
}

/// Names of the server's threads.
fn threads(mount: &Mount) -> Vec<String> {
    let tasks =
        fs::read_dir(format!("/proc/{}/task", mount.server())).expect("the server's threads");
    let comm = |task: std::io::Result<fs::DirEntry>| {
        fs::read_to_string(task.ok()?.path().join("comm")).ok()
    };
    tasks.filter_map(comm).map(|name| name.trim().to_owned()).collect()
}

#[test]
fn what_a_queue_reads_takes_no_thread() {
    if !can_mount() {
        return;
    }
    let place = Place::new(64);
    // One WRITE, so that the file is one extent wherever a read begins: one of several pieces is a worker's.
    let mount = place.mount("nowriteback", &[]);
    let want = pattern(256 << 10, 5);
    fs::write(mount.path("f"), &want).expect("write");
    mount.umount();
    let mount = place.mount("transport=uring,ro", &[]);
    drop_caches();
    assert!(fs::read(mount.path("f")).expect("read") == want);
    assert!(mount.reads("copy-direct") > 0, "{}", mount.stat());
    let threads = threads(&mount);
    assert!(!threads.contains(&"worker".to_owned()), "{threads:?}");
    mount.umount();
}

/// System calls of the server while the file is read with `option`.
fn syscalls(place: &Place, option: &str) -> Option<String> {
    let mount = place.mount(&by_device(option), &[]);
    let log = place.dir.path().join(format!("strace-{option}"));
    let mut strace = Command::new("strace")
        .args(["-f", "-qq", "-e", "trace=splice,vmsplice,pread64,writev", "-o"])
        .arg(&log)
        .args(["-p", &mount.server().to_string()])
        .stderr(Stdio::piped())
        .spawn()
        .ok()?;
    // strace is attached to every thread when a request that was sent afterwards is in its log.
    let probe = mount.path("probe");
    while !fs::read_to_string(&log).unwrap_or_default().contains("splice(") {
        if strace.try_wait().expect("wait").is_some() {
            common::lacking("strace cannot attach here");
            return None;
        }
        fs::write(&probe, pattern(500_000, 1)).expect("write");
        drop_caches();
        fs::read(&probe).expect("read");
    }
    fs::remove_file(&probe).expect("remove");
    drop_caches();
    fs::read(mount.path("f")).expect("read");
    mount.umount();
    strace.wait().expect("strace ends with the server");
    Some(fs::read_to_string(&log).expect("a log"))
}

#[test]
fn the_system_calls_are_those_of_the_way() {
    if !can_mount() {
        return;
    }
    if Command::new("strace").arg("-V").output().is_err() {
        common::lacking("there is no strace");
        return;
    }
    let place = Place::new(64);
    let mount = place.mount("", &[]);
    make(&mount);
    mount.umount();
    let Some(buffered) = syscalls(&place, "read=buffered") else { return };
    let Some(direct) = syscalls(&place, "read=direct") else { return };
    let vmspliced = |log: &str| log.lines().filter(|l| l.contains("vmsplice(")).count();
    let spliced = |log: &str| log.lines().filter(|l| l.contains(" splice(")).count();
    assert!(spliced(&buffered) > 0 && spliced(&direct) > 0);
    // Holes are vmspliced in both; the data itself only in the direct way.
    assert!(vmspliced(&direct) > vmspliced(&buffered), "buffered:\n{buffered}\ndirect:\n{direct}");
    assert!(!buffered.contains("SPLICE_F_MOVE") && !direct.contains("SPLICE_F_MOVE"));
}

#[test]
fn pages_in_a_reply_are_the_images_or_private_as_the_way_says() {
    if !can_mount() {
        return;
    }
    let place = Place::new(64);
    for (option, aliased) in [("read=buffered", true), ("read=direct", false)] {
        let socket = place.dir.path().join("gate");
        let mount = place.mount(&by_device(option), &["--gate", socket.to_str().expect("path")]);
        let old = pattern(65_536, 21);
        fs::write(mount.path("alias"), &old).expect("write");
        File::open(mount.path("alias")).and_then(|f| f.sync_all()).expect("sync");
        let block = first_block(&mount, &place);
        drop_caches();
        let mut gate = inflight_gate::Client::connect(&socket).expect("a gate");
        let rule = inflight_gate::Rule::at(inflight_gate::Phase::Piped).op("read").path("/alias");
        gate.park(rule).expect("a rule");
        let path = mount.path("alias");
        let reader = std::thread::spawn(move || {
            let mut bytes = vec![0; 65_536];
            let n = File::open(path).and_then(|f| f.read_at(&mut bytes, 0)).expect("read");
            bytes.truncate(n);
            bytes
        });
        gate.wait_parked(None, 1, std::time::Duration::from_secs(60)).expect("parked");
        // The data is in the pipe. Now the image changes underneath.
        let new = pattern(65_536, 22);
        let mut image = File::options().write(true).open(&place.image).expect("open");
        image.seek(SeekFrom::Start(block * 4096)).expect("seek");
        image.write_all(&new).expect("write");
        gate.open().expect("open");
        let got = reader.join().expect("the reader");
        assert!(got == if aliased { new } else { old }, "{option}");
        mount.umount();
        fs::remove_file(&place.image).expect("remove");
        ok(&["mkfs", "--size", "64M", place.image()]);
    }
}

/// The image block where "alias" begins: found by its contents, which nothing else has.
fn first_block(mount: &Mount, place: &Place) -> u64 {
    let want = fs::read(mount.path("alias")).expect("read");
    let image = File::open(&place.image).expect("open");
    let mut block = [0; 4096];
    (0..64 * 256)
        .find(|b| image.read_exact_at(&mut block, b * 4096).is_ok() && block[..] == want[..4096])
        .expect("the data is in the image")
}

//! Block devices and their errors, on loop devices. Needs root; skipped with a line otherwise.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, mpsc};

use inflight_dio::{DirectFile, Engine, Op, Pool, PoolConfig, Request};

/// A loop device that is detached however the test ends.
struct Loop {
    device: PathBuf,
    backing: tempfile::NamedTempFile,
}

impl Loop {
    /// `None`, with the reason printed, where there are none to be had.
    fn new(len: u64, sector: u32) -> Option<Self> {
        let backing = tempfile::NamedTempFile::new_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        backing.as_file().set_len(len).unwrap();
        let sector = sector.to_string();
        let output = Command::new("losetup")
            .args(["--find", "--show", "--sector-size", &sector])
            .arg(backing.path())
            .output();
        match output {
            Ok(o) if o.status.success() => {
                let device = String::from_utf8(o.stdout).unwrap().trim().into();
                Some(Self { device, backing })
            }
            other => {
                println!("skipped: no loop device: {other:?}");
                None
            }
        }
    }

    fn path(&self) -> &Path {
        &self.device
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = Command::new("losetup").arg("--detach").arg(&self.device).status();
    }
}

fn pool() -> Pool {
    Pool::new(PoolConfig { slabs: 1, ..PoolConfig::default() }).unwrap()
}

#[test]
fn the_alignment_of_a_device_is_its_sector() {
    for sector in [512, 4096] {
        let Some(device) = Loop::new(1 << 20, sector) else { return };
        let file = DirectFile::open(device.path(), true).unwrap();
        assert!(file.is_block_device());
        assert_eq!((file.alignment().offset, file.size().unwrap()), (sector as usize, 1 << 20));
        let (pool, engine) = (pool(), Engine::new(&pool()).unwrap());
        let mut buf = pool.take(sector as usize);
        buf.as_mut_slice().fill(9);
        let (buf, n) = engine.write_at(&file, buf, u64::from(sector), sector as usize);
        assert_eq!(n.unwrap(), sector as usize);
        let (buf, n) = engine.read_at(&file, buf, 0, sector as usize);
        assert_eq!(n.unwrap(), sector as usize);
        assert!(buf.as_slice().iter().all(|&b| b == 0));
        assert_eq!(engine.read_at(&file, buf, 100, 512).1.unwrap_err().raw_os_error(), Some(22));
    }
}

/// Sync and queued, by ring and by threads, must say the same.
fn results(file: &Arc<DirectFile>, op: Op, offset: u64, len: usize) -> Vec<std::io::Result<usize>> {
    let pool = pool();
    let mut all = Vec::new();
    for engine in [Engine::new(&pool).unwrap(), Engine::with_workers(&pool, 1).unwrap()] {
        all.push(match op {
            Op::Read => engine.read_at(file, pool.take(len), offset, len).1,
            Op::Write => engine.write_at(file, pool.take(len), offset, len).1,
        });
        let (tx, rx) = mpsc::channel();
        let request = Request { file: Arc::clone(file), buf: pool.take(len), offset, len, op };
        engine.submit(request, Box::new(move |c| tx.send(c).unwrap()));
        all.push(rx.recv().unwrap().result);
    }
    assert_eq!(pool.report().in_use, 0, "the buffers came back");
    all
}

#[test]
fn the_end_of_a_device_is_end_of_file_to_a_read_and_enospc_to_a_write() {
    let Some(device) = Loop::new(1 << 20, 512) else { return };
    let file = Arc::new(DirectFile::open(device.path(), true).unwrap());
    for n in results(&file, Op::Read, (1 << 20) - 4096, 8192) {
        assert_eq!(n.unwrap(), 4096);
    }
    for (offset, len) in [(1 << 20, 4096), ((1 << 20) - 4096, 8192)] {
        for n in results(&file, Op::Write, offset, len) {
            assert_eq!(n.unwrap_err().raw_os_error(), Some(28), "ENOSPC at {offset}");
        }
    }
}

#[test]
fn an_error_of_the_device_is_eio_and_never_a_short_count() {
    let Some(device) = Loop::new(1 << 20, 512) else { return };
    let file = Arc::new(DirectFile::open(device.path(), true).unwrap());
    // The device stays 1 MiB, half of what is behind it goes.
    device.backing.as_file().set_len(1 << 19).unwrap();
    for n in results(&file, Op::Read, 0, 1 << 19) {
        assert_eq!(n.unwrap(), 1 << 19);
    }
    for (offset, len) in [(1 << 19, 4096), ((1 << 19) - 65536, 131072)] {
        for n in results(&file, Op::Read, offset, len) {
            assert_eq!(n.unwrap_err().raw_os_error(), Some(5), "EIO at {offset}");
        }
    }
}

//! Bytes that the threads of a server in this process copy: memcpy(3) and memmove(3) of this program, which count.
#![allow(unsafe_code)] // symbols of the C library's

use inflight::mounted::{MountRequest, Mounted};
use inflight::options::Options;
use inflight_fuse::mount::Connection;
use std::cell::Cell;
use std::ffi::c_void;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread::JoinHandle;

/// From here on a copy is one of data; values that are moved are smaller.
const DATA_MIN: usize = 2048;

static IS_COUNTING: AtomicBool = AtomicBool::new(false);
static DATA: AtomicU64 = AtomicU64::new(0);
static VALUES: AtomicU64 = AtomicU64::new(0);

thread_local! {
    static IS_SERVER: Cell<bool> = const { Cell::new(false) };
}

/// Whether the calling thread is one of the server's, by its name, which it has some time after its begin.
fn is_server() -> bool {
    IS_SERVER.get() || {
        let mut name = [0_u8; 16];
        // SAFETY: PR_GET_NAME writes 16 bytes (prctl(2)), and `name` has them.
        unsafe { libc::prctl(libc::PR_GET_NAME, name.as_mut_ptr()) };
        let is_server = name.starts_with(b"fuse-") || name.starts_with(b"worker");
        IS_SERVER.set(is_server);
        is_server
    }
}

fn note(len: usize) {
    if IS_COUNTING.load(Relaxed) && is_server() {
        let count = if len >= DATA_MIN { &DATA } else { &VALUES };
        count.fetch_add(len as u64, Relaxed);
    }
}

/// Copies byte by byte, which no compiler makes a call of memcpy(3) out of, as volatile accesses are kept.
///
/// # Safety
/// As `memmove`.
unsafe fn copy(to: *mut u8, from: *const u8, len: usize) {
    // SAFETY: both ranges are valid for `len` bytes; what is read late was not overwritten, by the direction.
    let one = |at: usize| unsafe { to.add(at).write_volatile(from.add(at).read_volatile()) };
    if to.cast_const() <= from {
        (0..len).for_each(one);
    } else {
        (0..len).rev().for_each(one);
    }
}

/// memcpy(3), counted.
///
/// # Safety
/// Both ranges are valid for `len` bytes.
#[unsafe(no_mangle)]
unsafe extern "C" fn memcpy(to: *mut c_void, from: *const c_void, len: usize) -> *mut c_void {
    note(len);
    // SAFETY: both ranges are valid for `len` bytes, as C demands of whoever calls this.
    unsafe { copy(to.cast(), from.cast(), len) };
    to
}

/// memmove(3), counted.
///
/// # Safety
/// Both ranges are valid for `len` bytes.
#[unsafe(no_mangle)]
unsafe extern "C" fn memmove(to: *mut c_void, from: *const c_void, len: usize) -> *mut c_void {
    note(len);
    // SAFETY: both ranges are valid for `len` bytes, as C demands of whoever calls this.
    unsafe { copy(to.cast(), from.cast(), len) };
    to
}

/// What was copied while `run` ran: bytes of data, and bytes of values that were moved.
pub fn counted(run: impl FnOnce()) -> (u64, u64) {
    let before = (DATA.load(Relaxed), VALUES.load(Relaxed));
    IS_COUNTING.store(true, Relaxed);
    run();
    IS_COUNTING.store(false, Relaxed);
    (DATA.load(Relaxed) - before.0, VALUES.load(Relaxed) - before.1)
}

/// A mount whose server is this process.
pub struct Within {
    pub dir: PathBuf,
    connection: Connection,
    serving: Option<JoinHandle<()>>,
}

impl Within {
    pub fn new(image: &Path, dir: &Path, options: &str) -> Within {
        let mut own = Options::default();
        own.add(options).expect("options");
        let (image, dir) = (image.to_owned(), dir.canonicalize().expect("a folder"));
        let mountpoint = dir.clone();
        let request = MountRequest { image, mountpoint, options: own, gate: None, opened: || {} };
        let mounted = Mounted::start(request).expect("mount");
        let serving = std::thread::Builder::new().name("fuse-run".into());
        let serving = serving.spawn(|| mounted.run().expect("an orderly end")).expect("a thread");
        let connection = Connection::of_mount(&dir).expect("a FUSE mount");
        Within { dir, connection, serving: Some(serving) }
    }
}

impl Drop for Within {
    fn drop(&mut self) {
        let unmounted = inflight_fuse::mount::unmount(&self.dir, true);
        if std::thread::panicking() || unmounted.is_err() {
            let _ = self.connection.abort();
        }
        let ended = self.serving.take().map(JoinHandle::join);
        if !std::thread::panicking() {
            ended.expect("it was there").expect("an orderly end");
        }
    }
}

/// Whether the counters count at all.
#[test]
fn a_copy_of_a_servers_thread_is_counted() {
    let thread = std::thread::Builder::new().name("fuse-test".into());
    let copies = || {
        let from = std::hint::black_box(vec![7_u8; 5000]);
        let mut to = vec![0; from.len()];
        to.copy_from_slice(&from);
        assert!(std::hint::black_box(to) == from);
    };
    let own = counted(|| thread.spawn(copies).expect("a thread").join().expect("an end"));
    assert!((5000..2 * 5000 + DATA_MIN as u64).contains(&own.0), "{own:?}");
}

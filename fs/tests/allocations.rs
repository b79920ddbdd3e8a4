//! How often a request asks the heap, against the bounds of `counts.txt`: the server on a channel in memory, without a mount.
#![allow(unsafe_code)] // a global allocator that counts

mod bounds;
mod common;

use bounds::{Counts, excess, judge};
use common::Place;
use inflight::mounted;
use inflight::options::Options;
use inflight::serve::server::{Front, Server};
use inflight_fuse::abi::{OutHeader, WriteFlags};
use inflight_fuse::channel::memory::{self, Kernel};
use inflight_fuse::channel::{Config, Handler as _, Receiver};
use inflight_fuse::{
    Create, Dialect, Extensions, Header, MakeNode, Name, Operation, Read, Rename, Request, Write,
};
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::time::Duration;

/// The system's allocator, which counts what each thread asks of it.
struct Counting;

thread_local! {
    static ASKED: Cell<u64> = const { Cell::new(0) };
}

fn note() {
    // A thread that is ending has no counter any more, and nobody looks at it.
    let _ = ASKED.try_with(|asked| asked.set(asked.get() + 1));
}

// SAFETY: every call is the system allocator's, with the same arguments; counting allocates nothing, for the counter is
// initialised by the compiler and has no destructor.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        note();
        // SAFETY: the caller's promise is handed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        note();
        // SAFETY: the caller's promise is handed on.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        note();
        // SAFETY: the caller's promise is handed on.
        unsafe { System.realloc(memory, layout, size) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise is handed on.
        unsafe { System.dealloc(memory, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

/// Requests of a kind that are not counted, and that are.
const WARM: usize = 50;
const COUNTED: usize = 200;

/// A server that is asked by hand.
struct Asked {
    kernel: Kernel,
    receiver: Receiver,
    front: Front,
    unique: u64,
}

impl Asked {
    fn new(place: &Place) -> Asked {
        let options = Options { slabs: 1, ..Options::default() };
        let fs = mounted::open(&place.image, &options).expect("an image");
        let (channel, kernel) = memory::connect(Config::plain().expect("memory"));
        let front = Front(Server::new(fs.into(), None));
        Asked { kernel, receiver: channel.receiver(), front, unique: 0 }
    }

    /// Asks once: how often the heap was asked from the request's arrival to its answer, and the answer.
    fn ask(&mut self, nodeid: u64, operation: Operation) -> (u64, OutHeader, Vec<u8>) {
        self.unique += 2;
        let header = Header { unique: self.unique, nodeid, ..Header::default() };
        self.kernel.send(&Request { header, operation }, Dialect::default());
        let before = ASKED.get();
        let received = self.receiver.receive().expect("a request");
        self.front.request(received, None);
        let asked = ASKED.get() - before;
        let (header, body) = self.kernel.answer(Duration::from_secs(60)).expect("an answer");
        (asked, header, body)
    }

    /// The inode of a new file.
    fn make(&mut self, name: &str) -> u64 {
        let (_, header, body) = self.ask(1, create(name));
        assert_eq!(header.error, 0, "{name}");
        u64::from_ne_bytes(body[..8].try_into().expect("a node id"))
    }
}

fn name(text: &str) -> Name {
    Name::new(text)
}

fn create(text: &str) -> Operation {
    Operation::Create(Create {
        name: name(text),
        flags: 0,
        mode: libc::S_IFREG | 0o644,
        umask: 0,
        kill_suidgid: false,
        extensions: Extensions::default(),
    })
}

fn mkdir(text: &str) -> Operation {
    let (mode, umask, extensions) = (0o755, 0, Extensions::default());
    Operation::Mkdir(MakeNode { name: name(text), mode, umask, extensions })
}

fn write(offset: u64) -> Operation {
    let write_flags = WriteFlags::CACHE;
    let data = vec![7; 4096].into();
    Operation::Write(Write { fh: 0, offset, data, write_flags, lock_owner: None, flags: 0 })
}

fn read() -> Operation {
    let (offset, size) = (0, 4096);
    Operation::Read(Read { fh: 0, offset, size, lock_owner: None, flags: 0 })
}

fn rename(from: &str, to: &str) -> Operation {
    Operation::Rename(Rename { name: name(from), new_parent: 1, new_name: name(to), flags: 0 })
}

/// The inode that a request is to, and the request: of a file's inode, and a number.
type Kind = fn(u64, usize) -> (u64, Operation);

/// One kind of request: its name, and the request with a number, to the inode of a file of 4 KiB.
const KINDS: &[(&str, Kind)] = &[
    ("lookup", |_, _| (1, Operation::Lookup { name: name("f0") })),
    ("getattr", |ino, _| (ino, Operation::Getattr { fh: None })),
    ("statfs", |_, _| (1, Operation::Statfs)),
    ("create", |_, number| (1, create(&format!("new{number}")))),
    ("mkdir", |_, number| (1, mkdir(&format!("new{number}")))),
    ("rename", |_, number| (1, rename(&format!("f{number}"), &format!("g{number}")))),
    ("unlink", |_, number| (1, Operation::Unlink { name: name(&format!("f{number}")) })),
    ("read", |ino, _| (ino, read())),
    ("write", |ino, _| (ino, write(0))),
    ("append", |ino, number| (ino, write(4096 * (number as u64 + 1)))),
];

fn allocations(make: Kind) -> Counts {
    let place = Place::new(64);
    let mut asked = Asked::new(&place);
    let inodes: Vec<_> =
        (0..WARM + COUNTED).map(|number| asked.make(&format!("f{number}"))).collect();
    let ino = inodes[0];
    assert_eq!(asked.ask(ino, write(0)).1.error, 0);
    let mut one = |number| {
        let (nodeid, operation) = make(ino, number);
        let (count, header, _) = asked.ask(nodeid, operation);
        assert_eq!(header.error, 0, "number {number}");
        count
    };
    for number in 0..WARM {
        one(number);
    }
    let sum: u64 = (WARM..WARM + COUNTED).map(one).sum();
    mounted::close(asked.front.0.fs()).expect("close");
    Counts::from([("heap".to_owned(), sum as f64 / COUNTED as f64)])
}

#[test]
fn allocations_of_requests() {
    let above =
        KINDS.iter().flat_map(|(name, make)| excess("allocations", name, || allocations(*make)));
    judge(&above.collect::<Vec<_>>());
}

//! Events as no kernel sends them: twice, late, refused, for what is over.

use super::*;
use crate::abi::WriteFlags;
use crate::abi::uring::{EntInOut, IN_OUT_HEADER_SIZE, ReqHeader};
use crate::channel::SendError;
use crate::channel::uring::{Completion, Config};
use crate::decode::Dialect;
use crate::request::{Header, Operation, Request, Write};
use inflight_dio::{Pool, PoolConfig};
use parking_lot::Mutex;
use std::mem::offset_of;
use zerocopy::IntoBytes as _;

/// Keeps what it is handed.
#[derive(Default)]
struct Keeper {
    received: Mutex<Vec<Received>>,
    completed: Mutex<Vec<u64>>,
}

impl Handler for Keeper {
    fn request(&self, received: Received, queue: Option<&mut Queue>) {
        assert!(queue.is_some());
        self.received.lock().push(received);
    }

    fn completed(&self, completion: Completion, _queue: &mut Queue) {
        self.completed.lock().push(completion.token);
    }
}

impl Keeper {
    fn take(&self) -> Received {
        self.received.lock().pop().expect("a request")
    }
}

fn queue() -> Queue {
    let config = Config { payload: 8192, depth: 2, io_depth: 4, ..Config::default() };
    let plan = Plan::new(1, &config);
    let pool = Pool::new(PoolConfig { slabs: 0, ..PoolConfig::default() }).unwrap();
    let shared = Shared::new(0, &pool, &plan).unwrap();
    let mut queue = Queue::new(shared, &plan).unwrap();
    for index in 0..plan.depth {
        let buffer = queue.shared.lenders[index].lend().unwrap();
        queue.states[index] = State::Kernel(buffer);
    }
    queue.count_idle();
    queue
}

fn statfs(unique: u64) -> Request {
    let header = Header { unique, nodeid: 1, ..Header::default() };
    Request { header, operation: Operation::Statfs }
}

fn write(unique: u64, data: Vec<u8>) -> Request {
    let write = Write {
        fh: 0,
        offset: 0,
        write_flags: WriteFlags::default(),
        lock_owner: None,
        flags: 0,
        data: data.into(),
    };
    let header = Header { unique, nodeid: 2, ..Header::default() };
    Request { header, operation: Operation::Write(write) }
}

/// Puts a request where the kernel would; `payload` of its last bytes lie in the entry's buffer.
fn put(queue: &mut Queue, index: usize, request: &Request, payload: usize) {
    let bytes = request.encode(Dialect::default()).unwrap();
    let (head, tail) = bytes.split_at(bytes.len() - payload);
    let (header, arguments) = head.split_at(size_of::<InHeader>());
    let commit_id = request.header.unique;
    let about = EntInOut { commit_id, payload_sz: payload as u32, ..EntInOut::default() };
    let place = queue.shared.headers.as_ptr().cast_mut();
    // SAFETY: the header lies in the queue's memory, and there is no kernel that uses it.
    unsafe {
        let place = place.add(index * size_of::<ReqHeader>());
        place.copy_from_nonoverlapping(header.as_ptr(), header.len());
        let area = place.add(IN_OUT_HEADER_SIZE);
        area.copy_from_nonoverlapping(arguments.as_ptr(), arguments.len());
        let about_place = place.add(offset_of!(ReqHeader, ring_ent_in_out));
        about_place.copy_from_nonoverlapping(about.as_bytes().as_ptr(), size_of::<EntInOut>());
    }
    if let State::Kernel(buffer) = &mut queue.states[index] {
        buffer.set_len(payload);
        buffer.as_mut_slice().copy_from_slice(tail);
    }
}

fn apply_notes(queue: &mut Queue) -> usize {
    let mut notes = Vec::new();
    queue.shared.take(&mut notes);
    let count = notes.len();
    notes.into_iter().for_each(|note| queue.apply(note));
    count
}

fn commits(queue: &mut Queue) -> usize {
    queue.ring.submission().len()
}

#[test]
fn an_event_that_comes_twice_is_one_request() {
    let (mut queue, keeper) = (queue(), Keeper::default());
    put(&mut queue, 0, &statfs(4), 0);
    queue.event(ENTRY, 0, &keeper);
    queue.event(ENTRY, 0, &keeper);
    assert_eq!(keeper.received.lock().len(), 1);
    assert_eq!(queue.idle(), 1);
    keeper.take().ticket.reply(Reply::Error(Errno::EIO)).unwrap();
    assert_eq!((apply_notes(&mut queue), commits(&mut queue), queue.idle()), (1, 1, 2));
}

#[test]
fn a_request_is_answered_once_whatever_is_noted() {
    let (mut queue, keeper) = (queue(), Keeper::default());
    put(&mut queue, 0, &statfs(4), 0);
    queue.event(ENTRY, 0, &keeper);
    keeper.take().ticket.reply(Reply::Error(Errno::EIO)).unwrap();
    apply_notes(&mut queue);
    // What a second answer would leave; and what belongs to no request at all.
    let pool = Pool::new(PoolConfig { slabs: 0, ..PoolConfig::default() }).unwrap();
    for entry in [0, 1] {
        let header = OutHeader { len: 16, error: 0, unique: 4 };
        queue.apply(Note::Commit { entry, header, len: 0, buffer: pool.take(4096) });
        queue.apply(Note::Returned { entry });
    }
    assert_eq!((commits(&mut queue), queue.idle()), (1, 2));
}

#[test]
fn an_answer_waits_for_the_requests_own_data() {
    let (mut queue, keeper) = (queue(), Keeper::default());
    put(&mut queue, 1, &write(6, vec![9; 5000]), 5000);
    queue.event(ENTRY | 1, 0, &keeper);
    let Received { request, ticket } = keeper.take();
    let Operation::Write(write) = &request.operation else { panic!("{request:?}") };
    assert_eq!(write.data.as_slice(), [9; 5000]);
    ticket.reply(Reply::Written(5000)).unwrap();
    assert_eq!((apply_notes(&mut queue), commits(&mut queue)), (1, 0), "its memory is in use");
    drop(request);
    assert_eq!((apply_notes(&mut queue), commits(&mut queue), queue.idle()), (1, 1, 2));
}

#[test]
fn what_is_late_is_told_so_and_harms_nobody() {
    let (mut queue, keeper) = (queue(), Keeper::default());
    put(&mut queue, 0, &statfs(4), 0);
    put(&mut queue, 1, &write(6, vec![9; 100]), 100);
    queue.event(ENTRY, 0, &keeper);
    queue.event(ENTRY | 1, 0, &keeper);
    let Received { request, ticket } = keeper.take();
    ticket.reply(Reply::Written(100)).unwrap();
    apply_notes(&mut queue);
    queue.apply(Note::Close);
    // Answered before the end, its memory given back after it.
    drop(request);
    apply_notes(&mut queue);
    queue.shared.close();
    let sent = keeper.take().ticket.reply(Reply::Error(Errno::EIO));
    assert!(matches!(sent, Err(SendError::Disconnected)), "{sent:?}");
    assert_eq!(commits(&mut queue), 0);
    assert!(!queue.states.iter().any(|state| matches!(state, State::Kernel(_))));
}

#[test]
fn an_entry_that_the_kernel_ends_takes_no_other_along() {
    let (mut queue, keeper) = (queue(), Keeper::default());
    queue.event(ENTRY, -libc::EINVAL, &keeper);
    assert_eq!((queue.idle(), queue.is_over), (1, false));
    // Ended and yet arrived: there is no memory that it could be in.
    queue.event(ENTRY, 0, &keeper);
    assert!(keeper.received.lock().is_empty());
    put(&mut queue, 1, &statfs(4), 0);
    queue.event(ENTRY | 1, 0, &keeper);
    assert_eq!(keeper.received.lock().len(), 1);
    queue.event(ENTRY, -libc::ENOTCONN, &keeper);
    assert!(queue.is_over);
}

#[test]
fn a_refused_commit_costs_its_entry() {
    let (mut queue, keeper) = (queue(), Keeper::default());
    put(&mut queue, 0, &statfs(4), 0);
    queue.event(ENTRY, 0, &keeper);
    keeper.take().ticket.reply(Reply::Error(Errno::EIO)).unwrap();
    apply_notes(&mut queue);
    // No device is registered with this ring: EBADF.
    queue.enter().unwrap();
    let events: Vec<_> =
        queue.ring.completion().map(|event| (event.user_data(), event.result())).collect();
    assert_eq!(events, [(ENTRY, -libc::EBADF)]);
    queue.event(ENTRY, -libc::EBADF, &keeper);
    assert!(matches!(queue.states[0], State::Dead) && !queue.is_over);
    assert_eq!(queue.idle(), 1);
}

#[test]
fn a_transfer_is_completed_once() {
    let (mut queue, keeper) = (queue(), Keeper::default());
    let file = Arc::new(tempfile::tempfile().unwrap());
    let pool = Pool::new(PoolConfig { slabs: 0, ..PoolConfig::default() }).unwrap();
    let mut buffer = pool.take(4096);
    buffer.set_len(4096);
    queue.read_at(&file, buffer, 0, 77).unwrap();
    queue.event(FLIGHT, 0, &keeper);
    queue.event(FLIGHT, 0, &keeper);
    queue.event(FLIGHT | 3, 0, &keeper);
    queue.event(FLIGHT | 1000, 0, &keeper);
    assert_eq!(*keeper.completed.lock(), [77]);
}

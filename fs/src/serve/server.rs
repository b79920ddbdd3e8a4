//! What all requests of a mount share.

use super::convert::Timeouts;
use super::exchange::{Exchange, Wait};
use super::flight::{Flight, Transfer};
use super::lessons;
use super::notice::{Kernel, Notice};
use super::origin::Origin;
use super::sink::Sink;
use super::stale::Stale;
use super::workers::Workers;
use crate::ops::Fs;
use crate::ops::flights::Asked;
use inflight_dio::Buffer;
use inflight_fuse::abi::{FsyncFlags, OpenFlags};
use inflight_fuse::channel::{Handler, Received, uring};
use inflight_fuse::{Notification, Operation, Request};
use inflight_gate::{Gate, Subject};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, OnceLock};

/// The operations with all that serving them needs.
pub struct Server {
    fs: Arc<Fs>,
    gate: Option<Arc<Gate>>,
    workers: Workers,
    stale: Stale,
    kernel: OnceLock<Box<dyn Kernel>>,
    timeouts: Timeouts,
    /// Answers to OPEN; `None` tells the kernel not to ask again.
    open: Option<OpenFlags>,
    /// Transfers that a queue's ring has, by token; one map for each queue.
    flights: Vec<Mutex<Flights>>,
}

#[derive(Default)]
struct Flights {
    by_token: HashMap<u64, Flight>,
    last: u64,
}

/// Where an exchange is being worked on.
pub enum Place<'a> {
    /// The thread of a queue, which serves a core: it never waits.
    Queue(&'a mut uring::Queue),
    /// A thread that takes requests, among several: it waits for the device, not for other requests.
    Receiver,
    /// A thread of its own.
    Worker,
}

impl Place<'_> {
    pub(super) fn patience(&self) -> Wait {
        match self {
            Place::Queue(_) => Wait::Nothing,
            Place::Receiver => Wait::Device,
            Place::Worker => Wait::Requests,
        }
    }
}

impl Server {
    /// A server of `fs`. Notifications are lost until [`Server::connect`].
    pub fn new(fs: Arc<Fs>, gate: Option<Arc<Gate>>) -> Arc<Server> {
        let options = fs.options();
        let direct = if options.direct_io {
            OpenFlags::DIRECT_IO | OpenFlags::PARALLEL_DIRECT_WRITES
        } else {
            OpenFlags::KEEP_CACHE | OpenFlags::CACHE_DIR
        };
        let open = fs.asks_opens().then_some(direct);
        let timeouts = Timeouts::new(options);
        let flights = (0..uring::possible_cores()).map(|_| Mutex::default()).collect();
        let (workers, stale, kernel) = (Workers::default(), Stale::default(), OnceLock::new());
        Arc::new(Server { fs, gate, workers, stale, kernel, timeouts, open, flights })
    }

    /// Where notifications go; the first one counts.
    pub fn connect(&self, kernel: Box<dyn Kernel>) {
        let _ = self.kernel.set(kernel);
    }

    /// The operations.
    pub fn fs(&self) -> &Arc<Fs> {
        &self.fs
    }

    /// Returns when no worker has anything to do, after the end of the connection: only then may the
    /// image be closed.
    pub fn finish(&self) {
        self.workers.finish();
    }

    /// The gate, where there is one.
    pub fn gate(&self) -> Option<&Arc<Gate>> {
        self.gate.as_ref()
    }

    pub(super) fn workers(&self) -> &Workers {
        &self.workers
    }

    pub(super) fn stale(&self) -> &Stale {
        &self.stale
    }

    pub(super) fn timeouts(&self) -> Timeouts {
        self.timeouts
    }

    pub(super) fn open_flags(&self) -> Option<OpenFlags> {
        self.open
    }

    pub(super) fn kernel(&self) -> &dyn Kernel {
        struct Nobody;
        impl Kernel for Nobody {
            fn notify(&self, _: &Notification<'_>) {}
        }
        self.kernel.get().map_or(&Nobody, |kernel| &**kernel)
    }

    /// Sends a notification from where, and when, it may be sent.
    pub(super) fn tell(self: Arc<Self>, notice: Notice, place: &Place<'_>) {
        let here = match notice {
            Notice::Blocks(ino) => return self.blocks_changed(ino),
            Notice::AskAgain(_) | Notice::WriteBack(..) => matches!(place, Place::Worker),
        };
        if here {
            return notice.send(self.kernel());
        }
        let server = Arc::clone(&self);
        self.workers.run(move || notice.send(server.kernel()));
    }

    /// Serves a request, here or elsewhere.
    pub fn accept(self: &Arc<Self>, request: Request, sink: Sink, place: Place<'_>) {
        let asked = asked(&request);
        let is_logged = is_logged(&request.operation);
        let ticket = self.gate.as_ref().filter(|_| is_logged);
        let ticket = ticket.map(|gate| gate.arrive(subject(&request)));
        if let Some(gate) = self.gate.as_ref().filter(|_| !is_logged) {
            gate.unlogged(request.header.unique);
            match &request.operation {
                Operation::NotifyReply(reply) => {
                    gate.retrieved(request.header.unique, reply.data.as_slice());
                }
                // No answer: ENOSYS would end INTERRUPTs for the whole mount, and the log is to have each.
                &Operation::Interrupt { unique } => return gate.interrupted(unique),
                _ => {}
            }
        }
        let mut origin = Origin::new(Arc::clone(self), sink, ticket, asked);
        origin.answer_early(&request);
        Exchange::Received(origin, request).run(place);
    }

    /// Has the queue's ring make a transfer.
    ///
    /// Gives the flight and its buffer back when it takes no more.
    pub(super) fn depart(
        &self,
        queue: &mut uring::Queue,
        flight: Flight,
        transfer: Transfer,
    ) -> Option<(Flight, Option<Buffer>)> {
        let Some(flights) = self.flights.get(queue.number()) else {
            return Some((flight, transfer.into_buffer()));
        };
        let mut flights = flights.lock();
        flights.last += 1;
        let token = flights.last;
        let queued = match transfer {
            Transfer::FromImage { file, buffer, offset } => {
                queue.read_at(&file, buffer, offset, token).map_err(Some)
            }
            Transfer::ToImage { file, buffer, offset } => {
                queue.write_at(&file, buffer, offset, token).map_err(Some)
            }
            Transfer::Flush { file } => queue.sync_data(&file, token).then_some(()).ok_or(None),
        };
        match queued {
            Ok(()) => {
                flights.by_token.insert(token, flight);
                None
            }
            Err(buffer) => Some((flight, buffer)),
        }
    }
}

/// Whether the gate's log has requests of this kind: not what nobody waits for, and what is refused once and for all.
fn is_logged(operation: &Operation) -> bool {
    !matches!(
        operation,
        Operation::Forget { .. }
            | Operation::BatchForget(_)
            | Operation::Interrupt { .. }
            | Operation::NotifyReply(_)
            | Operation::Flush(_)
            | Operation::Access { .. }
            | Operation::Destroy
    )
}

/// A request as the gate sees it.
fn subject(request: &Request) -> Subject {
    let Asked { unique, ino, offset, len, pid, .. } = asked(request);
    let size = match &request.operation {
        Operation::Setattr(set) => set.size,
        _ => None,
    };
    Subject {
        unique,
        opcode: request.opcode(),
        ino,
        offset,
        len,
        pid,
        uid: request.header.uid,
        size,
        names: lessons::names(request),
        data_only: matches!(
            &request.operation,
            Operation::Fsync(sync) if sync.fsync_flags.contains(FsyncFlags::FDATASYNC)
        ),
    }
}

/// What is kept of a request while it is in flight.
fn asked(request: &Request) -> Asked {
    let header = &request.header;
    let (offset, len) = match &request.operation {
        Operation::Read(read) => (read.offset, read.size.into()),
        Operation::Readdir(read) | Operation::Readdirplus(read) => (read.offset, 0),
        Operation::Write(write) => (write.offset, write.data.len() as u64),
        Operation::Fallocate(range) => (range.offset, range.length),
        Operation::Lseek { offset, .. } => (*offset, 0),
        Operation::CopyFileRange(range) | Operation::CopyFileRange64(range) => {
            (range.offset_in, range.len)
        }
        _ => (0, 0),
    };
    // The name of a link is what its directory has; what it is about is the inode.
    let ino = match &request.operation {
        Operation::Link { target, .. } => *target,
        _ => header.nodeid,
    };
    let operation = request.opcode().name().unwrap_or("unknown");
    Asked { operation, unique: header.unique, ino, offset, len, pid: header.pid }
}

/// A server as channels see it.
pub struct Front(pub Arc<Server>);

impl Handler for Front {
    fn request(&self, received: Received, queue: Option<&mut uring::Queue>) {
        let Received { request, ticket } = received;
        let place = queue.map_or(Place::Receiver, Place::Queue);
        let serve = || self.0.accept(request, Sink::Channel(ticket), place);
        // The hook has printed it, and what was dropped answered EIO.
        let _ = catch_unwind(AssertUnwindSafe(serve));
    }

    fn completed(&self, completion: uring::Completion, queue: &mut uring::Queue) {
        let uring::Completion { token, result, buffer } = completion;
        let flights = self.0.flights.get(queue.number());
        let flight = flights.and_then(|flights| flights.lock().by_token.remove(&token));
        if let Some(flight) = flight {
            flight.arrive((buffer, result), queue);
        }
    }
}

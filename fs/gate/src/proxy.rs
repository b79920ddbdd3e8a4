//! The gate in front of a FUSE server that knows nothing of it.
//!
//! The proxy has the device, or another kernel's end; the server has a socket that it takes for the device.
//! Every request of the kernel goes through the gate at [`Phase::Received`], every answer at
//! [`Phase::Replied`]. What the server's answers say of names is remembered, so that rules can name files.
//!
//! * INIT passes with what the proxy lacks taken out of it (fuse-over-io_uring, passthrough) and with requests
//!   no larger than the socket takes.
//! * FORGET, INTERRUPT and NOTIFY_REPLY pass; an INTERRUPT for a request that is parked before the server has
//!   it follows that request, and one for a request that the server has answered is not passed on.
//! * Notifications pass on a thread of their own, because the kernel may hold one until an answer is there.
//!   The server is not told what came of them: over a socket they look as if they always succeeded.
//! * Answers that the server splices arrive in pieces and are put together.
//!
//! Lock order: the locks here are leaves, and nothing is sent under them.

mod flights;
mod init;
mod names;
mod passage;
mod pieces;
mod subject;

use std::io::IoSlice;
use std::path::Path;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel, sync_channel};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use inflight_fuse::abi::{InHeader, InitFlags, Opcode, OutHeader};
use inflight_fuse::channel::pair::{Answer, Kernel};
use inflight_fuse::channel::{Channel, Message, ReceiveError};
use inflight_fuse::{Dialect, Operation};
use nix::errno::Errno;
use parking_lot::Mutex;
use zerocopy::IntoBytes as _;

use crate::copying::page_size;
use crate::{Gate, GateError, Phase};
use flights::{Flight, Flights, Interrupt};
use init::Agreed;
use names::{Found, Lesson, Names};
use passage::{Inward, Outward};
use pieces::Pieces;

/// Bytes of a message beyond the data of a READ or WRITE: header, arguments, and more than those have.
pub const MESSAGE_EXTRA: usize = 4096;

/// How long the server may take to look up a rule's path.
const LOOKUP: Duration = Duration::from_secs(5);

/// Why a proxy ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ended {
    /// The kernel closed the connection: an unmount, or an abort.
    Closed,
    /// The server closed its end, or ended.
    ServerGone,
    /// Neither, but it cannot go on.
    Failed(String),
}

/// What both ends agreed upon, for whoever watches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Agreement {
    /// What the kernel offered and the server was not.
    pub masked: Vec<&'static str>,
    /// Largest request that the server wanted, in bytes, and the one that holds.
    pub max_write: (u32, u32),
}

/// The two ends and all that lies between them.
#[derive(Debug)]
pub(crate) struct Link {
    device: Channel,
    server: Kernel,
    gate: OnceLock<Arc<Gate>>,
    flights: Mutex<Flights>,
    names: Mutex<Names>,
    max_write: u32,
    offered: OnceLock<InitFlags>,
    agreed: OnceLock<Agreed>,
    events: Sender<Event>,
}

#[derive(Debug)]
enum Event {
    Agreed,
    Ended(Ended),
}

/// A proxy at work. Dropping it closes the server's end and the gate.
#[derive(Debug)]
pub struct Proxy {
    link: Arc<Link>,
    events: Receiver<Event>,
}

impl Proxy {
    /// Between `device`, which is yet to send INIT, and `server`, with the gate's control socket at `socket`.
    /// No request has more than `max_write` bytes of data; both ends take that and [`MESSAGE_EXTRA`].
    ///
    /// # Errors
    /// As [`Gate::listen`], and when there is no thread to be had.
    pub fn start(
        device: Channel,
        server: Kernel,
        socket: &Path,
        max_write: u32,
    ) -> Result<Proxy, GateError> {
        let (sender, events) = channel();
        let link = Arc::new(Link {
            device,
            server,
            gate: OnceLock::new(),
            flights: Mutex::new(Flights::new()),
            names: Mutex::default(),
            max_write,
            offered: OnceLock::new(),
            agreed: OnceLock::new(),
            events: sender,
        });
        let weak = Arc::downgrade(&link);
        let resolve = Box::new(move |path: &Path| Weak::upgrade(&weak)?.resolve(path));
        let gate = Gate::listen_for(socket, resolve, &Phase::PROXY)?;
        if let Some(intake) = link.device.intake() {
            gate.guard(intake);
        }
        gate.speak_by(&link.device);
        let _ = link.gate.set(gate);
        let proxy = Proxy { link, events };
        let (notices, queue) = channel();
        // They take turns: the second one goes on where the first is held in the middle of a copy.
        for _ in 0..if proxy.link.device.intake().is_some() { 2 } else { 1 } {
            let link = Arc::clone(&proxy.link);
            spawn("gate-requests", move || link.requests())?;
        }
        let link = Arc::clone(&proxy.link);
        spawn("gate-answers", move || link.answers(&notices))?;
        let device = proxy.link.device.clone();
        spawn("gate-notices", move || notify(&device, &queue))?;
        Ok(proxy)
    }

    /// Waits until INIT was answered; `None` when it was not within `bound`.
    ///
    /// # Errors
    /// It ended before.
    pub fn agreement(&self, bound: Duration) -> Result<Option<Agreement>, Ended> {
        match self.events.recv_timeout(bound) {
            Ok(Event::Agreed) => Ok(self.link.agreement()),
            Ok(Event::Ended(ended)) => Err(ended),
            Err(RecvTimeoutError::Timeout) => Ok(None),
            Err(RecvTimeoutError::Disconnected) => Err(Ended::Closed),
        }
    }

    /// Waits up to `bound` for its end.
    pub fn wait(&self, bound: Duration) -> Option<Ended> {
        loop {
            match self.events.recv_timeout(bound) {
                Ok(Event::Ended(ended)) => return Some(ended),
                Ok(Event::Agreed) => {}
                Err(RecvTimeoutError::Timeout) => return None,
                Err(RecvTimeoutError::Disconnected) => return Some(Ended::Closed),
            }
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        // What is still open logs itself as dropped, so that the gate need not wait for it.
        let left = self.link.flights.lock().close();
        drop(left);
        self.link.server.close();
        self.link.gate().shutdown();
    }
}

fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> Result<(), GateError> {
    let spawned = std::thread::Builder::new().name(name.to_owned()).spawn(work);
    spawned.map(drop).map_err(|error| GateError::io("start a thread of the proxy", error))
}

/// Sends notifications in order until there are no more.
fn notify(device: &Channel, queue: &Receiver<Answer>) {
    for notice in queue {
        let header = notice.header();
        let pieces = [header.as_bytes(), notice.data()].map(IoSlice::new);
        // The kernel refuses what it does not have, which the server cannot be told.
        let _ = device.send_pieces(&pieces);
    }
}

impl Link {
    fn gate(&self) -> &Arc<Gate> {
        self.gate.get().expect("set before there is a thread that asks")
    }

    fn end(&self, ended: Ended) {
        // Nobody listens when it is being dropped.
        let _ = self.events.send(Event::Ended(ended));
    }

    fn agreement(&self) -> Option<Agreement> {
        let agreed = self.agreed.get()?;
        let offered = *self.offered.get()?;
        let names = [
            (InitFlags::OVER_IO_URING, "fuse-over-io_uring"),
            (InitFlags::PASSTHROUGH, "passthrough"),
        ];
        let masked = names.into_iter().filter(|(flag, _)| offered.contains(*flag));
        let masked = masked.map(|(_, name)| name).collect();
        Some(Agreement { masked, max_write: (agreed.wanted, agreed.max_write) })
    }

    /// The way in: takes requests until the connection ends.
    fn requests(self: Arc<Self>) {
        let mut receiver = self.device.receiver();
        let ended = loop {
            match receiver.receive_message() {
                Ok(message) => self.request(message),
                Err(ReceiveError::Closed | ReceiveError::Aborted) => break Ended::Closed,
                Err(error) => break Ended::Failed(error.to_string()),
            }
        };
        self.end(ended);
    }

    fn request(self: &Arc<Self>, message: Message) {
        let Some(header) = message.header() else { return };
        match Opcode(header.opcode) {
            Opcode::INIT => self.offer(&message, &header),
            Opcode::FORGET | Opcode::BATCH_FORGET => {
                self.forget(&message, &header);
                self.pass(&message, &header);
            }
            Opcode::INTERRUPT => {
                let Ok(request) = message.peek(self.device.dialect()) else { return };
                let Operation::Interrupt { unique } = request.operation else { return };
                self.gate().interrupted(unique);
                if self.flights.lock().interrupt(unique) == Interrupt::Pass {
                    self.pass(&message, &header);
                }
            }
            Opcode::NOTIFY_REPLY => {
                let Ok(request) = message.peek(self.device.dialect()) else { return };
                let Operation::NotifyReply(reply) = request.operation else { return };
                if !self.gate().retrieved(header.unique, reply.data.as_slice()) {
                    self.pass(&message, &header);
                }
            }
            Opcode::DESTROY => self.pass(&message, &header),
            _ => {
                let subject = subject::subject(&message, &header, self.device.dialect());
                let ticket = self.gate().arrive(subject);
                self.flights.lock().arrive(header.unique);
                Inward::new(self, message, header, ticket).receive();
            }
        }
    }

    /// What needs no answer, or gets one that is nobody's business.
    fn pass(self: &Arc<Self>, message: &Message, header: &InHeader) {
        if let Err(error) = self.server.pass(message) {
            self.lost(header.unique, &error);
        }
    }

    fn forget(&self, message: &Message, header: &InHeader) {
        let Ok(request) = message.peek(self.device.dialect()) else { return };
        let mut names = self.names.lock();
        match request.operation {
            Operation::Forget { nlookup } => names.forget(header.nodeid, nlookup),
            Operation::BatchForget(all) => {
                all.iter().for_each(|forget| names.forget(forget.nodeid, forget.nlookup));
            }
            _ => {}
        }
    }

    fn offer(self: &Arc<Self>, message: &Message, header: &InHeader) {
        let mut bytes: Vec<u8> =
            message.io_slices().iter().flat_map(|s| s.iter().copied()).collect();
        let _ = self.offered.set(init::mask_offer(&mut bytes));
        let flight = Flight { ticket: None, lesson: None, blocks: false, cut: None };
        self.flights.lock().send(header.unique, flight);
        if let Err(error) = self.server.send(&[IoSlice::new(&bytes)]) {
            self.lost(header.unique, &error);
        }
    }

    /// A request did not reach the server.
    fn lost(self: &Arc<Self>, unique: u64, error: &std::io::Error) {
        // A server that is gone is seen by the way out, which ends everything.
        let (flight, next) = self.flights.lock().land(unique);
        if let Some(ticket) = flight.and_then(|flight| flight.ticket) {
            let errno = passage::errno_of(error);
            ticket.answers();
            self.fail(unique, Errno::EIO as i32);
            ticket.done(Err(errno));
        }
        next.into_iter().for_each(Inward::depart);
    }

    /// Tells the server that the request with this header is to be interrupted.
    fn interrupt(&self, target: &InHeader) {
        let (header, args) = passage::interrupt(target);
        let _ = self.server.send(&[header.as_bytes(), args.as_bytes()].map(IoSlice::new));
    }

    /// The way out: takes answers until the server is gone.
    fn answers(self: Arc<Self>, notices: &Sender<Answer>) {
        let mut pieces = Pieces::new(self.max_write as usize + MESSAGE_EXTRA);
        let ended = loop {
            let part = match self.server.receive_part() {
                Ok(Some(part)) => part,
                Ok(None) => break Ended::ServerGone,
                Err(error) => break Ended::Failed(format!("cannot receive an answer: {error}")),
            };
            match pieces.take(part, |unique| self.flights.lock().is_there(unique)) {
                Ok(Some(answer)) => self.answered(answer, pieces.manner(), notices),
                Ok(None) => {}
                Err(garbled) => break Ended::Failed(garbled.to_string()),
            }
        };
        self.end(ended);
    }

    fn answered(
        self: &Arc<Self>,
        answer: Answer,
        manner: pieces::Manner,
        notices: &Sender<Answer>,
    ) {
        let header = answer.header();
        if header.unique == 0 {
            let _ = notices.send(answer);
            return;
        }
        let mut flights = self.flights.lock();
        flights.manner = manner;
        if let Some(asker) = flights.asked(header.unique) {
            let _ = asker.try_send(answer);
            return;
        }
        let (flight, next) = flights.land(header.unique);
        drop(flights);
        next.into_iter().for_each(Inward::depart);
        match flight {
            Some(Flight { ticket: Some(ticket), lesson, cut, .. }) => {
                if let Some(lesson) = lesson.filter(|_| answer.errno().is_none()) {
                    self.names.lock().learn(lesson, answer.data());
                }
                Outward::new(self, answer, ticket, cut).reply();
            }
            Some(_) => self.agree(&answer),
            // To an INTERRUPT or to DESTROY.
            None => self.answer(header, answer.data()),
        }
    }

    /// INIT's answer.
    fn agree(&self, answer: &Answer) {
        let mut body = answer.data().to_vec();
        let agreed = match answer.errno() {
            None => init::bound_answer(&mut body, self.max_write, page_size() as u32),
            Some(_) => None,
        };
        if let Some(agreed) = agreed {
            // Requests may come before this thread is back from the answer.
            self.device.set_dialect(Dialect::new(agreed.flags));
            let _ = self.agreed.set(agreed);
        }
        self.answer(answer.header(), &body);
        if agreed.is_some() {
            let _ = self.events.send(Event::Agreed);
        }
    }

    /// Answers the kernel. An error is one request's, which was interrupted, or the end of the connection,
    /// which the way in sees.
    fn answer(&self, header: OutHeader, data: &[u8]) {
        let _ = self.device.send_pieces(&[header.as_bytes(), data].map(IoSlice::new));
    }

    fn fail(&self, unique: u64, errno: i32) {
        self.answer(passage::failure(unique, errno), &[]);
    }

    /// The node of a path below the mount's root. What no answer has told yet is asked of the server, and kept
    /// by it from then on: the kernel does not know of that lookup, so it never forgets it.
    fn resolve(&self, path: &Path) -> Option<u64> {
        self.agreed.get()?;
        for _ in 0..=path.components().count() {
            let (parent, name) = match self.names.lock().find(path) {
                Found::Node(node) => return Some(node),
                Found::Unknown(parent, name) => (parent, name),
            };
            let answer = self.look_up(parent, &name)?;
            let lesson = Lesson::Entry((parent, name));
            self.names.lock().learn(lesson, answer.data());
        }
        None
    }

    fn look_up(&self, parent: u64, name: &[u8]) -> Option<Answer> {
        let (sender, receiver) = sync_channel(1);
        let unique = self.flights.lock().ask(sender);
        let header = InHeader {
            len: (size_of::<InHeader>() + name.len() + 1) as u32,
            opcode: Opcode::LOOKUP.number(),
            unique,
            nodeid: parent,
            uid: nix::unistd::getuid().as_raw(),
            gid: nix::unistd::getgid().as_raw(),
            pid: std::process::id(),
            total_extlen: 0,
            padding: 0,
        };
        let pieces = [header.as_bytes(), name, &[0]].map(IoSlice::new);
        let answer = match self.server.send(&pieces) {
            Ok(()) => receiver.recv_timeout(LOOKUP).ok(),
            Err(_) => None,
        };
        self.flights.lock().asked(unique);
        answer.filter(|answer| answer.errno().is_none())
    }
}

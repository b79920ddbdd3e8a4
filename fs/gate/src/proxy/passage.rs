//! A request on its way to the server, an answer on its way to the kernel: what the gate parks.

use std::io::IoSlice;
use std::sync::Arc;

use inflight_fuse::abi::{InHeader, InterruptIn, Opcode, OutHeader, WriteIn, WriteOut};
use inflight_fuse::channel::Message;
use inflight_fuse::channel::pair::Answer;
use nix::errno::Errno;
use zerocopy::{FromBytes as _, IntoBytes as _};

use super::Link;
use super::flights::{Departure, Flight};
use super::names::Lesson;
use super::subject::transfer;
use crate::{Decision, Gate, Passage, Phase, Ticket};

/// Bytes of a READ or WRITE before its data.
const HEAD: usize = size_of::<InHeader>() + size_of::<WriteIn>();

/// A request that the server does not have yet.
#[derive(Debug)]
pub(super) struct Inward {
    link: Arc<Link>,
    message: Message,
    header: InHeader,
    ticket: Option<Ticket>,
    lesson: Option<Lesson>,
    cut: Option<u32>,
}

impl Passage for Inward {
    fn ticket(&self) -> &Ticket {
        self.ticket.as_ref().expect("a request before it goes to the server has its ticket")
    }

    fn resume(self: Box<Self>, decision: Decision) {
        self.decided(decision);
    }
}

impl Inward {
    pub fn new(link: &Arc<Link>, message: Message, header: InHeader, ticket: Ticket) -> Inward {
        let lesson = Lesson::of(&message, link.device.dialect());
        let link = Arc::clone(link);
        Inward { link, message, header, ticket: Some(ticket), lesson, cut: None }
    }

    pub fn unique(&self) -> u64 {
        self.header.unique
    }

    fn opcode(&self) -> Opcode {
        Opcode(self.header.opcode)
    }

    /// The way of its answer.
    pub fn flight(&mut self) -> Flight {
        let (ticket, lesson) = (self.ticket.take(), self.lesson.take());
        Flight { ticket, lesson, blocks: false, cut: self.cut }
    }

    /// Takes it past `received`.
    pub fn receive(self) {
        if let Some((inward, decision)) = Gate::pass(self, Phase::Received) {
            inward.decided(decision);
        }
    }

    fn decided(mut self, decision: Decision) {
        match decision {
            // Rules that damage data are not made here.
            Decision::Go | Decision::Torn(_) | Decision::Corrupt(_) => self.depart(),
            Decision::Short(bytes) => {
                self.cut = Some(bytes);
                self.depart();
            }
            Decision::Fail(errno) => {
                let link = Arc::clone(&self.link);
                link.flights.lock().leave(self.unique());
                let ticket = self.ticket.take().expect("it has not gone to the server");
                ticket.answers();
                link.fail(self.unique(), errno);
                ticket.done(Err(errno));
            }
            // The ticket says so when it is dropped.
            Decision::Drop => self.link.flights.lock().leave(self.unique()),
        }
    }

    /// Sends it to the server, or queues it behind the READ that it may be mixed up with.
    pub fn depart(self) {
        let link = Arc::clone(&self.link);
        let size = (self.opcode() == Opcode::READ)
            .then(|| transfer(&self.message).map(|read| read.size))
            .flatten();
        let departure = link.flights.lock().depart(self, size);
        let (inward, is_interrupted) = match departure {
            Departure::Goes { inward, is_interrupted } => (inward, is_interrupted),
            Departure::Queued => return,
            // Its ticket says that it was never answered.
            Departure::Refused(inward) => return drop(inward),
        };
        if let Err(error) = inward.send() {
            return link.lost(inward.unique(), &error);
        }
        if is_interrupted {
            link.interrupt(&inward.header);
        }
    }

    fn send(&self) -> std::io::Result<()> {
        let cut = self.cut.filter(|_| matches!(self.opcode(), Opcode::READ | Opcode::WRITE));
        let Some((cut, args)) =
            cut.zip(transfer(&self.message)).filter(|(cut, args)| *cut < args.size)
        else {
            return self.link.server.pass(&self.message);
        };
        let [head, tail] = self.message.io_slices();
        let data = match self.opcode() {
            Opcode::WRITE => &tail[..tail.len().min(cut as usize)],
            _ => &tail[..],
        };
        let header = InHeader { len: (HEAD + data.len()) as u32, ..self.header };
        let args = WriteIn { size: cut, ..args };
        debug_assert_eq!(head.len(), HEAD);
        let pieces = [header.as_bytes(), args.as_bytes(), data].map(IoSlice::new);
        self.link.server.send(&pieces)
    }
}

/// INTERRUPT for a request, as the kernel numbers it.
pub(super) fn interrupt(target: &InHeader) -> (InHeader, InterruptIn) {
    let len = (size_of::<InHeader>() + size_of::<InterruptIn>()) as u32;
    let unique = target.unique | 1;
    let opcode = Opcode::INTERRUPT.number();
    let header = InHeader { len, opcode, unique, total_extlen: 0, ..*target };
    (header, InterruptIn { unique: target.unique })
}

/// An answer that the kernel does not have yet.
#[derive(Debug)]
pub(super) struct Outward {
    link: Arc<Link>,
    answer: Answer,
    ticket: Ticket,
    cut: Option<u32>,
}

impl Passage for Outward {
    fn ticket(&self) -> &Ticket {
        &self.ticket
    }

    fn resume(self: Box<Self>, decision: Decision) {
        self.decided(decision);
    }
}

impl Outward {
    /// Of `cut` bytes at most, as was decided before the server had the request.
    pub fn new(link: &Arc<Link>, answer: Answer, ticket: Ticket, cut: Option<u32>) -> Outward {
        Outward { link: Arc::clone(link), answer, ticket, cut }
    }

    /// Takes it past `replied`.
    pub fn reply(self) {
        if let Some((outward, decision)) = Gate::pass(self, Phase::Replied) {
            outward.decided(decision);
        }
    }

    fn decided(self, decision: Decision) {
        let Outward { link, answer, ticket, cut } = self;
        let unique = answer.header().unique;
        match (decision, answer.errno()) {
            (Decision::Drop, _) => {}
            (Decision::Fail(errno), _) => {
                ticket.answers();
                link.fail(unique, errno);
                ticket.done(Err(errno));
            }
            (_, Some(errno)) => {
                ticket.answers();
                link.answer(answer.header(), answer.data());
                ticket.done(Err(errno as i32));
            }
            (decision, None) => {
                let short = match decision {
                    Decision::Short(bytes) => Some(bytes),
                    _ => None,
                };
                let limit = short.into_iter().chain(cut).min().map_or(usize::MAX, |n| n as usize);
                if ticket.may_be_held_copying() {
                    return held(link, answer, ticket, limit);
                }
                ticket.answers();
                let bytes = send_cut(&link, &answer, ticket.subject().opcode, limit);
                ticket.done(Ok(bytes));
            }
        }
    }
}

/// Answers a READ with at most `limit` bytes, out of memory in which the kernel may be stopped: on a thread of its own.
fn held(link: Arc<Link>, answer: Answer, ticket: Ticket, limit: usize) {
    let send = move || {
        let data = &answer.data()[..answer.data().len().min(limit)];
        let held = ticket.hold_copying(data);
        let data = held.as_ref().map_or(data, |held| held.as_ref());
        let len = (size_of::<OutHeader>() + data.len()) as u32;
        ticket.answers();
        link.answer(OutHeader { len, ..answer.header() }, data);
        ticket.done(Ok(data.len() as u64));
    };
    // Without a thread it is dropped, and its ticket says that it was never answered.
    let _ = std::thread::Builder::new().name("gate-copy".to_owned()).spawn(send);
}

/// Answers with at most `limit` bytes of data, where an answer has some; gives their number.
fn send_cut(link: &Link, answer: &Answer, opcode: Opcode, limit: usize) -> u64 {
    match opcode {
        Opcode::READ => {
            let data = &answer.data()[..answer.data().len().min(limit)];
            let len = (size_of::<OutHeader>() + data.len()) as u32;
            link.answer(OutHeader { len, ..answer.header() }, data);
            data.len() as u64
        }
        Opcode::WRITE | Opcode::COPY_FILE_RANGE => {
            match WriteOut::read_from_prefix(answer.data()) {
                Ok((out, _)) => {
                    let size = out.size.min(u32::try_from(limit).unwrap_or(u32::MAX));
                    link.answer(answer.header(), WriteOut { size, ..out }.as_bytes());
                    size.into()
                }
                Err(_) => {
                    link.answer(answer.header(), answer.data());
                    0
                }
            }
        }
        _ => {
            link.answer(answer.header(), answer.data());
            0
        }
    }
}

/// A header that says that a request failed.
pub(super) fn failure(unique: u64, errno: i32) -> OutHeader {
    OutHeader { len: size_of::<OutHeader>() as u32, error: -errno, unique }
}

/// The errno of an error of the socket's.
pub(super) fn errno_of(error: &std::io::Error) -> i32 {
    error.raw_os_error().unwrap_or(Errno::EIO as i32)
}

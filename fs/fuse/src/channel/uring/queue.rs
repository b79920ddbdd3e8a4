//! One core's queue: a ring, its entries, and the thread that alone touches them.
#![allow(unsafe_code)]

use super::UringError;
use super::compose::{Composed, compose};
use super::entry::{self, HeaderPlace, State};
use super::flight::Flights;
use super::plan::Plan;
use super::shared::{Note, RingRoute, Shared};
use crate::Reply;
use crate::abi::{InHeader, Opcode, OutHeader};
use crate::channel::{Channel, Handler, Received, Ticket};
use crate::decode::{DecodeError, decode};
use crate::payload::Payload;
use inflight_dio::Buffer;
use io_uring::squeue::Entry128;
use io_uring::{IoUring, cqueue, opcode, types};
use nix::errno::Errno;
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// What a completion belongs to: the upper half of its user data; the lower half is a number.
const KIND: u64 = u64::MAX << 32;
const ENTRY: u64 = 1 << 32;
const FLIGHT: u64 = 2 << 32;
const WAKE: u64 = 3 << 32;

/// One core's queue. A [`Handler`] gets it with each request that came by it.
pub struct Queue {
    // Declared, and so dropped, before the memory that its commands refer to.
    ring: IoUring<Entry128>,
    states: Vec<State>,
    flights: Flights,
    shared: Arc<Shared>,
    channel: Option<Channel>,
    /// Completions that came while entries were registered.
    early: Vec<(u64, i32)>,
    has_fixed: bool,
    is_armed: bool,
    is_running: bool,
    is_over: bool,
}

impl Queue {
    /// In the thread that will run it: no other may enter the ring.
    pub(super) fn new(shared: Arc<Shared>, plan: &Plan) -> io::Result<Queue> {
        let size = (2 * plan.depth + plan.io_depth + 2).next_power_of_two() as u32;
        let mut builder = IoUring::<Entry128, cqueue::Entry>::builder();
        builder.dontfork().setup_cqsize(2 * size).setup_single_issuer().setup_defer_taskrun();
        let ring = builder.build(size)?;
        let states = (0..plan.depth).map(|_| State::Dead).collect();
        Ok(Queue {
            ring,
            states,
            flights: Flights::new(plan.io_depth),
            shared,
            channel: None,
            early: Vec::new(),
            has_fixed: false,
            is_armed: false,
            is_running: false,
            is_over: false,
        })
    }

    /// The core.
    pub fn number(&self) -> usize {
        self.shared.queue.into()
    }

    /// Entries that can still take a request. When it is 0, whoever asks on this core waits.
    pub fn idle(&self) -> usize {
        self.shared.idle.load(Ordering::Relaxed)
    }

    fn header(&self, index: usize) -> HeaderPlace {
        HeaderPlace::new(&self.shared.headers, index)
    }

    /// Hands every entry to the kernel. As long as one is taken, the queue works.
    pub(super) fn register(&mut self, device: OwnedFd, channel: Channel) -> Result<(), UringError> {
        let queue = self.number();
        let ring = |source| UringError::Ring { queue, source };
        self.ring.submitter().register_files(&[device.as_raw_fd()]).map_err(ring)?;
        self.channel = Some(channel);
        let mut buffers = Vec::new();
        for lender in &self.shared.lenders {
            buffers.push(lender.lend().ok_or_else(|| ring(Errno::EBUSY.into()))?);
        }
        let ranges: Vec<_> = buffers
            .iter()
            .enumerate()
            .map(|(index, buffer)| entry::ranges(self.header(index), buffer))
            .collect();
        let payloads: Vec<_> = ranges.iter().map(|ranges| ranges[1]).collect();
        // SAFETY: the memory is kept by `shared`, which is dropped after the ring.
        let fixed = unsafe { self.ring.submitter().register_buffers(&payloads) };
        self.has_fixed = fixed.is_ok();
        if let Err(error) = fixed {
            let errno = Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO));
            let _ = self.shared.unregistered.set(errno);
        }
        for (index, buffer) in buffers.into_iter().enumerate() {
            let entry = entry::register(self.shared.queue, &ranges[index]);
            self.states[index] = State::Kernel(buffer);
            self.push_entry(entry.user_data(ENTRY | index as u64)).map_err(ring)?;
        }
        // The kernel has read `ranges` when this returns.
        self.submit_all().map_err(ring)?;
        self.refused()
    }

    /// Offers an entry without memory, which the kernel refuses, and with it all queues.
    pub(super) fn refuse(&mut self, device: &OwnedFd) -> Result<(), UringError> {
        let queue = self.number();
        let ring = |source| UringError::Ring { queue, source };
        let nothing = [libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 }; 2];
        let entry = entry::register_by(types::Fd(device.as_raw_fd()), self.shared.queue, &nothing);
        self.push_entry(entry.user_data(WAKE)).map_err(ring)?;
        self.submit_all().map_err(ring)
    }

    /// Looks for entries that were refused at once.
    fn refused(&mut self) -> Result<(), UringError> {
        let mut errno = Errno::ENOTCONN;
        let events: Vec<_> =
            self.ring.completion().map(|event| (event.user_data(), event.result())).collect();
        for event in events {
            match event {
                (data, result @ ..0) if data & KIND == ENTRY => {
                    errno = Errno::from_raw(-result);
                    self.states[(data & !KIND) as usize] = State::Dead;
                }
                other => self.early.push(other),
            }
        }
        self.count_idle();
        if self.states.iter().all(|state| matches!(state, State::Dead)) {
            return Err(UringError::Register { queue: self.number(), errno });
        }
        Ok(())
    }

    /// Serves until the connection is over and nothing of the queue's is with the kernel.
    pub(super) fn run(&mut self, handler: &dyn Handler) {
        self.is_running = true;
        let mut notes = Vec::new();
        let mut events = std::mem::take(&mut self.early);
        loop {
            for (data, result) in events.drain(..) {
                self.event(data, result, handler);
            }
            // An empty list is the agreement to be woken.
            loop {
                self.shared.take(&mut notes);
                if notes.is_empty() {
                    break;
                }
                notes.drain(..).for_each(|note| self.apply(note));
            }
            let has_entries = self.states.iter().any(|state| matches!(state, State::Kernel(_)));
            if self.is_over && !has_entries && self.flights.is_empty() {
                break;
            }
            if let Err(error) = self.enter() {
                tracing::error!("queue {} ends: {error}", self.number());
                break;
            }
            self.shared.awake();
            let arrived = self.ring.completion();
            events.extend(arrived.map(|event| (event.user_data(), event.result())));
        }
        self.shared.close();
    }

    /// io_uring_enter(2): hands over what is queued and waits for a completion.
    fn enter(&mut self) -> io::Result<()> {
        if !self.is_armed {
            let place = self.shared.count.as_ptr().cast();
            let event = types::Fd(self.shared.event.as_fd().as_raw_fd());
            self.push_entry(opcode::Read::new(event, place, 8).build().user_data(WAKE).into())?;
            self.is_armed = true;
        }
        match self.ring.submit_and_wait(1) {
            Ok(_) => Ok(()),
            // Interrupted, or out of memory for now: what was not handed over stays queued.
            Err(e) if is_passing(&e) => Ok(()),
            Err(e) => Err(e),
        }
    }

    fn submit_all(&mut self) -> io::Result<()> {
        while !self.ring.submission().is_empty() {
            match self.ring.submit() {
                Ok(_) => {}
                Err(e) if is_passing(&e) => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    fn push_entry(&mut self, entry: Entry128) -> io::Result<()> {
        loop {
            // SAFETY: what an entry refers to is kept until its completion: headers, buffers and
            // the counter by `shared`, transfers' memory by `flights`; `Queue::push` says it for
            // those of its caller.
            match unsafe { self.ring.submission().push(&entry) } {
                Ok(()) => return Ok(()),
                Err(_) => self.submit_all()?,
            }
        }
    }

    fn event(&mut self, data: u64, result: i32, handler: &dyn Handler) {
        let number = (data & !KIND) as usize;
        match data & KIND {
            WAKE => self.is_armed = false,
            FLIGHT => self.landed(number, result, handler),
            _ if result < 0 => self.ended(number, Errno::from_raw(-result)),
            _ => self.arrived(number, handler),
        }
    }

    /// The kernel gave an entry back without a request.
    fn ended(&mut self, index: usize, errno: Errno) {
        self.states[index] = State::Dead;
        self.count_idle();
        let is_teardown = matches!(
            errno,
            Errno::ENOTCONN | Errno::ECONNABORTED | Errno::ECANCELED | Errno::ENODEV
        );
        if !is_teardown {
            tracing::warn!("queue {} loses entry {index}: {errno}", self.number());
        }
        self.is_over |= is_teardown;
    }

    fn arrived(&mut self, index: usize, handler: &dyn Handler) {
        let state = std::mem::replace(&mut self.states[index], State::Dead);
        let State::Kernel(mut buffer) = state else {
            self.states[index] = state;
            return;
        };
        let (header, all) = self.header(index).read();
        let about = all.ring_ent_in_out;
        self.states[index] = State::Server { commit_id: about.commit_id };
        self.count_idle();
        buffer.set_len((about.payload_sz as usize).min(buffer.capacity()));
        let mut tail = Some(Payload::from(buffer));
        let decoded = self.decode(&header, &all.op_in.0, about.payload_sz, &mut tail);
        let buffer = tail.and_then(|tail| tail.into_buffer().ok()).map(|(buffer, _)| buffer);
        let route = RingRoute { shared: Arc::clone(&self.shared), entry: index, buffer };
        match decoded {
            Ok(request) => {
                let ticket = Ticket::on_ring(route, header.unique, Opcode(header.opcode));
                let call = || handler.request(Received { request, ticket }, Some(self));
                // The hook has printed it, and the ticket answered EIO.
                let _ = catch_unwind(AssertUnwindSafe(call));
            }
            Err(error) => {
                tracing::warn!("{error}");
                let _ = route.send(Reply::Error(error.errno()).into_frame(header.unique));
            }
        }
    }

    /// The arguments lie apart from the header here, and are as long as the header's length says.
    fn decode(
        &self,
        header: &InHeader,
        area: &[u8],
        payload: u32,
        tail: &mut Option<Payload>,
    ) -> Result<crate::Request, DecodeError> {
        use zerocopy::IntoBytes as _;
        let before = size_of::<InHeader>();
        let arguments = (header.len as usize).checked_sub(before + payload as usize);
        let arguments = arguments.and_then(|len| area.get(..len)).ok_or(DecodeError::Length {
            unique: header.unique,
            opcode: Opcode(header.opcode),
            said: header.len,
            len: before + payload as usize,
        })?;
        let mut head = [0; size_of::<InHeader>() + crate::abi::uring::OP_IN_OUT_SIZE];
        head[..before].copy_from_slice(header.as_bytes());
        head[before..before + arguments.len()].copy_from_slice(arguments);
        let dialect = self.channel.as_ref().map(Channel::dialect).unwrap_or_default();
        decode(&head[..before + arguments.len()], tail, dialect)
    }

    fn apply(&mut self, note: Note) {
        match note {
            Note::Commit { entry, header, len, buffer } => self.commit(entry, &header, len, buffer),
            Note::Later { entry, frame } => {
                // Whoever returns the buffer from now on sees that it is waited for.
                self.shared.waiting[entry].store(true, Ordering::Release);
                if let State::Server { commit_id } = self.states[entry] {
                    self.states[entry] = State::Waiting { commit_id, frame };
                    self.retry(entry);
                }
            }
            Note::Returned { entry } => self.retry(entry),
            Note::Abandoned { entry } => self.states[entry] = State::Abandoned,
            Note::Close => self.is_over = true,
        }
    }

    /// Answers an entry that waits for its buffer, if that is back.
    fn retry(&mut self, index: usize) {
        let state = std::mem::replace(&mut self.states[index], State::Dead);
        let State::Waiting { commit_id, frame } = state else {
            self.states[index] = state;
            return;
        };
        match compose(&self.shared.lenders[index], None, *frame) {
            Composed::Lent(frame) => self.states[index] = State::Waiting { commit_id, frame },
            Composed::Ready { header, len, buffer } => {
                self.states[index] = State::Server { commit_id };
                self.commit(index, &header, len, buffer);
            }
            Composed::Refused { header, buffer, .. } => {
                self.states[index] = State::Server { commit_id };
                self.commit(index, &header, 0, buffer);
            }
        }
    }

    fn commit(&mut self, index: usize, header: &OutHeader, len: usize, buffer: Buffer) {
        let State::Server { commit_id } = self.states[index] else { return };
        self.shared.waiting[index].store(false, Ordering::Release);
        self.states[index] = State::Dead;
        if self.is_over {
            return;
        }
        self.header(index).write(header, commit_id, len);
        let entry = entry::commit(self.shared.queue, commit_id).user_data(ENTRY | index as u64);
        self.states[index] = State::Kernel(buffer);
        if let Err(error) = self.push_entry(entry) {
            tracing::error!("queue {} cannot answer: {error}", self.number());
            self.states[index] = State::Dead;
        }
        self.count_idle();
    }

    fn count_idle(&self) {
        let idle = self.states.iter().filter(|state| matches!(state, State::Kernel(_))).count();
        self.shared.idle.store(idle, Ordering::Relaxed);
    }
}

/// Whether io_uring_enter(2) will work again.
fn is_passing(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EINTR | libc::EAGAIN | libc::EBUSY))
}

impl Drop for Queue {
    fn drop(&mut self) {
        let has_entries = self.states.iter().any(|state| matches!(state, State::Kernel(_)));
        if self.is_running && (has_entries || !self.flights.is_empty()) {
            // The ring was lost with commands in flight. Their memory must not be anybody's.
            tracing::error!("queue {} leaves its memory to the kernel", self.number());
            std::mem::forget(std::mem::replace(&mut self.flights, Flights::new(0)));
            std::mem::forget(std::mem::take(&mut self.states));
            std::mem::forget(Arc::clone(&self.shared));
        }
    }
}

impl std::fmt::Debug for Queue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "queue {} of fuse-over-io_uring", self.number())
    }
}

mod transfers;

#[cfg(test)]
mod tests;

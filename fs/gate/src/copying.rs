//! The window in the middle of a copy: the kernel copies a request's data into, or an answer's out of, memory of which one
//! page is missing under userfaultfd(2), and waits in the fault until the gate brings that page.
//!
//! fuse_copy_fill (fs/fuse/dev.c) unlocks the request while it gets the page, so that an abort may end it meanwhile.
//! A WRITE is received into a [`Snare`]'s memory, which is looked at from another thread when the fault comes: header and
//! arguments are there by then. A READ's answer is put into a [`HeldAnswer`].

mod region;
mod snare;
mod userfault;

use std::collections::BTreeMap;
use std::io;
use std::os::fd::AsFd as _;
use std::sync::{Arc, Weak};

use inflight_fuse::abi::{InHeader, Opcode, WriteIn};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use parking_lot::Mutex;

use crate::armed::Armed;
use crate::rule::Action;
use crate::state::{Parked, State};
use crate::window::Early;
use crate::{Decision, Gate, GateError, Phase, Subject, Ticket};
use region::Region;
use snare::Snare;
use userfault::Userfault;

/// Bytes of a page.
pub(crate) fn page_size() -> usize {
    let size = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE);
    size.ok().flatten().and_then(|size| size.try_into().ok()).unwrap_or(4096)
}

/// Brings the pages that the kernel waits for.
#[derive(Debug)]
pub(crate) struct Copier {
    faults: Userfault,
    /// Ends the thread.
    bell: EventFd,
    places: Mutex<BTreeMap<usize, Place>>,
}

/// What a missing page is of, by its address.
#[derive(Clone, Debug)]
enum Place {
    /// An answer of the request with this number, which this rule holds.
    Answer { seq: u64, rule: u64, delay_ms: Option<u64>, bytes: Arc<Vec<u8>>, subject: Subject },
    /// A request that is being received.
    Request(Arc<Snare>),
}

/// An answer's bytes in memory of which a page is missing until the gate brings it. Sending it waits for that.
#[derive(Debug)]
pub struct HeldAnswer {
    region: Region,
    len: usize,
    hole: usize,
    copier: Arc<Copier>,
}

impl AsRef<[u8]> for HeldAnswer {
    /// Whoever looks at the missing page waits as the kernel does.
    fn as_ref(&self) -> &[u8] {
        &self.region.as_slice()[..self.len]
    }
}

impl Drop for HeldAnswer {
    fn drop(&mut self) {
        self.copier.places.lock().remove(&self.hole);
    }
}

impl Copier {
    fn start(gate: &Weak<Gate>) -> Result<Arc<Copier>, GateError> {
        let refused =
            |error: io::Error| GateError::Refused(format!("no phase 'copying' here: {error}"));
        let faults = Userfault::new().map_err(|error| {
            refused(io::Error::new(
                error.kind(),
                format!(
                    "userfaultfd(2) for the kernel's faults: {error} (it takes CAP_SYS_PTRACE or \
                     vm.unprivileged_userfaultfd=1)"
                ),
            ))
        })?;
        let bell =
            EventFd::from_flags(EfdFlags::EFD_CLOEXEC).map_err(|errno| refused(errno.into()))?;
        let copier = Arc::new(Copier { faults, bell, places: Mutex::default() });
        let (ours, gate) = (Arc::clone(&copier), Weak::clone(gate));
        std::thread::Builder::new()
            .name("gate-faults".to_owned())
            .spawn(move || ours.serve(&gate))
            .map_err(|error| GateError::io("start the gate's thread for faults", error))?;
        Ok(copier)
    }

    /// Ends the thread. Nothing waits for a page then.
    pub(crate) fn close(&self) {
        let _ = self.bell.write(1);
    }

    fn serve(self: Arc<Self>, gate: &Weak<Gate>) {
        loop {
            let mut polled = [
                PollFd::new(self.faults.as_fd(), PollFlags::POLLIN),
                PollFd::new(self.bell.as_fd(), PollFlags::POLLIN),
            ];
            match poll(&mut polled, PollTimeout::NONE) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(_) => return,
            }
            let is_closing = polled[1].any() == Some(true);
            while let Some(address) = self.faults.next() {
                self.fault(address, gate);
            }
            if is_closing {
                return;
            }
        }
    }

    /// The kernel waits for the page at `address`.
    fn fault(self: &Arc<Self>, address: usize, gate: &Weak<Gate>) {
        let place = self.places.lock().get(&address).cloned();
        let (Some(place), Some(gate)) = (place, gate.upgrade()) else {
            return self.bring(address, None);
        };
        let copier = Arc::clone(self);
        match place {
            Place::Answer { seq, rule, delay_ms, bytes, subject } => {
                let kept = Arc::clone(&bytes);
                let bring = move |_| copier.bring(address, Some(&kept));
                if !gate.holds_copy(seq, (rule, delay_ms), subject, Box::new(bring)) {
                    self.bring(address, Some(&bytes));
                }
            }
            Place::Request(snare) => {
                let bring = move |_| copier.bring(address, None);
                let head = snare.head();
                match head.and_then(|head| gate.holds_request(&head, Box::new(bring))) {
                    Some(unique) => snare.waits(unique),
                    None => self.bring(address, None),
                }
            }
        }
    }

    /// Brings a page: these bytes, or zeroes.
    fn bring(&self, address: usize, bytes: Option<&[u8]>) {
        if let Err(error) = self.faults.bring(address, bytes) {
            // Whoever waits for it would wait for ever.
            eprintln!("inflight gate: a page cannot be brought: {error}");
        }
    }
}

/// How what waits goes on.
type Bring = Box<dyn FnOnce(Decision) + Send>;

impl Gate {
    /// Takes a rule at `copying` up: memory for the WRITEs that it may hold.
    pub(super) fn begin_copying(
        &self,
        state: &mut State,
        rule: u64,
        armed: &Armed,
    ) -> Result<(), GateError> {
        let copier = match self.copier.get() {
            Some(copier) => Arc::clone(copier),
            None => {
                let copier = Copier::start(&self.me)?;
                Arc::clone(self.copier.get_or_init(|| copier))
            }
        };
        if !armed.is_of_writes() {
            return Ok(());
        }
        if state.trap.is_some() {
            let text = "another rule holds 'copying' for writes: end it first".to_owned();
            return Err(GateError::Refused(text));
        }
        let snare = Snare::new(&self.me, &copier, armed.rule.page.unwrap_or(0))
            .map_err(|error| GateError::io("memory for the phase 'copying'", error))?;
        self.window(Phase::Copying)?.set_trap(Some(snare));
        state.trap = Some(rule);
        Ok(())
    }

    /// Parks an answer whose copy stopped. `false` when its rule is gone.
    fn holds_copy(
        &self,
        seq: u64,
        (rule, delay_ms): (u64, Option<u64>),
        subject: Subject,
        bring: Bring,
    ) -> bool {
        let mut state = self.state.lock();
        if !state.rules.contains_key(&rule) {
            return false;
        }
        self.park_copy(&mut state, seq, (rule, delay_ms), subject, bring);
        drop(state);
        self.changed.notify_all();
        self.alarm.notify_all();
        true
    }

    /// Parks a request whose copy stopped, if a rule says so: its `unique`.
    fn holds_request(self: &Arc<Self>, head: &(InHeader, WriteIn), bring: Bring) -> Option<u64> {
        let (header, write) = head;
        if Opcode(header.opcode) != Opcode::WRITE {
            return None;
        }
        let subject = Subject {
            unique: header.unique,
            opcode: Opcode::WRITE,
            ino: header.nodeid,
            offset: write.offset,
            len: write.size.into(),
            pid: header.pid,
            uid: header.uid,
            ..Subject::default()
        };
        let mut state = self.state.lock();
        let (rule, armed) = state.acting(&subject, Phase::Copying)?;
        let action = armed.rule.action;
        let seq = state.log.arrive(&subject, self.now_ns());
        let ticket = Ticket::new(Arc::clone(self), seq, subject.clone());
        let other = state.early.insert(header.unique, Early { ticket, meant: None });
        self.park_copy(&mut state, seq, (rule, delay_of(action)), subject, bring);
        drop(state);
        other.into_iter().for_each(|early| early.ticket.withdraw());
        self.changed.notify_all();
        self.alarm.notify_all();
        Some(header.unique)
    }

    fn park_copy(
        &self,
        state: &mut State,
        seq: u64,
        (rule, delay_ms): (u64, Option<u64>),
        subject: Subject,
        bring: Bring,
    ) {
        let since_ns = self.now_ns();
        if let Some(record) = state.log.open(seq) {
            record.times.reach(Phase::Copying, since_ns);
        }
        let due_ns = delay_ms.map(|ms| since_ns + ms * 1_000_000);
        let (phase, dropped) = (Phase::Copying, false);
        let parked = Parked { rule, phase, since_ns, due_ns, subject, request: bring, dropped };
        state.park(seq, parked);
    }

    /// A request that was held while it was received did not arrive: its process was killed, or the connection aborted.
    fn withdraw(&self, unique: u64) {
        let early = self.state.lock().early.remove(&unique);
        early.into_iter().for_each(|early| early.ticket.withdraw());
    }
}

fn delay_of(action: Action) -> Option<u64> {
    match action {
        Action::Delay(ms) => Some(ms),
        _ => None,
    }
}

impl Ticket {
    /// Whether the answer may be held while the kernel copies it: then it is sent by a thread that may wait.
    pub fn may_be_held_copying(&self) -> bool {
        let is_read = self.subject().opcode == Opcode::READ;
        is_read && self.gate().state.lock().has_rule_at(Phase::Copying)
    }

    /// Puts the data of the answer into memory in which the kernel is stopped, if a rule says so. To be sent from memory,
    /// by a thread that may wait.
    pub fn hold_copying(&self, data: &[u8]) -> Option<HeldAnswer> {
        let gate = self.gate();
        let copier = gate.copier.get()?;
        if self.subject().opcode != Opcode::READ {
            return None;
        }
        let subject = Subject { len: data.len() as u64, ..self.subject().clone() };
        let mut state = gate.state.lock();
        let (rule, armed) = state.acting(&subject, Phase::Copying)?;
        let (action, page) = (armed.rule.action, armed.rule.page.unwrap_or(0));
        drop(state);
        let (page, size) = (page as usize, page_size());
        let mut region = Region::new(data.len()).ok()?;
        let (from, to) = (page * size, data.len().min((page + 1) * size));
        region.write(0, &data[..from]);
        region.write(to, &data[to..]);
        let hole = region.address(from);
        copier.faults.register(hole).ok()?;
        let mut bytes = data[from..to].to_vec();
        bytes.resize(size, 0);
        let (bytes, delay_ms) = (Arc::new(bytes), delay_of(action));
        let place = Place::Answer { seq: self.seq(), rule, delay_ms, bytes, subject };
        copier.places.lock().insert(hole, place);
        Some(HeldAnswer { region, len: data.len(), hole, copier: Arc::clone(copier) })
    }
}

impl State {
    fn has_rule_at(&self, phase: Phase) -> bool {
        self.rules.values().any(|armed| armed.rule.phase == phase)
    }
}

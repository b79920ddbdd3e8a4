//! A disk that fails when it is told to.

use std::io;
use std::sync::Arc;

use crate::disk::{Disk, Over, VolatileDisk};
use parking_lot::{Condvar, Mutex};

/// What is asked of a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Call {
    /// [`Disk::read`].
    Read,
    /// [`Disk::write`].
    Write,
    /// [`Disk::sync`].
    Sync,
    /// [`Disk::discard`].
    Discard,
}

/// How a call fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fault {
    /// Nothing is done. What a flush was to cover is lost, as [`VolatileDisk::lose`] says.
    Errno(i32),
    /// A read or write does its first half and says EIO; other calls just say EIO.
    Short,
    /// Nothing is done until [`FaultyDisk::release`]; then the call succeeds.
    Stuck,
}

/// Which calls fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Calls of this kind count; `None` for all.
    pub call: Option<Call>,
    /// Calls that succeed before the first one fails.
    pub after: u64,
    /// All later calls of that kind fail too.
    pub forever: bool,
    /// How.
    pub fault: Fault,
}

/// A [`VolatileDisk`] that fails as planned.
#[derive(Debug)]
pub struct FaultyDisk {
    inner: Arc<VolatileDisk>,
    state: Mutex<State>,
    released: Condvar,
}

#[derive(Debug, Default)]
struct State {
    plan: Option<Plan>,
    seen: u64,
    /// Calls that failed or got stuck.
    failed: u64,
    is_released: bool,
}

impl FaultyDisk {
    /// A disk that does not fail yet.
    pub fn new(inner: Arc<VolatileDisk>) -> FaultyDisk {
        FaultyDisk { inner, state: Mutex::default(), released: Condvar::new() }
    }

    /// Calls fail as `plan` says, counted from now; `None` for no more.
    pub fn plan(&self, plan: Option<Plan>) {
        *self.state.lock() = State { plan, ..State::default() };
    }

    /// Calls of the planned kind since [`FaultyDisk::plan`].
    pub fn seen(&self) -> u64 {
        self.state.lock().seen
    }

    /// Calls that have failed, or got stuck, since [`FaultyDisk::plan`].
    pub fn failed(&self) -> u64 {
        self.state.lock().failed
    }

    /// Lets stuck calls go on, and no others get stuck.
    pub fn release(&self) {
        self.state.lock().is_released = true;
        self.released.notify_all();
    }

    /// Whether this call fails, and how. A stuck one waits here.
    fn fault(&self, call: Call) -> Option<Fault> {
        let mut state = self.state.lock();
        let plan = state.plan.filter(|plan| plan.call.is_none_or(|kind| kind == call))?;
        let at = state.seen;
        state.seen += 1;
        if at < plan.after || at > plan.after && !plan.forever {
            return None;
        }
        state.failed += 1;
        if plan.fault != Fault::Stuck {
            return Some(plan.fault);
        }
        while !state.is_released {
            self.released.wait(&mut state);
        }
        None
    }
}

fn error(fault: Fault) -> io::Error {
    let Fault::Errno(code) = fault else { return io::Error::from_raw_os_error(libc::EIO) };
    io::Error::from_raw_os_error(code)
}

impl Over for FaultyDisk {
    fn below(&self) -> &dyn Disk {
        &*self.inner
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let Some(fault) = self.fault(Call::Read) else { return self.below().read(offset, out) };
        if fault == Fault::Short {
            let half = out.len() / 2;
            self.below().read(offset, &mut out[..half])?;
        }
        Err(error(fault))
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let Some(fault) = self.fault(Call::Write) else { return self.below().write(offset, data) };
        if fault == Fault::Short {
            self.below().write(offset, &data[..data.len() / 2])?;
        }
        Err(error(fault))
    }

    fn sync(&self) -> io::Result<()> {
        let Some(fault) = self.fault(Call::Sync) else { return self.below().sync() };
        self.inner.lose();
        Err(error(fault))
    }

    fn distrust(&self) -> io::Result<()> {
        Over::sync(self)?;
        self.below().distrust()
    }

    fn discard(&self, offset: u64, len: u64) -> io::Result<()> {
        match self.fault(Call::Discard) {
            Some(fault) => Err(error(fault)),
            None => self.below().discard(offset, len),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Call, Fault, FaultyDisk, Plan};
    use crate::disk::{Disk, MemoryDisk, VolatileDisk};
    use std::sync::Arc;

    fn disk() -> FaultyDisk {
        FaultyDisk::new(Arc::new(VolatileDisk::new(&MemoryDisk::new(4096))))
    }

    #[test]
    fn just_the_planned_calls_fail() {
        let disk = disk();
        let fault = Fault::Errno(libc::ENOSPC);
        disk.plan(Some(Plan { call: Some(Call::Write), after: 1, forever: false, fault }));
        disk.write(0, b"a").expect("the first one");
        disk.sync().expect("another kind");
        let e = disk.write(0, b"b").expect_err("the second one");
        assert_eq!(e.raw_os_error(), Some(libc::ENOSPC));
        disk.write(0, b"c").expect("the third one");
        assert_eq!((disk.seen(), disk.failed()), (3, 1));
    }

    #[test]
    fn a_short_write_leaves_its_first_half() {
        let disk = disk();
        disk.plan(Some(Plan { call: None, after: 0, forever: true, fault: Fault::Short }));
        assert!(disk.write(0, b"abcd").is_err());
        disk.plan(None);
        let mut out = [0; 4];
        disk.read(0, &mut out).expect("read");
        assert_eq!(&out, b"ab\0\0");
    }

    #[test]
    fn a_stuck_call_waits_for_its_release_and_then_succeeds() {
        let disk = disk();
        let plan = Plan { call: None, after: 0, forever: true, fault: Fault::Stuck };
        disk.plan(Some(plan));
        std::thread::scope(|scope| {
            let stuck = scope.spawn(|| disk.write(0, b"a"));
            while disk.failed() == 0 {
                std::thread::yield_now();
            }
            assert!(!stuck.is_finished());
            disk.release();
            stuck.join().expect("no panic").expect("write");
        });
    }
}

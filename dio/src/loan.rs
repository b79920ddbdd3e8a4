//! A buffer whose memory must stay where it is, lent out again and again.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::buffer::Buffer;

/// Keeps a [`Buffer`] whose address somebody else was told (a kernel that fills it again and
/// again), and lends it to one user at a time as an ordinary [`Buffer`]. When that is dropped, the
/// memory does not go back to its pool but to the lender, which then calls back.
pub struct Lender {
    memory: Buffer,
    is_lent: AtomicBool,
    returned: Box<dyn Fn() + Send + Sync>,
}

impl Lender {
    /// A lender of `memory`. `returned` is called after each loan ended, in the thread that
    /// dropped it.
    pub fn new(memory: Buffer, returned: impl Fn() + Send + Sync + 'static) -> Arc<Self> {
        let returned = Box::new(returned);
        Arc::new(Self { memory, is_lent: AtomicBool::new(false), returned })
    }

    /// The memory, with a length of 0; `None` while somebody has it.
    pub fn lend(self: &Arc<Self>) -> Option<Buffer> {
        // Acquire: what the last user wrote is seen by the next one. Release: whoever finds the
        // memory lent, and said so somewhere before, is seen by the one who returns it.
        let was_lent = self.is_lent.swap(true, Ordering::AcqRel);
        (!was_lent).then(|| Buffer::loan(Arc::clone(self)))
    }

    /// Address of the first byte, a multiple of the page size.
    pub fn as_ptr(&self) -> *const u8 {
        self.memory.as_ptr()
    }

    /// Bytes that a loan has room for.
    pub fn capacity(&self) -> usize {
        self.memory.capacity()
    }

    pub(crate) fn memory(&self) -> &Buffer {
        &self.memory
    }

    pub(crate) fn take_back(&self) {
        let was_lent = self.is_lent.swap(false, Ordering::AcqRel);
        debug_assert!(was_lent, "a loan ends once");
        (self.returned)();
    }
}

impl std::fmt::Debug for Lender {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Lender")
            .field("memory", &self.memory)
            .field("is_lent", &self.is_lent)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pool::{Pool, PoolConfig, Registration};
    use std::sync::atomic::AtomicUsize;

    #[test]
    fn one_at_a_time_and_the_pool_gets_it_back_last() {
        let config = PoolConfig { slabs: 1, registration: Registration::Off, huge: false };
        let pool = Pool::new(config).unwrap();
        let count = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&count);
        let memory = pool.take(8192);
        let address = memory.as_ptr();
        let lender = Lender::new(memory, move || {
            counter.fetch_add(1, Ordering::Relaxed);
        });
        let mut loan = lender.lend().unwrap();
        assert!(lender.lend().is_none());
        assert!(loan.is_from(&lender) && loan.is_pooled());
        assert_eq!((loan.as_ptr(), loan.len(), loan.capacity()), (address, 0, 8192));
        loan.set_len(1);
        loan.as_mut_slice()[0] = 9;
        drop(loan);
        assert_eq!(count.load(Ordering::Relaxed), 1);
        let mut loan = lender.lend().unwrap();
        loan.set_len(1);
        assert_eq!(loan.as_slice(), [9]);
        drop(lender);
        assert_eq!(pool.report().in_use, 8192);
        drop(loan);
        assert_eq!(pool.report().in_use, 0);
    }
}

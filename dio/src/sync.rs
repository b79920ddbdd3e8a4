//! The locks of what is tested under every schedule: those of parking_lot, or, with the feature `schedules`, the same over
//! [shuttle](https://docs.rs/shuttle), which runs one thread at a time and chooses the next one at each lock.

#[cfg(not(feature = "schedules"))]
pub use parking_lot::{Condvar, Mutex};
#[cfg(feature = "schedules")]
pub use scheduled::{Condvar, Mutex, MutexGuard};
#[cfg(feature = "schedules")]
pub use shuttle::sync::atomic;
#[cfg(not(feature = "schedules"))]
pub use std::sync::atomic;

#[cfg(feature = "schedules")]
mod scheduled {
    use std::ops::{Deref, DerefMut};

    /// A mutex that is never poisoned.
    #[derive(Debug, Default)]
    pub struct Mutex<T>(shuttle::sync::Mutex<T>);

    /// Holds it.
    #[derive(Debug)]
    pub struct MutexGuard<'a, T>(Option<shuttle::sync::MutexGuard<'a, T>>);

    impl<T> Mutex<T> {
        /// A mutex that nobody holds.
        pub fn new(value: T) -> Mutex<T> {
            Mutex(shuttle::sync::Mutex::new(value))
        }

        /// Whether somebody holds it.
        pub fn is_locked(&self) -> bool {
            self.0.try_lock().is_err()
        }

        /// Waits until nobody holds it.
        pub fn lock(&self) -> MutexGuard<'_, T> {
            MutexGuard(Some(self.0.lock().expect("a thread of the test panicked")))
        }
    }

    impl<T> Deref for MutexGuard<'_, T> {
        type Target = T;

        fn deref(&self) -> &T {
            self.0.as_ref().expect("it is held")
        }
    }

    impl<T> DerefMut for MutexGuard<'_, T> {
        fn deref_mut(&mut self) -> &mut T {
            self.0.as_mut().expect("it is held")
        }
    }

    /// A condition variable.
    #[derive(Debug, Default)]
    pub struct Condvar(shuttle::sync::Condvar);

    impl Condvar {
        /// Lets the mutex go until it is woken.
        pub fn wait<T>(&self, guard: &mut MutexGuard<'_, T>) {
            let held = guard.0.take().expect("it is held");
            guard.0 = Some(self.0.wait(held).expect("a thread of the test panicked"));
        }

        /// Wakes one waiter.
        pub fn notify_one(&self) {
            self.0.notify_one();
        }

        /// Wakes all of them.
        pub fn notify_all(&self) {
            self.0.notify_all();
        }
    }
}

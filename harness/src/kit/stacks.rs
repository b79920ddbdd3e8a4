//! Where the threads of a process stand in the kernel: the explanation of a hang, and the proof that something waits.

use std::fs;
use std::path::{Path, PathBuf};

use crate::kit::sys;

/// Functions of the kernel that are shown of a thread, from the innermost.
const DEPTH: usize = 8;

/// Where threads of ours sit when they have nothing to do, by the innermost function: for a word of another thread, for
/// a request of a FUSE mount or of the gate, for a signal, for work of a ring.
const IDLE: &[&str] = &[
    "futex_wait_queue_me",
    "futex_wait_queue",
    "futex_do_wait",
    "fuse_dev_do_read",
    "unix_stream_data_wait",
    "unix_stream_read_generic",
    "unix_wait_for_peer",
    "__skb_wait_for_more_packets",
    "do_sigtimedwait",
    "ep_poll",
    "do_epoll_wait",
    "do_poll",
    "do_sys_poll",
    "io_wq_worker",
];

/// Beginnings of the names of functions that wait for their filesystem's or the machine's own sake: for a log, metadata,
/// a device, free memory. Such a wait ends by itself.
///
/// What waits for I/O on a file cannot be listed in the same way: the functions that take a lock are left out of stacks
/// (`in_sched_functions`), so that a wait for an inode's lock is seen as whoever wants it.
const PASSING: &[&str] = &[
    "jbd2_",
    "__jbd2_",
    "start_this_handle",
    "add_transaction_credits",
    "wait_transaction_",
    "xlog_",
    "xfs_log_",
    "xfs_trans_",
    "xfs_buf_",
    "xfs_ail_",
    "btrfs_commit_transaction",
    "btrfs_tree_",
    "btrfs_lock_root_node",
    "btrfs_read_lock_root_node",
    "btrfs_reserve_",
    "wait_current_trans",
    "wait_for_commit",
    "blk_",
    "bio_",
    "rq_qos_",
    "submit_bio",
    "__wait_on_buffer",
    "__bread",
    "do_read_cache_",
    "read_cache_",
    "balance_dirty_pages",
    "__alloc_pages",
    "__alloc_frozen_pages",
    "mempool_alloc",
    "reclaim_throttle",
    "synchronize_",
    "__synchronize_",
    "__wait_rcu_gp",
    "__flush_work",
    "msleep",
];

/// One line for each thread of a process that is not idle, as far as we may know (a whole stack needs CAP_SYS_ADMIN).
pub fn of(pid: i32) -> Vec<String> {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    threads.filter_map(|thread| line(&thread.path())).collect()
}

/// Where a thread waits, from the innermost function; nothing where we may not know or it does not wait. `thread` is
/// its folder in /proc.
pub fn place(thread: &Path) -> Option<String> {
    let stack = stack(thread);
    (!stack.is_empty()).then(|| stack.join(" < "))
}

fn line(thread: &Path) -> Option<String> {
    let text = |name| fs::read_to_string(thread.join(name)).unwrap_or_default();
    let (name, stack, state) = (text("comm"), stack(thread), sys::state(thread)?);
    let is_idle = state != 'D' && stack.first().is_some_and(|place| IDLE.contains(&&**place));
    let number = thread.file_name()?.to_string_lossy().into_owned();
    let shown = !is_idle && state != 'R' && !stack.is_empty();
    let stack = &stack[..stack.len().min(DEPTH)];
    shown.then(|| format!("{} {number} {state}: {}", name.trim(), stack.join(" < ")))
}

/// The functions that a thread is in; where its stack may not be read, the innermost alone (`wchan`); none where we may
/// not know that either, or it runs.
fn stack(thread: &Path) -> Vec<String> {
    fs::read_to_string(thread.join("stack")).map_or_else(
        |_| {
            let place = fs::read_to_string(thread.join("wchan")).unwrap_or_default();
            functions(if place == "0" { "" } else { &place })
        },
        |stack| functions(&stack),
    )
}

/// The functions in lines like `[<0>] b.isra.0+0x1/0x2 [module]`.
fn functions(stack: &str) -> Vec<String> {
    let name = |line: &str| {
        let place = line.split_once("] ").map_or(line, |(_, place)| place);
        let place = place.split('+').next().unwrap_or(place).trim();
        // What the compiler made of a function has its name, and a suffix.
        place.split('.').next().unwrap_or(place).to_owned()
    };
    stack.lines().map(name).collect()
}

/// Looks at a thread of ours again and again, and says whether it waits for I/O.
#[derive(Debug)]
pub struct Watch {
    thread: PathBuf,
    /// What was seen at the last looks, and how many saw the same.
    last: Option<Vec<String>>,
    looks: usize,
}

/// Looks in a row that must see a thread at one place. The caller lets time pass between them.
const LOOKS: usize = 3;

impl Watch {
    /// Of a thread, by its number.
    pub fn new(thread: i32) -> Watch {
        let thread = PathBuf::from(format!("/proc/self/task/{thread}"));
        Watch { thread, last: None, looks: 0 }
    }

    /// Looks once more; whether it has now been seen at the same place often enough, and waits there for I/O on a file,
    /// on pages, or for a lock that I/O holds. Where stacks may not be read, every wait that no signal ends counts.
    pub fn waits(&mut self) -> bool {
        let now = match sys::state(&self.thread) {
            Some('D') => Some(stack(&self.thread)).filter(|stack| is_held(stack)),
            // io_uring_register(2) waits for requests as a signal may end it.
            Some('S') if self.call() == Some(nix::libc::SYS_io_uring_register) => {
                Some(stack(&self.thread))
            }
            _ => None,
        };
        self.looks = match (&self.last, &now) {
            (_, None) => 0,
            (last, now) if last == now => self.looks + 1,
            _ => 1,
        };
        self.last = now;
        self.looks >= LOOKS
    }

    /// Its folder in /proc.
    pub fn thread(&self) -> &Path {
        &self.thread
    }

    fn call(&self) -> Option<i64> {
        let call = fs::read_to_string(self.thread.join("syscall")).ok()?;
        call.split(' ').next()?.parse().ok()
    }
}

/// Whether who is in these functions waits for what a case may hold, and not for something that passes.
fn is_held(stack: &[String]) -> bool {
    !stack.iter().any(|name| PASSING.iter().any(|passing| name.starts_with(passing)))
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::sync::mpsc::{Sender, channel};
    use std::time::{Duration, Instant};

    use super::*;

    /// A thread that tells its number and then waits; it ends when the second part goes.
    fn waiting<T: Send + 'static>(
        (wait, end): (impl FnOnce() + Send + 'static, T),
    ) -> (i32, std::thread::JoinHandle<()>, T) {
        let (say, hear) = channel();
        let thread = std::thread::spawn(move || {
            say.send(nix::unistd::gettid().as_raw()).unwrap();
            wait();
        });
        (hear.recv().unwrap(), thread, end)
    }

    /// Waits until a thread stands somewhere; `None` where that may not be seen.
    fn stands(thread: i32) -> Option<Vec<String>> {
        let watch = Watch::new(thread);
        let end = Instant::now() + Duration::from_secs(10);
        let may_see =
            ["stack", "wchan"].map(|name| fs::read_to_string(watch.thread.join(name)).is_ok());
        may_see.contains(&true).then_some(())?;
        loop {
            let stack = stack(&watch.thread);
            if sys::state(&watch.thread) == Some('S') && !stack.is_empty() {
                return Some(stack);
            }
            assert!(Instant::now() < end, "the thread does not wait: {stack:?}");
            std::thread::yield_now();
        }
    }

    #[test]
    fn a_stack_becomes_names() {
        let stack =
            "[<0>] request_wait_answer+0x12/0x230 [fuse]\n[<0>] do_sigtimedwait.isra.0+0x1/0x2\n";
        assert_eq!(functions(stack), ["request_wait_answer", "do_sigtimedwait"]);
        assert!(functions("").is_empty());
    }

    #[test]
    fn who_waits_for_a_pipe_is_shown_and_who_has_nothing_to_do_is_not() {
        let (out, into) = nix::unistd::pipe().unwrap();
        let mut out = fs::File::from(out);
        let (reader, reading, into) = waiting((move || drop(out.read(&mut [0])), into));
        let (sender, receiver): (Sender<()>, _) = channel();
        let (idler, idling, sender) = waiting((move || assert!(receiver.recv().is_err()), sender));
        if let (Some(reads), Some(idles)) = (stands(reader), stands(idler)) {
            let lines = of(std::process::id().cast_signed());
            let shown =
                |thread: i32| lines.iter().find(|line| line.contains(&format!(" {thread} S: ")));
            assert!(
                shown(reader).is_some_and(|line| line.contains("pipe_read")),
                "{reads:?}: {lines:#?}"
            );
            assert_eq!(shown(idler), None, "{idles:?}");
            let mut watch = Watch::new(reader);
            assert!((0..2 * LOOKS).all(|_| !watch.waits()), "a pipe is not I/O on a file");
        }
        drop((into, sender));
        reading.join().unwrap();
        idling.join().unwrap();
    }

    #[test]
    fn a_wait_for_an_inode_or_a_page_counts_and_one_for_a_log_a_tree_or_a_device_does_not() {
        let held = |stack: &str| is_held(&functions(stack));
        assert!(held("do_truncate\ndo_ftruncate"));
        assert!(held("inode_dio_wait\next4_setattr"));
        assert!(held("folio_wait_bit_common\ntruncate_inode_pages_range"));
        assert!(!held("btrfs_tree_read_lock_nested\nbtrfs_search_slot\nbtrfs_unlink"));
        assert!(!held("jbd2_log_wait_commit\next4_truncate"));
        assert!(!held("__wait_on_buffer\next4_bread"));
        assert!(!held("folio_wait_bit_common\ndo_read_cache_folio\nread_mapping_folio"));
    }
}

//! How many queues, how deep, how large, and how their threads are scheduled.
#![allow(unsafe_code)]

use crate::abi::uring::ReqHeader;
use inflight_dio::page_size;
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;

/// What the queues are to be made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// Largest WRITE and READ in bytes.
    pub payload: u32,
    /// Requests of one core that are with the server at the same time, at least 2. Others wait in
    /// the kernel.
    pub depth: usize,
    /// Bytes of all queues together. Depth, then payload, are made smaller until they fit.
    pub budget: usize,
    /// Transfers of the server's own on each queue at the same time.
    pub io_depth: usize,
    /// The nice value of the queues' threads, -20 to 19, where it is allowed (setpriority(2)).
    ///
    /// Client and queue take turns on one core. With the same weight the scheduler takes the client for
    /// one that slept whenever an answer took some microseconds, and wakes it on another core that idles:
    /// a wake-up of a sleeping core, and cold caches, for each. Below -5 it stays where its queue is.
    pub nice: i32,
    /// A queue whose registration fails with EINVAL while those of the others succeed: what a
    /// kernel would have to be broken for, so that tests can see what comes of it.
    pub refused: Option<usize>,
}

impl Default for Config {
    /// 512 KiB, 32 deep, 448 MiB, 64 transfers, -10, nothing refused.
    fn default() -> Config {
        let (payload, depth, budget) = (512 << 10, 32, 448 << 20);
        Config { payload, depth, budget, io_depth: 64, nice: -10, refused: None }
    }
}

/// What the queues are made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    /// One for each possible core.
    pub queues: usize,
    /// Entries of each.
    pub depth: usize,
    /// Bytes of each entry's buffer.
    pub payload: u32,
    /// Transfers of the server's own on each.
    pub io_depth: usize,
    /// The nice value of each one's thread.
    pub nice: i32,
    /// See [`Config::refused`].
    pub refused: Option<usize>,
}

/// Fewest entries of a queue: one may wait while the other works.
const DEPTH_MIN: usize = 2;
/// Smallest payload in pages (`FUSE_MIN_READ_BUFFER`).
const PAYLOAD_PAGES_MIN: usize = 2;

impl Plan {
    /// The largest that fits the budget; if nothing does, the smallest there is.
    pub fn new(cores: usize, config: &Config) -> Plan {
        let page = page_size();
        let queues = cores.max(1);
        let per_queue = config.budget / queues;
        let wanted = (config.payload as usize / page).max(PAYLOAD_PAGES_MIN) * page;
        let fitting = (per_queue / DEPTH_MIN / page).max(PAYLOAD_PAGES_MIN) * page;
        let payload = wanted.min(fitting);
        let depth = config.depth.min(per_queue / payload).max(DEPTH_MIN);
        let io_depth = config.io_depth.clamp(1, 1 << 12);
        let (payload, nice, refused) = (payload as u32, config.nice, config.refused);
        Plan { queues, depth, payload, io_depth, nice, refused }
    }

    /// Bytes of a queue's headers, whole pages.
    pub(super) fn header_bytes(&self) -> usize {
        (self.depth * size_of::<ReqHeader>()).next_multiple_of(page_size())
    }
}

/// Number of cores that the machine may have, which the kernel makes a queue for each of.
pub fn possible_cores() -> usize {
    let text = std::fs::read_to_string("/sys/devices/system/cpu/possible").unwrap_or_default();
    let last = text.trim().rsplit([',', '-']).next().and_then(|last| last.parse::<usize>().ok());
    let here = || std::thread::available_parallelism().map_or(1, usize::from);
    last.map_or_else(here, |last| last + 1)
}

/// Gives the calling thread its weight; without CAP_SYS_NICE or RLIMIT_NICE it stays as it is.
pub(super) fn weigh(nice: i32) {
    // SAFETY: setpriority(2) takes no memory; on Linux 0 means the calling thread.
    let result = unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, nice) };
    if let Err(errno) = nix::errno::Errno::result(result) {
        tracing::debug!("the queues' threads keep their nice value: {errno}");
    }
}

/// Binds the calling thread to a core. A core that is absent, or forbidden, has a thread all the
/// same: its queue must exist.
pub(super) fn bind(core: usize) {
    let mut set = CpuSet::new();
    let bound = set.set(core).and_then(|()| sched_setaffinity(Pid::from_raw(0), &set));
    if let Err(errno) = bound {
        tracing::debug!("the thread of queue {core} runs anywhere: {errno}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sixty_four_cores_stay_below_512_mib() {
        for cores in [1, 2, 16, 64, 65, 128, 256, 1024] {
            let plan = Plan::new(cores, &Config::default());
            let bytes = cores * (plan.depth * plan.payload as usize + plan.header_bytes());
            assert!(bytes < 512 << 20, "{cores} cores: {plan:?}");
            assert!(plan.depth >= DEPTH_MIN);
        }
        let plan = Plan::new(64, &Config::default());
        assert_eq!((plan.depth, plan.payload), (14, 512 << 10));
        let plan = Plan::new(256, &Config::default());
        assert_eq!((plan.depth, plan.payload), (3, 512 << 10));
    }

    #[test]
    fn no_budget_gives_the_smallest() {
        let plan = Plan::new(0, &Config { budget: 0, ..Config::default() });
        assert_eq!((plan.queues, plan.depth), (1, 2));
        assert_eq!(plan.payload as usize, 2 * page_size());
    }

    #[test]
    fn there_is_a_core() {
        assert!(possible_cores() >= 1);
    }
}

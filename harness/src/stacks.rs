//! What hangs where: the kernel stacks of a process's threads, for the notes of a HANG.

use std::fs;

/// Frames that are shown of a stack.
const FRAMES: usize = 12;
/// Frames under which a thread waits for another thread of ours, or for nothing.
const IDLE: [&str; 4] =
    ["futex_do_wait", "io_wq_worker", "hrtimer_nanosleep", "unix_stream_read_generic"];

/// One text for each thread that waits in the kernel for something other than its fellows; none where we may
/// not look.
pub fn of(pid: u32) -> Vec<String> {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let mut texts = Vec::new();
    for thread in threads {
        let read = |name: &str| fs::read_to_string(thread.path().join(name)).unwrap_or_default();
        let stack = read("stack");
        let frames: Vec<&str> = stack.lines().filter_map(frame).take(FRAMES).collect();
        let idle = |frame: &&str| IDLE.iter().any(|idle| frame.starts_with(idle));
        if frames.is_empty() || frames.first().is_some_and(idle) {
            continue;
        }
        let name = read("comm");
        let id = thread.file_name();
        let text = format!("{} {} waits in {}", name.trim(), id.display(), frames.join(" < "));
        texts.push(text);
    }
    texts.sort();
    texts
}

/// `[<0>] folio_wait_bit+0x110/0x310` without its address and offsets.
fn frame(line: &str) -> Option<&str> {
    let name = line.split_once("] ")?.1;
    let name = name.split('+').next().unwrap_or(name);
    let is_entry = ["do_syscall_64", "entry_SYSCALL", "asm_", "ret_from_fork"];
    (!is_entry.iter().any(|entry| name.starts_with(entry))).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_lose_what_differs_from_build_to_build() {
        assert_eq!(frame("[<0>] folio_wait_bit_common+0x110/0x310"), Some("folio_wait_bit_common"));
        assert_eq!(frame("[<0>] entry_SYSCALL_64_after_hwframe+0x76/0x7e"), None);
        assert_eq!(frame(""), None);
    }

    #[test]
    fn a_thread_that_waits_for_a_pipe_is_seen_where_we_may_look() {
        let (out, into) = nix::unistd::pipe().unwrap();
        let thread = std::thread::Builder::new().name("reads-a-pipe".to_owned());
        let thread = thread.spawn(move || nix::unistd::read(&out, &mut [0; 1])).unwrap();
        let readable = fs::read_to_string("/proc/self/stack").is_ok_and(|text| !text.is_empty());
        while readable && !of(std::process::id()).iter().any(|text| text.contains("pipe_read")) {
            std::thread::yield_now();
        }
        nix::unistd::write(&into, b"x").unwrap();
        assert_eq!(thread.join().unwrap(), Ok(1));
    }
}

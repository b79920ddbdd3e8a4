//! Where the threads of a process stand in the kernel: the explanation of a hang.

use std::fs;
use std::path::Path;

/// Functions of the kernel that are shown of a thread, from the innermost.
const DEPTH: usize = 8;

/// One line for each thread that waits for I/O, as far as we may know (the stack needs CAP_SYS_ADMIN).
pub fn of(pid: i32) -> Vec<String> {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    threads.filter_map(|thread| line(&thread.path())).collect()
}

/// The same of one thread, if it waits for I/O.
pub fn thread(pid: i32, thread: i32) -> Option<String> {
    line(Path::new(&format!("/proc/{pid}/task/{thread}")))
}

fn line(thread: &Path) -> Option<String> {
    let text = |name| fs::read_to_string(thread.join(name)).unwrap_or_default();
    let (name, stack) = (text("comm"), functions(&text("stack")));
    let stat = text("stat");
    let state = stat.rsplit(')').next()?.split_whitespace().next()?.to_owned();
    let number = thread.file_name()?.to_string_lossy().into_owned();
    // A request to a FUSE server is waited for as a signal may end it.
    let waits = state == "D" || stack.contains("request_wait_answer");
    (waits && !stack.is_empty()).then(|| format!("{} {number} {state}: {stack}", name.trim()))
}

/// `a < b < c` of lines like `[<0>] b+0x1/0x2 [module]`.
fn functions(stack: &str) -> String {
    let name = |line: &str| {
        let place = line.split_once("] ").map_or(line, |(_, place)| place);
        place.split('+').next().unwrap_or(place).trim().to_owned()
    };
    stack.lines().take(DEPTH).map(name).collect::<Vec<_>>().join(" < ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stack_becomes_one_line() {
        let stack = "[<0>] request_wait_answer+0x12/0x230 [fuse]\n[<0>] fuse_simple_request+0x1/0x2 [fuse]\n";
        assert_eq!(functions(stack), "request_wait_answer < fuse_simple_request");
        assert_eq!(functions(""), "");
        assert!(of(-1).is_empty());
    }
}

//! The kernel log, as part of every verdict: what it said between two moments.

use std::fs::File;
use std::io::{ErrorKind, Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// Words with which a kernel says that it is broken: harm whatever else went on.
const BROKEN: [&str; 9] = [
    "BUG:",
    "kernel BUG at",
    "Oops",
    "KASAN",
    "UBSAN",
    "general protection",
    "refcount_t:",
    "Bad page",
    "bad page",
];

/// Words that no healthy kernel says either, and that load alone can make one say.
const STRAINED: [&str; 5] = [
    "WARNING:",
    "KCSAN",
    "trying to steal weird page",
    "blocked for more than",
    "possible circular locking",
];

/// Lines of a report after its first, at most.
const REPORT_LINES: usize = 120;

/// What the kernel complained about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Complaint {
    /// The kernel is broken; else it may only be under load.
    pub broken: bool,
    /// The whole report, a line each.
    pub text: String,
}

impl Complaint {
    /// The process that the kernel names: `PID: 12 Comm: fio`, or `task fio:12 blocked`.
    pub fn pid(&self) -> Option<u32> {
        let number = |text: &str| {
            let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
            text[..end].parse().ok()
        };
        self.text.lines().find_map(|line| {
            let blocked = || {
                let task = line.split_once("task ")?.1.split_once(" blocked")?.0;
                number(task.rsplit_once(':')?.1)
            };
            line.split_once("PID: ").and_then(|(_, rest)| number(rest)).or_else(blocked)
        })
    }

    /// Whether it is about somebody who has nothing to do with us: not this process, its parent, what they started, nor what
    /// has `root` among its arguments. Who cannot be asked any more may have been ours, and threads of the kernel may work
    /// for us.
    pub fn is_others(&self, root: &Path) -> bool {
        let Some(mut pid) = self.pid() else { return false };
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        if line.is_empty()
            || memchr::memmem::find(&line, root.as_os_str().as_encoded_bytes()).is_some()
        {
            return false;
        }
        let own = [std::process::id(), std::os::unix::process::parent_id()];
        while pid > 1 {
            if own.contains(&pid) {
                return false;
            }
            let Some(parent) = parent(pid) else { return false };
            pid = parent;
        }
        true
    }
}

fn parent(pid: u32) -> Option<u32> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    status.lines().find_map(|line| line.strip_prefix("PPid:")?.trim().parse().ok())
}

/// A reader that starts at the end of the log.
#[derive(Debug)]
pub struct KernelLog(File);

impl KernelLog {
    /// Opens `/dev/kmsg` at its end; `None` when we may not read it.
    pub fn open() -> Option<KernelLog> {
        let mut options = std::fs::OpenOptions::new();
        let mut file = options.read(true).custom_flags(libc::O_NONBLOCK).open("/dev/kmsg").ok()?;
        file.seek(SeekFrom::End(0)).ok()?;
        Some(KernelLog(file))
    }

    /// Complaints since the last call.
    pub fn complaints(&mut self) -> Vec<Complaint> {
        let mut lines = Vec::new();
        let mut record = [0; 8192];
        loop {
            let text = match self.0.read(&mut record) {
                Ok(count) => String::from_utf8_lossy(&record[..count]).into_owned(),
                // The oldest records were overwritten; the next read goes on behind the gap.
                Err(error) if error.raw_os_error() == Some(libc::EPIPE) => continue,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(_) => return reports(&lines),
            };
            let message = text.split_once(';').map_or(&*text, |(_, message)| message);
            lines.push(message.lines().next().unwrap_or("").to_owned());
        }
    }
}

/// What a console says of a kernel that died: from the first word that it is broken to its end. `None`: it did not panic.
pub fn last_words(console: &str) -> Option<String> {
    const PANIC: &str = "Kernel panic";
    let is_sign =
        |line: &&str| line.contains(PANIC) || BROKEN.iter().any(|word| line.contains(word));
    let report: Vec<_> = console.lines().skip_while(|line| !is_sign(line)).collect();
    report.iter().any(|line| line.contains(PANIC)).then(|| report.join("\n"))
}

/// Complaints among the lines of a log, each with what follows it up to the end of the report.
fn reports(lines: &[String]) -> Vec<Complaint> {
    let mut found: Vec<Complaint> = Vec::new();
    // Lines that the report under way may still have.
    let mut left = 0;
    for line in lines {
        let has = |words: &[&str]| words.iter().any(|word| line.contains(word));
        let (broken, strained) = (has(&BROKEN), has(&STRAINED));
        match found.last_mut().filter(|_| left > 0) {
            Some(report) => {
                report.text.push('\n');
                report.text.push_str(line);
                report.broken |= broken;
                left -= 1;
                if line.contains("---[ end ") || line.starts_with("==================") {
                    left = 0;
                }
            }
            None if broken || strained => {
                found.push(Complaint { broken, text: line.clone() });
                left = REPORT_LINES;
            }
            None => {}
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_words_of_a_kernel_begin_where_it_began_to_die() {
        let console = "[1] up\n[2] BUG: KASAN: use-after-free\n[3] stack\n[4] Kernel panic\n";
        let words = last_words(console).unwrap();
        assert_eq!(words, "[2] BUG: KASAN: use-after-free\n[3] stack\n[4] Kernel panic");
        assert_eq!(last_words("[1] up\n[2] BUG: x\n"), None, "it went on");
    }

    #[test]
    fn a_complaint_about_somebody_elses_process_is_known() {
        let about = |text: &str| Complaint { broken: false, text: text.to_owned() };
        let hung = "INFO: task kworker/u8:1:77 blocked for more than 120 seconds.";
        assert_eq!(about(hung).pid(), Some(77));
        let warning = "WARNING: at fs/fuse/dev.c:1\nCPU: 0 UID: 0 PID: 12 Comm: fio Not tainted";
        assert_eq!(about(warning).pid(), Some(12));
        assert_eq!(about("WARNING: at fs/fuse/dev.c:1").pid(), None);
        let root = Path::new("/no/such/session");
        let of = |pid: u32| about(&format!("INFO: task x:{pid} blocked for")).is_others(root);
        assert!(!of(std::process::id()), "our own");
        assert!(!of(u32::MAX), "gone: it may have been ours");
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let ours = of(child.id());
        let _ = child.kill().and_then(|()| child.wait());
        assert!(!ours, "what we started");
        assert!(of(1), "init is nobody's child");
    }

    #[test]
    fn a_report_is_kept_whole_and_what_follows_it_is_not() {
        let log = "usb 1-1: new device\n\
            ==================================================================\n\
            BUG: KASAN: slab-use-after-free in fuse_copy_fill+0x1/0x2\n\
            Read of size 8 at addr ffff888 by task x/1\n\
            Call Trace:\n\
            ==================================================================\n\
            eth0: link up\n\
            WARNING: CPU: 0 PID: 1 at fs/fuse/dev.c:1 x+0x1/0x2\n\
            ---[ end trace 0000000000000000 ]---\n\
            audit: nothing";
        let lines: Vec<String> = log.lines().map(str::to_owned).collect();
        let found = reports(&lines);
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(found[0].broken && found[0].text.contains("Read of size 8"));
        assert!(found[0].text.contains("Call Trace:") && !found[0].text.contains("eth0"));
        assert!(!found[1].broken && !found[1].text.contains("audit"));
        assert!(reports(&lines[..1]).is_empty());
    }
}

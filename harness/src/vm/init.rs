//! The guest's first process: this program as /init. It mounts what a system has, loads modules, starts the run and
//! ends the machine.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use nix::kmod::{ModuleInitFlags, finit_module};
use nix::mount::{MsFlags, mount};
use nix::sys::reboot::{RebootMode, reboot};
use nix::sys::wait::{WaitStatus, wait};

use crate::kit::bounds;
use crate::kit::kernel::Kernel;
use crate::kit::pause::Pause;
use crate::kit::sys;
use crate::vm::message::{Job, Message, PORT, SCRATCH, State, TASK, Task, Up, program};

/// Longest that the port of the messages may take to appear.
const PORT_BOUND: Duration = Duration::from_secs(20);

/// Whether this process is the first one of a guest.
pub fn is_wanted() -> bool {
    std::process::id() == 1 && Path::new(TASK).exists()
}

/// Does it all. What goes wrong before there is a way to say it goes to the console.
pub fn init() -> ! {
    if let Err(error) = serve() {
        println!("inflight-race: the guest is not fit: {error:#}");
    }
    nix::unistd::sync();
    // QEMU was told not to reboot, so this ends it, and needs no ACPI.
    let _ = reboot(RebootMode::RB_AUTOBOOT);
    loop {
        std::thread::park();
    }
}

fn serve() -> anyhow::Result<()> {
    for (kind, at) in
        [("proc", "/proc"), ("sysfs", "/sys"), ("devtmpfs", "/dev"), ("tmpfs", "/tmp")]
    {
        fs::create_dir_all(at)?;
        mount(Some(kind), at, Some(kind), MsFlags::empty(), None::<&str>)
            .with_context(|| format!("mount {kind}"))?;
    }
    let task: Task = serde_json::from_slice(&fs::read(TASK)?).context(TASK)?;
    let mut lacks = Vec::new();
    for module in &task.modules {
        if let Err(error) = load(Path::new(module)) {
            lacks.push(format!("{error:#}"));
        }
    }
    let mut port = port(&task)?;
    let kernel = Kernel::running()?;
    if let Err(error) = prepare(&task, &mut lacks) {
        return say(&mut port, State::Unfit { reason: format!("{error:#}") });
    }
    say(&mut port, State::Up(Up { kernel, lacks, slowness: bounds::slowness() }))?;
    let code = match &task.job {
        Job::Program { words, .. } => run_program(&mut port, words)?,
        Job::Run(_) | Job::Mechanisms(_) => play(&port)?,
    };
    say(&mut port, State::Ended { code })
}

fn load(module: &Path) -> anyhow::Result<()> {
    let what = || module.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let file = File::open(module).with_context(what)?;
    match finit_module(&file, c"", ModuleInitFlags::empty()) {
        Ok(()) | Err(nix::errno::Errno::EEXIST) => Ok(()),
        Err(errno) => Err(errno).with_context(what),
    }
}

/// Opens the line to the host.
fn port(task: &Task) -> anyhow::Result<File> {
    if task.serial {
        let line = File::options().write(true).open("/dev/ttyS1").context("/dev/ttyS1")?;
        let mut settings = nix::sys::termios::tcgetattr(&line).context("/dev/ttyS1")?;
        nix::sys::termios::cfmakeraw(&mut settings);
        nix::sys::termios::tcsetattr(&line, nix::sys::termios::SetArg::TCSANOW, &settings)?;
        return Ok(line);
    }
    let end = Instant::now() + PORT_BOUND;
    let mut pause = Pause::default();
    loop {
        // The device announces its ports in its own time.
        if let Some(path) = named_port() {
            return File::options().write(true).open(&path).context("open the port");
        }
        ensure!(Instant::now() < end, "no virtio port {PORT} after {PORT_BOUND:?}");
        pause.rest();
    }
}

fn named_port() -> Option<PathBuf> {
    let ports = fs::read_dir("/sys/class/virtio-ports").ok()?;
    let is_ours = |folder: &PathBuf| {
        fs::read_to_string(folder.join("name")).is_ok_and(|name| name.trim() == PORT)
    };
    let folder = ports.flatten().map(|entry| entry.path()).find(is_ours)?;
    let device = Path::new("/dev").join(folder.file_name()?);
    device.exists().then_some(device)
}

/// What the run takes for granted. What only some cases need is noted in `lacks` when it is not to be had.
fn prepare(task: &Task, lacks: &mut Vec<String>) -> anyhow::Result<()> {
    let kinds = fs::read_to_string("/proc/filesystems").context("/proc/filesystems")?;
    let runs_cases = !matches!(task.job, Job::Program { .. });
    if runs_cases && !kinds.split_whitespace().any(|kind| kind == "fuse") {
        bail!("the kernel {} has no FUSE{}", Kernel::running()?.release, hint(lacks));
    }
    fs::create_dir_all(SCRATCH)?;
    let disk = "/dev/vda";
    if Path::new(disk).exists() {
        mount(Some(disk), SCRATCH, Some("ext4"), MsFlags::empty(), None::<&str>)
            .with_context(|| format!("mount the scratch disk{}", hint(lacks)))?;
    } else {
        mount(Some("tmpfs"), SCRATCH, Some("tmpfs"), MsFlags::empty(), None::<&str>)?;
    }
    if let Err(error) = sys::loopback_up() {
        lacks.push(format!("loopback: {error:#}"));
    }
    if task.swap_mib > 0
        && let Err(error) = swap(task.swap_mib)
    {
        lacks.push(format!("swap on zram: {error:#}"));
    }
    Ok(())
}

fn hint(lacks: &[String]) -> String {
    if lacks.is_empty() { String::new() } else { format!(" ({})", lacks.join("; ")) }
}

/// Makes a compressed disk in memory and swaps to it.
fn swap(mib: u64) -> anyhow::Result<()> {
    let size = mib << 20;
    fs::write("/sys/block/zram0/disksize", size.to_string()).context("size of zram0")?;
    let device = Path::new("/dev/zram0");
    fs::write(device, swap_header(size)).context("header of zram0")?;
    sys::swap_on(device)
}

/// The first page of a swap area, as mkswap(8) writes it (include/linux/swap.h, `union swap_header`).
fn swap_header(size: u64) -> Vec<u8> {
    const PAGE: usize = 4096;
    const VERSION: u32 = 1;
    let mut page = vec![0; PAGE];
    page[1024..1028].copy_from_slice(&VERSION.to_le_bytes());
    let last = (size / PAGE as u64 - 1) as u32;
    page[1028..1032].copy_from_slice(&last.to_le_bytes());
    page[PAGE - 10..].copy_from_slice(b"SWAPSPACE2");
    page
}

/// Runs the program on the scratch disk, and passes on what it writes.
fn run_program(port: &mut File, words: &[String]) -> anyhow::Result<i32> {
    let (output, writer) = std::io::pipe()?;
    let (file, arguments) = words.split_first().context("no program")?;
    let mut command = Command::new(program(Path::new(file)));
    command.args(arguments).env("PATH", "/bin").env("TMPDIR", SCRATCH).current_dir(SCRATCH);
    command.stdin(Stdio::null()).stdout(writer.try_clone()?).stderr(writer);
    let child = command.spawn().context("start the program")?;
    // The command has the pipe's other end as well: without it, the output ends with the program.
    drop(command);
    for line in BufReader::new(output).split(b'\n') {
        let line = String::from_utf8_lossy(&line?).into_owned();
        say(port, State::Wrote { line })?;
    }
    reap(child.id())
}

/// Plays the run in a process of its own, whose standard output is the line to the host.
fn play(port: &File) -> anyhow::Result<i32> {
    let output = Stdio::from(OwnedFd::from(port.try_clone()?));
    let mut command = Command::new("/init");
    command
        .arg("play")
        .arg(TASK)
        .env("PATH", "/bin")
        .env("INFLIGHT", "/bin/inflight")
        .env("TMPDIR", SCRATCH);
    let child = command.stdout(output).spawn().context("start the run")?;
    reap(child.id())
}

/// Waits for a child and gives its exit code; whoever has lost its parent is reaped as well.
fn reap(child: u32) -> anyhow::Result<i32> {
    loop {
        match wait()? {
            WaitStatus::Exited(pid, code) if pid.as_raw() == child as i32 => return Ok(code),
            WaitStatus::Signaled(pid, signal, _) if pid.as_raw() == child as i32 => {
                return Ok(128 + signal as i32);
            }
            _ => {}
        }
    }
}

fn say(port: &mut File, state: State) -> anyhow::Result<()> {
    let mut text = serde_json::to_vec(&Message::Guest(state))?;
    text.push(b'\n');
    port.write_all(&text).context("the line to the host")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_swap_header_is_one_that_blkid_knows() {
        let header = swap_header(64 << 20);
        assert_eq!(header.len(), 4096);
        assert_eq!(&header[4086..], b"SWAPSPACE2");
        assert_eq!(header[1028..1032], (64 * 256 - 1u32).to_le_bytes());
        assert!(!is_wanted());
    }
}

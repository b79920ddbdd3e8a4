//! A virtual machine: QEMU with a kernel, an initramfs and a scratch disk. It ends when we do, however we end, and
//! its files have no names: nothing is left behind.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Seek};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, channel};

use anyhow::Context;

use crate::kit::sys;
use crate::kit::verdict::not_run;
use crate::run::guest::Guest;
use crate::vm::message::{Message, PORT};

/// Memory of a machine unless told, in MiB, on two nodes.
const MEMORY_MIB: u64 = 2048;
/// Its processors unless told.
const PROCESSORS: u32 = 2;

/// How the guest's code is executed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Accel {
    /// KVM where it works, found out by trying, otherwise TCG.
    Auto,
    /// By the processor.
    Kvm,
    /// By translation: slower, and possible everywhere.
    Tcg,
}

impl Accel {
    /// What to try, in this order.
    pub fn choices(self) -> &'static [Accel] {
        match self {
            Accel::Auto if !is_kvm_there() || KVM_FAILED.load(Relaxed) => &[Accel::Tcg],
            Accel::Auto => &[Accel::Kvm, Accel::Tcg],
            Accel::Kvm => &[Accel::Kvm],
            Accel::Tcg => &[Accel::Tcg],
        }
    }

    /// As QEMU calls it.
    pub fn name(self) -> &'static str {
        match self {
            Accel::Auto => "auto",
            Accel::Kvm => "kvm",
            Accel::Tcg => "tcg",
        }
    }
}

/// Whether KVM was tried by this process, and no guest came up.
static KVM_FAILED: AtomicBool = AtomicBool::new(false);

/// Notes that no guest came up under KVM, so that it is not tried again.
pub fn give_up_kvm() {
    KVM_FAILED.store(true, Relaxed);
}

fn is_kvm_there() -> bool {
    File::options().read(true).write(true).open("/dev/kvm").is_ok()
}

/// What a machine is made of.
#[derive(Debug)]
pub struct Parts {
    /// The bzImage.
    pub image: PathBuf,
    /// The initramfs.
    pub initramfs: OwnedFd,
    /// A disk with a filesystem, if the kernel can use one.
    pub disk: Option<OwnedFd>,
    /// Whether messages go over the second serial line, for want of a virtio port.
    pub serial: bool,
    /// How much of the memory is for pages that can be moved only, in MiB.
    pub movable_mib: u64,
    /// Whether it gets a SCSI disk, which reads as zeroes.
    pub with_scsi: bool,
    /// What its user wants of it.
    pub guest: Guest,
    /// Where the kernel's own console is written.
    pub console: PathBuf,
}

/// A running machine.
#[derive(Debug)]
pub struct Machine {
    child: Child,
    /// What the guest says; an error is a line that is not a message. Disconnects when the machine ends.
    pub messages: Receiver<Result<Message, String>>,
    errors: File,
}

impl Machine {
    /// Starts one.
    ///
    /// # Errors
    /// NOTRUN without QEMU; otherwise it cannot be started.
    pub fn start(parts: &Parts, accel: Accel) -> anyhow::Result<Machine> {
        let errors = tempfile::tempfile()?;
        let program = program();
        let mut command = Command::new(&program);
        command.args(arguments(parts, accel));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(errors.try_clone()?);
        // SIGINT of a terminal goes to the whole group: only we are to act on it.
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        sys::end_with_parent(&mut command);
        let mut child = command.spawn().map_err(|error| {
            not_run(format!(
                "{}: {error}; install qemu-system-x86 or set $INFLIGHT_QEMU",
                program.display()
            ))
        })?;
        let output = child.stdout.take().context("no pipe")?;
        let (sender, messages) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(output).split(b'\n').map_while(Result::ok) {
                let text = String::from_utf8_lossy(&line);
                let text = text.trim_end_matches('\r');
                let message = serde_json::from_str(text).map_err(|_| text.to_owned());
                if sender.send(message).is_err() {
                    return;
                }
            }
        });
        Ok(Machine { child, messages, errors })
    }

    /// Ends it; gives the last thing that QEMU complained about.
    pub fn end(mut self) -> Option<String> {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let mut text = String::new();
        let read = self.errors.rewind().and_then(|()| self.errors.read_to_string(&mut text));
        let last = text.lines().rfind(|line| !line.trim().is_empty());
        last.filter(|_| read.is_ok()).map(str::to_owned)
    }
}

/// `$INFLIGHT_QEMU`, or the one in `$PATH`.
fn program() -> PathBuf {
    std::env::var_os("INFLIGHT_QEMU").map_or("qemu-system-x86_64".into(), PathBuf::from)
}

fn arguments(parts: &Parts, accel: Accel) -> Vec<String> {
    let memory = parts.guest.memory.unwrap_or(MEMORY_MIB);
    let processors = parts.guest.smp.unwrap_or(PROCESSORS);
    let cpu = if accel == Accel::Kvm { "host" } else { "max" };
    let path = |path: &Path| path.display().to_string();
    let accel = if accel == Accel::Tcg { "tcg,thread=multi" } else { accel.name() };
    let mut all: Vec<String> = Vec::new();
    let mut add = |words: &[&str]| all.extend(words.iter().map(|&word| word.to_owned()));
    add(&["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"]);
    add(&[
        "-machine",
        "pc,mem-merge=off",
        "-accel",
        accel,
        "-cpu",
        cpu,
        "-smp",
        &format!("{processors},sockets={processors},cores=1,threads=1"),
    ]);
    let nodes =
        [(0..processors / 2, memory / 2), (processors / 2..processors, memory - memory / 2)];
    add(&["-m", &memory.to_string()]);
    for (node, (cpus, mib)) in nodes.into_iter().enumerate() {
        let (first, last) = (cpus.start, cpus.end - 1);
        add(&["-object", &format!("memory-backend-ram,id=memory{node},size={mib}M")]);
        add(&["-numa", &format!("node,nodeid={node},cpus={first}-{last},memdev=memory{node}")]);
    }
    add(&["-kernel", &path(&parts.image), "-initrd", &fd_path(&parts.initramfs)]);
    add(&["-append", &command_line(parts)]);
    add(&["-chardev", &format!("file,id=console,path={}", path(&parts.console))]);
    add(&["-serial", "chardev:console"]);
    add(&["-chardev", "file,id=events,path=/dev/stdout"]);
    if parts.serial {
        add(&["-serial", "chardev:events"]);
    } else {
        add(&["-device", "virtio-serial-pci"]);
        add(&["-device", &format!("virtserialport,chardev=events,name={PORT}")]);
    }
    if parts.with_scsi {
        add(&["-blockdev", "driver=null-co,node-name=zeroes,size=67108864,read-zeroes=on"]);
        add(&["-device", "virtio-scsi-pci", "-device", "scsi-hd,drive=zeroes"]);
    }
    if let Some(disk) = &parts.disk {
        let file = fd_path(disk);
        let drive = format!("file={file},format=raw,if=none,id=scratch,cache=unsafe,discard=unmap");
        add(&["-drive", &drive, "-device", "virtio-blk-pci,drive=scratch"]);
    }
    all
}

/// A path under which QEMU finds a file of ours that has no name.
fn fd_path(file: &OwnedFd) -> String {
    format!("/proc/{}/fd/{}", std::process::id(), file.as_raw_fd())
}

/// A panic reboots at once, and a reboot ends the machine. A busy host's timer may come late: that is no reason to
/// panic (no_timer_check). Nobody attacks this guest, and grace periods that do not
/// wait for idle processors make unmounting fast under translation.
fn command_line(parts: &Parts) -> String {
    let words = [
        "console=ttyS0",
        "loglevel=7",
        "panic=-1",
        // A thread that died in the kernel holds what it held: what follows would be no verdict.
        "oops=panic",
        "no_timer_check",
        "mitigations=off",
        "random.trust_cpu=on",
        "rcupdate.rcu_expedited=1",
        "hugepages=16",
    ];
    let movable = (parts.movable_mib > 0).then(|| format!("movablecore={}M", parts.movable_mib));
    let more = movable.iter().chain(&parts.guest.append);
    words.into_iter().chain(more.map(String::as_str)).collect::<Vec<_>>().join(" ")
}

//! Runs under another kernel: the same run inside a virtual machine, judged and written down on this side.
//!
//! The guest is one initramfs with this program as its first process. It plays the plan and says what its workers
//! say; the table of expected failures is asked here, with the guest's kernel.

pub mod archive;
pub mod init;
pub mod machine;
pub mod message;
pub mod modules;
pub mod source;
pub mod watch;

use std::fs::{self, File};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, ensure};

use crate::kit::interrupt;
use crate::kit::sys;
use crate::kit::verdict::{Stop, not_run};
use crate::mechanisms::{self, Shown};
use crate::run::plan;
use crate::run::{INTERRUPTED, Order, Runner};
use crate::target::Target;
use crate::target::mounted;
use crate::target::network::{self, Kind};
use crate::vm::archive::Archive;
use crate::vm::machine::{Accel, Machine, Parts};
use crate::vm::message::{TASK, Task};
use crate::vm::modules::{Modules, Presence};
use crate::vm::source::Source;
use crate::vm::watch::Birth;

/// Name of the file in a results folder that holds the guest's console.
pub const CONSOLE: &str = "console.log";

/// Exit code when nothing could be run.
const NOTHING: i32 = 4;

/// Longest that a guest may take until it is up.
const BOOT: Duration = Duration::from_secs(120);
/// The same where KVM is only tried.
const TRIAL: Duration = Duration::from_secs(10);

/// Longest that a guest may take to show its mechanisms.
const SHOWN: Duration = Duration::from_secs(600);

/// Size of the scratch disk. It is sparse.
const DISK: u64 = 8 << 30;
/// Swap in the guest, in MiB.
const SWAP_MIB: u64 = 256;

/// What every guest needs, loaded where it is a module. `fuse` is asked for by name below.
const ALWAYS: [&str; 13] = [
    "fuse",
    "loop",
    "virtio_pci",
    "virtio_console",
    "virtio_blk",
    // ext4 asks for it by name.
    "crc32c_generic",
    "crc32c_cryptoapi",
    "ext4",
    "overlay",
    "lzo",
    "lzo_rle",
    "zstd",
    "zram",
];
/// What filesystems ask the kernel's crypto for by name, which is a dependency that modules.dep does not show.
const CHECKSUMS: [&str; 4] = ["libcrc32c", "xxhash_generic", "blake2b_generic", "sha256_generic"];
/// What vfat asks for by name: one of the sets of characters that a kernel may have been built to use.
const CHARACTERS: [&str; 4] = ["nls_cp437", "nls_ascii", "nls_iso8859_1", "nls_utf8"];
/// What only mechanisms need.
const SHOWING: [&str; 6] =
    ["af_alg", "algif_hash", "sha256_generic", "vfat", "virtio_scsi", "sd_mod"];
/// The movable part of the memory of a guest that shows mechanisms, in MiB.
const MOVABLE_MIB: u64 = 512;

/// How to make a machine.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Kernel: `debian:6.1` from the cache that scripts/kernels fills, `debian:6.1-amd64` of another flavour than
    /// `cloud-amd64`, or the path of a bzImage.
    #[arg(long, value_name = "SPEC")]
    pub kernel: String,
    /// Folder of its modules (default: beside the image, or /lib/modules/RELEASE).
    #[arg(long, value_name = "DIR")]
    pub modules: Option<PathBuf>,
    /// How the guest's code is executed.
    #[arg(long, value_enum, default_value = "auto")]
    pub accel: Accel,
}

/// Runs an order in a machine, and gives the exit code that a native run would have had; 4 when the machine cannot
/// be made.
///
/// # Errors
/// The results cannot be written.
pub fn run(options: &Options, order: Order) -> anyhow::Result<i32> {
    match attempt(options, order) {
        Err(error) if matches!(error.downcast_ref(), Some(Stop::NotRun(_))) => {
            eprintln!("inflight-race: not run: {error}");
            Ok(NOTHING)
        }
        other => other,
    }
}

fn attempt(options: &Options, order: Order) -> anyhow::Result<i32> {
    if let Target::Server(_) = &order.target {
        return Err(not_run("--server: somebody's server is on this machine, not in a guest"));
    }
    if let Target::Dir(path) = &order.target {
        let path = path.display();
        return Err(not_run(format!("{path} is on this machine; a guest has targets of its own")));
    }
    interrupt::catch()?;
    let source = Source::find(&options.kernel, options.modules.as_deref())?;
    let order = in_guest_order(options, order);
    let parts = parts(&source, &order, None)?;
    let (machine, birth, remark) = start(&parts, options.accel)?;
    if interrupt::is_seen() {
        machine.end();
        return Ok(INTERRUPTED);
    }
    let (kernel, lacks) = match &birth {
        Birth::Up { kernel, lacks } => (kernel.clone(), lacks.clone()),
        Birth::Unfit(reason) => {
            machine.end();
            return Err(not_run(reason.clone()));
        }
        Birth::Lost(_) => (source.kernel(), Vec::new()),
    };
    let mut runner = Runner::new(order, kernel)?;
    runner.print_head();
    remark.iter().for_each(|remark| runner.say(remark));
    lacks.iter().for_each(|lack| runner.say(&format!("lacks    {lack}")));
    let lost = match birth {
        Birth::Lost(lost) => Some(lost),
        _ => watch::follow(&mut runner, &machine)?,
    };
    let complaint = machine.end();
    let console = clean(&parts.console)?;
    if let Some(lost) = lost {
        runner.forfeit(&lost.reason(&console, complaint.as_deref()))?;
        runner.say(&format!("the guest's console is in {}", parts.console.display()));
    }
    runner.finish()
}

/// Shows mechanisms in a machine; see [`crate::mechanisms`].
///
/// # Errors
/// NOTRUN when the machine cannot be made; otherwise how the guest was lost.
pub fn mechanisms(options: &Options, ids: &[String]) -> anyhow::Result<Shown> {
    let source = Source::find(&options.kernel, options.modules.as_deref())?;
    let folder = tempfile::tempdir().context("a folder for the console")?;
    // Its target says which modules and programs the guest gets: ext4 is what the rows need most of.
    let results = folder.path().to_owned();
    let order = in_guest_order(options, Order { results, ..Order::empty(Target::Ext4) });
    let parts = parts(&source, &order, Some(ids.to_vec()))?;
    let (machine, birth, remark) = start(&parts, options.accel)?;
    remark.iter().for_each(|remark| eprintln!("inflight-race: {remark}"));
    let shown = match birth {
        Birth::Up { .. } => watch::shown(&machine, SHOWN),
        Birth::Unfit(reason) => {
            machine.end();
            return Err(not_run(reason));
        }
        Birth::Lost(lost) => Err(lost),
    };
    let complaint = machine.end();
    let console = clean(&parts.console)?;
    shown.map_err(|lost| anyhow::anyhow!(lost.reason(&console, complaint.as_deref())))
}

/// What an order is for the guest that it is played in.
fn in_guest_order(options: &Options, order: Order) -> Order {
    let (vm, modules) = (Some(options.kernel.clone()), options.modules.clone());
    Order { vm, modules, scratch: init::SCRATCH.into(), ..order }
}

/// Starts a machine in the first way that gets it up, and says why it was not an earlier one; the last way counts,
/// however it ends.
fn start(parts: &Parts, accel: Accel) -> anyhow::Result<(Machine, Birth, Option<String>)> {
    let (last, others) = accel.choices().split_last().context("no way to run a guest")?;
    let mut remark = None;
    for &other in others {
        let machine = Machine::start(parts, other)?;
        let birth = watch::trial(&machine, &parts.console, TRIAL);
        let Birth::Lost(lost) = birth else { return Ok((machine, birth, None)) };
        let complaint = machine.end();
        let reason = lost.reason(&clean(&parts.console)?, complaint.as_deref());
        let (name, other) = (last.name(), other.name());
        remark = Some(format!("accel    {name}: no guest came up under {other}: {reason}"));
        machine::give_up_kvm();
    }
    let machine = Machine::start(parts, *last)?;
    let birth = watch::birth(&machine, BOOT);
    Ok((machine, birth, remark))
}

/// The console's text, also in its file, without the carriage returns of a terminal. QEMU makes the file: it is
/// empty where QEMU did not get so far.
fn clean(console: &Path) -> anyhow::Result<String> {
    let what = || console.display().to_string();
    let bytes = match fs::read(console) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
        other => other.with_context(what)?,
    };
    let text = String::from_utf8_lossy(&bytes).replace('\r', "");
    fs::write(console, &text).with_context(what)?;
    Ok(text)
}

fn parts(source: &Source, order: &Order, mechanisms: Option<Vec<String>>) -> anyhow::Result<Parts> {
    let modules = source.modules.as_deref().map(Modules::open).transpose()?;
    let network = network(order, mechanisms.as_deref());
    let mut names = wanted(&order.target);
    if mechanisms.is_some() {
        names.extend(SHOWING.into_iter().chain(CHARACTERS));
    }
    names.extend(network.iter().flat_map(|kind| kind.modules()));
    let presence = |name| modules.as_ref().map(|modules| modules.presence(name));
    let is_there = |name| presence(name).is_none_or(|presence| presence != Presence::Missing);
    for need in needs(&order.target) {
        if !is_there(need) {
            let (release, folder) = (&source.release, source.modules.as_deref());
            let folder = folder.unwrap_or(Path::new("?")).display();
            return Err(not_run(format!(
                "the kernel {release} has no {need}, neither built in nor in {folder}"
            )));
        }
    }
    let files = modules.as_ref().map_or(Vec::new(), |modules| modules.order(&names));
    let serial = !(is_there("virtio_pci") && is_there("virtio_console"));
    let with_disk = is_there("virtio_pci") && is_there("virtio_blk") && is_there("ext4");
    fs::create_dir_all(&order.results).with_context(|| order.results.display().to_string())?;
    let movable_mib = mechanisms.as_ref().map_or(0, |_| MOVABLE_MIB);
    let with_scsi = mechanisms.is_some() && is_there("virtio_pci") && is_there("virtio_scsi");
    let task = Task {
        modules: files.iter().map(|file| in_guest(file)).collect(),
        order: Order { relay: true, vm: None, ..order.clone() },
        mechanisms,
        serial,
        swap_mib: SWAP_MIB,
    };
    Ok(Parts {
        image: source.image.clone(),
        initramfs: initramfs(&task, &files, &network)?.into(),
        disk: if with_disk { disk()?.map(OwnedFd::from) } else { None },
        serial,
        movable_mib,
        with_scsi,
        console: order.results.join(CONSOLE),
    })
}

/// What a run on the target cannot do without.
fn needs(target: &Target) -> Vec<&'static str> {
    let mut all = vec!["fuse"];
    if target.is_looped() {
        all.push("loop");
    }
    all.extend(match target {
        Target::Ext4 => Some("ext4"),
        Target::Xfs => Some("xfs"),
        Target::Btrfs => Some("btrfs"),
        Target::Vfat => Some("vfat"),
        Target::Overlay => Some("overlay"),
        Target::Inflight | Target::Tmpfs | Target::Dir(_) | Target::Server(_) => None,
    });
    all
}

/// The network filesystems that an order needs, or the mechanisms instead of it: modules and programs cost time at boot.
fn network(order: &Order, mechanisms: Option<&[String]>) -> Vec<Kind> {
    let cases = order.items.iter().map(|item| &*item.case);
    let is_named = |name: &str| {
        plan::cases()
            .iter()
            .any(|case| case.is_in("network") && case.id == name.split(':').next().unwrap_or(name))
    };
    let is_wanted = match mechanisms {
        None => cases.into_iter().any(is_named),
        Some(ids) => mechanisms::cases(ids).iter().any(|&name| is_named(name)),
    };
    if is_wanted { network::ALL.to_vec() } else { Vec::new() }
}

fn wanted(target: &Target) -> Vec<&'static str> {
    let mut all = ALWAYS.to_vec();
    match target {
        Target::Xfs | Target::Btrfs => all.extend(CHECKSUMS),
        Target::Vfat => all.extend(CHARACTERS),
        _ => {}
    }
    all.extend(needs(target));
    all
}

/// Where a module's file lies in the guest.
fn in_guest(file: &Path) -> String {
    format!("/modules/{}.ko", modules::name(&file.to_string_lossy()))
}

fn initramfs(task: &Task, modules: &[PathBuf], network: &[Kind]) -> anyhow::Result<File> {
    let mut archive = Archive::new(tempfile::tempfile()?);
    for folder in ["/proc", "/sys", "/dev", "/tmp", "/run", init::SCRATCH] {
        archive.folder(folder)?;
    }
    let own = std::env::current_exe().context("our own path")?;
    archive.program("/init", &own)?;
    archive.program("/bin/inflight", &mounted::program()?)?;
    // The fork cases start one child with posix_spawn(3): /bin/true.
    let (mkfs, shown) = (mounted::mkfs(&task.order.target), mounted::mkfs(&Target::Vfat));
    let shown = shown.filter(|_| task.mechanisms.is_some());
    for tool in ["true"].into_iter().chain(mkfs).chain(shown) {
        match sys::find_program(tool) {
            Some(file) => archive.program(&format!("/bin/{tool}"), &file)?,
            // One row less.
            None if shown == Some(tool) => {}
            None => return Err(not_run(format!("{tool} is not installed"))),
        }
    }
    // Servers look up whom they serve as, and whom they serve.
    archive.add("/etc/passwd", b"root:x:0:0:root:/:/bin/true\n")?;
    archive.add("/etc/hosts", b"127.0.0.1 localhost\n")?;
    archive.add("/etc/nsswitch.conf", b"passwd: files\nhosts: files\n")?;
    for program in network.iter().flat_map(|kind| kind.programs()) {
        // Without it the case says that it is missing.
        if let Some(file) = sys::find_program(program) {
            archive.program(&format!("/bin/{program}"), &file)?;
        }
    }
    for file in modules {
        archive.add(&in_guest(file), &modules::bytes(file)?)?;
    }
    archive.add(TASK, &serde_json::to_vec(task)?)?;
    archive.finish()
}

/// An ext4 filesystem in a sparse file without a name; none where this machine cannot make one.
fn disk() -> anyhow::Result<Option<File>> {
    let Some(tool) = sys::find_program("mkfs.ext4") else { return Ok(None) };
    let file = tempfile::NamedTempFile::new()?;
    file.as_file().set_len(DISK)?;
    // Journal and lazy initialisation cost time, and nothing here outlives the machine.
    let options = ["-q", "-F", "-O", "^has_journal", "-E", "nodiscard,lazy_itable_init=1"];
    let output = Command::new(tool).args(options).arg(file.path()).output().context("mkfs.ext4")?;
    let text = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "mkfs.ext4 of the scratch disk: {}", text.trim());
    Ok(Some(file.into_file()))
}

//! What a machine is made of for a job: the modules that its kernel needs, an initramfs with the programs, a scratch disk.

use std::fs::{self, File};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, ensure};

use crate::kit::sys;
use crate::kit::verdict::not_run;
use crate::mechanisms;
use crate::run::guest::Guest;
use crate::run::plan;
use crate::target::Target;
use crate::target::network::{self, Kind};
use crate::target::programs;
use crate::vm::archive::Archive;
use crate::vm::machine::Parts;
use crate::vm::message::{Job, SCRATCH, TASK, Task, program};
use crate::vm::modules::{self, Modules, Presence};
use crate::vm::source::Source;

/// Name of the file in a results folder that holds the guest's console.
pub const CONSOLE: &str = "console.log";

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

/// Collects them; the console's file will be in `folder`, which is made.
///
/// # Errors
/// NOTRUN: the kernel has not what the job needs, or a program is missing here. Otherwise a file cannot be read or written.
pub fn of(source: &Source, guest: &Guest, job: Job, folder: &Path) -> anyhow::Result<Parts> {
    let modules = source.modules.as_deref().map(Modules::open).transpose()?;
    let presence = |name| modules.as_ref().map(|modules| modules.presence(name));
    let is_there = |name| presence(name).is_none_or(|presence| presence != Presence::Missing);
    if let Some(need) = needs(&job).into_iter().find(|need| !is_there(need)) {
        let (release, folder) = (&source.release, source.modules.as_deref());
        let folder = folder.unwrap_or(Path::new("?")).display();
        let text = format!("the kernel {release} has no {need}, neither built in nor in {folder}");
        return Err(not_run(text));
    }
    let network = network(&job);
    let names = wanted(&job).into_iter().chain(network.iter().flat_map(|kind| kind.modules()));
    let names: Vec<_> = names.copied().collect();
    let files = modules.as_ref().map_or(Vec::new(), |modules| modules.order(&names));
    let serial = !(is_there("virtio_pci") && is_there("virtio_console"));
    let with_disk = is_there("virtio_pci") && is_there("virtio_blk") && is_there("ext4");
    fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
    let shows = matches!(job, Job::Mechanisms(_));
    let with_scsi = shows && is_there("virtio_pci") && is_there("virtio_scsi");
    let in_guests = files.iter().map(|file| in_guest(file)).collect();
    let task = Task { modules: in_guests, job, serial, swap_mib: SWAP_MIB };
    Ok(Parts {
        image: source.image.clone(),
        initramfs: initramfs(&task, &files, &network)?.into(),
        disk: if with_disk { disk()?.map(OwnedFd::from) } else { None },
        serial,
        movable_mib: if shows { MOVABLE_MIB } else { 0 },
        with_scsi,
        guest: guest.clone(),
        console: folder.join(CONSOLE),
    })
}

/// The target whose modules and programs a job needs: ext4 is what the rows of the mechanisms need most of.
fn target(job: &Job) -> &Target {
    match job {
        Job::Run(order) => &order.target,
        Job::Mechanisms(_) | Job::Program { .. } => &Target::Ext4,
    }
}

/// What a job cannot do without.
fn needs(job: &Job) -> Vec<&'static str> {
    let target = match job {
        Job::Program { .. } => return Vec::new(),
        job => target(job),
    };
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

/// The network filesystems that a job needs: modules and programs cost time at boot.
fn network(job: &Job) -> Vec<Kind> {
    let is_named = |name: &str| {
        plan::cases()
            .iter()
            .any(|case| case.is_in("network") && case.id == name.split(':').next().unwrap_or(name))
    };
    let is_wanted = match job {
        Job::Run(order) => order.items.iter().any(|item| is_named(&item.case)),
        Job::Mechanisms(ids) => mechanisms::cases(ids).iter().any(|&name| is_named(name)),
        Job::Program { .. } => false,
    };
    if is_wanted { network::ALL.to_vec() } else { Vec::new() }
}

fn wanted(job: &Job) -> Vec<&'static &'static str> {
    let mut all: Vec<_> = ALWAYS.iter().collect();
    match (job, target(job)) {
        (Job::Mechanisms(_), _) => all.extend(SHOWING.iter().chain(&CHARACTERS)),
        (Job::Program { .. }, _) => all.extend(CHECKSUMS.iter().chain(&["xfs", "btrfs"])),
        (_, Target::Xfs) => all.extend(CHECKSUMS.iter().chain(&["xfs"])),
        (_, Target::Btrfs) => all.extend(CHECKSUMS.iter().chain(&["btrfs"])),
        (_, Target::Vfat) => all.extend(CHARACTERS.iter().chain(&["vfat"])),
        _ => {}
    }
    all
}

/// Where a module's file lies in the guest.
fn in_guest(file: &Path) -> String {
    format!("/modules/{}.ko", modules::name(&file.to_string_lossy()))
}

fn initramfs(task: &Task, modules: &[PathBuf], network: &[Kind]) -> anyhow::Result<File> {
    let mut archive = Archive::new(tempfile::tempfile()?);
    for folder in ["/proc", "/sys", "/dev", "/tmp", "/run", SCRATCH] {
        archive.folder(folder)?;
    }
    let own = std::env::current_exe().context("our own path")?;
    archive.program("/init", &own)?;
    match &task.job {
        Job::Program { words, beside } => {
            for file in beside.iter().map(PathBuf::as_path).chain([Path::new(&words[0])]) {
                archive.program(&program(file), file)?;
            }
        }
        job => tools(&mut archive, job)?,
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

/// What the cases start.
fn tools(archive: &mut Archive, job: &Job) -> anyhow::Result<()> {
    archive.program("/bin/inflight", &programs::inflight()?)?;
    // The fork cases start one child with posix_spawn(3): /bin/true.
    let (mkfs, shown) = (programs::mkfs(target(job)), programs::mkfs(&Target::Vfat));
    let shown = shown.filter(|_| matches!(job, Job::Mechanisms(_)));
    for tool in ["true"].into_iter().chain(mkfs).chain(shown) {
        match sys::find_program(tool) {
            Some(file) => archive.program(&format!("/bin/{tool}"), &file)?,
            // One row less.
            None if shown == Some(tool) => {}
            None => return Err(not_run(format!("{tool} is not installed"))),
        }
    }
    Ok(())
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

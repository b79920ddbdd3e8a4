//! How requests come from the kernel, and which way is taken.

use super::{MountError, MountRequest, mountpoint};
use crate::fuser::{Adapter, Notices};
use crate::options::{Options, ReadMode, TransportMode};
use crate::serve::Server;
use crate::serve::server::Front;
use inflight_dio::{Pool, PoolConfig, Registration};
use inflight_fuse::abi::InitFlags;
use inflight_fuse::channel::{Channel, Config, Intake, serve, uring};
use inflight_fuse::mount::{MountError as Refused, mount};
use inflight_fuse::{Negotiated, Wanted};
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

/// Largest READ and WRITE over /dev/fuse, in bytes. With 1 MiB pipes a spliced reply holds 255
/// pages, so requests of 1 MiB could not be spliced and 255 pages would cut sequential reads
/// unevenly; 512 KiB is as fast (measured) and fits.
pub const DEVICE_REQUEST_MAX: u32 = 512 << 10;

/// How long the device is looked at before its thread sleeps. On an idle machine of two cores a stat
/// went from 29 to 19 us and a create with 4 KiB from 185 to 125; 50 and 100 us gained no more.
const SPIN: Duration = Duration::from_micros(20);

/// A transport that is connected.
pub(super) enum Transport {
    /// Threads are to be started on the device.
    Device(Channel),
    /// Queues serve.
    Uring(uring::Uring),
    /// fuser is to be run.
    Fuser(Box<::fuser::Session<Adapter>>),
}

/// What was chosen, and why.
struct Choice {
    mode: TransportMode,
    why: String,
}

impl Choice {
    fn new(mode: TransportMode, why: &str) -> Choice {
        Choice { mode, why: why.to_owned() }
    }

    fn of(request: &MountRequest) -> Choice {
        use TransportMode::{Auto, Dev, Uring};
        match request.options.transport {
            Auto if request.gate.is_some() => {
                Choice::new(Dev, "any number of requests can be parked there")
            }
            Auto if splices(&request.options) => {
                Choice::new(Dev, "the answers that were asked for are spliced there")
            }
            // Against dev on an idle machine: a create with 4 KiB 73 us for 115, a stat 10 for 20, a rename 40 for 89, an
            // unlink 34 for 53.
            Auto => Choice::new(Uring, "the fastest: every core has a queue of its own"),
            asked => Choice::new(asked, "asked for"),
        }
    }
}

/// Whether a way of reading was forced that only the device has.
fn splices(options: &Options) -> bool {
    matches!(options.read, ReadMode::Buffered | ReadMode::Direct | ReadMode::PipeBacked)
}

impl Transport {
    /// Mounts, and agrees with the kernel.
    pub(super) fn start(
        server: &Arc<Server>,
        request: &MountRequest,
    ) -> Result<Transport, MountError> {
        let Choice { mode, why } = Choice::of(request);
        let named = |name: &str| server.fs().stats().serves_by(format!("{name} ({why})"));
        match mode {
            TransportMode::Fuser => {
                named("fuser");
                fuser(server, request)
            }
            TransportMode::Uring => match queues(&request.options) {
                Ok(prepared) => over_queues(server, request, prepared, &why),
                Err(reason) => {
                    // Who did not ask for it has lost nothing, and `inflight stat` says it.
                    match request.options.transport {
                        TransportMode::Uring => {
                            tracing::warn!("requests go by /dev/fuse: {reason}");
                        }
                        _ => tracing::info!("requests go by /dev/fuse: {reason}"),
                    }
                    server.fs().stats().serves_by(format!("dev ({reason})"));
                    device(server, request)
                }
            },
            _ => {
                named("dev");
                device(server, request)
            }
        }
    }

    /// Serves until the filesystem is unmounted.
    pub(super) fn run(self, server: &Arc<Server>, options: &Options) -> io::Result<()> {
        match self {
            Transport::Device(channel) => serve_device(&channel, server, options.threads),
            Transport::Uring(queues) => {
                queues.join();
                Ok(())
            }
            Transport::Fuser(session) => session.run(),
        }
    }
}

fn mounted(server: &Server, request: &MountRequest) -> Result<OwnedFd, MountError> {
    let image = server.fs().volume().store().disk().name();
    let options = mountpoint::mount_options(image, &request.options);
    let mounted = mount(&request.mountpoint, &options).map_err(|e| refused(request, e))?;
    Ok(mounted.device)
}

fn resources(e: impl std::fmt::Display) -> MountError {
    MountError::Resources(e.to_string())
}

/// A channel over the device of a new mount, with receive buffers of its own: what the operations
/// hold is counted apart.
fn connect(
    server: &Server,
    request: &MountRequest,
    max_write: u32,
    spin: Duration,
    intake: Option<Arc<Intake>>,
) -> Result<Channel, MountError> {
    let threads = request.options.threads;
    let slabs = (2 * threads * max_write as usize).div_ceil(inflight_dio::SLAB);
    let pool = PoolConfig { slabs, registration: Registration::Off, huge: true };
    let config = Config {
        pool: Pool::new(pool).map_err(resources)?,
        pipes: Some(server.fs().io().pipes().clone()),
        max_write,
        spin,
        intake,
    };
    let device = mounted(server, request)?;
    Channel::device(device, config).map_err(resources)
}

/// Answers INIT.
fn agree(
    channel: &Channel,
    request: &MountRequest,
    wanted: &Wanted,
) -> Result<Negotiated, MountError> {
    channel.handshake(wanted).map_err(|e| MountError::Mount {
        mountpoint: request.mountpoint.clone(),
        reason: e.to_string(),
    })
}

fn device(server: &Arc<Server>, request: &MountRequest) -> Result<Transport, MountError> {
    let intake = server.gate().map(|gate| gate.intake()).transpose().map_err(resources)?;
    let channel = connect(server, request, DEVICE_REQUEST_MAX, SPIN, intake)?;
    agree(&channel, request, &wanted(&request.options, DEVICE_REQUEST_MAX))?;
    server.connect(Box::new(channel.clone()));
    server.gate().into_iter().for_each(|gate| gate.speak_by(&channel));
    Ok(Transport::Device(channel))
}

/// Rings and memory for fuse-over-io_uring; turned on where it was off.
fn queues(options: &Options) -> Result<uring::Prepared, String> {
    match uring::enable() {
        Ok(false) => {}
        Ok(true) => tracing::warn!(
            "fuse-over-io_uring was off and is on now, for all mounts that follow: {}",
            uring::PARAMETER
        ),
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            return Err("this kernel has no fuse-over-io_uring (it came with Linux 6.14)".into());
        }
        Err(e) => return Err(format!("{} is N, and cannot be set: {e}", uring::PARAMETER)),
    }
    let config = uring::Config { refused: options.refused_queue, ..uring::Config::default() };
    uring::Prepared::new(&config).map_err(|e| e.to_string())
}

/// Gives a server that has a session of its own the weight that its queues want ([`uring::Config::nice`]) against other
/// sessions too, where it is allowed: with autogroups (sched(7)) threads are weighed within their session only, and then
/// sessions against each other. A stat from another session took 26 us without it and 10 with it.
fn outweigh() {
    if nix::unistd::getsid(None) != Ok(nix::unistd::getpid()) {
        return;
    }
    let nice = uring::Config::default().nice.to_string();
    if let Err(e) = std::fs::write("/proc/self/autogroup", nice) {
        tracing::debug!("the server's autogroup keeps its nice value: {e}");
    }
}

fn over_queues(
    server: &Arc<Server>,
    request: &MountRequest,
    prepared: uring::Prepared,
    why: &str,
) -> Result<Transport, MountError> {
    if let Some(gate) = server.gate() {
        gate.has_no_intake(
            "with transport=uring each request comes into a place that the kernel has already (where all of a core are \
             parked, the next one is queued); mount with transport=dev",
        );
    }
    let max_write = prepared.payload();
    let channel = connect(server, request, max_write, Duration::ZERO, None)?;
    let mut wanted = wanted(&request.options, max_write);
    wanted.flags |= InitFlags::OVER_IO_URING;
    let agreed = agree(&channel, request, &wanted)?;
    server.connect(Box::new(channel.clone()));
    server.gate().into_iter().for_each(|gate| gate.speak_by(&channel));
    match prepared.start(&channel, &agreed, Arc::new(Front(Arc::clone(server)))) {
        Ok(queues) => {
            outweigh();
            let unregistered = match queues.unregistered() {
                Some(errno) => format!("; its buffers cannot be registered: {}", errno.desc()),
                None => String::new(),
            };
            if !unregistered.is_empty() {
                tracing::info!("uring serves{unregistered} (RLIMIT_MEMLOCK)");
            }
            server.fs().stats().serves_by(format!("uring ({why}{unregistered})"));
            Ok(Transport::Uring(queues))
        }
        Err(error) => {
            tracing::warn!("requests go by /dev/fuse: {error}");
            server.fs().stats().serves_by(format!("dev ({error})"));
            Ok(Transport::Device(channel))
        }
    }
}

fn fuser(server: &Arc<Server>, request: &MountRequest) -> Result<Transport, MountError> {
    if let Some(gate) = server.gate() {
        gate.has_no_intake("with transport=fuser the crate receives; mount with transport=dev");
    }
    let device = mounted(server, request)?;
    let mut config = ::fuser::Config::default();
    config.n_threads = Some(request.options.threads);
    // Who may use the mount is checked by the kernel (fuse_allow_current_process). What comes from
    // others than the owner is its own work, such as writing back times.
    let acl = ::fuser::SessionACL::All;
    let session = ::fuser::Session::from_fd(Adapter(Arc::clone(server)), device, acl, config);
    let session = session.map_err(resources)?;
    server.connect(Box::new(Notices(session.notifier())));
    Ok(Transport::Fuser(Box::new(session)))
}

/// Serves the device with `threads` threads, this one among them.
fn serve_device(channel: &Channel, server: &Arc<Server>, threads: usize) -> io::Result<()> {
    let one = |name: String| -> io::Result<JoinHandle<io::Result<()>>> {
        let (receiver, front) = (channel.receiver(), Front(Arc::clone(server)));
        let serve = move || serve(receiver, &front).map_err(io::Error::other);
        std::thread::Builder::new().name(name).spawn(serve)
    };
    let mut handles = Vec::new();
    for number in 1..threads {
        match one(format!("fuse-{number}")) {
            Ok(handle) => handles.push(handle),
            Err(e) => tracing::warn!("{number} of {threads} threads serve: {e}"),
        }
    }
    let served = serve(channel.receiver(), &Front(Arc::clone(server))).map_err(io::Error::other);
    let others = handles
        .into_iter()
        .map(|handle| handle.join().unwrap_or_else(|_| Err(io::Error::other("a thread panicked"))));
    others.fold(served, |all, one| all.and(one))
}

/// What is asked of the kernel.
fn wanted(options: &Options, max_write: u32) -> Wanted {
    let mut flags = InitFlags::ASYNC_READ
        | InitFlags::ASYNC_DIO
        | InitFlags::BIG_WRITES
        | InitFlags::PARALLEL_DIROPS
        | InitFlags::DO_READDIRPLUS
        | InitFlags::READDIRPLUS_AUTO
        | InitFlags::EXPORT_SUPPORT
        | InitFlags::POSIX_ACL
        | InitFlags::DONT_MASK
        | InitFlags::CACHE_SYMLINKS
        | InitFlags::HAS_IOCTL_DIR
        | InitFlags::ABORT_ERROR
        | InitFlags::EXPLICIT_INVAL_DATA
        | InitFlags::DIRECT_IO_ALLOW_MMAP
        | InitFlags::NO_OPEN_SUPPORT
        | InitFlags::NO_OPENDIR_SUPPORT
        | InitFlags::HANDLE_KILLPRIV_V2
        | InitFlags::SETXATTR_EXT
        | InitFlags::SECURITY_CTX;
    if options.writeback {
        flags |= InitFlags::WRITEBACK_CACHE;
    }
    if options.auto_inval {
        // The kernel takes it before EXPLICIT_INVAL_DATA.
        flags |= InitFlags::AUTO_INVAL_DATA;
    }
    // Readahead and requests have the same bound: a larger one would be cut.
    Wanted { flags, max_write, max_readahead: max_write, ..Wanted::default() }
}

fn refused(request: &MountRequest, error: Refused) -> MountError {
    use nix::errno::Errno;
    let reason = match &error {
        Refused::Device(_) => {
            "there is no /dev/fuse; load the module with modprobe fuse".to_owned()
        }
        Refused::Call { errno: errno @ (Errno::EPERM | Errno::EACCES), .. } => format!(
            "{errno}; an ordinary user needs fusermount3 (package fuse3) and a directory of their own"
        ),
        Refused::Call { errno: Errno::EBUSY, .. } => "it is busy".to_owned(),
        Refused::Call { errno, log, .. } if log.is_empty() => errno.desc().to_owned(),
        Refused::Call { errno, log, .. } => format!("{}: {log}", errno.desc()),
        Refused::Helper { reason, .. } => format!(
            "{reason}; an ordinary user needs fusermount3 (package fuse3) and a directory of their own"
        ),
        other => other.to_string(),
    };
    MountError::Mount { mountpoint: request.mountpoint.clone(), reason }
}

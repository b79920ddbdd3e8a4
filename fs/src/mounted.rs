//! A mount from start to end: image, operations, gate, transport, and everything closed again.

mod mountpoint;
mod outage;
mod status;
mod transport;

pub use mountpoint::remount;
pub use status::status;

use crate::data::ImageIo;
use crate::disk::{CuttableDisk, Disk};
use crate::errno::Error;
use crate::image::open::{self, Access, Locked, OpenError};
use crate::image::store::{Recovery, Store};
use crate::ops::Fs;
use crate::options::Options;
use crate::serve::Server;
use crate::volume::Volume;
use inflight_dio::{Pool, PoolConfig};
use inflight_gate::{Gate, GateError};
use inflight_splice::PipePool;
use outage::Outage;
use status::Status;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;
use transport::Transport;

/// How often changes become durable without anybody asking, as in ext4.
const COMMIT_EVERY: Duration = Duration::from_secs(5);
/// Bytes of a pipe: what a user without CAP_SYS_RESOURCE may have (pipe(7)).
const PIPE_BYTES: usize = 1 << 20;

/// Why there is no mount.
#[derive(Debug, thiserror::Error)]
pub enum MountError {
    /// The image cannot be used, or not closed.
    #[error(transparent)]
    Image(#[from] OpenError),
    /// Memory, pipes or threads.
    #[error("cannot prepare data paths: {0}")]
    Resources(String),
    /// The gate's socket.
    #[error(transparent)]
    Gate(#[from] GateError),
    /// fsopen(2), mount(2) or fusermount3(1).
    #[error("cannot mount on {mountpoint}: {reason}")]
    Mount {
        /// Where.
        mountpoint: PathBuf,
        /// Why not.
        reason: String,
    },
}

/// What to mount, and where.
#[derive(Clone, Debug)]
pub struct MountRequest {
    /// The image.
    pub image: PathBuf,
    /// The directory, canonical.
    pub mountpoint: PathBuf,
    /// How.
    pub options: Options,
    /// Socket of the gate, if there is to be one.
    pub gate: Option<PathBuf>,
    /// Called when the image is open and nothing is mounted yet: from here on the mount goes through.
    pub opened: fn(),
}

/// A mount that answers requests once [`Mounted::run`] is called.
pub struct Mounted {
    transport: Transport,
    server: Arc<Server>,
    gate: Option<Arc<Gate>>,
    request: MountRequest,
    outage: Outage,
    /// Without, `inflight stat` asks the mount.
    status: Option<Status>,
}

impl Mounted {
    /// Opens the image and mounts it.
    ///
    /// # Errors
    /// [`MountError`]; the image is closed again.
    pub fn start(request: MountRequest) -> Result<Mounted, MountError> {
        #[cfg(feature = "mutants")]
        request.options.mutant.into_iter().for_each(crate::mutant::choose);
        let fs = Arc::new(open(&request.image, &request.options)?);
        (request.opened)();
        let gate = request.gate.as_ref().map(|socket| listen(socket, &fs)).transpose();
        let gate = match gate {
            Ok(gate) => gate,
            Err(error) => return Err(give_up(&fs, None, error.into())),
        };
        let server = Server::new(fs.clone(), gate.clone());
        match Transport::start(&server, &request) {
            Ok(transport) => {
                mountpoint::apply_readahead(&request.mountpoint, &request.options);
                mountpoint::apply_atime(&request.mountpoint, &request.options);
                let outage = Outage::default();
                if let Some(gate) = &gate {
                    outage.offer(gate, &fs, &request.mountpoint);
                }
                let status = Status::answer(&fs, gate.as_ref(), &request.mountpoint)
                    .inspect_err(|e| tracing::info!("inflight stat asks the mount itself: {e}"))
                    .ok();
                Ok(Mounted { transport, server, gate, request, outage, status })
            }
            Err(error) => Err(give_up(&fs, gate, error)),
        }
    }

    /// The operations, for tests.
    pub fn fs(&self) -> &Arc<Fs> {
        self.server.fs()
    }

    /// Serves until the filesystem is unmounted, then commits and closes the image. After a power cut on request it may be
    /// mounted again, and goes on.
    ///
    /// # Errors
    /// The image could not be closed, or the transport ended otherwise than by unmounting.
    pub fn run(mut self) -> Result<(), MountError> {
        loop {
            let (request, outage) = (self.request.clone(), self.outage.clone());
            match self.run_once() {
                ended if !outage.comes_back() => return ended,
                Ok(()) => {}
                Err(e) => tracing::info!("after the power cut: {e}"),
            }
            self = Mounted::start(request)?;
        }
    }

    fn run_once(self) -> Result<(), MountError> {
        let Mounted { transport, server, gate, request, status, .. } = self;
        let fs = server.fs();
        let (stop, stopped) = mpsc::channel::<()>();
        let committer = {
            let fs = fs.clone();
            std::thread::Builder::new().name("commit".into()).spawn(move || {
                while let Err(RecvTimeoutError::Timeout) = stopped.recv_timeout(COMMIT_EVERY) {
                    commit(&fs);
                }
            })
        };
        let served = transport.run(&server, &request.options);
        drop((stop, status));
        if let Ok(thread) = committer {
            let _ = thread.join();
        }
        if let Some(gate) = gate {
            gate.shutdown();
        }
        server.finish();
        let image = request.image;
        close(fs).map_err(|source| OpenError::Metadata { image, source })?;
        served.map_err(|e| MountError::Mount {
            mountpoint: request.mountpoint,
            reason: format!("the session ended with an error: {e}"),
        })
    }
}

/// Closes what was opened for a mount that does not come about.
fn give_up(fs: &Fs, gate: Option<Arc<Gate>>, error: MountError) -> MountError {
    if let Some(gate) = gate {
        gate.shutdown();
    }
    let image = fs.volume().store().disk().name().to_owned();
    match close(fs) {
        Ok(()) => error,
        Err(source) => OpenError::Metadata { image, source }.into(),
    }
}

/// Opens an image for use; the caller closes it with [`close`].
pub fn open(image: &Path, options: &Options) -> Result<Fs, MountError> {
    let access = if options.read_only { Access::Read } else { Access::Write };
    let Locked { disk, lock } = open::locked(image, access)?;
    let disk: Arc<dyn Disk> =
        if options.power_cut { Arc::new(CuttableDisk::new(disk)) } else { disk };
    operations(open::open_on(disk, Some(lock))?, options)
}

/// As [`open()`], for a disk that nobody else uses.
pub fn open_on(disk: Arc<dyn Disk>, options: &Options) -> Result<Fs, MountError> {
    operations(open::open_on(disk, None)?, options)
}

fn operations(store: Store, options: &Options) -> Result<Fs, MountError> {
    let disk = store.disk().clone();
    let image = disk.name().to_owned();
    if options.discard {
        store.discard_freed();
    }
    let volume = Volume::open(store).map_err(|source| OpenError::Metadata { image, source })?;
    let resources = |e: io::Error| MountError::Resources(e.to_string());
    let config = PoolConfig { slabs: options.slabs, ..PoolConfig::default() };
    let pool = Pool::new(config).map_err(|e| MountError::Resources(e.to_string()))?;
    let pipes = PipePool::new(PIPE_BYTES, 2 * options.threads).map_err(resources)?;
    let io = ImageIo::new(disk, pool, pipes).map_err(resources)?;
    Ok(Fs::new(volume, io, options.clone()))
}

/// Commits and closes what [`open()`] opened.
pub fn close(fs: &Fs) -> Result<(), Error> {
    fs.volume().close()
}

fn commit(fs: &Fs) {
    if fs.volume().store().check_writable().is_err() {
        return;
    }
    let volume = fs.volume();
    if let Err(e) =
        volume.reclaim_orphans().and_then(|()| volume.commit_if_changed(Recovery::Quick))
    {
        tracing::error!("periodic commit: {e}");
    }
}

fn listen(socket: &Path, fs: &Arc<Fs>) -> Result<Arc<Gate>, GateError> {
    // The gate outlives no mount, but a strong reference would keep the image open through it.
    let fs = Arc::downgrade(fs);
    Gate::listen(socket, Box::new(move |path| resolve(&*fs.upgrade()?, path)))
}

/// The inode number of a path below the root of the mount.
fn resolve(fs: &Fs, path: &Path) -> Option<u64> {
    use std::os::unix::ffi::OsStrExt as _;
    path.components().try_fold(crate::image::mkfs::ROOT, |ino, part| match part {
        std::path::Component::Normal(name) => fs.volume().lookup(ino, name.as_bytes()).ok()?,
        std::path::Component::RootDir | std::path::Component::CurDir => Some(ino),
        _ => None,
    })
}

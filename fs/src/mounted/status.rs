//! Tells what the server is doing, beside the mount (see [`server`]). A mount whose requests are all parked still answers
//! there.

use crate::image::server;
use crate::ops::Fs;
use crate::ops::stats::Report;
use inflight_fuse::mount::Connection;
use inflight_gate::{Gate, Phase, Record};
use nix::sys::socket::{Shutdown, shutdown};
use std::collections::HashMap;
use std::io::{self, Write as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::{Arc, Weak};
use std::time::Duration;

/// How often the listener looks again when it is out of descriptors.
const PAUSE: Duration = Duration::from_millis(100);

/// Answers until it is dropped.
pub(super) struct Status(Arc<UnixListener>);

impl Status {
    /// # Errors
    /// The mount is not to be found, or there is no thread.
    pub fn answer(fs: &Arc<Fs>, gate: Option<&Arc<Gate>>, mountpoint: &Path) -> io::Result<Status> {
        let device = Connection::of_mount(mountpoint)?.device();
        let listener = Arc::new(UnixListener::bind_addr(&server::address(&device)?)?);
        let (ours, fs) = (Arc::clone(&listener), Arc::downgrade(fs));
        let gate = gate.map(Arc::downgrade);
        let serve = move || serve(&ours, &fs, gate.as_ref());
        std::thread::Builder::new().name("status".into()).spawn(serve)?;
        Ok(Status(listener))
    }
}

impl Drop for Status {
    fn drop(&mut self) {
        // Its thread ends; a listener that is shut down cannot fail to be.
        let _ = shutdown(self.0.as_raw_fd(), Shutdown::Both);
    }
}

fn serve(listener: &UnixListener, fs: &Weak<Fs>, gate: Option<&Weak<Gate>>) {
    loop {
        match listener.accept() {
            Ok((stream, _)) => {
                let Some(fs) = fs.upgrade() else { return };
                // Who does not read gets nothing.
                let _ = tell(&stream, &fs, gate.and_then(Weak::upgrade).as_deref());
            }
            Err(e) if e.raw_os_error() == Some(libc::EMFILE) => std::thread::sleep(PAUSE),
            Err(_) => return,
        }
    }
}

fn tell(mut stream: &UnixStream, fs: &Fs, gate: Option<&Gate>) -> io::Result<()> {
    if !server::is_trusted(stream)? {
        return Ok(());
    }
    stream.set_write_timeout(Some(server::PATIENCE))?;
    let mut report = fs.report();
    if let Some(gate) = gate {
        locate(&mut report, gate);
    }
    stream.write_all(&serde_json::to_vec(&report)?)
}

/// Adds how far the gate let each request come.
fn locate(report: &mut Report, gate: &Gate) {
    let records: HashMap<u64, Record> =
        gate.unfinished().into_iter().map(|record| (record.unique, record)).collect();
    for request in &mut report.requests {
        let Some(record) = records.get(&request.unique) else { continue };
        request.phase = record.phase().map(Phase::name);
        request.parked = record.is_parked();
    }
}

/// The report of the server that has mounted something on `mountpoint`, as JSON. Asks nothing of the mount.
///
/// # Errors
/// Nobody answers there, or somebody who is neither root nor the caller.
pub fn status(mountpoint: &Path) -> io::Result<Vec<u8>> {
    server::report(&Connection::of_mount(mountpoint)?.device())
}

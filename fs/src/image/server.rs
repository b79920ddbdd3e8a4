//! Where the server of a mount says what it does: an abstract Unix socket that is named after the device number of the mount.
//! Nothing is asked of the mount itself, which may be waiting for somebody.

use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use std::io::{self, Read as _};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixStream};
use std::time::Duration;

/// How long one side waits for the other.
pub const PATIENCE: Duration = Duration::from_secs(5);

/// The address of the server of the mount with device number `device`, as `MAJOR:MINOR`.
///
/// # Errors
/// None that this name could cause.
pub fn address(device: &str) -> io::Result<SocketAddr> {
    SocketAddr::from_abstract_name(format!("inflight/mount/{device}"))
}

/// The report of that server, as JSON.
///
/// # Errors
/// Nobody answers there, or somebody who is neither root nor the caller.
pub fn report(device: &str) -> io::Result<Vec<u8>> {
    let mut stream = UnixStream::connect_addr(&address(device)?)?;
    if !is_trusted(&stream)? {
        return Err(io::ErrorKind::PermissionDenied.into());
    }
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut said = Vec::new();
    stream.read_to_end(&mut said)?;
    if said.is_empty() { Err(io::ErrorKind::PermissionDenied.into()) } else { Ok(said) }
}

/// The image that it serves.
pub fn image(device: &str) -> Option<String> {
    let report: serde_json::Value = serde_json::from_slice(&report(device).ok()?).ok()?;
    report["image"].as_str().map(str::to_owned)
}

/// Names of abstract sockets are free for all: whether the other side is root or the caller.
///
/// # Errors
/// Those of getsockopt(2).
pub fn is_trusted(stream: &UnixStream) -> io::Result<bool> {
    let uid = getsockopt(stream, PeerCredentials)?.uid();
    Ok(uid == 0 || uid == nix::unistd::geteuid().as_raw())
}
